"""A data directory: finished episodes that everyone can read, and the journals of those being recorded.

    dataset.json                      what this is: format, schema version, columns
    episodes/<id>.safetensors         finished, immutable
    discarded/<id>.safetensors        finished, but unwanted by the operator; never read
    journal/<id>.journal              running; recovered when its writer is dead

Ids sort by recording time. Any number of processes may read and write at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from robopref.errors import RoboprefError
from robopref.store.dataset_file import Dataset, adopt_schema, locked, read_dataset, write_dataset
from robopref.store.encoding import Schema, check_schema, episode_columns, info_to_json, steps_schema
from robopref.store.episode_file import (
    EpisodeHeader,
    check_episode,
    read_episode,
    read_header,
    sync_directory,
)
from robopref.store.episode_writing import write_arrays, write_episode
from robopref.store.journal import JournalWriter, Kind, mapped, open_abandoned, read_journal, write_error
from robopref.store.versions import RECORDED
from robopref.store.writer import EpisodeWriter
from robopref.trajectory import Episode, EpisodeInfo, Outcome

_FILE_NAME = re.compile(r"[^./\\\0][^/\\\0]{0,200}")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recovery:
    """What became of the journal of a recorder that died.

    ``steps`` were recovered (0: it had recorded none, and the journal was removed); ``problem`` is empty unless the
    journal could not be recovered (it is left as it is) or was damaged (it is kept in ``discarded/``).
    """

    episode_id: str
    steps: int
    outcome: Outcome
    problem: str = ""

    def __str__(self) -> str:
        told = f"recovered {self.steps} steps of the interrupted episode {self.episode_id} ({self.outcome})"
        return f"{told}: {self.problem}" if self.problem else told


class EpisodeStore:
    """The episodes in a data directory. Use ``open`` to read, ``create_or_open`` to record.

    ``recovered`` says what opening it repaired.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recovered: tuple[Recovery, ...] = ()
        read_dataset(path)
        self.recovered = tuple(self._recover())

    @classmethod
    def open(cls, path: str | Path) -> EpisodeStore:
        """Open an existing data directory.

        Raises:
            RoboprefError: it is none, or a newer version of robopref wrote it.
        """
        return cls(Path(path))

    @classmethod
    def create_or_open(cls, path: str | Path) -> EpisodeStore:
        """Open a data directory, making it first if it does not exist. Other files in it are left alone.

        Raises:
            RoboprefError: it cannot be made, or a newer version of robopref wrote it.
        """
        path = Path(path)
        try:
            for folder in ("episodes", "discarded", "journal"):
                (path / folder).mkdir(parents=True, exist_ok=True)
            with locked(path):
                if not (path / "dataset.json").exists():
                    write_dataset(path, Dataset(RECORDED, {}))
        except OSError as error:
            raise RoboprefError(f"cannot make the data directory {path}: {error.strerror}.") from error
        return cls(path)

    def __len__(self) -> int:
        return len(self.episode_ids())

    def __iter__(self) -> Iterator[Episode]:
        return map(self.read, self.episode_ids())

    def episode_ids(self) -> list[str]:
        """Ids of the finished episodes, oldest first, as of now."""
        return sorted(path.name.removesuffix(".safetensors") for path in self._files())

    def header(self, episode_id: str) -> EpisodeHeader:
        """An episode's information, number of steps and columns, without its data.

        Raises:
            RoboprefError: there is no such episode, or its file is damaged.
        """
        return read_header(self._file(episode_id))

    def info(self, episode_id: str) -> EpisodeInfo:
        """What is known of an episode as a whole, without its data. Raises like ``header``."""
        return self.header(episode_id).info

    def read(self, episode_id: str) -> Episode:
        """An episode as read-only memory-mapped arrays: only what is touched is read. Raises like ``header``.

        Columns held as video are decoded, whole; ``StepReader`` reads single steps of them.
        """
        return read_episode(self._file(episode_id))

    def begin(self, info: EpisodeInfo) -> EpisodeWriter:
        """Start recording an episode; its id and, if not given, its time of start are filled in.

        Raises:
            RoboprefError: the information is not JSON-compatible, or the directory cannot be written.
        """
        now = datetime.now(UTC)
        info = replace(
            info,
            episode_id=new_episode_id(now),
            started_at=info.started_at or now.isoformat(),
            outcome=Outcome.ABORTED,
            schema_version=RECORDED,
        )
        payload = info_to_json(info).encode()
        path = self.path / "journal" / f"{info.episode_id}.journal"
        try:
            # Under the lock, so that nobody takes the journal for abandoned before its writer has locked it.
            with locked(self.path):
                journal = JournalWriter(path)
            try:
                journal.append(Kind.INFO, [payload])
                sync_directory(path.parent)
            except BaseException:
                journal.close()
                path.unlink()
                raise
        except OSError as error:
            raise write_error(error, path, "Nothing recorded before is affected") from error
        return EpisodeWriter(self.path, info, journal, self._adopt_schema)

    def has(self, episode_id: str) -> bool:
        """Whether there is such a finished episode."""
        return (self.path / "episodes" / f"{episode_id}.safetensors").is_file()

    def add(self, episode: Episode) -> str:
        """Keep a whole episode that comes from elsewhere, its id too when it has one -> its id.

        Raises:
            RoboprefError: there is an episode of that id, or it is no name of a file; the columns are not those of the
                directory; a value is one that a recording may not hold; or the file cannot be written. Nothing of it is
                kept then.
        """
        now = datetime.now(UTC)
        info = replace(
            episode.info,
            episode_id=episode.info.episode_id or new_episode_id(now),
            started_at=episode.info.started_at or now.isoformat(),
            schema_version=RECORDED,
        )
        check_episode_id(info.episode_id)
        columns = episode_columns(episode)
        path = self.path / "episodes" / f"{info.episode_id}.safetensors"
        try:
            with locked(self.path):
                if path.exists():
                    raise RoboprefError(f"{self.path} already has the episode {info.episode_id}.")
                adopt_schema(self.path, steps_schema(columns), running=0)
                write_arrays(path, info, columns)
        except OSError as error:
            raise write_error(error, path, "Nothing recorded before is affected") from error
        return info.episode_id

    def set_aside(self, episode_id: str) -> None:
        """Make a finished episode one that readers do not see: its file goes to ``discarded/``.

        Raises:
            RoboprefError: there is no such episode, or the file cannot be moved.
        """
        path = self._file(episode_id)
        try:
            with locked(self.path):
                (self.path / "discarded").mkdir(exist_ok=True)
                os.replace(path, self.path / "discarded" / path.name)
        except OSError as error:
            raise write_error(error, path, "It is where it was") from error

    def verify(self) -> list[str]:
        """Read everything and check it against its checksums -> one sentence for each damaged or foreign file."""
        problems = []
        schema = read_dataset(self.path).columns
        for path in sorted(self._files()):
            try:
                header = check_episode(path)
                if f"{header.info.episode_id}.safetensors" != path.name:
                    raise RoboprefError(f"{path} holds the episode {header.info.episode_id}: it was renamed.")
                check_schema(header.columns, schema, f"{self.path} (in the file {path})")
            except RoboprefError as error:
                problems.append(str(error))
        return problems

    def fingerprint(self) -> str:
        """A hash of the episodes' ids and checksums: equal exactly when the recorded data is."""
        digest = hashlib.blake2b(digest_size=16)
        for episode_id in self.episode_ids():
            digest.update(f"{episode_id} {self.header(episode_id).checksum}\n".encode())
        return digest.hexdigest()

    def _files(self) -> Iterator[Path]:
        return (self.path / "episodes").glob("*.safetensors")

    def _file(self, episode_id: str) -> Path:
        path = self.path / "episodes" / f"{episode_id}.safetensors"
        if not path.is_file():
            raise RoboprefError(f"{self.path} has no finished episode {episode_id!r}.")
        return path

    def _adopt_schema(self, schema: Schema) -> None:
        """Check a first step's columns against the directory's, which they become while it holds no other episode."""
        with locked(self.path):
            adopt_schema(self.path, schema, running=1)

    def _recover(self) -> Iterator[Recovery]:
        """Turn every journal whose writer is dead into a finished episode."""
        if not any((self.path / "journal").glob("*.journal")):
            return
        with contextlib.ExitStack() as stack:
            writable = os.access(self.path / "journal", os.W_OK)
            try:
                if writable:
                    stack.enter_context(locked(self.path))
            except PermissionError:  # the directory is everyone's, its lock is one user's
                writable = False
            if not writable:
                _log.warning("%s holds unfinished recordings that cannot be recovered: it is read-only.", self.path)
                return
            for path in sorted((self.path / "journal").glob("*.journal")):
                try:
                    lock = open_abandoned(path)
                except PermissionError:
                    _log.warning("%s is another user's: if its recorder is gone, only they can recover it.", path)
                    continue
                if lock is None:
                    continue
                try:
                    recovery = self._recover_journal(path)
                finally:
                    os.close(lock)
                if recovery is not None:
                    _log.warning("%s: %s", self.path, recovery)
                    yield recovery

    def _recover_journal(self, journal: Path) -> Recovery | None:
        episode_id = journal.name.removesuffix(".journal")
        name = f"{episode_id}.safetensors"
        if any((self.path / folder / name).exists() for folder in ("episodes", "discarded")):
            journal.unlink()  # its writer was killed after finishing it, before removing the journal
            return None
        steps, outcome = 0, Outcome.ABORTED
        try:
            with mapped(journal) as data:
                content = read_journal(data)
                steps = len(content.steps)
                if content.info is not None and steps > 0:
                    outcome = content.info.outcome
                    folder = "discarded" if content.discarded else "episodes"
                    write_episode(self.path / folder / name, data, content)
            if content.damaged:
                kept = self.path / "discarded" / journal.name
                journal.rename(kept)
                problem = f"the journal is damaged after them, it is kept as {kept}"
                return Recovery(episode_id, steps, outcome, problem)
            journal.unlink()
        except OSError as error:
            problem = str(write_error(error, journal, "The journal is left as it is"))
            return Recovery(episode_id, 0, outcome, problem)
        except RoboprefError as error:
            return Recovery(episode_id, 0, outcome, f"{error} The journal {journal} is left as it is.")
        return Recovery(episode_id, steps, outcome)


def check_episode_id(episode_id: str) -> None:
    """Raises RoboprefError when an id, which from elsewhere may be anything, could not be the name of a file here."""
    if not _FILE_NAME.fullmatch(episode_id):
        raise RoboprefError(f"{episode_id!r} is no episode id: it is to be the name of a file.")


def new_episode_id(now: datetime) -> str:
    """An id that sorts by time and that nobody else makes."""
    return f"{now:%Y%m%dT%H%M%S-%f}-{secrets.token_hex(4)}"
