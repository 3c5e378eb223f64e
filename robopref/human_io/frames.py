"""The newest picture of a camera, between whoever draws it and whoever shows it: never a queue."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from time import monotonic_ns

import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError


@dataclass(frozen=True)
class Frame:
    """A picture uint8 [H, W, 3], the monotonic time at which its scene was captured, and its number from 1."""

    pixels: NDArray[np.uint8]
    captured_ns: int
    number: int


class FrameSlot:
    """Holds one frame: putting replaces it, so that a slow reader skips frames and never falls behind.

    Any thread may put and get. Frames that nobody got in time are gone, which is the point.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._frame: Frame | None = None

    def put(self, pixels: NDArray[np.uint8], captured_ns: int | None = None) -> None:
        """Replace the frame; the array must not be written to afterwards.

        Args:
            pixels: uint8 [H, W, 3].
            captured_ns: monotonic time of the scene that it shows; now if not given.

        Raises:
            RoboprefError: another shape or type.
        """
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise RoboprefError(f"a frame is uint8 [H, W, 3], got {pixels.dtype} {list(pixels.shape)}.")
        at = monotonic_ns() if captured_ns is None else captured_ns
        with self._changed:
            number = 1 if self._frame is None else self._frame.number + 1
            self._frame = Frame(pixels, at, number)
            self._changed.notify_all()

    def get(self) -> Frame | None:
        """The newest frame, without waiting; None before the first."""
        with self._changed:
            return self._frame

    def wait(self, after: int, timeout: float) -> Frame | None:
        """The newest frame as soon as there is one with a number above ``after``; None after ``timeout`` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None and self._frame.number > after, timeout)
            return self._frame if self._frame is not None and self._frame.number > after else None
