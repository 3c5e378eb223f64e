from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from robopref.errors import RoboprefError
from robopref.reporting.palette import ACTOR_COLORS, rgb
from robopref.reporting.videos import write_video
from robopref.trajectory import Actor


def decode(path: Path) -> NDArray[np.uint8]:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def moving_square(length: int, height: int, width: int) -> NDArray[np.uint8]:
    frames = np.full((length, height, width, 3), 90, np.uint8)
    for t in range(length):
        frames[t, 10:30, 5 + t : 25 + t] = (200, 40, 40)
    return frames


def test_a_video_decodes_to_the_frames_and_holds_the_last_one(tmp_path: Path) -> None:
    frames = moving_square(12, 84, 84)
    write_video(tmp_path / "deep" / "film.mp4", frames, 20)
    decoded = decode(tmp_path / "deep" / "film.mp4")
    assert decoded.shape == (12 + 10, 336, 336, 3)  # half a second at 20 frames per second
    for t in range(12):
        shrunk = decoded[t].reshape(84, 4, 84, 4, 3).mean(axis=(1, 3))
        assert np.abs(shrunk - frames[t]).mean() < 4  # compression, not another picture
    assert np.abs(decoded[-1].astype(int) - decoded[11]).mean() < 2
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["film.mp4"]


def test_a_video_can_be_played_from_its_beginning_in_a_browser(tmp_path: Path) -> None:
    write_video(tmp_path / "film.mp4", moving_square(5, 84, 84), 20)
    data = (tmp_path / "film.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(tmp_path / "film.mp4")) as container:
        (stream,) = container.streams.video
        assert stream.codec_context.name in ("h264", "vp9", "av1", "mpeg4")
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.average_rate == 20


@pytest.mark.parametrize(("height", "width"), [(84, 84), (97, 131), (480, 641), (61, 40)])
def test_any_size_becomes_even_with_the_asked_shorter_side(tmp_path: Path, height: int, width: int) -> None:
    write_video(tmp_path / "film.mp4", np.zeros((2, height, width, 3), np.uint8), 10, size=120)
    _, decoded_height, decoded_width, _ = decode(tmp_path / "film.mp4").shape
    assert decoded_height % 2 == decoded_width % 2 == 0
    assert min(decoded_height, decoded_width) == 120
    assert decoded_height / decoded_width == pytest.approx(height / width, rel=0.02)


def test_the_border_says_who_acted_at_every_frame(tmp_path: Path) -> None:
    actors = [Actor.POLICY] * 4 + [Actor.HOLD] * 4 + [Actor.HUMAN] * 4 + [Actor.EXPERT] * 4
    write_video(tmp_path / "film.mp4", np.full((16, 84, 84, 3), 128, np.uint8), 20, actors=actors)
    decoded = decode(tmp_path / "film.mp4").astype(int)
    for t, actor in enumerate(actors):
        border = decoded[t, 1:3, 150:200].mean(axis=(0, 1))
        nearest = min(ACTOR_COLORS, key=lambda a: np.abs(border - rgb(ACTOR_COLORS[a])).sum())
        assert nearest is actor
        assert np.abs(decoded[t, 150:180, 150:180] - 128).mean() < 4  # the picture itself stays
        label = decoded[t, 314:332, 8:80].mean(axis=-1)
        assert np.ptp(label) > 60  # letters on their ground


@pytest.mark.parametrize(
    ("frames", "actors", "message"),
    [
        (np.zeros((0, 8, 8, 3), np.uint8), None, "needs frames"),
        (np.zeros((2, 8, 8), np.uint8), None, "needs frames"),
        (np.zeros((2, 8, 8, 3), np.float32), None, "float32"),
        (np.zeros((2, 8, 8, 3), np.uint8), [1], "as many actors"),
    ],
)
def test_bad_frames_are_refused_and_nothing_is_left(
    tmp_path: Path, frames: NDArray[np.uint8], actors: list[int] | None, message: str
) -> None:
    with pytest.raises(RoboprefError, match=message):
        write_video(tmp_path / "film.mp4", frames, 20, actors=actors)
    assert not list(tmp_path.iterdir())
