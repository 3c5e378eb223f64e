"""An export that dies between any two files leaves a valid data set of the finished episodes, and can go on."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from lerobot_reader import Reader, loads
from test_lerobot_export import assert_same_episodes, exported, files, large, pictured, store_of

from robopref.errors import RoboprefError
from robopref.store import EpisodeStore
from robopref.store.formats import lerobot_export as exporting
from robopref.store.formats.base import ConversionOptions
from robopref.store.formats.lerobot_export import export_lerobot
from robopref.store.formats.lerobot_import import import_lerobot
from robopref.trajectory import Outcome

BY_LEROBOT = Path(__file__).parent / "data/lerobot"


class Died(BaseException):
    """Stands for a killed process: nothing catches it."""


def dying(patch, at, before):
    """Die at the given rename (every file gets its name by one), before or after it -> how many there were."""
    rename, count = Path.rename, [0]

    def counted(self, target):
        count[0] += 1
        if count[0] - 1 == at and before:
            raise Died
        result = rename(self, target)
        if count[0] - 1 == at:
            raise Died
        return result

    patch.setattr(Path, "rename", counted)
    return count


def episodes_of(images):
    if images == "png":
        return pictured(2)
    return [large(64, steps=3), large(64, steps=2)]


@pytest.mark.parametrize(("images", "before"), [("png", True), ("png", False), ("video", True)])
def test_death_at_any_file(tmp_path, monkeypatch, images, before):
    options = ConversionOptions(fps=20, images=images, append=True)
    whole, _ = exported(tmp_path, episodes_of(images), name="whole", fps=20, images=images)
    store = EpisodeStore.open(tmp_path / "store")
    path, at, seen = tmp_path / "out", 0, set()
    while True:
        with monkeypatch.context() as patch:
            count = dying(patch, at, before)
            try:
                export_lerobot(store, path, options)
            except Died:
                pass
            else:
                assert count[0] <= at
                break
        if (path / "meta/info.json").exists():
            finished = loads((path / "meta/info.json").read_text())["total_episodes"]
            if finished:
                reader = Reader(path)
                assert [reader.value(n, "episode_index")[0] for n in range(len(reader))][-1] == finished - 1
                back = EpisodeStore.create_or_open(tmp_path / "back")
                assert import_lerobot(path, back, ConversionOptions()).episodes == finished
                shutil.rmtree(back.path)
            seen.add(finished)
        told = export_lerobot(store, path, options)
        assert told.episodes + len(told.skipped) == 2
        assert files(path) == files(whole)
        shutil.rmtree(path)
        at += 1
    assert seen == ({0, 1} if before else {0, 1, 2})


def test_an_episode_that_cannot_be_written_leaves_the_others(tmp_path, monkeypatch):
    store = store_of(tmp_path / "store", pictured(3))
    encode, count = exporting.encode_png, [0]

    def failing(picture):
        count[0] += 1
        if count[0] == 10:  # within the second episode
            raise OSError(28, "No space left on device")
        return encode(picture)

    with monkeypatch.context() as patch:
        patch.setattr(exporting, "encode_png", failing)
        with pytest.raises(RoboprefError, match=r"episode e1 could not be exported.*No space left"):
            export_lerobot(store, tmp_path / "out", ConversionOptions(fps=20))
    assert Reader(tmp_path / "out").info["total_episodes"] == 1
    assert not list((tmp_path / "out").rglob("*.tmp"))
    export_lerobot(store, tmp_path / "out", ConversionOptions(append=True))
    assert Reader(tmp_path / "out").info["total_episodes"] == 3


def test_what_a_killed_export_left_is_cleared_away(tmp_path):
    path, _ = exported(tmp_path, pictured(1), fps=20)
    store = store_of(tmp_path / "store2", pictured(1))
    torn = [
        "data/chunk-000/file-001.parquet.tmp",
        "data/chunk-000/file-001.parquet",
        "meta/episodes/chunk-000/file-001.parquet",
    ]
    for name in torn:
        (path / name).write_bytes(b"half a file")
    told = export_lerobot(store, path, ConversionOptions(append=True))
    assert told.skipped == (f"e0: {path} has it already.",)
    assert not any((path / name).exists() for name in torn)
    Reader(path)


def test_an_export_that_had_no_time_to_begin_does_not_stand_in_the_way(tmp_path):
    (tmp_path / "out/meta").mkdir(parents=True)
    (tmp_path / "out/meta/info.json.tmp").write_text("{")
    path, told = exported(tmp_path, pictured(1), fps=20)
    assert told.episodes == 1
    assert not list(path.rglob("*.tmp"))


def test_appending_gives_what_exporting_at_once_gives(tmp_path):
    at_once, _ = exported(tmp_path, pictured(3), name="whole", fps=20)
    path, _ = exported(tmp_path / "first", pictured(1), fps=20)
    store = EpisodeStore.open(tmp_path / "store")
    told = export_lerobot(store, path, ConversionOptions(append=True))
    assert (told.episodes, told.invented, told.skipped) == (2, (), (f"e0: {path} has it already.",))
    assert files(path) == files(at_once)
    told = export_lerobot(store, path, ConversionOptions(append=True, fps=20))
    assert (told.episodes, told.steps, len(told.skipped)) == (0, 0, 3)
    assert files(path) == files(at_once)


def test_a_taken_path_is_refused_and_left_alone(tmp_path):
    path, _ = exported(tmp_path, pictured(1), fps=20)
    store = EpisodeStore.open(tmp_path / "store")
    before = files(path)
    (tmp_path / "file").write_text("mine")
    for target in (path, tmp_path / "file", tmp_path / "store"):
        with pytest.raises(RoboprefError, match="exists already"):
            export_lerobot(store, target, ConversionOptions(fps=20))
    assert files(path) == before
    for target, message in [(tmp_path / "file", "no LeRobotDataset"), (tmp_path / "store", "no LeRobotDataset")]:
        with pytest.raises(RoboprefError, match=message):
            export_lerobot(store, target, ConversionOptions(fps=20, append=True))


def changed_step(one, **changes):
    return replace(one, final_observation={}, **changes)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda one: one, {"fps": 30}, "20 steps per second, not 30"),
        (lambda one: one, {"images": "video"}, "'observation.images.image' is image .* there and video"),
        (
            lambda one: changed_step(one, observation={"state": one.observation["state"]}),
            {},
            "images.image' is .* absent",
        ),
        (
            lambda one: changed_step(one, observation={**one.observation, "x": one.reward}),
            {},
            "'observation.x' is absent",
        ),
        (
            lambda one: changed_step(one, observation={**one.observation, "proprio": one.observation["state"]}),
            {},
            r"'observation.state' is float32 \[3\] there and float32 \[5\]",
        ),
    ],
)
def test_other_features_are_not_appended(tmp_path, change, options, message):
    path, _ = exported(tmp_path, pictured(1), fps=20)
    one = pictured(2)[1]
    if "images" in options:
        one = changed_step(one, observation={**one.observation, "image": np.zeros((7, 16, 16, 3), np.uint8)})
    store = store_of(tmp_path / "other", [change(one)])
    before = files(path)
    with pytest.raises(RoboprefError, match=message):
        export_lerobot(store, path, ConversionOptions(append=True, **options))
    assert files(path) == before


def with_rate(one, distance, hz=None):
    extra = {} if hz is None else {"hz": hz}
    info = replace(one.info, episode_id="new", extra=extra)
    return replace(one, t_monotonic_ns=np.arange(len(one)) * distance, info=info)


@pytest.mark.parametrize(
    ("distance", "hz", "found"),
    [
        (100_000_000, None, "fps: 10, from the median distance of the steps, 100.00 ms"),
        (50_000_000, 10, "fps: 10, the rate that the control loop kept"),
        (50_000_000, 21, "fps: 21, the rate that the control loop kept"),
    ],
)
def test_recordings_of_another_rate_are_not_appended(tmp_path, distance, hz, found):
    path, _ = exported(tmp_path, pictured(1), fps=20)
    store = EpisodeStore.open(tmp_path / "store")
    store.add(with_rate(pictured(2)[1], distance, hz))
    before = files(path)
    with pytest.raises(RoboprefError, match=rf"has 20 steps per second.*{found}.*another path, or ask for 20"):
        export_lerobot(store, path, ConversionOptions(append=True))
    assert files(path) == before
    assert export_lerobot(store, path, ConversionOptions(append=True, fps=20)).episodes == 1
    # Those that it has are not asked again.
    assert export_lerobot(store, path, ConversionOptions(append=True)).episodes == 0


@pytest.mark.parametrize(("distance", "hz"), [(48_000_000, None), (52_000_000, None), (10**9, 20), (10**9, 19.9)])
def test_recordings_of_nearly_the_same_rate_are_appended(tmp_path, distance, hz):
    path, _ = exported(tmp_path, pictured(1), fps=20)
    store = EpisodeStore.open(tmp_path / "store")
    store.add(with_rate(pictured(2)[1], distance, hz))
    assert export_lerobot(store, path, ConversionOptions(append=True)).episodes == 1


def test_data_sets_of_other_programs_are_not_appended_to(tmp_path):
    store = store_of(tmp_path / "store", pictured(1))
    path = tmp_path / "out"
    shutil.copytree(BY_LEROBOT / "by_lerobot_images", path)
    with pytest.raises(RoboprefError, match="not exported by robopref"):
        export_lerobot(store, path, ConversionOptions(append=True))


def test_a_data_set_that_another_program_changed_is_not_appended_to(tmp_path):
    path, _ = exported(tmp_path, pictured(2), fps=20)
    file = path / "meta/episodes/chunk-000/file-001.parquet"
    pd.read_parquet(file).drop(columns=["robopref/episode_id"]).to_parquet(file)
    with pytest.raises(RoboprefError, match=r"file-001\.parquet was changed by another program"):
        export_lerobot(EpisodeStore.open(tmp_path / "store"), path, ConversionOptions(append=True))


def test_outcomes_and_ids_travel(tmp_path):
    one = pictured(1)[0]
    path, _ = exported(
        tmp_path, [replace(one, info=replace(one.info, outcome=Outcome.ABORTED, extra={"ä": [1, None]}))], fps=20
    )
    back = EpisodeStore.create_or_open(tmp_path / "back")
    import_lerobot(path, back, ConversionOptions())
    assert_same_episodes(EpisodeStore.open(tmp_path / "store"), back)
