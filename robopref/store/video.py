"""Image columns as H.264 in MP4: made, measured against the original, and read, wholly or a step at a time.

Lossless is RGB at a quantiser of 0, checked value by value when it is made. Lossy is YUV, and what it costs is
measured, not promised. There are no B frames and keyframes are close together, so that a single step is a seek and a
few frames.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError
from robopref.store.encoding import ColumnSpec

_RATE = 20  # of the container only: the times of the steps are in t_monotonic_ns


@dataclass(frozen=True)
class VideoOptions:
    """How to encode.

    ``quality``: ``"lossless"``, or x264's constant rate factor (1 to 51; 18 is hard to tell from the original by eye).
    ``chroma``: of lossy video, ``"444"`` keeps colour at full resolution; ``"420"`` halves it, as films do and most
    players want, which in small images costs far more than the rate factor does.
    ``keyframe_interval``: frames from one keyframe to the next; less is larger and quicker to look into.
    ``columns``: which to hold as video; all colour images if empty.
    """

    quality: Literal["lossless"] | int = "lossless"
    chroma: Literal["444", "420"] = "444"
    keyframe_interval: int = 8
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.quality != "lossless" and not (isinstance(self.quality, int) and 1 <= self.quality <= 51):
            raise RoboprefError(f"the quality is 'lossless' or a rate factor from 1 to 51, not {self.quality!r}.")
        if self.keyframe_interval < 1:
            raise RoboprefError(f"the keyframe interval is at least 1, not {self.keyframe_interval}.")


@dataclass(frozen=True)
class VideoColumn:
    """A column held as video: its decoded shape [T, H, W, 3] (uint8), how it was encoded, and its measured error.

    ``max_error`` is the greatest difference of any value, ``mse`` the mean of their squares; both 0 when lossless.
    """

    shape: tuple[int, ...]
    pixel_format: str
    quality: Literal["lossless"] | int
    keyframe_interval: int
    max_error: int = 0
    mse: float = 0.0

    @property
    def spec(self) -> ColumnSpec:
        """Type and shape of a decoded step."""
        return ColumnSpec("uint8", self.shape[1:])

    @property
    def psnr(self) -> float:
        """Peak signal-to-noise ratio of the episode, in dB; infinite when lossless."""
        return float("inf") if self.mse == 0 else float(10 * np.log10(255**2 / self.mse))


def can_be_video(spec: ColumnSpec) -> bool:
    """Whether a column holds colour images that are large enough to be encoded."""
    return spec.dtype == "uint8" and len(spec.shape) == 3 and spec.shape[2] == 3 and min(spec.shape[:2]) >= 4


def encode(frames: NDArray[np.uint8], options: VideoOptions) -> tuple[NDArray[np.uint8], VideoColumn]:
    """An MP4 file [N] of frames [T, H, W, 3], and what it is, with its error measured by decoding it.

    Raises:
        RoboprefError: the encoder is missing or failed, or lossless turned out not to be.
    """
    import av

    lossless = options.quality == "lossless"
    _, height, width, _ = frames.shape
    pixel_format = "rgb24" if lossless else f"yuv{options.chroma}p"
    if pixel_format == "yuv420p" and (height % 2 or width % 2):
        raise RoboprefError(f"images of {height} x {width} cannot have half the colours: use chroma 444.")
    settings = {"preset": "fast", "bf": "0", "g": str(options.keyframe_interval), "sc_threshold": "0"}
    settings |= {"qp": "0"} if lossless else {"crf": str(options.quality)}
    file = io.BytesIO()
    try:
        with av.open(file, "w", format="mp4") as container:
            stream: Any = container.add_stream("libx264rgb" if lossless else "libx264", _RATE, options=settings)
            stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
            stream.codec_context.thread_count = 1  # the same bytes each time, whatever the machine
            for t, image in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
                frame.pts, frame.time_base = t, Fraction(1, _RATE)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    except (av.FFmpegError, ValueError) as error:
        raise RoboprefError(f"images of {height} x {width} could not be encoded as video ({error}).") from error
    data = np.frombuffer(file.getvalue(), np.uint8)
    column = VideoColumn(frames.shape, pixel_format, options.quality, options.keyframe_interval)
    max_error, mse = _measured(frames, VideoFrames(io.BytesIO(file.getvalue()), column))
    if lossless and max_error > 0:
        raise RoboprefError(f"the encoder's lossless video differs by {max_error}: hold the images as they are.")
    return data, replace(column, max_error=max_error, mse=mse)


def decode(data: NDArray[np.uint8], column: VideoColumn) -> NDArray[np.uint8]:
    """All frames [T, H, W, 3] of a video [N].

    Raises:
        RoboprefError: it cannot be decoded, or has other frames than the column.
    """
    frames = VideoFrames(io.BytesIO(data.tobytes()), column)
    result = np.empty(column.shape, np.uint8)
    for t in range(column.shape[0]):
        result[t] = frames[t]
    result.flags.writeable = False  # as arrays of a file are
    return result


def video_to_json(columns: Mapping[str, VideoColumn], made_of: str) -> str:
    """The description of an episode's videos; ``made_of`` is the checksum of the episode that they were made of."""
    described = {name: asdict(column) | {"shape": list(column.shape)} for name, column in columns.items()}
    return json.dumps({"made_of": made_of, "columns": described}, sort_keys=True)


def video_from_json(text: str) -> dict[str, VideoColumn]:
    """The inverse of ``video_to_json``; nothing for an empty text.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: the text is not what it writes.
    """
    columns = json.loads(text)["columns"] if text else {}
    return {name: VideoColumn(**values | {"shape": tuple(values["shape"])}) for name, values in columns.items()}


def made_of(text: str) -> str:
    """The checksum of the episode that a video-held one was made of."""
    return str(json.loads(text)["made_of"])


class VideoFrames:
    """The frames of a video by number. The next one, or one before the next keyframe, is reached without a seek.

    For one thread at a time.

    Args:
        file: the MP4 file, open for reading.
        column: what it holds.

    Raises:
        RoboprefError: it is no such video.
    """

    def __init__(self, file: io.IOBase, column: VideoColumn) -> None:
        import av

        self._column = column
        try:
            self._container: Any = av.open(file, "r")
            self._stream: Any = self._container.streams.video[0]
        except (av.FFmpegError, IndexError) as error:
            raise RoboprefError(f"the video cannot be read ({error}).") from error
        self._stream.codec_context.thread_count = 1  # threads decode frames ahead that a single look does not need
        if self._stream.frames != column.shape[0] or (self._stream.height, self._stream.width) != column.shape[1:3]:
            raise RoboprefError(
                f"the video has {self._stream.frames} frames of {self._stream.height} x {self._stream.width} instead "
                f"of {list(column.shape)}."
            )
        self._next = 0
        self._decoded: Iterator[Any] = self._container.decode(self._stream)

    def __getitem__(self, step: int) -> NDArray[np.uint8]:
        """The frame [H, W, 3] of a step. Raises RoboprefError: it cannot be decoded."""
        import av

        interval = self._column.keyframe_interval
        try:
            if not self._next <= step < (self._next // interval + 1) * interval:
                unit = self._stream.time_base * _RATE
                self._container.seek(round(step / unit), stream=self._stream, backward=True)
                self._decoded = self._container.decode(self._stream)
            self._next = -1  # until the frame is there: else the next look begins with a seek
            for frame in self._decoded:
                number = round(frame.pts * frame.time_base * _RATE)
                if number == step:
                    self._next = step + 1
                    return np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
        except av.FFmpegError as error:
            raise RoboprefError(f"the video cannot be decoded at step {step} ({error}).") from error
        raise RoboprefError(f"the video has no frame for step {step}.")


class FilePart(io.RawIOBase):
    """Some bytes within a file, as a file: read where they are.

    Args:
        descriptor: of the open file, which others may read at the same time.
        start: the first of the bytes.
        size: how many.
        keep: what keeps the descriptor open.
    """

    def __init__(self, descriptor: int, start: int, size: int, keep: object) -> None:
        self._keep = keep
        self._descriptor, self._start, self._size, self._at = descriptor, start, size, 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place -> the place, counted from the first byte."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer as far as there is something -> how far."""
        into = memoryview(buffer)[: max(0, self._size - self._at)]
        count = os.preadv(self._descriptor, [into], self._start + self._at) if len(into) else 0
        self._at += count
        return count


def _measured(frames: NDArray[np.uint8], decoded: VideoFrames) -> tuple[int, float]:
    greatest = squares = 0
    for t, frame in enumerate(frames):
        difference = frame.astype(np.int32) - decoded[t]
        greatest = max(greatest, int(np.abs(difference).max()))
        squares += int(np.square(difference).sum())
    return greatest, squares / frames.size
