"""The control loop's clock: a fixed rate on monotonic time, without drift, and how well it was kept."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from robopref.errors import RoboprefError


@dataclass(frozen=True)
class Jitter:
    """How late ticks began after their deadlines, in milliseconds, over ``ticks`` ticks.

    ``missed`` counts the deadlines that passed while the tick before was still at work; they are left out, never
    caught up with, because commands that come in a burst are not the commands that were given.
    """

    ticks: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0
    missed: int = 0

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)


class Pacer:
    """Deadlines at a fixed rate from the start on: the n-th is at start + n / hz, however late the ones before were.

    Args:
        hz: ticks a second.
        clock: monotonic nanoseconds.
        sleep: waits so many seconds.

    Raises:
        RoboprefError: a rate that is not positive.
    """

    def __init__(
        self,
        hz: float,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not 0 < hz < float("inf"):
            raise RoboprefError(f"a control loop cannot run at {hz} Hz: use a positive number.")
        self.hz = hz
        self._clock, self._sleep = clock, sleep
        self.start()

    def start(self) -> None:
        """Begin anew: the first deadline is now, and earlier ticks are forgotten."""
        self._began = self._clock()
        self._next = 0  # number of the next deadline
        self._missed = 0
        self._late = array("q")

    def wait(self) -> None:
        """Sleep until the next deadline. One that passed by more than a period is missed, and counted."""
        now = self._clock()
        passed = int((now - self._began) * self.hz / 1e9)  # number of the newest deadline that is not in the future
        if passed > self._next:
            self._missed += passed - self._next
            self._next = passed
        deadline = self._began + round(self._next * 1e9 / self.hz)
        while now < deadline:
            self._sleep((deadline - now) / 1e9)
            now = self._clock()
        self._late.append(now - deadline)
        self._next += 1

    def jitter(self) -> Jitter:
        """How late the ticks since ``start`` came."""
        if not self._late:
            return Jitter(missed=self._missed)
        late = np.frombuffer(self._late, np.int64) / 1e6
        p50, p99 = np.percentile(late, [50, 99])
        return Jitter(len(late), float(p50), float(p99), float(late.max()), self._missed)
