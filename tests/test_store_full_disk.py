"""Disks that are full, fail or lose what they were given: it is told, and nothing recorded is lost."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable
from concurrent.futures import wait
from typing import Any

import pytest
from recorded_steps import INFO, make_step, record
from recorded_steps import store as store

from robopref.errors import RoboprefError
from robopref.store import EpisodeStore, EpisodeWriter, journal
from robopref.trajectory import Outcome


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
