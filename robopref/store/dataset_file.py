"""``dataset.json``: what a data directory says of itself, and the lock under which the directory changes.

Its checksum covers everything else that it says.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robopref.errors import RoboprefError
from robopref.store.encoding import Schema, check_schema, schema_from_json, schema_to_json
from robopref.store.episode_file import sync_directory
from robopref.store.versions import NEWEST, RECORDED, NewerVersion, dataset_checksum, migrated_dataset

FORMAT = "robopref-episodes"
NAME = "dataset.json"
_ABOUT = "Episodes recorded by robopref: one safetensors file each in episodes/, a tensor per column."


@dataclass(frozen=True)
class Dataset:
    """The schema version that a reader must know, and the columns of every episode (empty: none recorded yet)."""

    version: int
    columns: Schema


def read_dataset(directory: Path) -> Dataset:
    """What a data directory says of itself.

    Raises:
        RoboprefError: it is no data directory, its ``dataset.json`` is damaged, or a newer robopref wrote it.
    """
    path = directory / NAME
    try:
        dataset = json.loads(path.read_bytes())
        if dataset["format"] != FORMAT:
            raise ValueError(f"its format is {dataset['format']!r}")
        version = int(dataset["schema_version"])
        if version <= NEWEST:
            dataset = migrated_dataset(dataset, version)
            if dataset["checksum"] != dataset_checksum(dataset):
                raise ValueError("its checksum does not fit")
            return Dataset(version, schema_from_json(dataset["columns"]))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RoboprefError(
            f"{directory} is no data directory (it has no dataset.json): record into it first, or check the path."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RoboprefError(
            f"{path} is damaged ({error}): restore it from a copy, or have it made anew by robopref data repair."
        ) from error
    raise NewerVersion(
        f"{directory} was written by a newer robopref (schema {version}); this one reads up to schema "
        f"{NEWEST}: upgrade robopref."
    )


def check_dataset(directory: Path) -> Dataset:
    """``read_dataset``, and see that every byte of the file is as it was written. Raises like it."""
    found = read_dataset(directory)
    data = (directory / NAME).read_bytes()
    dataset = json.loads(data)
    # One of version 1 may have no checksum; of what it says besides the columns nothing can vary.
    expected = dataset if "checksum" in dataset else _contents(found)
    if data != _text(expected):
        raise RoboprefError(
            f"{directory / NAME} was changed after it was written: restore it from a copy, or have it made anew by "
            "robopref data repair."
        )
    return found


def write_dataset(directory: Path, dataset: Dataset) -> None:
    """Write ``dataset.json`` whole or not at all.

    Raises:
        OSError: it could not be written.
    """
    contents = _contents(dataset)
    temporary = directory / f"{NAME}.tmp"
    with open(temporary, "wb") as file:
        file.write(_text(contents | {"checksum": dataset_checksum(contents)}))
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(directory / NAME)
    sync_directory(directory)


def adopt_schema(directory: Path, schema: Schema, *, running: int, version: int = RECORDED) -> None:
    """Check an episode's columns against the directory's, which they become while it holds no other episode.

    Args:
        directory: a data directory, locked by the caller.
        schema: the columns of a step.
        running: how many of the journals are the caller's own.
        version: what a reader of the episode must know at least.

    Raises:
        RoboprefError: the columns differ.
    """
    dataset = read_dataset(directory)
    journals = list((directory / "journal").glob("*.journal"))
    empty = len(journals) == running and not any((directory / "episodes").glob("*.safetensors"))
    if not dataset.columns or (dict(schema) != dict(dataset.columns) and empty):
        write_dataset(directory, Dataset(max(dataset.version, version), schema))
        return
    check_schema(schema, dataset.columns, f"the episodes in {directory}")
    if dataset.version < version:
        write_dataset(directory, Dataset(version, dataset.columns))


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Alone among the processes that change the directory."""
    with open(directory / "journal" / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def unchanging(directory: Path) -> Iterator[None]:
    """While nobody is alone with the directory, for a look at it that writes nothing, not even a lock file."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # nobody has ever recorded here, or could
            file = stack.enter_context(open(directory / "journal" / ".lock", "rb"))
            fcntl.flock(file, fcntl.LOCK_SH)
        yield


def _contents(dataset: Dataset) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "about": _ABOUT,
        "schema_version": dataset.version,
        "columns": schema_to_json(dataset.columns),
    }


def _text(contents: dict[str, Any]) -> bytes:
    return json.dumps(contents, indent=2).encode()
