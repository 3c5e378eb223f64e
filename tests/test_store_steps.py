"""Steps by number: the same values as in the episodes, whatever the order, little memory, many readers."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robopref.errors import RoboprefError
from robopref.store import EpisodeStore
from robopref.store.steps import StepReader
from robopref.trajectory import Actor, Episode
from tests.synthetic import episode as synthetic


def made(path: Path, lengths: tuple[int, ...] = (3, 1, 4)) -> EpisodeStore:
    store = EpisodeStore.create_or_open(path)
    for n, length in enumerate(lengths):
        episode = synthetic([Actor.POLICY] * length, seed=n, image=True)
        store.add(replace(episode, info=replace(episode.info, episode_id=f"e{n:03d}")))
    return store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    return made(tmp_path_factory.mktemp("steps") / "data")


def column(episode: Episode, name: str) -> Any:
    return episode.observation[name[12:]] if name.startswith("observation/") else getattr(episode, name)


def stacked(store: EpisodeStore, name: str) -> np.ndarray[Any, Any]:
    return np.concatenate([column(store.read(episode_id), name) for episode_id in store.episode_ids()])


@settings(max_examples=40)
@given(indices=st.lists(st.integers(0, 7), max_size=12), open_files=st.integers(1, 3))
def test_steps_by_number_are_those_of_the_episodes(store: EpisodeStore, indices: list[int], open_files: int) -> None:
    reader = StepReader(store, open_files=open_files)
    assert len(reader) == 8
    assert {"observation/image", "observation/state", "action", "success", "t_monotonic_ns"} <= set(reader.columns)
    batch = reader.read(indices)
    assert set(batch) == set(reader.columns)
    for name, values in batch.items():
        expected = stacked(store, name)
        assert values.dtype == expected.dtype
        np.testing.assert_array_equal(values, expected[np.array(indices, np.int64)])
    for b, index in enumerate(indices):
        for name, value in reader[index].items():
            np.testing.assert_array_equal(value, batch[name][b])
            assert value.flags.writeable


def test_what_is_chosen_is_read(store: EpisodeStore) -> None:
    reader = StepReader(store, ("action", "observation/image"), ids=["e002", "e000"])
    assert len(reader) == 7
    assert list(reader.lengths) == [4, 3]
    assert list(reader[4]) == ["action", "observation/image"]
    np.testing.assert_array_equal(reader[4]["action"], store.read("e000").action[0])
    assert list(reader.read([0], ["action"])) == ["action"]
    episodes, steps = reader.locate([0, 3, 4, 6])
    assert (episodes.tolist(), steps.tolist()) == ([0, 0, 1, 1], [0, 3, 0, 2])


def test_what_is_not_there_is_told(store: EpisodeStore, tmp_path: Path) -> None:
    with pytest.raises(RoboprefError, match=r"no column 'observation/depth'; there are .*observation/image"):
        StepReader(store, ["observation/depth"])
    with pytest.raises(RoboprefError, match="no finished episode"):
        StepReader(EpisodeStore.create_or_open(tmp_path / "empty"))
    reader = StepReader(store, ["action"])
    for wrong in (-1, 8):
        with pytest.raises(RoboprefError, match="numbered 0 to 7"):
            reader.read([0, wrong])
        with pytest.raises(RoboprefError, match="numbered 0 to 7"):
            reader[wrong]
    with pytest.raises(RoboprefError, match="'reward' is not among"):
        reader.read([0], ["reward"])


def test_a_file_that_goes_or_shrinks_is_told(tmp_path: Path) -> None:
    store = made(tmp_path / "data", (2, 2))
    reader = StepReader(store, ["action", "success"])
    reader[0]
    path = store.path / "episodes" / "e000.safetensors"
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size - 2)
    with pytest.raises(RoboprefError, match="no longer whole"):
        reader.read([0, 1])
    (store.path / "episodes" / "e001.safetensors").unlink()
    with pytest.raises(RoboprefError, match=r"e001.safetensors .*was it moved"):
        reader[2]


def test_many_threads_and_few_open_files(tmp_path: Path) -> None:
    store = made(tmp_path / "data", (3,) * 12)
    reader = StepReader(store, ["observation/image", "action"], open_files=2)
    images, actions = stacked(store, "observation/image"), stacked(store, "action")

    def look(seed: int) -> bool:
        rng = np.random.default_rng(seed)
        for _ in range(60):
            indices = rng.integers(0, len(reader), 5)
            batch = reader.read(indices)
            np.testing.assert_array_equal(batch["observation/image"], images[indices])
            np.testing.assert_array_equal(reader[int(indices[0])]["action"], actions[indices[0]])
        return True

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(look, range(8)))
    shutil.rmtree(store.path)  # what is open can still be read
    reader.close()
    with pytest.raises(RoboprefError, match="was it moved"):
        reader[0]


def test_a_data_loader_with_processes(store: EpisodeStore) -> None:
    reader = StepReader(store, ["action"])
    reader[0]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(reader))[7]["action"], reader[7]["action"])
    loader = torch.utils.data.DataLoader(reader, batch_size=4, num_workers=2)  # type: ignore[arg-type, var-annotated]
    seen = torch.cat([batch["action"] for batch in loader]).numpy()
    np.testing.assert_array_equal(seen, stacked(store, "action"))


MEASURE = """
import resource, sys, time
import numpy as np
from robopref.store import EpisodeStore
from robopref.store.steps import StepReader
StepReader(EpisodeStore.open(sys.argv[1]))[0]
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started = time.perf_counter()
reader = StepReader(EpisodeStore.open(sys.argv[2]))
seconds = time.perf_counter() - started
for start in range(0, len(reader), 64):
    reader.read(np.arange(start, min(start + 64, len(reader))))
print(len(reader), seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024)
"""


def test_opening_is_quick_and_memory_does_not_grow_with_the_data(tmp_path: Path, store: EpisodeStore) -> None:
    """Half of the 100 000 steps that ``scripts/bench_store.py`` measures; 40 MB of data that are read once."""
    large = EpisodeStore.create_or_open(tmp_path / "large")
    episode = synthetic([Actor.POLICY] * 200, image=True)
    first = large.add(replace(episode, info=replace(episode.info, episode_id="first")))
    for n in range(249):  # the same file under other names: the reader goes by names
        (large.path / "episodes" / f"{n:05d}.safetensors").hardlink_to(large.path / "episodes" / f"{first}.safetensors")
    told = subprocess.run(
        [sys.executable, "-c", MEASURE, str(store.path), str(large.path)], capture_output=True, text=True, check=True
    )
    steps, seconds, grown = map(float, told.stdout.split())
    assert steps == 50_000
    assert seconds < 0.5
    assert grown < 15
