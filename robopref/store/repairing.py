"""Puts right in a data directory what can be put right safely. Recorded data is moved at most, never removed.

What is damaged is moved to ``damaged/``, so that the rest can be used, while what could not be read at all stays; a
journal whose recorder is gone becomes a finished episode; ``dataset.json`` is made anew from the episodes; a renamed
file gets its name back.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from robopref.errors import RoboprefError
from robopref.store.checking import EPISODE, TEMPORARY, guessed_dataset, is_leftover, require_data_directory
from robopref.store.dataset_file import NAME, Dataset, check_dataset, locked, write_dataset
from robopref.store.episode_file import UnreadableEpisode, check_episode, read_header, sync_directory
from robopref.store.journal import write_error
from robopref.store.store import EpisodeStore
from robopref.store.versions import NewerVersion


def repair(directory: str | Path) -> list[str]:
    """Repair what ``check`` calls repairable -> a sentence for each thing that was done, or could not be looked at.

    May be run while others record. When it is interrupted, run it again.

    Raises:
        RoboprefError: it is no data directory, a newer robopref wrote it, or it cannot be written.
    """
    directory = Path(directory)
    require_data_directory(directory)
    _needs_new_dataset(directory)
    try:
        for folder in ("episodes", "discarded", "journal"):
            (directory / folder).mkdir(exist_ok=True)
        with locked(directory):
            done = [*_dataset(directory), *_leftovers(directory)]
        done += [f"{recovery}." for recovery in EpisodeStore.open(directory).recovered]
        for folder in ("episodes", "discarded"):
            for path in sorted((directory / folder).glob(f"*{EPISODE}")):
                done += _episode(directory, path)
        done += _missing(directory)
    except OSError as error:
        raise write_error(error, Path(error.filename or directory), "Nothing recorded is lost") from error
    return done


def _needs_new_dataset(directory: Path) -> str:
    """What is wrong with ``dataset.json``; empty when nothing is. Raises NewerVersion."""
    try:
        check_dataset(directory)
    except NewerVersion:
        raise
    except RoboprefError as error:
        return str(error)
    return ""


def _dataset(directory: Path) -> Iterator[str]:
    path = directory / NAME
    told = _needs_new_dataset(directory)
    if not told:
        return
    if path.exists():
        yield f"{told} It is kept as {_aside(directory, path)}."
    guessed = guessed_dataset(directory)
    write_dataset(directory, guessed)
    columns = ", ".join(guessed.columns) or "none says which columns there are"
    yield f"{path} was made anew from the episodes ({columns})."


def _missing(directory: Path) -> Iterator[str]:
    """Complete what only the episodes say, among them those that have just been recovered."""
    guessed = guessed_dataset(directory)  # looks into every episode, for which nobody is to wait
    with locked(directory):
        dataset = check_dataset(directory)
        complete = Dataset(max(dataset.version, guessed.version), dataset.columns or guessed.columns)
        if complete != dataset:
            write_dataset(directory, complete)
            yield f"{directory / NAME} was completed from the episodes ({', '.join(complete.columns)})."


def _leftovers(directory: Path) -> Iterator[str]:
    found = [path for path in sorted((directory / "journal").glob(f"*{TEMPORARY}")) if is_leftover(directory, path)]
    for path in [*found, directory / f"{NAME}{TEMPORARY}"]:
        # What it was made of, a journal or an episode elsewhere, goes only after the whole file has its own name.
        if path.exists():
            path.unlink()
            yield f"{path}, left half written, was removed."


def _episode(directory: Path, path: Path) -> Iterator[str]:
    # Reading it takes long and needs no lock, for which a recorder would wait: finished files do not change.
    before, wrong, name = _state(path), "", path.name
    try:
        name = f"{check_episode(path).info.episode_id}{EPISODE}"
    except UnreadableEpisode as error:
        if _state(path) is not None:
            yield f"{error} It is left where it is."
        return
    except RoboprefError as error:
        wrong = str(error)
    if not wrong and name == path.name:
        return
    with locked(directory):
        if _state(path) != before:  # somebody has put another one in its place, or moved it, meanwhile
            return
        if wrong:
            kept = _aside(directory, path)
            yield f"{wrong} It is kept as {kept}; {_salvage(kept)}."
        elif not (path.parent / name).exists():
            path.rename(path.parent / name)
            sync_directory(path.parent)
            yield f"{path} is {name} again."


def _state(path: Path) -> tuple[int, int, int] | None:
    """Equal as long as nobody has touched a file; None when there is none."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _aside(directory: Path, path: Path) -> Path:
    """Move a damaged file out of the way, under a name that is free -> where it is now."""
    folder = directory / "damaged"
    folder.mkdir(exist_ok=True)
    free = next(to for i in range(1 << 30) if not (to := folder / (f"{path.name}.{i}" if i else path.name)).exists())
    path.rename(free)
    sync_directory(folder)
    sync_directory(path.parent)
    return free


def _salvage(path: Path) -> str:
    """What of a damaged episode file is still there, as far as it says so itself."""
    try:
        header = read_header(path)
        return (
            f"its header is whole and says {header.steps} steps ({header.info.outcome}); some of their bytes are not "
            "what was recorded, and nothing tells which"
        )
    except RoboprefError:
        pass
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            size = os.fstat(file.fileno()).st_size
            entries = json.loads(file.read(min(length, size)))
        ends = {name: 8 + length + entry["data_offsets"][1] for name, entry in entries.items() if name[:2] != "__"}
    except (ValueError, KeyError, TypeError, AttributeError, struct.error):
        return "its header cannot be read, so that nothing of it can be told"
    whole = [name for name, end in ends.items() if end <= size]
    return f"of its columns these are whole: {', '.join(whole) or 'none'}"
