"""Schema versions: a directory that version 1 wrote is read, recovered and recorded into as it is.

``tests/data/store_v1`` was recorded by the code of that version: two finished episodes, a discarded one, the journal of
a recorder that died, and a labelling rule.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from robopref.store import EpisodeStore
from robopref.store.checking import check
from robopref.store.compressing import compress
from robopref.store.dataset_file import read_dataset
from robopref.store.repairing import repair
from robopref.store.steps import StepReader
from robopref.store.versions import MIGRATIONS, NEWEST, migrated_dataset
from robopref.trajectory import Actor, Episode, EpisodeInfo, Outcome, Step

SAMPLE = Path(__file__).parent / "data" / "store_v1"
FIRST, SECOND = "20261125T210558-229512-e43b7e84", "20261125T210558-235457-7c5c5d28"
LOST = "20261125T210558-241439-5f42c3c2"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SAMPLE, tmp_path / "data"))


def check_values(episode: Episode, length: int, operator: str, outcome: Outcome, final: bool) -> None:
    """What was recorded then, written down here and not taken from the file."""
    assert episode.info.operator_id == operator
    assert episode.info == EpisodeInfo(
        task="reach",
        instruction="reach the goal",
        seed=4,
        policy_id="p",
        operator_id=operator,
        outcome=outcome,
        episode_id=episode.info.episode_id,
        started_at=episode.info.started_at,
        schema_version=1,
        extra={"note": "äöü", "n": [1, 2]},
    )
    t = np.arange(length)
    human = np.isin(t, (1, 2))
    proposed = np.stack([t, -t], axis=1).astype(np.float32) / 8
    nothing = np.full_like(proposed, np.nan)
    np.testing.assert_array_equal(episode.actor, np.where(human, Actor.HUMAN, Actor.POLICY))
    np.testing.assert_array_equal(episode.policy_action, proposed)
    np.testing.assert_array_equal(episode.human_action, np.where(human[:, None], proposed + 0.5, nothing))
    np.testing.assert_array_equal(episode.action, proposed + 0.5 * human[:, None])
    np.testing.assert_array_equal(episode.segment_id, np.where(human, 0, -1))
    np.testing.assert_array_equal(episode.reward, t)
    np.testing.assert_array_equal(episode.success, t == 3)
    np.testing.assert_array_equal(episode.terminated, t == 3)
    assert not episode.truncated.any()
    np.testing.assert_array_equal(episode.t_monotonic_ns, 1000 + 50 * t)
    assert episode.observation["image"].shape == (length, 4, 5, 3)
    np.testing.assert_array_equal(episode.observation["image"][:, 2, 3, 1], 10 * t)
    np.testing.assert_array_equal(episode.observation["proprio"], np.stack([t, t + 0.5], axis=1))
    assert set(episode.final_observation) == ({"image", "proprio"} if final else set())


def test_what_version_1_wrote_is_read_as_it_is(directory: Path) -> None:
    before = {path.name: path.read_bytes() for path in (directory / "episodes").iterdir()}
    (problem,) = check(directory)
    assert (problem.episode_id, problem.repairable) == (LOST, True)
    assert "3 steps" in problem.what

    store = EpisodeStore.open(directory)
    assert [(r.episode_id, r.steps, r.problem) for r in store.recovered] == [(LOST, 3, "")]
    assert store.episode_ids() == [FIRST, SECOND, LOST]
    check_values(store.read(FIRST), 4, "o", Outcome.SUCCESS, final=True)
    check_values(store.read(SECOND), 2, "o", Outcome.FAILURE, final=False)
    check_values(store.read(LOST), 3, "night shift", Outcome.ABORTED, final=False)
    assert store.verify() == []
    assert check(directory) == []
    assert repair(directory) == []
    after = {path.name: path.read_bytes() for path in (directory / "episodes").iterdir()}
    assert {name: after[name] for name in before} == before
    assert (directory / "dataset.json").read_bytes() == (SAMPLE / "dataset.json").read_bytes()


def test_it_can_be_recorded_into_and_stays_version_1(directory: Path) -> None:
    store = EpisodeStore.create_or_open(directory)
    action = np.zeros(2, np.float32)
    observation = {"image": np.zeros((4, 5, 3), np.uint8), "proprio": np.zeros(2, np.float32)}
    with store.begin(EpisodeInfo("reach", "")) as writer:
        writer.append(Step(observation, action, Actor.POLICY, policy_action=action))
    assert len(store) == 4
    assert check(directory) == []
    assert read_dataset(directory).version == 1
    assert len(StepReader(store)) == 10


def test_it_can_be_brought_to_the_newest_version(directory: Path, tmp_path: Path) -> None:
    store, twin = EpisodeStore.open(directory), EpisodeStore.create_or_open(tmp_path / "video")
    compress(store, twin)
    assert read_dataset(twin.path).version == NEWEST == 2
    np.testing.assert_array_equal(twin.read(FIRST).observation["image"], store.read(FIRST).observation["image"])


def test_every_older_version_has_a_migration() -> None:
    assert sorted(MIGRATIONS) == list(range(1, NEWEST))
    old = json.loads((SAMPLE / "dataset.json").read_text())
    assert "checksum" not in old
    new = migrated_dataset(old, 1)
    assert migrated_dataset(new, NEWEST) == new
    assert {name: new[name] for name in old} == old
