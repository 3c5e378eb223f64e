"""What training reads of data directories, and in which order."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import demonstrations, episode

from robopref.cli.fitting import load_episodes
from robopref.errors import RoboprefError
from robopref.store import EpisodeStore
from robopref.trajectory import Actor, Outcome


def recorded(path, episodes):
    store = EpisodeStore.create_or_open(path)
    for one in episodes:
        store.add(one)
    return path


def seeds(loaded):
    return [one.info.seed for one in loaded.episodes]


@given(order=st.permutations(range(6)))
def test_the_order_in_which_processes_finished_does_not_matter(order, tmp_path_factory):
    made = demonstrations(6, length=3)
    loaded = load_episodes([recorded(tmp_path_factory.mktemp("data"), [made[i] for i in order])])
    assert seeds(loaded) == list(range(6))
    for one, other in zip(loaded.episodes, made, strict=True):
        np.testing.assert_array_equal(one.action, other.action)


def test_directories_stay_in_the_order_in_which_they_were_given(tmp_path):
    first = recorded(tmp_path / "first", [episode([Actor.EXPERT] * 3, seed=s) for s in (9, 8)])
    second = recorded(tmp_path / "second", [episode([Actor.EXPERT] * 3, seed=s) for s in (2, 1)])
    assert seeds(load_episodes([first, second])) == [8, 9, 1, 2]


def test_episodes_without_a_seed_come_last_as_they_were_recorded(tmp_path):
    def driven(operator, seed):
        one = episode([Actor.HUMAN] * 3, operator_id=operator)
        return replace(one, info=replace(one.info, seed=seed))

    made = [driven("b", None), driven("", 5), driven("a", None), driven("", 3)]
    loaded = load_episodes([recorded(tmp_path / "data", made)])
    assert seeds(loaded) == [3, 5, None, None]
    assert [one.info.operator_id for one in loaded.episodes[2:]] == ["b", "a"]


def test_tasks_that_share_seeds_are_told_apart(tmp_path):
    made = [episode([Actor.EXPERT] * 3, seed=1, task=task) for task in ("push", "assembly")]
    assert [one.info.task for one in load_episodes([recorded(tmp_path / "data", made)]).episodes] == [
        "assembly",
        "push",
    ]


def test_what_is_read_is_hashed_in_its_order(tmp_path):
    """Else a run of before, whose samples were numbered as recorded, would go on with other samples."""
    made = demonstrations(2, length=3)
    in_order, resorted = recorded(tmp_path / "a", made), recorded(tmp_path / "b", made[::-1])

    def as_recorded(path):
        return hashlib.blake2b(EpisodeStore.open(path).fingerprint().encode(), digest_size=16).hexdigest()

    assert load_episodes([in_order]).fingerprint == as_recorded(in_order)
    assert load_episodes([resorted]).fingerprint != as_recorded(resorted)


def test_demonstrations_that_did_not_succeed_are_left_out(tmp_path, capsys):
    made = demonstrations(2, length=3)
    failed = [episode([Actor.EXPERT] * 3, seed=7, outcome=Outcome.FAILURE)]
    assert seeds(load_episodes([recorded(tmp_path / "data", made + failed)])) == [0, 1]
    assert "1 demonstrations that did not succeed are left out" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(RoboprefError, match="nothing to learn from"):
        load_episodes([recorded(tmp_path / "failed", failed)])
