"""robopref data convert: there and back, what is said of it, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import synthetic
from test_cli_data import filled, printed_json, run

from robopref.cli import data_formats
from robopref.cli.data_convert import DataConvert
from robopref.store import EpisodeStore
from robopref.store.formats.base import Conversion


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EpisodeStore:
    """A data directory ``data`` in the current directory."""
    monkeypatch.chdir(tmp_path)
    return filled(tmp_path / "data", 2)


def test_there_and_back_is_what_was_recorded(here: EpisodeStore, capsys: pytest.CaptureFixture[str]) -> None:
    run("convert", "data", "lerobot")
    assert "lerobot: 2 episodes, 96 steps" in capsys.readouterr().out
    assert json.loads(Path("lerobot/meta/info.json").read_text())["total_frames"] == 96
    run("convert", "lerobot", "back")
    assert EpisodeStore.open("back").fingerprint() == here.fingerprint()
    here.add(synthetic.interactions(1, image=True)[0])
    for source, target, skipped in (("data", "lerobot", 2), ("lerobot", "back", 2)):
        capsys.readouterr()
        run("convert", source, target, "--append")
        assert capsys.readouterr().out.count("skipped: ") == skipped
    assert EpisodeStore.open("back").fingerprint() == here.fingerprint()


def test_a_twin_of_video_is_the_same_to_a_reader(here: EpisodeStore, capsys: pytest.CaptureFixture[str]) -> None:
    run("convert", "data", "twin", "--to", "robopref", "--images", "video")
    assert "observation/image: lossless" in capsys.readouterr().out
    for a, b in zip(here, EpisodeStore.open("twin"), strict=True):
        np.testing.assert_array_equal(a.observation["image"], b.observation["image"])
    figures = [printed_json(capsys, "info", path) for path in ("data", "twin")]
    for same in ("steps", "human_steps", "takeovers", "control", "actors"):
        assert figures[0][same] == figures[1][same]
    run("convert", "data", "small", "--to", "robopref", "--images", "video", "--quality", 40)
    assert "dB" in capsys.readouterr().out


def test_what_a_format_says_is_printed(
    here: EpisodeStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Conversion(1, 2, ("the [colour]",), ("a rate",), tuple(f"e{i}: why" for i in range(30)))
    seen = []

    def export(store, path, options):
        seen.append((options.fps, options.trust, options.task, options.instruction))
        return told

    monkeypatch.setitem(data_formats.FORMATS, "lerobot", data_formats.Format("", lambda path: False, lambda: export))
    run("convert", "data", "x", "--fps", 5, "--trust", "--task", "t", "--instruction", "i")
    out = capsys.readouterr().out
    assert seen == [(5.0, True, "t", "i")]
    assert "lost: the [colour]" in out
    assert "invented: a rate" in out
    assert "skipped: 20 more" in out


def test_every_format_can_be_asked_for() -> None:
    (offered,) = (get_args(choice) for choice in get_args(get_type_hints(DataConvert)["to"]) if get_args(choice))
    assert set(offered) == {data_formats.OWN, *(n for n, f in data_formats.FORMATS.items() if f.load_export)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nope", "x"), "does not exist"),
        (("other", "x"), "neither a data directory nor"),
        (("data", "x", "--fps", 0), "--fps is a positive"),
        (("data", "x", "--fps", "inf"), "--fps is a positive"),
        (("data", "x", "--to", "robopref"), "only --images video"),
        (("empty", "x"), "no finished episode"),
        (("lerobot", "x", "--to", "lerobot"), "data directory first"),
        (("lerobot", "data"), "holds episodes already"),
        (("lerobot", "other"), "is no data directory"),
        (("data", "lerobot"), "lerobot"),
    ],
)
def test_what_cannot_be_converted_is_refused(
    here: EpisodeStore, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    run("convert", "data", "lerobot")
    EpisodeStore.create_or_open("empty")
    Path("other").mkdir()
    Path("other/file").write_text("precious")
    capsys.readouterr()
    run("convert", *arguments, expect=2)
    assert message in capsys.readouterr().err
    assert not Path("x").exists()
    assert [path.name for path in Path("other").iterdir()] == ["file"]
