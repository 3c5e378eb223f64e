"""What is wrong in a data directory: every kind of file looked at, nothing changed, everything found reported.

Opening a store recovers what dead recorders left; this only looks, so that it can be told before anything is done.
What is kept aside on purpose (``discarded/*.journal``, ``damaged/``) is no problem, and files that are not the
store's, beside its folders, are none of its business.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from robopref.errors import RoboprefError
from robopref.store.consistency import contradictions
from robopref.store.dataset_file import NAME, Dataset, check_dataset, read_dataset, unchanging
from robopref.store.encoding import Schema, check_schema
from robopref.store.episode_file import (
    EpisodeHeader,
    UnreadableEpisode,
    check_bytes,
    check_episode,
    read_episode,
    read_header,
)
from robopref.store.journal import MAGIC, is_abandoned, mapped, read_journal
from robopref.store.versions import RECORDED, NewerVersion

EPISODE, JOURNAL, TEMPORARY = ".safetensors", ".journal", ".tmp"
_BY_OPENING = "robopref data repair, or any command that opens the directory, recovers it"
_ASIDE = "restore it from a copy; robopref data repair moves it to damaged/, so that the rest can be used"
_ANEW = "robopref data repair makes it anew from the episodes"
_AS_IT_IS = "nothing can be repaired: look at the episode, and leave it out with robopref data split if it is no use"


@dataclass(frozen=True)
class Problem:
    """Something wrong with a file: ``what`` it is, whether ``repair`` can put it right, and ``how`` it is put right.

    ``episode_id`` is that of the file's name; empty when the file belongs to no episode.
    """

    file: Path
    episode_id: str
    what: str
    repairable: bool
    how: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what} ({self.how}.)"


def check(directory: str | Path) -> list[Problem]:
    """Look at every file of a data directory, whole -> what is wrong, in the order of the files' names.

    Writes nothing, and may be run while others record.

    Raises:
        RoboprefError: it is no data directory.
    """
    directory = Path(directory)
    require_data_directory(directory)
    problems = list(_dataset(directory))
    problems += _labels(directory)
    # The checksums take long and need no lock: finished files do not change.
    finished = sorted(_listed(directory / "episodes"))
    schema = _schema(directory)  # after them, for the same reason as in ``_dataset``
    for path in finished:
        problems += _finished(path, schema)
    for path in sorted(_listed(directory / "discarded")):
        if path.suffix != JOURNAL:
            problems += _discarded(path)
    with unchanging(directory):
        for path in sorted(_listed(directory / "journal")):
            problems += _unfinished(directory, path)
        if (left := directory / f"{NAME}.tmp").exists():
            problems.append(_leftover(left))
    return problems


def require_data_directory(directory: Path) -> None:
    """Raises RoboprefError when nothing here can be a data directory, damaged or not."""
    if not (directory / NAME).exists() and not (directory / "episodes").is_dir():
        raise RoboprefError(f"{directory} is no data directory: it has neither dataset.json nor a folder episodes.")


def guessed_dataset(directory: Path) -> Dataset:
    """What ``dataset.json`` should say by the episodes: the columns of most, the version that all can be read by.

    No columns when none of them is whole.
    """
    version, found = RECORDED, list[tuple[int, Schema]]()
    for path in sorted((directory / "episodes").glob(f"*{EPISODE}")):
        try:
            header = read_header(path)
        except RoboprefError:
            continue
        version = max(version, header.info.schema_version)
        seen = next((i for i, (_, schema) in enumerate(found) if dict(schema) == header.columns), None)
        if seen is None:
            found.append((1, header.columns))
        else:
            found[seen] = (found[seen][0] + 1, found[seen][1])
    return Dataset(version, max(found, key=lambda item: item[0], default=(0, {}))[1])


def is_leftover(directory: Path, temporary: Path) -> bool:
    """Whether a temporary file in ``journal/`` is nobody's any more (call it while the directory is locked)."""
    journal = temporary.with_name(temporary.name.removesuffix(TEMPORARY).removesuffix(EPISODE) + JOURNAL)
    # Its journal goes last, so that a file which is still there after its journal is left over.
    return is_abandoned(journal) or (not journal.exists() and temporary.exists())


def _listed(folder: Path) -> Iterator[Path]:
    return folder.iterdir() if folder.is_dir() else iter(())


def _schema(directory: Path) -> Schema:
    try:
        return read_dataset(directory).columns
    except RoboprefError:
        return guessed_dataset(directory).columns


def _dataset(directory: Path) -> Iterator[Problem]:
    path = directory / NAME
    guessed = guessed_dataset(directory)  # before what it is held against: one that records meanwhile says that first
    try:
        dataset = check_dataset(directory)
    except NewerVersion as error:
        yield Problem(path, "", str(error), False, "upgrade robopref")
        return
    except RoboprefError as error:
        what = str(error) if path.exists() else "it is not there."
        yield Problem(path, "", what, True, _ANEW)
        return
    if not dataset.columns and guessed.columns:
        what = f"it names no columns, the episodes have {list(guessed.columns)}."
        yield Problem(path, "", what, True, _ANEW)
    elif dataset.version < guessed.version:
        what = f"it says schema {dataset.version}, there are episodes of schema {guessed.version}."
        yield Problem(path, "", what, True, _ANEW)


def _labels(directory: Path) -> Iterator[Problem]:
    path = directory / "labels.json"
    if not path.exists():
        return
    try:
        if not isinstance(json.loads(path.read_bytes())["rule"], dict):
            raise ValueError("its rule is none")
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield Problem(path, "", f"it holds no labelling rule ({error}).", False, "write it anew with robopref relabel")


def _finished(path: Path, schema: Schema) -> Iterator[Problem]:
    if path.suffix != EPISODE:
        yield _foreign(path)
        return
    episode_id = path.name.removesuffix(EPISODE)
    try:
        header = check_bytes(path)
        episode = read_episode(path)
    except RoboprefError as error:
        yield _unusable(path, error)
        return
    yield from _name(path, header)
    try:
        check_schema(header.columns, schema, "the directory")
    except RoboprefError as error:
        yield Problem(path, episode_id, str(error), False, "move it to a data directory of its own kind")
    for what in contradictions(episode):
        yield Problem(path, episode_id, what, False, _AS_IT_IS)
    if (path.parent.parent / "discarded" / path.name).exists():
        yield Problem(path, episode_id, "it is discarded as well.", False, "remove one of the two files")


def _discarded(path: Path) -> Iterator[Problem]:
    if path.suffix != EPISODE:
        yield _foreign(path)
        return
    try:
        yield from _name(path, check_episode(path))
    except RoboprefError as error:
        yield _unusable(path, error)


def _unusable(path: Path, error: RoboprefError) -> Problem:
    readable = not isinstance(error, UnreadableEpisode)
    how = _ASIDE if readable else "nothing is done to it until it can be read"
    return Problem(path, path.name.removesuffix(EPISODE), str(error), readable, how)


def _name(path: Path, header: EpisodeHeader) -> Iterator[Problem]:
    name = f"{header.info.episode_id}{EPISODE}"
    if path.name == name:
        return
    taken = (path.parent / name).exists()
    how = f"one of it and {name} is to be removed" if taken else "robopref data repair gives it its name back"
    what = f"it holds the episode {header.info.episode_id}: it was renamed{' or copied' if taken else ''}."
    yield Problem(path, path.name.removesuffix(EPISODE), what, not taken, how)


def _unfinished(directory: Path, path: Path) -> Iterator[Problem]:
    if path.name == ".lock":
        return
    if path.name.endswith(TEMPORARY):
        if is_leftover(directory, path):
            yield _leftover(path)
    elif path.suffix != JOURNAL:
        yield _foreign(path)
    else:
        try:
            abandoned = is_abandoned(path)
        except OSError as error:
            yield Problem(path, path.stem, f"it cannot be read ({error.strerror}).", False, "make it readable")
            return
        if abandoned:
            yield _abandoned(directory, path)


def _abandoned(directory: Path, path: Path) -> Problem:
    episode_id = path.name.removesuffix(JOURNAL)
    if any((directory / folder / f"{episode_id}{EPISODE}").exists() for folder in ("episodes", "discarded")):
        return Problem(path, episode_id, "the episode is finished, its journal is left.", True, _BY_OPENING)
    try:
        with mapped(path) as data:
            foreign = data[: len(MAGIC)] not in (MAGIC, MAGIC[: len(data)])
            content = read_journal(data)
    except (RoboprefError, OSError) as error:
        return Problem(path, episode_id, f"it cannot be read ({error}).", False, "it is kept; ask for help with it")
    if foreign:
        what, then = "it is no journal, or its first bytes are damaged", "is moved to discarded/ by any recovery"
        return Problem(path, episode_id, f"{what}.", True, f"it {then}")
    steps = len(content.steps)
    what = f"its recorder is gone; {steps} steps can be recovered"
    if content.damaged:
        return Problem(
            path, episode_id, f"{what}, it is damaged after them.", True, f"{_BY_OPENING} and keeps the rest"
        )
    return Problem(path, episode_id, f"{what}.", True, _BY_OPENING)


def _leftover(path: Path) -> Problem:
    how = "robopref data repair removes it; what it was made of is still there"
    return Problem(path, "", "it was left by a process that died while writing it.", True, how)


def _foreign(path: Path) -> Problem:
    return Problem(path, "", "it does not belong here.", False, "move it away")
