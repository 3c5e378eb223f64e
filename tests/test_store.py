"""The store: what is written is what is read, and any byte that changed is noticed."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_steps import INFO, make_step, record, recordings, state_step
from recorded_steps import store as store

from robopref.errors import RoboprefError
from robopref.store import EpisodeStore
from robopref.trajectory import STEP_COLUMNS, Outcome, Step, is_null_action


@settings(max_examples=60)
@given(steps=recordings(), with_final=st.booleans())
def test_what_is_written_is_what_is_read(tmp_path_factory: Any, steps: list[Step], with_final: bool) -> None:
    store = EpisodeStore.create_or_open(tmp_path_factory.mktemp("data"))
    writer = store.begin(INFO)
    for step in steps:
        writer.append(step)
    final = steps[0].observation if with_final else None
    episode = EpisodeStore.open(store.path).read(writer.finish(Outcome.FAILURE, final))

    assert len(episode) == len(steps)
    for t, step in enumerate(steps):
        assert set(episode.observation) == set(step.observation)
        for key, value in step.observation.items():
            assert episode.observation[key].dtype == np.asarray(value).dtype
            np.testing.assert_array_equal(episode.observation[key][t], value)
        np.testing.assert_array_equal(episode.action[t], step.action)
        for name in ("policy_action", "human_action"):
            given_action = getattr(step, name)
            assert is_null_action(getattr(episode, name))[t] == (given_action is None)
            if given_action is not None:
                np.testing.assert_array_equal(getattr(episode, name)[t], given_action)
        for name in set(STEP_COLUMNS) - {"action", "policy_action", "human_action"}:
            assert getattr(episode, name)[t] == getattr(step, name)
    assert set(episode.final_observation) == (set(final) if final else set())
    for key, value in (final or {}).items():
        np.testing.assert_array_equal(episode.final_observation[key], value)
    assert store.verify() == []


@settings(max_examples=25)
@given(steps=recordings(), with_final=st.booleans())
def test_an_added_episode_is_the_same_file(tmp_path_factory: Any, steps: list[Step], with_final: bool) -> None:
    source = EpisodeStore.create_or_open(tmp_path_factory.mktemp("source"))
    target = EpisodeStore.create_or_open(tmp_path_factory.mktemp("target"))
    with source.begin(INFO) as writer:
        for step in steps:
            writer.append(step)
        episode_id = writer.finish(Outcome.FAILURE, steps[0].observation if with_final else None)
    assert target.add(source.read(episode_id)) == episode_id
    name = f"episodes/{episode_id}.safetensors"
    assert (target.path / name).read_bytes() == (source.path / name).read_bytes()
    assert target.has(episode_id)
    assert target.verify() == []
    assert (target.path / "dataset.json").read_bytes() == (source.path / "dataset.json").read_bytes()


def test_an_episode_is_added_once_and_only_where_it_fits(store: EpisodeStore, tmp_path: Path) -> None:
    first = store.read(record(store, 2))
    with pytest.raises(RoboprefError, match="already has the episode"):
        store.add(first)
    unnamed = store.add(replace(first, info=replace(first.info, episode_id="")))
    assert unnamed in store.episode_ids()
    other = replace(first, info=replace(first.info, episode_id="x"), observation={"other": np.zeros((2, 3))})
    with pytest.raises(RoboprefError, match="final observation"):
        store.add(other)
    with pytest.raises(RoboprefError, match="does not fit"):
        store.add(replace(other, final_observation={}))
    for name in ("../x", "a/b", ".hidden", "nul\0"):
        with pytest.raises(RoboprefError, match="name of a file"):
            store.add(replace(first, info=replace(first.info, episode_id=name)))
    bad = replace(first, info=replace(first.info, episode_id="x"), reward=np.array([0.0, np.nan]))
    with pytest.raises(RoboprefError, match="reward"):
        store.add(bad)
    assert not store.has("x")
    assert store.verify() == []


def test_information_is_kept(store: EpisodeStore) -> None:
    episode_id = record(store)
    info = store.info(episode_id)
    assert info == replace(
        INFO, episode_id=episode_id, started_at=info.started_at, outcome=Outcome.SUCCESS, schema_version=1
    )
    assert info.started_at.endswith("+00:00")
    assert store.header(episode_id).steps == 3


def test_other_programs_can_read_the_file(store: EpisodeStore) -> None:
    episode_id = record(store)
    episode = store.read(episode_id)
    with safetensors.safe_open(store.path / "episodes" / f"{episode_id}.safetensors", "numpy") as file:
        assert json.loads(file.metadata()["info"])["task"] == "reach"
        np.testing.assert_array_equal(file.get_tensor("observation/image"), episode.observation["image"])
        np.testing.assert_array_equal(file.get_tensor("actor"), episode.actor)
        np.testing.assert_array_equal(file.get_tensor("final_observation/proprio"), [3.0, 3.0])


def test_reading_maps_the_file_and_holds_no_descriptor(store: EpisodeStore) -> None:
    record(store)
    before = len(os.listdir("/proc/self/fd"))
    episodes = [store.read(store.episode_ids()[0]) for _ in range(50)]
    assert len(os.listdir("/proc/self/fd")) == before
    assert episodes[49].observation["image"][2].max() == 2
    mapped = Path("/proc/self/maps").read_text()
    assert mapped.count(store.episode_ids()[0]) >= 50
    with pytest.raises(ValueError, match="read-only"):
        episodes[0].action[0] = 0


def test_ids_sort_by_time_and_readers_see_only_finished_episodes(store: EpisodeStore) -> None:
    ids = [record(store) for _ in range(5)]
    assert store.episode_ids() == ids == sorted(ids)
    writer = store.begin(INFO)
    writer.append(make_step(0))
    other = EpisodeStore.open(store.path)
    assert len(other) == 5
    assert other.recovered == ()
    writer.finish(Outcome.FAILURE)
    assert len(other) == 6
    assert [len(episode) for episode in other] == [3, 3, 3, 3, 3, 1]


def test_fingerprint_follows_the_data(store: EpisodeStore, tmp_path: Path) -> None:
    empty = store.fingerprint()
    record(store)
    one = store.fingerprint()
    assert one == EpisodeStore.open(store.path).fingerprint() != empty
    record(store)
    assert store.fingerprint() not in (one, empty)


def test_verify_names_any_changed_byte(store: EpisodeStore) -> None:
    record(store, steps=1, step=state_step)
    episode_id = record(store, steps=1, step=state_step)
    path = store.path / "episodes" / f"{episode_id}.safetensors"
    good = path.read_bytes()
    for offset in range(len(good)):
        path.write_bytes(good[:offset] + bytes([good[offset] ^ (1 << offset % 8)]) + good[offset + 1 :])
        problems = store.verify()
        assert len(problems) == 1, offset
        assert str(path) in problems[0]
    for length in (0, 4, 100, len(good) - 1):
        path.write_bytes(good[:length])
        assert str(path) in store.verify()[0]
        with pytest.raises(RoboprefError, match="not a whole episode file"):
            store.read(episode_id)
    path.write_bytes(good)
    assert store.verify() == []
    path.rename(path.with_name("renamed.safetensors"))
    assert "renamed" in store.verify()[0]
