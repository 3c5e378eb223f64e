"""``robopref data merge`` and ``robopref data split``: episodes into other directories, as they are."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from robopref.cli.console import progress_bar, say
from robopref.errors import RoboprefError

if TYPE_CHECKING:
    from robopref.store.moving import Moved
    from robopref.store.store import EpisodeStore
    from robopref.trajectory import EpisodeInfo

_VALUES: dict[str, Callable[[EpisodeInfo], str]] = {
    "outcome": lambda info: info.outcome.value,
    "operator": lambda info: info.operator_id,
    "task": lambda info: info.task,
}


@dataclass(frozen=True)
class DataMerge:
    """Bring the episodes of several data directories together in one; the sources stay as they are."""

    target: tyro.conf.Positional[Path]
    """The data directory to make, or to go on with; episodes that it has already are left out."""
    sources: tyro.conf.Positional[tuple[Path, ...]]
    """Data directories."""
    copy: bool = False
    """Copy episodes even where a hard link, which takes no room, would do."""


@dataclass(frozen=True)
class DataSplit:
    """Deal the episodes of a data directory into others, at random or by what they are; the source stays as it is."""

    data: tyro.conf.Positional[Path]
    """The data directory."""
    into: tuple[str, ...]
    """DIRECTORY=SHARE for each part, as in train=0.9 held-out=0.1; with --by a single directory for the parts."""
    by: Literal["outcome", "operator", "task"] | None = None
    """A part for each value, in a folder of that name."""
    seed: int = 0
    """Of the dealing; the same seed deals the same episodes alike."""
    copy: bool = False
    """Copy episodes even where a hard link, which takes no room, would do."""


def run_data_merge(config: DataMerge) -> bool:
    """Merge and say what came of it.

    Raises:
        RoboprefError: no sources, and as ``robopref.store.moving.merge``.
    """
    from robopref.store.moving import merge

    if not config.sources:
        raise RoboprefError("name the directories to merge after the one that they go to.")
    with progress_bar("merge", 1) as progress:
        moved = merge(config.sources, config.target, copy=config.copy, progress=progress)
    _say(config.target, moved)
    return True


def run_data_split(config: DataSplit) -> bool:
    """Split and say what came of each part.

    Raises:
        RoboprefError: parts that cannot be understood, and as ``robopref.store.moving.split``.
    """
    from robopref.store.moving import by_fraction, split
    from robopref.store.store import EpisodeStore

    store = EpisodeStore.open(config.data)
    if config.by is None:
        parts = by_fraction(store, _shares(config.into), config.seed)
    else:
        if len(config.into) != 1 or "=" in config.into[0]:
            raise RoboprefError(f"with --by, --into is one directory for the parts, not {' '.join(config.into)}.")
        parts = _by_value(store, Path(config.into[0]), config.by)
    with progress_bar("split", sum(map(len, parts.values()))) as progress:
        result = split(config.data, parts, copy=config.copy, progress=progress)
    for path, moved in result.items():
        _say(path, moved)
    left = len(store) - sum(map(len, parts.values()))
    if left:
        say(f"{left} episodes went into no part")
    return True


def _shares(into: tuple[str, ...]) -> dict[Path, float]:
    shares: dict[Path, float] = {}
    for part in into:
        name, _, share = part.rpartition("=")
        try:
            number = float(share)
        except ValueError:
            name = ""
        if not name:
            raise RoboprefError(f"--into takes DIRECTORY=SHARE, as in train=0.9 held-out=0.1, not {part!r}.")
        if Path(name) in shares:
            raise RoboprefError(f"--into names {name} twice: add the shares up.")
        shares[Path(name)] = number
    return shares


def _by_value(store: EpisodeStore, directory: Path, by: str) -> dict[Path, list[str]]:
    parts: dict[Path, list[str]] = {}
    values: dict[Path, str] = {}
    for episode_id in store.episode_ids():
        value = _VALUES[by](store.info(episode_id))
        # A name from elsewhere may hold what a folder's cannot, or climb out of the directory.
        path = directory / (re.sub(r"[^\w.+@=-]", "_", value).lstrip(".") or "none")
        if values.setdefault(path, value) != value:
            raise RoboprefError(f"the {by}s {values[path]!r} and {value!r} would both go to {path}: merge one by hand.")
        parts.setdefault(path, []).append(episode_id)
    if not parts:
        raise RoboprefError(f"{store.path} holds no finished episode: there is nothing to split.")
    return parts


def _say(path: Path, moved: Moved) -> None:
    ways = [f"{count} {way}" for way, count in (("linked", moved.linked), ("copied", moved.copied)) if count]
    told = f"{path}: {moved.episodes} episodes, {moved.steps} steps" + (f" ({', '.join(ways)})" if ways else "")
    if moved.left_out:
        told += f"; {len(moved.left_out)} were there already"
    for line in (told, *moved.notes):
        say(line)
