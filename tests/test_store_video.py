"""Images held as video: lossless is lossless, what lossy costs is what the file says, single steps are the same."""

from __future__ import annotations

import io
import json
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from robopref.errors import RoboprefError
from robopref.store import EpisodeStore, dataset_file
from robopref.store.checking import check
from robopref.store.compressing import compress
from robopref.store.moving import merge, split
from robopref.store.repairing import repair
from robopref.store.steps import StepReader
from robopref.store.video import VideoOptions, decode, encode
from robopref.trajectory import STEP_COLUMNS, Actor
from tests.synthetic import episode as synthetic

IMAGE = "observation/image"


def moving(length: int, size: int = 16, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A smooth picture that moves, with a few hard edges in saturated colours."""
    rng = np.random.default_rng(seed)
    base = np.kron(rng.integers(0, 256, (size // 4, size // 4, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    return np.stack([np.roll(base, t, axis=1) for t in range(length)])


def made(path: Path, lengths: tuple[int, ...] = (11, 1, 6)) -> EpisodeStore:
    store = EpisodeStore.create_or_open(path)
    for n, length in enumerate(lengths):
        episode = synthetic([Actor.POLICY] * length, seed=n)
        images = moving(length + 1, seed=n)
        store.add(
            replace(
                episode,
                info=replace(episode.info, episode_id=f"e{n}"),
                observation={**episode.observation, "image": images[:-1]},
                final_observation={**episode.final_observation, "image": images[-1]},
            )
        )
    return store


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    return made(tmp_path_factory.mktemp("video") / "original")


@pytest.fixture(scope="module")
def lossless(original: EpisodeStore) -> EpisodeStore:
    store = EpisodeStore.create_or_open(original.path.parent / "lossless")
    compress(original, store)
    return store


def test_lossless_twins_hold_the_same_values_in_less_room(original: EpisodeStore, tmp_path: Path) -> None:
    target, seen = EpisodeStore.create_or_open(tmp_path / "video"), []
    done = compress(original, target, progress=lambda *counts: seen.append(counts))
    assert (done.episodes, done.steps, done.left_out) == (3, 18, ())
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert (done.errors[IMAGE].max_error, done.errors[IMAGE].psnr) == (0, float("inf"))
    assert done.video_bytes == sum(path.stat().st_size for path in (target.path / "episodes").iterdir())
    for episode_id in original.episode_ids():
        ours, theirs = original.read(episode_id), target.read(episode_id)
        for name in STEP_COLUMNS:
            np.testing.assert_array_equal(getattr(theirs, name), getattr(ours, name))
        for key in ours.observation:
            np.testing.assert_array_equal(theirs.observation[key], ours.observation[key])
            np.testing.assert_array_equal(theirs.final_observation[key], ours.final_observation[key])
        assert theirs.info == replace(ours.info, schema_version=2)
        with pytest.raises(ValueError, match="read-only"):
            theirs.observation["image"][0] = 0
    assert check(target.path) == []
    assert target.verify() == []
    # Back to what it was, to the byte.
    back = EpisodeStore.create_or_open(tmp_path / "back")
    for episode in target:
        back.add(episode)
    assert back.fingerprint() == original.fingerprint() != target.fingerprint()


@settings(max_examples=20)
@given(images=hnp.arrays(np.uint8, st.tuples(*[st.integers(1, 5)], *[st.integers(4, 21)] * 2, st.just(3))))
def test_any_images_survive_lossless_video(images: Any) -> None:
    data, column = encode(images, VideoOptions(keyframe_interval=2))
    assert (column.max_error, column.mse) == (0, 0)
    np.testing.assert_array_equal(decode(data, column), images)


@pytest.mark.parametrize("chroma", ["444", "420"])
def test_the_error_told_is_the_error_made(original: EpisodeStore, tmp_path: Path, chroma: Any) -> None:
    target = EpisodeStore.create_or_open(tmp_path / "video")
    done = compress(original, target, VideoOptions(quality=18, chroma=chroma))
    differences = []
    for episode_id in original.episode_ids():
        ours, theirs = (store.read(episode_id).observation["image"] for store in (original, target))
        difference = np.abs(ours.astype(np.float64) - theirs)
        column = target.header(episode_id).video[IMAGE]
        assert column.max_error == difference.max() > 0
        assert column.mse == pytest.approx(np.square(difference).mean())
        assert column.psnr == pytest.approx(10 * np.log10(255**2 / np.square(difference).mean()))
        differences.append(difference.ravel())
    every = np.concatenate(differences)
    assert done.errors[IMAGE].max_error == every.max()
    assert done.errors[IMAGE].psnr == pytest.approx(10 * np.log10(255**2 / np.square(every).mean()))
    assert done.errors[IMAGE].psnr > (25 if chroma == "444" else 10)
    assert check(target.path) == []


def test_other_programs_can_play_the_video(lossless: EpisodeStore, original: EpisodeStore) -> None:
    tensors = safetensors.numpy.load_file(lossless.path / "episodes" / "e0.safetensors")
    assert IMAGE not in tensors
    with av.open(io.BytesIO(tensors[f"video/{IMAGE}"].tobytes())) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, container.format.name.split(",")[0]) == ("h264", "mov")
        frames = list(container.decode(stream))
    assert [frame.key_frame for frame in frames] == [t % 8 == 0 for t in range(11)]
    np.testing.assert_array_equal(
        [frame.to_ndarray(format="rgb24") for frame in frames], original.read("e0").observation["image"]
    )
    with safetensors.safe_open(lossless.path / "episodes" / "e0.safetensors", "numpy") as file:
        described = json.loads(file.metadata()["video"])
    assert described["columns"][IMAGE]["shape"] == [11, 16, 16, 3]
    assert described["made_of"] == original.header("e0").checksum


@settings(max_examples=25)
@given(indices=st.lists(st.integers(0, 17), max_size=10), open_videos=st.integers(1, 3))
def test_single_steps_are_those_of_the_original(
    lossless: EpisodeStore, original: EpisodeStore, indices: list[int], open_videos: int
) -> None:
    reader, expected = StepReader(lossless, open_videos=open_videos, open_files=1), StepReader(original)
    assert reader.columns == {name: reader.columns[name] for name in expected.columns}
    batch, other = reader.read(indices), expected.read(indices)
    for name in other:
        np.testing.assert_array_equal(batch[name], other[name])
    for index in indices:
        np.testing.assert_array_equal(reader[index][IMAGE], expected[index][IMAGE])


def test_many_threads_decode_at_once(lossless: EpisodeStore, original: EpisodeStore) -> None:
    reader = pickle.loads(pickle.dumps(StepReader(lossless, [IMAGE], open_videos=2, open_files=2)))
    images = StepReader(original).read(np.arange(18))[IMAGE]

    def look(seed: int) -> None:
        for index in np.random.default_rng(seed).integers(0, 18, 40):
            np.testing.assert_array_equal(reader[int(index)][IMAGE], images[index])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(look, range(4)))


def test_it_goes_on_where_it_was_interrupted(original: EpisodeStore, tmp_path: Path) -> None:
    target = EpisodeStore.create_or_open(tmp_path / "video")

    def interrupt(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress(original, target, progress=interrupt)
    assert check(target.path) == []
    done = compress(original, target)
    assert (done.episodes, done.left_out) == (3, ("e0", "e1"))
    assert compress(original, target).left_out == ("e0", "e1", "e2")


def test_what_cannot_be_compressed_is_told(original: EpisodeStore, lossless: EpisodeStore, tmp_path: Path) -> None:
    empty = EpisodeStore.create_or_open(tmp_path / "empty")
    plain = EpisodeStore.create_or_open(tmp_path / "plain")
    plain.add(synthetic([Actor.POLICY]))
    with pytest.raises(RoboprefError, match="no finished episode"):
        compress(empty, tmp_path_store(tmp_path))
    with pytest.raises(RoboprefError, match="no column can be held"):
        compress(plain, empty)
    with pytest.raises(RoboprefError, match=r"'observation/state' cannot be held as video; these can: .*image"):
        compress(original, empty, VideoOptions(columns=("observation/state",)))
    with pytest.raises(RoboprefError, match="already: take its original"):
        compress(lossless, empty)
    with pytest.raises(RoboprefError, match="not made of that in the source"):
        compress(made(tmp_path / "other", (2, 3)), lossless)
    with pytest.raises(RoboprefError, match="not made of that in the source"):
        compress(original, original)
    for wrong in ({"quality": 0}, {"quality": 52}, {"quality": "best"}, {"keyframe_interval": 0}):
        with pytest.raises(RoboprefError, match=r"quality|interval"):
            VideoOptions(**wrong)
    with pytest.raises(RoboprefError, match="chroma 444"):
        encode(np.zeros((1, 15, 16, 3), np.uint8), VideoOptions(20, "420"))
    assert len(empty) == 0


def tmp_path_store(path: Path) -> EpisodeStore:
    return EpisodeStore.create_or_open(path / "target")


@settings(max_examples=60)
@given(chance=st.data())
def test_any_changed_byte_is_found(lossless: EpisodeStore, tmp_path_factory: Any, chance: st.DataObject) -> None:
    directory = tmp_path_factory.mktemp("broken") / "data"
    shutil.copytree(lossless.path, directory)
    path = directory / "episodes" / "e2.safetensors"
    good = path.read_bytes()
    offset = chance.draw(st.integers(0, len(good) - 1))
    path.write_bytes(good[:offset] + bytes([good[offset] ^ chance.draw(st.integers(1, 255))]) + good[offset + 1 :])
    (problem,) = check(directory)
    assert problem.file == path
    repair(directory)
    assert check(directory) == []


def test_directories_with_and_without_video_go_together(
    original: EpisodeStore, lossless: EpisodeStore, tmp_path: Path
) -> None:
    with pytest.raises(RoboprefError, match="another one"):
        merge([original.path, lossless.path], tmp_path / "both")
    parts = {tmp_path / "a": ["e0"], tmp_path / "b": ["e1", "e2"]}
    split(original.path, {tmp_path / "a": ["e0"]})
    assert dataset_file.read_dataset(tmp_path / "a").version == 1
    split(lossless.path, {tmp_path / "b": parts[tmp_path / "b"]})
    merge(list(parts), tmp_path / "both")
    both = EpisodeStore.open(tmp_path / "both")
    assert dataset_file.read_dataset(both.path).version == 2
    assert check(both.path) == []
    reader, expected = StepReader(both), StepReader(original)
    for name, values in expected.read(np.arange(18)).items():
        np.testing.assert_array_equal(reader.read(np.arange(18))[name], values)
    # A recorder's episodes are as everywhere, and the directory keeps its version.
    both.add(replace(original.read("e0"), info=replace(original.info("e0"), episode_id="new")))
    assert both.info("new").schema_version == 1
    assert check(both.path) == []


def test_a_directory_that_forgot_its_version_gets_it_back(lossless: EpisodeStore, tmp_path: Path) -> None:
    directory = tmp_path / "data"
    shutil.copytree(lossless.path, directory)
    dataset_file.write_dataset(directory, replace(dataset_file.read_dataset(directory), version=1))
    (problem,) = check(directory)
    assert "says schema 1, there are episodes of schema 2" in problem.what
    repair(directory)
    (directory / "dataset.json").unlink()
    repair(directory)
    assert check(directory) == []
    assert dataset_file.read_dataset(directory) == dataset_file.read_dataset(lossless.path)


def test_an_older_robopref_says_that_it_is_too_old(lossless: EpisodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_file, "NEWEST", 1)
    with pytest.raises(RoboprefError, match=r"newer robopref \(schema 2\).*upgrade"):
        EpisodeStore.open(lossless.path)
