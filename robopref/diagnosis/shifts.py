"""Natural shifts of frames: what a camera, a screen or a codec does to a picture, at strengths that are hard to see.

After the natural shifts of Korkmaz, "Adversarial Robust Deep Reinforcement Learning Requires Redefining Robustness"
(AAAI 2023, arXiv 2301.07487), which "Understanding and Diagnosing Deep Reinforcement Learning" (ICML 2024, arXiv
2406.16979) measures with. The default strengths are this project's own and mild for 84 x 84 frames. A shift is a pure
function of the frame: the same for every frame of a stack, an episode and a run.

Geometry is sampled bilinearly, and what comes in from outside repeats the nearest border pixel.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from robopref.diagnosis.named_settings import make_named, parse_named, settings_text
from robopref.errors import RoboprefError

Frame = NDArray[Any]  # uint8, which OpenCV's own types do not say


@dataclass(frozen=True)
class Shift(ABC):
    """A transformation of frames; ``str(shift)`` is the text that ``parse_shift`` reads."""

    name: ClassVar[str]

    def __call__(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Frames uint8 [N, H, W] or [N, H, W, C] (C 1 or 3, RGB) -> new frames of the same shape.

        Raises:
            RoboprefError: another dtype or shape.
        """
        if frames.dtype != np.uint8:
            raise RoboprefError(f"a shift takes uint8 frames in 0..255, got {frames.dtype}.")
        if not (frames.ndim == 3 or (frames.ndim == 4 and frames.shape[-1] in (1, 3))):
            raise RoboprefError(f"a shift takes frames [N, H, W] or [N, H, W, 1 or 3], got {list(frames.shape)}.")
        shifted = np.empty(frames.shape, np.uint8)
        for frame, out in zip(frames, shifted, strict=True):
            out[...] = self._frame(np.ascontiguousarray(frame)).reshape(out.shape)
        return shifted

    @abstractmethod
    def _frame(self, frame: Frame) -> Frame:
        """One frame [H, W] or [H, W, C]; OpenCV drops the last axis where C is 1."""

    def __str__(self) -> str:
        return settings_text(self.name, self)


def _require(holds: bool, shift: Shift, what: str) -> None:
    if not holds:
        raise RoboprefError(f"{shift}: {what}.")


@dataclass(frozen=True)
class BrightnessContrast(Shift):
    """``contrast * pixel + brightness``, rounded and clipped to 0..255; nothing changes at 1 and 0."""

    name: ClassVar[str] = "brightness_contrast"
    contrast: float = 1.1
    brightness: float = 10.0

    def __post_init__(self) -> None:
        _require(self.contrast >= 0, self, "contrast must not be negative")

    def _frame(self, frame: Frame) -> Frame:
        levels = np.rint(self.contrast * np.arange(256) + self.brightness).clip(0, 255)
        return cv2.LUT(frame, levels.astype(np.uint8))


@dataclass(frozen=True)
class GaussianBlur(Shift):
    """Convolution with a Gaussian of standard deviation ``sigma`` pixels, cut at 3 sigma; nothing changes at 0.

    The picture is mirrored at its border.
    """

    name: ClassVar[str] = "gaussian_blur"
    sigma: float = 0.7

    def __post_init__(self) -> None:
        _require(self.sigma >= 0, self, "sigma must not be negative")

    def _frame(self, frame: Frame) -> Frame:
        size = 2 * int(np.ceil(3 * self.sigma)) + 1
        return frame if size == 1 else cv2.GaussianBlur(frame, (size, size), self.sigma)


@dataclass(frozen=True)
class MedianBlur(Shift):
    """The median over ``size`` x ``size`` pixels, per channel; nothing changes at 1.

    Already at 3, the least there is, it removes what is thinner than two pixels: lane marks, in some games the ball.
    """

    name: ClassVar[str] = "median_blur"
    size: int = 3

    def __post_init__(self) -> None:
        _require(self.size >= 1 and self.size % 2 == 1, self, "size must be odd and positive")

    def _frame(self, frame: Frame) -> Frame:
        return frame if self.size == 1 else cv2.medianBlur(frame, self.size)


@dataclass(frozen=True)
class Rotation(Shift):
    """Rotation about the centre of the picture by ``degrees``, counter-clockwise; nothing changes at 0."""

    name: ClassVar[str] = "rotation"
    degrees: float = 2.0

    def _frame(self, frame: Frame) -> Frame:
        height, width = frame.shape[:2]
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), self.degrees, 1.0)
        return cv2.warpAffine(frame, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)


@dataclass(frozen=True)
class Jpeg(Shift):
    """Compression to JPEG and back at ``quality`` 1 (worst) to 100 (all but lossless: rounding alone remains)."""

    name: ClassVar[str] = "jpeg"
    quality: int = 75

    def __post_init__(self) -> None:
        _require(1 <= self.quality <= 100, self, "quality must be between 1 and 100")

    def _frame(self, frame: Frame) -> Frame:
        colour = frame.ndim == 3 and frame.shape[-1] == 3  # OpenCV codes BGR, and luma weighs the channels differently
        picture = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR) if colour else frame
        _, coded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, self.quality])
        decoded = cv2.imdecode(coded, cv2.IMREAD_COLOR if colour else cv2.IMREAD_GRAYSCALE)
        assert decoded is not None  # what OpenCV wrote, it reads
        return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB) if colour else decoded


@dataclass(frozen=True)
class Perspective(Shift):
    """The picture's plane tilted: its two upper corners move inwards by ``pixels`` each (outwards where negative).

    The lower corners stay; nothing changes at 0.
    """

    name: ClassVar[str] = "perspective"
    pixels: float = 2.0

    def _frame(self, frame: Frame) -> Frame:
        height, width = frame.shape[:2]
        right, bottom = width - 1, height - 1
        _require(2 * self.pixels < right, self, f"the upper corners would cross in a frame {width} pixels wide")
        corners = np.array([[0, 0], [right, 0], [right, bottom], [0, bottom]], np.float32)
        moved = corners + np.array([[self.pixels, 0], [-self.pixels, 0], [0, 0], [0, 0]], np.float32)
        matrix = cv2.getPerspectiveTransform(corners, moved)
        return cv2.warpPerspective(frame, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)


@dataclass(frozen=True)
class Translation(Shift):
    """The picture moves right by ``dx`` and down by ``dy`` pixels; nothing changes at 0 and 0."""

    name: ClassVar[str] = "translation"
    dx: float = 1.0
    dy: float = 1.0

    def _frame(self, frame: Frame) -> Frame:
        height, width = frame.shape[:2]
        matrix = np.array([[1, 0, self.dx], [0, 1, self.dy]], np.float64)
        return cv2.warpAffine(frame, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)


SHIFTS: dict[str, Shift] = {
    shift.name: shift
    for shift in (
        BrightnessContrast(),
        GaussianBlur(),
        MedianBlur(),
        Rotation(),
        Jpeg(),
        Perspective(),
        Translation(),
    )
}
"""Every shift by name, at its default strength."""


def make_shift(name: str, **settings: Any) -> Shift:
    """A shift by name, e.g. ``make_shift("rotation", degrees=3)``; what is left out keeps its default.

    Raises:
        RoboprefError: no such shift, no such setting, or a value that is no finite number or out of range.
    """
    return make_named("shift", SHIFTS, name, settings)


def parse_shift(text: str) -> Shift:
    """A shift out of text: ``rotation``, ``rotation:degrees=3`` or ``translation:dx=2,dy=0``.

    Raises:
        RoboprefError: the text has another form or gives a setting twice, or as ``make_shift``.
    """
    return parse_named("shift", SHIFTS, text, "rotation:degrees=2")
