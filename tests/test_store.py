"""The store: what is written is what is read, mistakes are told, nothing recorded is lost."""

from __future__ import annotations

import errno
import json
import os
import resource
from collections.abc import Callable
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from robopref.errors import RoboprefError
from robopref.store import EpisodeStore, EpisodeWriter, journal
from robopref.trajectory import STEP_COLUMNS, Actor, EpisodeInfo, Outcome, Step, is_null_action

INFO = EpisodeInfo(task="reach", instruction="reach the goal", seed=4, policy_id="p", operator_id="o", extra={"k": [1]})


def make_step(t: int, **changes: Any) -> Step:
    base = Step(
        observation={"image": np.full((4, 5, 3), t % 256, np.uint8), "proprio": np.full(2, t, np.float32)},
        action=np.full(2, 0.25, np.float32),
        actor=Actor.POLICY,
        policy_action=np.full(2, 0.25, np.float32),
        reward=float(t),
        t_monotonic_ns=1000 + t,
    )
    return replace(base, **changes)


def record(
    store: EpisodeStore, steps: int = 3, outcome: Outcome = Outcome.SUCCESS, step: Callable[[int], Step] = make_step
) -> str:
    with store.begin(INFO) as writer:
        for t in range(steps):
            writer.append(step(t))
        return writer.finish(outcome, step(steps).observation)


@pytest.fixture
def store(tmp_path: Path) -> EpisodeStore:
    return EpisodeStore.create_or_open(tmp_path / "data")


FLOATS = {"allow_nan": False, "allow_infinity": False}
DTYPES = st.sampled_from(["uint8", "float32", "float64", "float16", "int64", "bool", "int8", "uint16"])


@st.composite
def recordings(draw: st.DrawFn) -> list[Step]:
    """Steps of one random schema, continuous or discrete, with absent actions here and there."""
    length = draw(st.integers(1, 5))
    keys = draw(st.lists(st.sampled_from(["image", "state", "proprio", "a/b", "ä"]), min_size=1, unique=True))
    observed: dict[str, Any] = {}
    for key in keys:
        dtype = np.dtype(draw(DTYPES))
        shape = (length, *draw(hnp.array_shapes(min_dims=0, max_dims=3, max_side=4)))
        elements = FLOATS if dtype.kind == "f" else None
        observed[key] = draw(hnp.arrays(dtype, shape, elements=elements))
    discrete = draw(st.booleans())
    if discrete:
        actions = draw(hnp.arrays(np.int64, (3, length), elements=st.integers(0, 17)))
    else:
        size = draw(st.integers(1, 7))
        actions = draw(hnp.arrays(np.float32, (3, length, size), elements=st.floats(-1, 1, width=32)))
    absent = draw(hnp.arrays(np.bool_, (2, length)))
    return [
        Step(
            observation={key: values[t] for key, values in observed.items()},
            action=actions[0, t],
            actor=draw(st.sampled_from(Actor)),
            policy_action=None if absent[0, t] else actions[1, t],
            human_action=None if absent[1, t] else actions[2, t],
            segment_id=draw(st.integers(-1, 5)),
            reward=draw(st.floats(**FLOATS)),
            terminated=draw(st.booleans()),
            truncated=draw(st.booleans()),
            success=draw(st.booleans()),
            t_monotonic_ns=t * 10,
        )
        for t in range(length)
    ]


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


def test_an_exception_keeps_the_episode_as_aborted(store: EpisodeStore) -> None:
    def broken(t: int) -> Step:
        return make_step(t) if t < 2 else make_step(t, reward=1 / 0)

    with pytest.raises(ZeroDivisionError):
        record(store, step=broken)
    (episode,) = store
    assert (episode.info.outcome, len(episode)) == (Outcome.ABORTED, 2)
    with store.begin(INFO):
        pass
    assert len(store) == 1
    assert not list((store.path / "journal").glob("*.journal"))


def test_an_episode_without_steps_is_not_finished(store: EpisodeStore) -> None:
    writer = store.begin(INFO)
    with pytest.raises(RoboprefError, match="no steps"):
        writer.finish(Outcome.SUCCESS)
    with pytest.raises(RoboprefError, match="begin another"):
        writer.append(make_step(0))


def test_discarded_episodes_are_kept_apart(store: EpisodeStore) -> None:
    writer = store.begin(INFO)
    writer.append(make_step(0))
    episode_id = writer.discard()
    assert len(store) == 0
    assert (store.path / "discarded" / f"{episode_id}.safetensors").is_file()


def test_a_finished_episode_can_be_set_aside(store: EpisodeStore) -> None:
    record(store)
    record(store)
    kept, unwanted = store.episode_ids()
    store.set_aside(unwanted)
    assert store.episode_ids() == [kept]
    assert (store.path / "discarded" / f"{unwanted}.safetensors").is_file()
    assert not store.verify()
    with pytest.raises(RoboprefError, match="no finished episode"):
        store.set_aside(unwanted)


def test_amendments_are_kept(store: EpisodeStore) -> None:
    writer = store.begin(INFO)
    writer.append(make_step(0))
    writer.amend(policy_id="q", extra={"note": "glare"})
    info = store.info(writer.finish(Outcome.SUCCESS))
    assert (info.policy_id, info.extra) == ("q", {"note": "glare"})
    with pytest.raises(RoboprefError, match="episode_id"):
        store.begin(INFO).amend(episode_id="mine")


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


def state_step(t: int) -> Step:
    return make_step(t, observation={"state": np.full(3, t, np.float64)})


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


def test_an_unknown_episode_is_refused(store: EpisodeStore) -> None:
    with pytest.raises(RoboprefError, match="no finished episode 'x'"):
        store.read("x")


class SmallDisk:
    """Stands in for the system calls that write: after so many bytes there is no room left."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room = room
        self._writev, self._write = os.writev, os.write
        monkeypatch.setattr(os, "writev", lambda fd, parts: self._limited(fd, b"".join(parts)))
        monkeypatch.setattr(os, "write", self._limited)

    def _limited(self, fd: int, data: Any) -> int:
        if self.room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = min(self.room, len(data))
        self.room -= taken
        return self._write(fd, bytes(data)[:taken])


@pytest.mark.parametrize("room", [0, 1, 8, 9, 10, 60, 147, 148, 500])
def test_full_disk_while_recording(store: EpisodeStore, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    writer = store.begin(INFO)
    writer.append(make_step(0))
    disk = SmallDisk(monkeypatch, room)
    told = ""
    while not told:
        try:
            writer.append(make_step(writer.steps))
        except RoboprefError as error:
            told = str(error)
    assert f"The {writer.steps} steps recorded so far are safe" in told
    assert "disk is full" in told
    before = writer.steps
    with pytest.raises(RoboprefError, match="disk is full"):
        writer.append(make_step(before))
    disk.room = 10**6
    writer.append(make_step(before))  # the torn write was taken back, so recording can go on
    episode = store.read(writer.finish(Outcome.SUCCESS))
    assert episode.reward.tolist() == list(range(before + 1))
    assert store.verify() == []


def test_ctrl_c_within_a_write_leaves_whole_records(store: EpisodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = store.begin(INFO)
    writer.append(make_step(0))

    def interrupted(fd: int, parts: list[Any]) -> int:
        os.write(fd, b"".join(parts)[:50])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", interrupted)
        with pytest.raises(KeyboardInterrupt):
            writer.append(make_step(1))
    writer.append(make_step(1))
    assert len(store.read(writer.finish(Outcome.SUCCESS))) == 2


def test_no_room_for_the_first_step(store: EpisodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = store.begin(INFO)
    disk = SmallDisk(monkeypatch, 10**6)
    writer.append(make_step(0))
    schema_and_step = 10**6 - disk.room
    writer.finish(Outcome.SUCCESS)
    writer = store.begin(INFO)
    disk.room = schema_and_step - 1
    with pytest.raises(RoboprefError, match="The 0 steps"):
        writer.append(make_step(0))
    disk.room = 10**6
    with pytest.raises(RoboprefError, match="no steps"):
        writer.finish(Outcome.SUCCESS)
    assert len(store) == 1
    assert not list((store.path / "journal").glob("*.journal"))


def limit_file_size(limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def test_no_room_at_the_finish_leaves_the_journal_to_recovery(store: EpisodeStore) -> None:
    record(store)
    writer = store.begin(INFO)
    for t in range(2):
        writer.append(make_step(t))
    size = next((store.path / "journal").glob("*.journal")).stat().st_size
    try:
        # Room for the journal's last record and not for the episode file's header: a real limit of the kernel.
        limit_file_size(size + 150)
        with pytest.raises(RoboprefError, match=r"disk is full.*The 2 steps recorded so far are safe"):
            writer.finish(Outcome.SUCCESS)
        writer.close()
        limit_file_size(1000)
        opened = EpisodeStore.open(store.path)
        assert "disk is full" in opened.recovered[0].problem
        assert len(opened) == 1
    finally:
        limit_file_size(resource.RLIM_INFINITY)
    again = EpisodeStore.open(store.path)
    assert [(r.steps, r.outcome) for r in again.recovered] == [(2, Outcome.SUCCESS)]
    assert len(again.read(again.episode_ids()[1])) == 2
    assert sorted(p.name for p in (store.path / "journal").iterdir()) == [".lock"]


def test_finishing_again_once_there_is_room(store: EpisodeStore) -> None:
    writer = store.begin(INFO)
    writer.append(make_step(0))
    size = next((store.path / "journal").glob("*.journal")).stat().st_size
    try:
        limit_file_size(size + 250)
        with pytest.raises(RoboprefError, match="disk is full"):
            writer.finish(Outcome.SUCCESS, make_step(1).observation)
        with pytest.raises(RoboprefError, match="is finished"):
            writer.append(make_step(1))
    finally:
        limit_file_size(resource.RLIM_INFINITY)
    episode = store.read(writer.finish(Outcome.ABORTED))
    assert episode.info.outcome is Outcome.SUCCESS
    assert set(episode.final_observation) == {"image", "proprio"}
    with pytest.raises(RoboprefError, match="is finished"):
        writer.finish(Outcome.SUCCESS)


def test_a_full_disk_at_the_beginning_leaves_nothing(store: EpisodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for room in (0, 5, 40):
        disk = SmallDisk(monkeypatch, room)
        with pytest.raises(RoboprefError, match="disk is full"):
            store.begin(INFO)
        disk.room = 10**6
        assert not list((store.path / "journal").glob("*.journal"))
    writer: EpisodeWriter = store.begin(INFO)
    writer.append(make_step(0))
    writer.finish(Outcome.SUCCESS)


class FailingSync:
    """Stands in for ``os.fdatasync``: fails once, then does what it should."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        self._sync = os.fdatasync
        monkeypatch.setattr(os, "fdatasync", self)
        monkeypatch.setattr(journal, "_SYNC_SECONDS", 0.0)

    def __call__(self, fd: int) -> None:
        self.calls += 1
        if self.calls == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._sync(fd)


@pytest.mark.parametrize("told_by", ["append", "amend", "finish"])
def test_a_sync_that_failed_is_told_once_and_recording_goes_on(
    store: EpisodeStore, monkeypatch: pytest.MonkeyPatch, told_by: str
) -> None:
    writer = store.begin(INFO)
    writer.append(make_step(0))
    sync = FailingSync(monkeypatch)
    writer.append(make_step(1))
    assert writer._journal._sync is not None
    wait([writer._journal._sync])
    told: dict[str, Callable[[], Any]] = {
        "append": lambda: writer.append(make_step(2)),
        "amend": lambda: writer.amend(operator_id="me"),
        "finish": lambda: writer.finish(Outcome.SUCCESS, make_step(2).observation),
    }
    with pytest.raises(RoboprefError, match=r"disk is full.*The 2 steps recorded so far are safe"):
        told[told_by]()
    steps = 2
    if told_by != "finish":
        writer.append(make_step(2))  # there is room again
        steps = 3
    episode = store.read(writer.finish(Outcome.SUCCESS, make_step(steps).observation))
    assert sync.calls > 1
    assert (episode.info.outcome, episode.reward.tolist()) == (Outcome.SUCCESS, list(range(steps)))
    assert set(episode.final_observation) == {"image", "proprio"}
    assert EpisodeStore.open(store.path).recovered == ()


def test_what_the_disk_lost_of_a_journal_is_told_and_the_journal_kept(store: EpisodeStore) -> None:
    writer = store.begin(INFO)
    for t in range(3):
        writer.append(make_step(t))
        size = writer._journal.path.stat().st_size
    with open(writer._journal.path, "r+b") as file:  # as after a failed sync, whose pages are gone
        file.seek(size - 20)
        file.write(bytes(20))
    for _ in range(2):
        with pytest.raises(RoboprefError, match="2 of 3 steps are whole"):
            writer.finish(Outcome.SUCCESS)
    assert len(store) == 0
    writer.close()
    (recovery,) = EpisodeStore.open(store.path).recovered
    assert recovery.steps == 2
    assert "damaged" in recovery.problem
    assert len(list((store.path / "discarded").glob("*.journal"))) == 1
