"""Recorders that die at any moment: what they had recorded is there afterwards, exactly."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robopref.store import EpisodeStore, dataset_file
from robopref.store.journal import MAGIC, Kind
from robopref.trajectory import Actor, Episode, EpisodeInfo, Outcome, Step

RECORDER = """
import os, random, sys, time
from tests.test_store_crash import INFO, make_step
from robopref.store import EpisodeStore
from robopref.trajectory import Outcome

directory, episodes, length, pause = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
tell = lambda *words: os.write(1, (" ".join(map(str, words)) + "\\n").encode())
store = EpisodeStore.create_or_open(directory)
for recovery in store.recovered:
    tell("recovered", recovery.episode_id, recovery.steps)
for _ in range(episodes):
    writer = store.begin(INFO)
    for t in range(length):
        writer.append(make_step(t))
        tell("step", writer.info.episode_id, t + 1)
        time.sleep(pause * random.random())
    writer.finish(Outcome.SUCCESS, make_step(length).observation)
    tell("finished", writer.info.episode_id, length)
"""

INFO = EpisodeInfo(task="reach", instruction="reach the goal")


def make_step(t: int, size: int = 16) -> Step:
    image = np.full((size, size, 3), t % 256, np.uint8)
    action = np.full(2, t, np.float32)
    return Step({"image": image}, action, Actor.POLICY, policy_action=action, reward=float(t), t_monotonic_ns=t)


def check_content(episode: Episode, steps: int) -> None:
    """The episode holds exactly the first steps that ``make_step`` makes."""
    assert len(episode) == steps
    np.testing.assert_array_equal(episode.reward, np.arange(steps))
    np.testing.assert_array_equal(episode.action, np.arange(steps)[:, None].repeat(2, axis=1))
    np.testing.assert_array_equal(episode.observation["image"][:, 0, 0, 0], np.arange(steps) % 256)
    assert (episode.observation["image"] == episode.observation["image"][:, :1, :1, :1]).all()


def start_recorder(directory: Path, episodes: int, length: int, pause: float = 0.0) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", RECORDER, str(directory), str(episodes), str(length), str(pause)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
    )


def kill_repeatedly(directory: Path, kills: int, seed: int) -> Counter[str]:
    """Kill recorders at random moments of their work; check the store after each -> what was seen how often."""
    chance = random.Random(seed)
    length, seen = 12, Counter[str]()
    finished: dict[str, int] = {}  # every episode that must be there, with its steps
    for _ in range(kills):
        recorder = start_recorder(directory, 10**6, length, pause=0.003)
        assert recorder.stdout is not None
        select.select([recorder.stdout], [], [], 60)
        time.sleep(chance.uniform(0, 0.05))
        recorder.send_signal(signal.SIGKILL)
        lines = [line.decode().split() for line in recorder.stdout.read().splitlines(keepends=True) if b"\n" in line]
        recorder.wait()
        recorder.stdout.close()
        assert lines, "the recorder did not start"
        acknowledged: dict[str, int] = {}
        for word, episode_id, steps in lines:
            if word == "step":
                acknowledged[episode_id] = int(steps)
            else:
                finished[episode_id] = int(steps)

        store = EpisodeStore.open(directory)
        assert store.verify() == []
        for recovery in store.recovered:
            assert not recovery.problem
            seen["recovered" if recovery.steps else "empty"] += 1
            if recovery.steps:
                finished[recovery.episode_id] = recovery.steps
        # What the recorder said is in the file is there, and at most the one step that it was about to say more.
        for episode_id, steps in acknowledged.items():
            assert steps <= store.header(episode_id).steps <= steps + 1
            finished.setdefault(episode_id, store.header(episode_id).steps)
        # One that was finished and not yet told of has its whole length.
        for episode_id in set(store.episode_ids()) - set(finished):
            assert store.header(episode_id).steps in (1, length)
            finished[episode_id] = store.header(episode_id).steps
        assert store.episode_ids() == sorted(finished)
        assert os.listdir(directory / "journal") == [".lock"]
    store = EpisodeStore.open(directory)
    for episode_id, steps in finished.items():
        episode = store.read(episode_id)
        check_content(episode, steps)
        seen[episode.info.outcome] += 1
        assert (episode.info.outcome is Outcome.ABORTED) <= (not episode.final_observation)
    return seen


def test_killed_recorders_lose_nothing(tmp_path: Path) -> None:
    seen = kill_repeatedly(tmp_path, kills=20, seed=0)
    assert seen[Outcome.SUCCESS] > 0
    assert seen[Outcome.ABORTED] > 0


@pytest.mark.slow
def test_many_killed_recorders_lose_nothing(tmp_path: Path) -> None:
    assert kill_repeatedly(tmp_path, kills=100, seed=1)["recovered"] > 10


def abandon(tmp_path: Path, steps: int, end: bool = False, size: int = 2) -> tuple[Path, bytes, list[int]]:
    """A data directory with one finished episode and the journal of a dead recorder
    -> the directory, the journal's bytes, and its length when begun, after each step, and after the end."""
    directory = tmp_path / "original"
    store = EpisodeStore.create_or_open(directory)
    with store.begin(INFO) as writer:
        writer.append(make_step(0, size))
    writer = store.begin(INFO)
    journal = next((directory / "journal").glob("*.journal"))
    ends = [journal.stat().st_size]
    for t in range(steps):
        writer.append(make_step(t, size))
        ends.append(journal.stat().st_size)
    if end:
        writer._write(Kind.END, _end_of(make_step(steps, size)))
        ends.append(journal.stat().st_size)
    writer.close()
    return directory, journal.read_bytes(), ends


def _end_of(step: Step) -> list[bytes]:
    from robopref.store.journal import end_payload

    return [bytes(p) for p in end_payload(Outcome.SUCCESS, [step.observation["image"].tobytes()], discarded=False)]


def reopen(original: Path, journal: bytes, tmp_path: Path) -> EpisodeStore:
    """A copy of the directory with this journal, opened."""
    copy = tmp_path / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(original, copy)
    next((copy / "journal").glob("*.journal")).write_bytes(journal)
    return EpisodeStore.open(copy)


def test_a_torn_tail_at_every_byte_is_cut(tmp_path: Path) -> None:
    original, journal, ends = abandon(tmp_path, steps=2, end=True)
    for length in range(len(journal) + 1):
        store = reopen(original, journal[:length], tmp_path)
        steps = sum(end <= length for end in ends[1:-1])
        (recovery,) = store.recovered
        assert (recovery.steps, recovery.problem) == (steps, ""), length
        assert len(store) == 1 + (steps > 0)
        if steps:
            episode = store.read(recovery.episode_id)
            check_content(episode, steps)
            whole = length == len(journal)
            assert episode.info.outcome is (Outcome.SUCCESS if whole else Outcome.ABORTED)
            assert len(episode.final_observation) == whole
        assert store.verify() == []
        assert os.listdir(store.path / "journal") == [".lock"]
        assert os.listdir(store.path / "discarded") == []
        assert EpisodeStore.open(store.path).recovered == ()


def test_damage_inside_keeps_the_steps_before_and_the_journal(tmp_path: Path) -> None:
    original, journal, ends = abandon(tmp_path, steps=400)
    chance = random.Random(3)
    for _ in range(150):
        offset = chance.randrange(len(journal) // 2)
        broken = journal[:offset] + bytes([journal[offset] ^ (1 << chance.randrange(8))]) + journal[offset + 1 :]
        store = reopen(original, broken, tmp_path)
        (recovery,) = store.recovered
        kept = sum(end <= offset for end in ends[1:])
        assert recovery.steps == kept
        assert "damaged" in recovery.problem
        (journal_kept,) = (store.path / "discarded").iterdir()
        assert journal_kept.read_bytes() == broken
        if kept:
            check_content(store.read(recovery.episode_id), kept)
        assert store.verify() == []


def test_zeros_after_a_power_cut_are_cut(tmp_path: Path) -> None:
    original, journal, _ = abandon(tmp_path, steps=3)
    store = reopen(original, journal + bytes(100), tmp_path)
    assert store.recovered[0].steps == 3


def test_killed_between_the_file_and_the_journal(tmp_path: Path) -> None:
    original, journal, _ = abandon(tmp_path, steps=3, end=True)
    store = reopen(original, journal, tmp_path)
    episode_id = store.recovered[0].episode_id
    fingerprint = store.fingerprint()
    (store.path / "journal" / f"{episode_id}.journal").write_bytes(journal)
    again = EpisodeStore.open(store.path)
    assert again.recovered == ()
    assert again.fingerprint() == fingerprint
    assert os.listdir(store.path / "journal") == [".lock"]


def test_killed_while_writing_the_file(tmp_path: Path) -> None:
    original, journal, _ = abandon(tmp_path, steps=3, end=True)
    name = next((original / "journal").glob("*.journal")).stem
    (original / "journal" / f"{name}.safetensors.tmp").write_bytes(b"half a file")
    store = reopen(original, journal, tmp_path)
    assert store.recovered[0].steps == 3
    assert os.listdir(store.path / "journal") == [".lock"]
    assert store.verify() == []


def test_a_discarded_episode_stays_discarded(tmp_path: Path) -> None:
    store = EpisodeStore.create_or_open(tmp_path)
    writer = store.begin(INFO)
    writer.append(make_step(0))
    journal = writer._journal.path.read_bytes()
    writer.discard()
    saved = next((tmp_path / "discarded").iterdir())
    name = f"{saved.stem}.journal"
    saved.unlink()
    with_end = journal + _discarding_end()
    (tmp_path / "journal" / name).write_bytes(with_end)
    assert len(EpisodeStore.open(tmp_path)) == 0
    assert len(list((tmp_path / "discarded").glob("*.safetensors"))) == 1


def _discarding_end() -> bytes:
    import struct
    import zlib

    from robopref.store.journal import end_payload

    payload = b"".join(bytes(p) for p in end_payload(Outcome.ABORTED, None, discarded=True))
    body = bytes([Kind.END]) + payload
    return struct.pack("<II", len(payload), zlib.crc32(body)) + body


def test_an_amendment_survives_the_crash(tmp_path: Path) -> None:
    store = EpisodeStore.create_or_open(tmp_path)
    writer = store.begin(INFO)
    writer.append(make_step(0))
    writer.amend(operator_id="night shift")
    writer.append(make_step(1))
    writer.close()
    (episode,) = EpisodeStore.open(tmp_path)
    assert episode.info.operator_id == "night shift"
    check_content(episode, 2)


def test_a_foreign_file_among_the_journals_is_kept(tmp_path: Path) -> None:
    EpisodeStore.create_or_open(tmp_path)
    (tmp_path / "journal" / "x.journal").write_bytes(b"something else altogether" + MAGIC)
    (recovery,) = EpisodeStore.open(tmp_path).recovered
    assert recovery.steps == 0
    assert (tmp_path / "discarded" / "x.journal").is_file()


def test_another_users_journal_keeps_nobody_from_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    directory, _, _ = abandon(tmp_path, steps=2)
    (theirs,) = (directory / "journal").glob("*.journal")
    mine = EpisodeStore.__new__(EpisodeStore)
    mine.path = directory  # not opened, which would recover theirs
    writer = mine.begin(INFO)
    writer.append(make_step(0, 2))
    writer.close()
    open_file = os.open

    def refusing(path: Any, *arguments: Any) -> int:
        if path == theirs:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return open_file(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refusing)
        store = EpisodeStore.open(directory)
    assert [recovery.episode_id for recovery in store.recovered] == [writer.info.episode_id]
    assert len(list(store)) == 2
    assert f"{theirs} is another user's" in caplog.text
    assert [recovery.steps for recovery in EpisodeStore.open(directory).recovered] == [2]


def test_another_users_lock_keeps_nobody_from_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    directory, _, _ = abandon(tmp_path, steps=2)

    def refusing(path: Any, mode: str = "r") -> Any:
        if Path(path).name == ".lock" and mode == "w":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return open(path, mode)

    with monkeypatch.context() as patch:
        patch.setattr(dataset_file, "open", refusing, raising=False)
        store = EpisodeStore.open(directory)
    assert (len(list(store)), store.recovered) == (1, ())
    assert "cannot be recovered: it is read-only" in caplog.text
    assert [recovery.steps for recovery in EpisodeStore.open(directory).recovered] == [2]


def test_two_writers_and_a_reader_at_once(tmp_path: Path) -> None:
    EpisodeStore.create_or_open(tmp_path)
    recorders = [start_recorder(tmp_path, episodes=8, length=10, pause=0.005) for _ in range(2)]
    seen: list[int] = []
    while any(recorder.poll() is None for recorder in recorders):
        store = EpisodeStore.open(tmp_path)
        assert store.recovered == ()  # journals of the living are left alone
        seen.append(len(store))
        for episode in store:
            check_content(episode, 10)
        time.sleep(0.01)
    told = [recorder.communicate()[0].decode() for recorder in recorders]
    assert [recorder.returncode for recorder in recorders] == [0, 0]
    assert all("recovered" not in text for text in told)
    store = EpisodeStore.open(tmp_path)
    assert len(store) == 16
    assert store.verify() == []
    assert seen == sorted(seen)


def test_a_writer_in_this_process_is_left_alone(tmp_path: Path) -> None:
    store = EpisodeStore.create_or_open(tmp_path)
    writer = store.begin(INFO)
    writer.append(make_step(0))
    assert EpisodeStore.create_or_open(tmp_path).recovered == ()
    writer.append(make_step(1))
    check_content(store.read(writer.finish(Outcome.SUCCESS)), 2)


def test_nobody_repairs_while_a_journal_is_being_made(tmp_path: Path) -> None:
    store = EpisodeStore.create_or_open(tmp_path)
    with ThreadPoolExecutor() as threads:
        with open(tmp_path / "journal" / ".lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            writer = threads.submit(store.begin, INFO)
            with pytest.raises(TimeoutError):
                writer.result(timeout=0.3)
            assert not list((tmp_path / "journal").glob("*.journal"))
        writer.result(timeout=30).close()
        with open(tmp_path / "journal" / ".lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            opened = threads.submit(EpisodeStore.open, tmp_path)
            with pytest.raises(TimeoutError):
                opened.result(timeout=0.3)
        assert len(opened.result(timeout=30).recovered) == 1
