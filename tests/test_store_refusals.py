"""Mistakes are told by the store and harm nothing: bad steps, other schemas, directories that are none of its own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recorded_steps import INFO, make_step, record, state_step
from recorded_steps import store as store

from robopref.errors import RoboprefError
from robopref.store import EpisodeStore
from robopref.trajectory import Outcome

BAD_STEPS: list[tuple[dict[str, Any], str]] = [
    ({"observation": {"image": np.zeros((5, 4, 3), np.uint8), "proprio": np.zeros(2, np.float32)}}, "image"),
    ({"observation": {"image": np.zeros((4, 5, 3), np.int16), "proprio": np.zeros(2, np.float32)}}, "image"),
    ({"observation": {"image": np.zeros((4, 5, 3), np.uint8)}}, "'observation/proprio' is absent"),
    ({"observation": {}}, "observation is empty"),
    ({"observation": {"image": np.array([None]), "proprio": np.zeros(2, np.float32)}}, "'observation/image' holds obj"),
    (
        {"observation": {"image": np.zeros((4, 5, 3), np.uint8), "proprio": np.array([0, np.nan], np.float32)}},
        "'observation/proprio' holds NaN",
    ),
    ({"action": np.array([0, np.nan], np.float32)}, "'action' holds NaN"),
    ({"action": np.zeros(3, np.float32), "policy_action": None}, "'action' is float32"),
    ({"action": np.array(["up", "down"])}, "'action' holds"),
    ({"policy_action": np.zeros(3, np.float32)}, "'policy_action' is float32"),
    ({"human_action": np.array([np.inf, 0], np.float32)}, "'human_action' holds"),
    ({"reward": float("nan")}, "'reward' is nan"),
    ({"t_monotonic_ns": 5}, "backwards"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_STEPS)
def test_a_bad_step_is_refused_and_harms_nothing(store: EpisodeStore, changes: dict[str, Any], message: str) -> None:
    writer = store.begin(INFO)
    writer.append(make_step(0))
    with pytest.raises(RoboprefError, match=message):
        writer.append(make_step(1, **changes))
    writer.append(make_step(1))
    assert len(store.read(writer.finish(Outcome.SUCCESS))) == 2
    assert store.verify() == []


def test_a_bad_final_observation_is_refused_and_harms_nothing(store: EpisodeStore) -> None:
    writer = store.begin(INFO)
    writer.append(make_step(0))
    with pytest.raises(RoboprefError, match="final observation"):
        writer.finish(Outcome.SUCCESS, {"image": np.zeros((4, 5, 3), np.uint8)})
    assert len(store.read(writer.finish(Outcome.SUCCESS))) == 1


def test_discrete_actions_are_numbered_from_zero(store: EpisodeStore) -> None:
    with pytest.raises(RoboprefError, match="from 0"):
        store.begin(INFO).append(make_step(0, action=np.array(-1), policy_action=None))


def test_another_schema_is_refused(store: EpisodeStore) -> None:
    record(store)
    fingerprint = store.fingerprint()
    with pytest.raises(RoboprefError, match=r"'observation/image' is absent.*another directory"):
        record(store, step=state_step)
    assert store.fingerprint() == fingerprint
    assert not list((store.path / "journal").glob("*.journal"))
    record(store)


def test_a_directory_without_episodes_takes_any_schema(store: EpisodeStore) -> None:
    writer = store.begin(INFO)
    writer.append(make_step(0))
    writer.discard()
    record(store, step=state_step)
    assert store.verify() == []


def test_information_must_be_json(store: EpisodeStore) -> None:
    for extra in ({"x": object()}, {"x": float("nan")}):
        with pytest.raises(RoboprefError, match="JSON"):
            store.begin(replace(INFO, extra=extra))
    assert not list((store.path / "journal").glob("*.journal"))


def test_opening_what_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "absent", tmp_path / "file"):
        with pytest.raises(RoboprefError, match="no data directory"):
            EpisodeStore.open(path)
    with pytest.raises(RoboprefError, match="cannot make"):
        EpisodeStore.create_or_open(tmp_path / "file")


def test_newer_and_damaged_directories_are_refused_untouched(store: EpisodeStore) -> None:
    path = store.path / "dataset.json"
    dataset = json.loads(path.read_text())
    for text, message in [
        (json.dumps(dataset | {"schema_version": 99}), r"newer robopref \(schema 99\).*upgrade"),
        (json.dumps(dataset | {"format": "cookies"}), "damaged.*cookies"),
        ("{", "damaged"),
        ("[]", "damaged"),
    ]:
        path.write_text(text)
        for opening in (EpisodeStore.open, EpisodeStore.create_or_open):
            with pytest.raises(RoboprefError, match=message):
                opening(store.path)
        assert path.read_text() == text


def test_creating_beside_other_files_leaves_them(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    record(EpisodeStore.create_or_open(tmp_path))
    assert len(EpisodeStore.create_or_open(tmp_path)) == 1
    assert (tmp_path / "config.json").read_text() == "{}"


def test_an_unknown_episode_is_refused(store: EpisodeStore) -> None:
    with pytest.raises(RoboprefError, match="no finished episode 'x'"):
        store.read("x")
