"""Check and repair: whatever is wrong is found and named, nothing is changed by looking, nothing recorded is lost."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robopref.errors import RoboprefError
from robopref.store import EpisodeStore, checking, episode_file, repairing
from robopref.store.checking import Problem, check
from robopref.store.consistency import contradictions
from robopref.store.episode_file import EpisodeHeader
from robopref.store.repairing import repair
from robopref.trajectory import Actor, Episode, EpisodeInfo, Outcome, Step
from tests.synthetic import episode as synthetic

INFO = EpisodeInfo(task="reach", instruction="reach the goal")
P, H, W, E = Actor.POLICY, Actor.HUMAN, Actor.HOLD, Actor.EXPERT


def make_step(t: int) -> Step:
    action = np.full(2, 0.5, np.float32)
    state = np.full(3, t, np.float64)
    return Step({"state": state}, action, Actor.POLICY, policy_action=action, reward=t, t_monotonic_ns=t)


def record(store: EpisodeStore, steps: int = 2, discard: bool = False, abandon: bool = False) -> str:
    writer = store.begin(INFO)
    for t in range(steps):
        writer.append(make_step(t))
    if discard:
        return writer.discard()
    if not abandon:
        return writer.finish(Outcome.SUCCESS, make_step(steps).observation)
    writer.close()
    return writer.info.episode_id


def filled(path: Path) -> EpisodeStore:
    """A directory with two finished episodes and a discarded one."""
    store = EpisodeStore.create_or_open(path)
    for discard in (False, False, True):
        record(store, discard=discard)
    return store


@pytest.fixture
def store(tmp_path: Path) -> EpisodeStore:
    return filled(tmp_path / "data")


def snapshot(directory: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def only(problems: list[Problem]) -> Problem:
    assert len(problems) == 1, [str(problem) for problem in problems]
    return problems[0]


def test_a_sound_directory_has_no_problems(store: EpisodeStore) -> None:
    (store.path / "config.json").write_text("{}")
    assert check(store.path) == []
    assert repair(store.path) == []


def test_looking_changes_nothing_and_repairing_mends_it(store: EpisodeStore) -> None:
    ids = store.episode_ids()
    abandoned = record(store, steps=3, abandon=True)
    (store.path / "journal" / "x.safetensors.tmp").write_bytes(b"half")
    (store.path / "dataset.json.tmp").write_bytes(b"{")
    (store.path / "episodes" / f"{ids[1]}.safetensors").rename(store.path / "episodes" / "mine.safetensors")
    path = store.path / "episodes" / f"{ids[0]}.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    (store.path / "dataset.json").write_text("{")
    before = snapshot(store.path)

    problems = check(store.path)
    assert snapshot(store.path) == before
    told = {problem.file.name: problem for problem in problems}
    assert set(told) == {
        f"{ids[0]}.safetensors",
        "mine.safetensors",
        f"{abandoned}.journal",
        "x.safetensors.tmp",
        "dataset.json.tmp",
        "dataset.json",
    }
    assert all(problem.repairable for problem in problems)
    assert "3 steps can be recovered" in told[f"{abandoned}.journal"].what
    assert told[f"{ids[0]}.safetensors"].episode_id == ids[0]

    done = "\n".join(repair(store.path))
    assert check(store.path) == []
    for words in (ids[0], "mine.safetensors", abandoned, "removed", "made anew", "says 2 steps"):
        assert words in done
    again = EpisodeStore.open(store.path)
    assert again.episode_ids() == [ids[1], abandoned]
    assert len(again.read(abandoned)) == 3
    assert (store.path / "damaged" / path.name).read_bytes() == before[f"episodes/{path.name}"][0]
    assert (store.path / "damaged" / "dataset.json").read_text() == "{"
    record(again)
    assert check(store.path) == []


@pytest.fixture(scope="module")
def every_kind(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A file of every kind, by its place in a directory that has no other problem than its abandoned journal."""
    store = filled(tmp_path_factory.mktemp("kinds") / "data")
    record(store, steps=3, abandon=True)
    return {name: data for name, (data, _) in snapshot(store.path).items() if not name.endswith(".lock")}


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chance=st.data())
def test_any_changed_byte_of_any_file_is_found_by_name(
    tmp_path: Path, every_kind: dict[str, bytes], chance: st.DataObject
) -> None:
    directory = tmp_path / "copy"
    shutil.rmtree(directory, ignore_errors=True)
    for name, data in every_kind.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
    (journal,) = (name for name in every_kind if name.startswith("journal"))
    assert "damaged" not in only(check(directory)).what

    name = chance.draw(st.sampled_from(sorted(every_kind)))
    good = every_kind[name]
    offset = chance.draw(st.integers(0, len(good) - 1))
    other = chance.draw(st.integers(1, 255))
    (directory / name).write_bytes(good[:offset] + bytes([good[offset] ^ other]) + good[offset + 1 :])
    problems = [problem for problem in check(directory) if str(problem.file) == str(directory / name)]
    assert problems
    if name != journal:
        assert all(problem.repairable for problem in problems)
    else:  # fewer steps than were written, at least
        assert not any("3 steps" in problem.what for problem in problems)
    repair(directory)
    assert check(directory) == []
    assert len(EpisodeStore.open(directory)) >= 2 - name.startswith("episodes")


def test_an_episode_whose_header_lost_the_name_of_its_actors_is_set_aside(
    every_kind: dict[str, bytes], tmp_path: Path
) -> None:
    directory = tmp_path / "copy"
    for name, data in every_kind.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data.replace(b'"actor":{', b'"bctor":{') if "discarded" in name else data)
    repair(directory)
    assert check(directory) == []
    assert len(list((directory / "damaged").iterdir())) == 1


@pytest.mark.parametrize("folder", ["episodes", "discarded", "journal"])
def test_foreign_files_are_named_and_left(store: EpisodeStore, folder: str) -> None:
    (store.path / folder / "notes.txt").write_text("mine")
    problem = only(check(store.path))
    assert (problem.file.name, problem.repairable) == ("notes.txt", False)
    assert repair(store.path) == []
    assert (store.path / folder / "notes.txt").read_text() == "mine"


def test_a_foreign_journal_is_named_and_kept(store: EpisodeStore) -> None:
    (store.path / "journal" / "x.journal").write_bytes(b"something else altogether")
    assert "no journal" in only(check(store.path)).what
    assert "x" in " ".join(repair(store.path))
    assert (store.path / "discarded" / "x.journal").is_file()
    assert check(store.path) == []


def test_a_journal_that_outlived_its_episode(store: EpisodeStore) -> None:
    (store.path / "journal" / f"{store.episode_ids()[0]}.journal").write_bytes(b"")
    assert "finished" in only(check(store.path)).what
    repair(store.path)
    assert check(store.path) == []
    assert len(store) == 2


def test_what_is_being_recorded_is_no_problem(store: EpisodeStore) -> None:
    writer = store.begin(INFO)
    writer.append(make_step(0))
    temporary = store.path / "journal" / f"{writer.info.episode_id}.safetensors.tmp"
    temporary.write_bytes(b"being written")
    assert check(store.path) == []
    assert repair(store.path) == []
    assert temporary.exists()
    writer.append(make_step(1))
    writer.finish(Outcome.SUCCESS)
    assert check(store.path) == []
    assert len(store) == 3


@pytest.mark.parametrize("function", ["check_dataset", "read_dataset"])
def test_a_first_episode_during_the_check_is_no_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    store = EpisodeStore.create_or_open(tmp_path)
    look = getattr(checking, function)

    def looked(directory: Path) -> Any:
        found = look(directory)
        record(store)
        return found

    monkeypatch.setattr(checking, function, looked)
    assert check(tmp_path) == []
    assert len(store) == 1


@pytest.mark.parametrize("length", [0, 5, 200, -1, -40])
def test_cut_files_say_what_is_left(store: EpisodeStore, length: int) -> None:
    path = store.path / "episodes" / f"{store.episode_ids()[0]}.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    assert only(check(store.path)).file == path
    done = "\n".join(repair(store.path))
    if length < 0:
        assert "these are whole: observation/state" in done
        assert ("terminated" in done.rpartition("whole:")[2]) is (length == -1)
    else:
        assert "its header cannot be read" in done
    assert len(EpisodeStore.open(store.path)) == 1


def test_a_directory_that_lost_all_but_its_journal(tmp_path: Path) -> None:
    store = EpisodeStore.create_or_open(tmp_path)
    record(store, abandon=True)
    (tmp_path / "dataset.json").unlink()
    assert len(check(tmp_path)) == 2
    repair(tmp_path)
    assert check(tmp_path) == []
    assert next(iter(json.loads((tmp_path / "dataset.json").read_text())["columns"])) == "observation/state"


def test_a_copy_under_another_name_and_a_discarded_twin(store: EpisodeStore) -> None:
    first = store.path / "episodes" / f"{store.episode_ids()[0]}.safetensors"
    shutil.copy(first, first.with_name("copy.safetensors"))
    problem = only(check(store.path))
    assert (problem.file.name, problem.repairable) == ("copy.safetensors", False)
    assert repair(store.path) == []
    first.with_name("copy.safetensors").unlink()
    shutil.copy(first, store.path / "discarded")
    assert "discarded as well" in only(check(store.path)).what


def test_an_episode_of_another_kind(store: EpisodeStore, tmp_path: Path) -> None:
    other = EpisodeStore.create_or_open(tmp_path / "other")
    other.add(replace(synthetic([E, E]), info=replace(INFO, episode_id="z", outcome=Outcome.SUCCESS)))
    shutil.copy(other.path / "episodes" / "z.safetensors", store.path / "episodes")
    problem = only(check(store.path))
    assert (problem.episode_id, problem.repairable) == ("z", False)
    assert "'observation/proprio'" in problem.what


def test_a_newer_directory_is_left_alone(store: EpisodeStore) -> None:
    path = store.path / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))
    before = snapshot(store.path)
    problem = only(check(store.path))
    assert not problem.repairable
    assert "upgrade" in problem.how
    with pytest.raises(RoboprefError, match="newer"):
        repair(store.path)
    assert snapshot(store.path) == before


def test_what_is_no_data_directory_is_refused(tmp_path: Path) -> None:
    for function in (check, repair):
        with pytest.raises(RoboprefError, match="no data directory"):
            function(tmp_path / "absent")
        with pytest.raises(RoboprefError, match="no data directory"):
            function(tmp_path)


def test_a_read_only_directory_can_be_checked(store: EpisodeStore) -> None:
    record(store, abandon=True)
    shutil.rmtree(store.path / "discarded")
    (store.path / "journal" / ".lock").unlink()
    before = snapshot(store.path)
    folders = [store.path, *(path for path in store.path.iterdir() if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        assert "recovered" in only(check(store.path)).what
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert snapshot(store.path) == before
    assert not (store.path / "discarded").exists()


def changed(episode: Episode, **columns: dict[int, Any]) -> Episode:
    copies = {name: np.array(getattr(episode, name)) for name in columns}
    for name, values in columns.items():
        for t, value in values.items():
            copies[name][t] = value
    return replace(episode, **copies)


def with_nan(episode: Episode) -> Episode:
    state = episode.observation["state"].copy()
    state[2, 1] = np.nan
    return replace(episode, observation={**episode.observation, "state": state})


SOUND = synthetic([P, P, H, H, W, P, H, P])
WRONG: list[tuple[Episode, str]] = [
    (with_nan(SOUND), "'observation/state' holds NaN or infinity at step 2"),
    (changed(SOUND, reward={1: np.inf}), "'reward' holds NaN or infinity at step 1"),
    (changed(SOUND, segment_id={2: -1}), "drives outside of a takeover .* at step 2"),
    (changed(SOUND, segment_id={5: 0}), "policy drives within a takeover .* at step 5"),
    (changed(SOUND, segment_id={6: 4}), r"numbered \[0, 4\]"),
    (changed(SOUND, segment_id={0: -7}), "below -1 at step 0"),
    (changed(SOUND, human_action={3: np.nan}), "'human_action' is absent at step 3"),
    (changed(SOUND, policy_action={0: np.nan}), "'policy_action' is absent at step 0"),
    (changed(SOUND, policy_action={4: [0, np.nan, 0, 0]}), "'policy_action' is there in part only at step 4"),
    (
        changed(SOUND, terminated={0: True, 3: True}),
        "goes on after it was terminated or truncated at step 0 and 1 more",
    ),
    (changed(SOUND, t_monotonic_ns={0: -5}), "negative at step 0"),
    (replace(SOUND, info=replace(SOUND.info, outcome=Outcome.FAILURE)), "outcome is failure"),
    (replace(SOUND, final_observation={"state": SOUND.observation["state"][0]}), "final observation has"),
    (synthetic([E, E], image=True), ""),
    (synthetic([P, H, P], discrete=True), ""),
    (SOUND, ""),
    (replace(SOUND, policy_action=np.full_like(SOUND.action, np.nan)), ""),
    (replace(SOUND, info=replace(SOUND.info, outcome=Outcome.FAILURE, operator_id="o")), ""),
]


@pytest.mark.parametrize(("episode", "message"), WRONG)
def test_contradictions_are_told(episode: Episode, message: str) -> None:
    found = list(contradictions(episode))
    if not message:
        assert found == []
        return
    assert len(found) == 1, found
    assert re.search(message, found[0])


def test_contradictions_of_a_stored_episode_are_problems(store: EpisodeStore, tmp_path: Path) -> None:
    other = EpisodeStore.create_or_open(tmp_path / "other")
    other.add(changed(SOUND, segment_id={2: -1}))
    problem = only(check(other.path))
    assert problem.episode_id == other.episode_ids()[0]
    assert not problem.repairable
    assert "outside of a takeover" in str(problem)


def test_one_unreadable_file_hides_no_other(store: EpisodeStore) -> None:
    for episode_id in store.episode_ids():
        path = store.path / "episodes" / f"{episode_id}.safetensors"
        path.write_bytes(os.urandom(300))
    assert [problem.episode_id for problem in check(store.path)] == store.episode_ids()


def damage(path: Path) -> bytes:
    """Change a byte -> what the file was."""
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    return good


def test_nobody_waits_for_a_repair_that_reads(store: EpisodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (store.path / "episodes" / f"{episode_id}.safetensors" for episode_id in store.episode_ids())
    damage(first)
    second.rename(second.with_name("mine.safetensors"))
    seen: list[str] = []

    def free(function: Callable[[Path], Any]) -> Callable[[Path], Any]:
        def watched(path: Path) -> Any:
            with open(store.path / "journal" / ".lock") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises while anyone has it
            seen.append(path.name)
            return function(path)

        return watched

    for name in ("check_episode", "guessed_dataset"):
        monkeypatch.setattr(repairing, name, free(getattr(repairing, name)))
    assert len(repair(store.path)) == 2
    assert sorted(seen[:2]) == sorted([first.name, "mine.safetensors"])
    assert len(seen) == 4  # the discarded one, and the directory
    assert check(store.path) == []
    assert store.episode_ids() == [second.stem]


def test_what_was_put_right_meanwhile_is_left(store: EpisodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store.path / "episodes" / f"{store.episode_ids()[0]}.safetensors"
    good, look = damage(path), repairing.check_episode

    def restored(file: Path) -> EpisodeHeader:
        try:
            return look(file)
        finally:
            if file == path:  # as by another process, between the look and the lock
                copy = path.with_name("copy")
                copy.write_bytes(good)
                copy.rename(path)

    monkeypatch.setattr(repairing, "check_episode", restored)
    assert repair(store.path) == []
    assert path.read_bytes() == good
    assert check(store.path) == []


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO])
@pytest.mark.parametrize("way", ["open", "map"])
def test_what_cannot_be_read_is_told_and_left(
    store: EpisodeStore, monkeypatch: pytest.MonkeyPatch, code: int, way: str
) -> None:
    unread, damaged = (store.path / "episodes" / f"{episode_id}.safetensors" for episode_id in store.episode_ids())
    damage(damaged)
    reads = {"open": (episode_file, open), "map": (pyarrow, pyarrow.memory_map)}
    module, read = reads[way]

    def refusing(path: Any, *arguments: Any) -> Any:
        if str(path) == str(unread):
            raise OSError(code, os.strerror(code), str(path))
        return read(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, "open" if way == "open" else "memory_map", refusing, raising=False)
        told = {problem.file: problem for problem in check(store.path)}
        assert (told[unread].repairable, told[damaged].repairable) == (False, True)
        first, second = repair(store.path)
        assert f"{unread} cannot be read ({os.strerror(code)})" in first
        assert "left where it is" in first
        assert str(damaged) in second
    assert [path.name for path in (store.path / "damaged").iterdir()] == [damaged.name]
    assert store.episode_ids() == [unread.stem]
    assert check(store.path) == []
