"""Rollouts as small videos that any browser plays, with who drove written on every frame."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError
from robopref.reporting.palette import ACTOR_COLORS, ACTOR_NAMES, rgb
from robopref.store.scheduling import scheduling_kept
from robopref.trajectory import Actor

_CODECS: tuple[tuple[str, dict[str, str]], ...] = (
    ("libx264", {"crf": "20", "preset": "medium"}),
    ("libvpx-vp9", {"crf": "30", "b": "0", "row-mt": "1"}),
    ("libsvtav1", {"crf": "32", "preset": "8"}),
    ("mpeg4", {"qscale": "3"}),
)
"""Best first; which are there depends on how PyAV was built. All but the last play in every current browser."""
_FINAL_HOLD_SECONDS = 0.5
_BAR_SHARE = 0.075  # of the height, for the name of who drives


def write_video(
    path: Path, frames: NDArray[np.uint8], fps: int, *, actors: Sequence[int] | None = None, size: int = 336
) -> None:
    """Write an MP4 whose last frame stays for half a second, so that the ending can be seen.

    Args:
        path: of the file; its folder is created. It holds the whole video or is not there.
        frames: uint8 [T, H, W, 3], RGB.
        fps: frames per second.
        actors: who acted at each frame, T values of ``Actor``; draws a coloured border and a name on it.
        size: pixels of the shorter side; frames are enlarged or reduced to it, even in both dimensions.

    Raises:
        RoboprefError: frames of another shape or type, no frames, or as many actors as there are no frames for.
    """
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise RoboprefError(f"a video needs frames uint8 [T, H, W, 3], got {frames.dtype} {frames.shape}.")
    if actors is not None and len(actors) != len(frames):
        raise RoboprefError(f"a video of {len(frames)} frames needs as many actors, got {len(actors)}.")
    if fps < 1 or size < 16:
        raise RoboprefError(f"a video needs at least 1 frame per second and 16 pixels, got {fps} and {size}.")
    height, width = _even_size(frames.shape[1], frames.shape[2], size)
    enlarging = height >= frames.shape[1]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.tmp.mp4")
    try:
        with av.open(str(temporary), "w", options={"movflags": "+faststart"}) as container:
            stream = _add_stream(container, fps, width, height)
            held = max(1, round(_FINAL_HOLD_SECONDS * fps))
            for number, index in enumerate([*range(len(frames)), *[len(frames) - 1] * held]):
                picture = cv2.resize(
                    frames[index], (width, height), interpolation=cv2.INTER_CUBIC if enlarging else cv2.INTER_AREA
                )
                if actors is not None:
                    picture = _mark_actor(picture, Actor(actors[index]))
                with nullcontext() if number else scheduling_kept():  # the first picture opens the encoder
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _even_size(height: int, width: int, shorter: int) -> tuple[int, int]:
    """(height, width) scaled to the given shorter side; 4:2:0 chroma needs both even."""
    scale = shorter / min(height, width)
    return 2 * round(height * scale / 2), 2 * round(width * scale / 2)


def _add_stream(container: Any, fps: int, width: int, height: int) -> Any:
    for name, options in _CODECS:
        if name in av.codecs_available:
            stream = container.add_stream(name, rate=Fraction(fps), options=options)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            # One thread per film: evaluations write several at once, one per worker process.
            stream.codec_context.thread_count = 1
            return stream
    raise RoboprefError("PyAV offers no video encoder: reinstall it with `pip install --force-reinstall av`.")


def _mark_actor(picture: NDArray[np.uint8], actor: Actor) -> NDArray[np.uint8]:
    """The picture [H, W, 3] inside a border of the actor's colour, with its name at the bottom left."""
    height, width = picture.shape[:2]
    border = max(2, round(height * 0.012))
    bar = max(10, round(height * _BAR_SHARE))
    color = rgb(ACTOR_COLORS[actor])
    cv2.rectangle(picture, (0, 0), (width - 1, height - 1), color, 2 * border - 1)
    name, font, thickness = ACTOR_NAMES[actor], cv2.FONT_HERSHEY_SIMPLEX, 1
    scale = cv2.getFontScaleFromHeight(font, round(bar * 0.5), thickness)
    (text_width, text_height), _ = cv2.getTextSize(name, font, scale, thickness)
    top = height - bar
    cv2.rectangle(picture, (0, top), (text_width + bar, height - 1), color, cv2.FILLED)
    # Black or white, whichever stands out on the colour (relative luminance, sRGB weights).
    dark = (np.array(color) @ (0.2126, 0.7152, 0.0722)) > 110
    origin = (bar // 2, top + (bar + text_height) // 2)
    cv2.putText(picture, name, origin, font, scale, (0, 0, 0) if dark else (255, 255, 255), thickness, cv2.LINE_AA)
    return picture
