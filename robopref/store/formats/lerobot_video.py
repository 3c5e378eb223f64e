"""Pictures as MP4 the way LeRobot stores and reads them, with the error that the encoding made."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError
from robopref.store.scheduling import scheduling_kept

KEYFRAME_INTERVAL = 2
"""As LeRobot's: reading a single step decodes two pictures at most."""

_CRF = 30
_CODECS: tuple[tuple[str, str, dict[str, str], int], ...] = (
    ("libsvtav1", "av1", {"preset": "12", "crf": str(_CRF)}, 64),
    ("libx264", "h264", {"crf": str(_CRF), "bf": "0"}, 16),
)
"""Encoder, its codec's name in info.json, options, and the smallest side that it takes; best first."""


@dataclass(frozen=True)
class PixelError:
    """Difference of decoded from original pixel values (0 to 255): sum, greatest, and number of values compared."""

    total: float = 0.0
    greatest: int = 0
    values: int = 0

    @property
    def mean(self) -> float:
        """Mean absolute difference."""
        return self.total / max(1, self.values)

    def __add__(self, other: PixelError) -> PixelError:
        return PixelError(self.total + other.total, max(self.greatest, other.greatest), self.values + other.values)


def choose_codec(shape: tuple[int, ...], name: str) -> tuple[str, str, dict[str, str]]:
    """Encoder, codec name and options for pictures [H, W, 3].

    Raises:
        RoboprefError: PyAV offers no encoder that takes them.
    """
    import av

    height, width = shape[:2]
    if height % 2 or width % 2:
        raise RoboprefError(
            f"{name} is {height} x {width}: a video needs an even number of rows and columns. Export PNG images."
        )
    for encoder, codec, options, smallest in _CODECS:
        if encoder in av.codecs_available and min(height, width) >= smallest:
            return encoder, codec, options
    raise RoboprefError(f"PyAV offers no encoder for videos of {height} x {width} ({name}). Export PNG images.")


def video_info(shape: tuple[int, ...], fps: int, name: str) -> dict[str, Any]:
    """What LeRobot notes of a video feature in ``info.json``."""
    return {
        "video.height": shape[0],
        "video.width": shape[1],
        "video.codec": choose_codec(shape, name)[1],
        "video.pix_fmt": "yuv420p",
        "video.fps": fps,
        "video.channels": 3,
        "video.g": KEYFRAME_INTERVAL,
        "video.crf": _CRF,
        "has_audio": False,
        "is_depth_map": False,
    }


def write_video(path: Path, frames: Iterable[NDArray[np.uint8]], shape: tuple[int, ...], fps: int, name: str) -> None:
    """Encode pictures [H, W, 3] so that the i-th one is shown at i / fps seconds.

    Raises:
        RoboprefError: there is no encoder, or it failed.
    """
    import av

    os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder else describes itself on stderr, for every video
    encoder, _, options = choose_codec(shape, name)
    try:
        with av.open(str(path), "w", format="mp4") as container:
            options = {**options, "g": str(KEYFRAME_INTERVAL)}
            stream: Any = container.add_stream(encoder, rate=Fraction(fps), options=options)
            stream.height, stream.width, stream.pix_fmt = shape[0], shape[1], "yuv420p"
            for index, frame in enumerate(frames):
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                picture.pts, picture.time_base = index, Fraction(1, fps)
                with nullcontext() if index else scheduling_kept():  # the first picture opens the encoder
                    container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
    except av.FFmpegError as error:
        raise RoboprefError(f"{name}: the video could not be encoded ({error}). Export PNG images.") from error


def read_video(path: Path, start: float, count: int, fps: float, name: str) -> Iterator[NDArray[np.uint8]]:
    """The pictures [H, W, 3] shown at start, start + 1 / fps ... seconds, ``count`` of them.

    Raises:
        RoboprefError: the file is missing or damaged, or has no picture within half a frame of one of these times.
    """
    import av

    if not path.is_file():
        raise RoboprefError(f"{path} is missing: it holds the pictures {name}.")
    found = 0
    try:
        with av.open(str(path)) as container:
            stream: Any = container.streams.video[0]
            stream.thread_type = "AUTO"
            # A margin, because times are rounded to the stream's unit.
            container.seek(max(0, int((start - 0.5 / fps) / stream.time_base)), backward=True, stream=stream)
            for frame in container.decode(stream):
                shown = float(frame.pts * stream.time_base)
                wanted = start + found / fps
                if shown < wanted - 0.5 / fps:
                    continue
                if shown > wanted + 0.5 / fps:
                    break
                yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
                found += 1
                if found == count:
                    return
    except (av.FFmpegError, IndexError, TypeError) as error:
        raise RoboprefError(f"{path} is damaged ({error}): it holds the pictures {name}.") from error
    raise RoboprefError(f"{path} has no picture at {start + found / fps:.4f} s, for step {found} of {name}.")


def measure(path: Path, frames: Iterable[NDArray[np.uint8]], count: int, fps: int, name: str) -> PixelError:
    """How far a written video is from the pictures that it was made of."""
    error = PixelError()
    for original, decoded in zip(frames, read_video(path, 0.0, count, fps, name), strict=True):
        difference = np.abs(original.astype(np.int16) - decoded)
        error += PixelError(float(difference.sum(dtype=np.int64)), int(difference.max()), difference.size)
    return error
