"""Merging and splitting data directories: finished episodes are linked or copied whole, never written anew.

Where the file system allows it an episode is a hard link: it takes no room, and since finished files never change, the
directories stay independent of one another. Every episode's checksum is verified on the way. An episode arrives whole
or not at all, so that what was interrupted is completed by running it again. Sources stay as they are.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robopref.errors import RoboprefError
from robopref.store.dataset_file import adopt_schema, locked, read_dataset
from robopref.store.encoding import schema_difference
from robopref.store.episode_file import EpisodeHeader, check_bytes, sync_directory
from robopref.store.journal import write_error
from robopref.store.store import EpisodeStore

_RULE = "labels.json"
_NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS)
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Moved:
    """What came of it.

    ``episodes`` and ``steps`` arrived, ``linked`` and ``copied`` of them; ``left_out`` are the ids that the target had
    already, with the same contents; ``notes`` are sentences about what else there is to know.
    """

    episodes: int
    steps: int
    linked: int
    copied: int
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def merge(
    sources: Sequence[str | Path],
    target: str | Path,
    *,
    copy: bool = False,
    progress: Progress = lambda done, total: None,
) -> Moved:
    """Bring the finished episodes of several directories together in one, which may hold some already.

    The labelling rule (``labels.json``) goes with them when all that have one agree.

    Args:
        sources: data directories; discarded episodes stay where they are.
        target: a data directory, made if it does not exist.
        copy: copy even where links are possible (for a directory that is to leave this disk).
        progress: called with episodes done and all episodes.

    Raises:
        RoboprefError: nothing to merge, the target is a source, columns differ (naming them), two different episodes
            have the same id (all this before anything is written); a damaged episode, or no room.
    """
    stores = [EpisodeStore.open(source) for source in sources]
    chosen = [(store, store.episode_ids()) for store in stores]
    if not any(ids for _, ids in chosen):
        raise RoboprefError(f"there is no finished episode in {', '.join(map(str, sources)) or 'no directory'}.")
    return _transfer(chosen, Path(target), copy, progress)


def split(
    source: str | Path,
    parts: Mapping[Path, Collection[str]],
    *,
    copy: bool = False,
    progress: Progress = lambda done, total: None,
) -> dict[Path, Moved]:
    """Put episodes of a directory into others, which may hold some already -> what came of each part.

    Args:
        source: a data directory; it stays as it is.
        parts: ids by directory (see ``by_fraction``); an episode goes to one of them at most.
        copy: as for ``merge``.
        progress: as for ``merge``, over all parts.

    Raises:
        RoboprefError: an unknown episode or one in two parts, and as ``merge``.
    """
    store = EpisodeStore.open(source)
    seen: set[str] = set()
    for target, ids in parts.items():
        if unknown := sorted(set(ids) - set(store.episode_ids())):
            raise RoboprefError(f"{store.path} has no finished episode {unknown[0]!r} to put into {target}.")
        if twice := sorted(seen & set(ids)):
            raise RoboprefError(f"the episode {twice[0]} is to go into {target} and into another part: choose one.")
        seen |= set(ids)
    for target, ids in parts.items():
        _refuse([(store, sorted(set(ids)))], target)
    result: dict[Path, Moved] = {}
    total = len(seen)
    for target, ids in parts.items():
        before = sum(moved.episodes + len(moved.left_out) for moved in result.values())
        result[target] = _transfer([(store, sorted(set(ids)))], target, copy, _from(progress, before, total))
    return result


def by_fraction(store: EpisodeStore, fractions: Mapping[Path, float], seed: int) -> dict[Path, list[str]]:
    """Episodes dealt at random to parts of the given shares, for ``split``; the same seed deals alike.

    What a part has already stays its own, so that none is ever in two of them: only the others are dealt, such that
    the shares come out as far as they can.

    Raises:
        RoboprefError: a share is not positive, they sum to more than 1, a part would be empty, or one is the store
            itself or has an episode that another one has too.
    """
    shares = np.array(list(fractions.values()), np.float64)
    if not len(shares) or not (shares > 0).all() or shares.sum() > 1 + 1e-9:
        raise RoboprefError(f"shares are positive and sum to 1 at most, not {list(fractions.values())}.")
    ids = store.episode_ids()
    kept = _kept(store, fractions)
    taken = set().union(*kept.values())
    # In the order of all, so that a split that was interrupted goes on with what it had dealt.
    free = [ids[i] for i in np.random.default_rng(seed).permutation(len(ids)) if ids[i] not in taken]
    due = np.diff(np.rint(np.cumsum(shares) * len(ids)).astype(int), prepend=0)
    lacking = np.maximum(due - [len(own) for own in kept.values()], 0)
    # Where some part has more than its share, fewer are left than the others lack.
    ends = np.rint(np.cumsum(lacking) * min(1.0, len(free) / max(lacking.sum(), 1))).astype(int)
    begins = [0, *ends[:-1]]
    parts = {
        part: sorted([*own, *free[begin:end]])
        for (part, own), begin, end in zip(kept.items(), begins, ends, strict=True)
    }
    if empty := [part for part, chosen in parts.items() if not chosen]:
        others = ", the others being in a part already" if len(free) < len(ids) else ""
        raise RoboprefError(
            f"{len(free)} episodes are too few for {empty[0]} to get any{others}: ask for a larger share."
        )
    return parts


def _kept(store: EpisodeStore, targets: Iterable[Path]) -> dict[Path, list[str]]:
    """Which of the store's episodes each target has already. Raises as ``by_fraction``."""
    kept: dict[Path, list[str]] = {}
    owner: dict[str, Path] = {}
    for target in targets:
        _refuse_itself(store.path, target)
        there = EpisodeStore.open(target).episode_ids() if (target / "dataset.json").exists() else []
        kept[target] = sorted(set(store.episode_ids()) & set(there))
        for episode_id in kept[target]:
            if (other := owner.setdefault(episode_id, target)) != target:
                raise RoboprefError(
                    f"the episode {episode_id} is in {other} and in {target} already: split into new directories, or "
                    "remove it from one of the two."
                )
    return kept


def _from(progress: Progress, before: int, total: int) -> Progress:
    return lambda done, _: progress(before + done, total)


def _transfer(chosen: Sequence[tuple[EpisodeStore, list[str]]], target: Path, copy: bool, progress: Progress) -> Moved:
    _refuse(chosen, target)
    store = EpisodeStore.create_or_open(target)
    notes = _carry_rule([source.path for source, _ in chosen], target)
    total = sum(len(ids) for _, ids in chosen)
    steps, ways, left_out = 0, {"linked": 0, "copied": 0}, []
    for source, ids in chosen:
        for episode_id in ids:
            way, header = _move(source, store, episode_id, copy)
            if way:
                ways[way] += 1
                steps += header.steps
            else:
                left_out.append(episode_id)
            progress(sum(ways.values()) + len(left_out), total)
    return Moved(sum(ways.values()), steps, **ways, left_out=tuple(left_out), notes=tuple(notes))


def _refuse(chosen: Sequence[tuple[EpisodeStore, list[str]]], target: Path) -> None:
    """See, before anything is written, whether all of it can go into one directory."""
    there = (target / "dataset.json").exists()
    known: dict[str, tuple[str, Path]] = {}
    columns, kept_by = (read_dataset(target).columns, target) if there else ({}, target)
    targeted = EpisodeStore.open(target) if there else None
    for source, ids in chosen:
        _refuse_itself(source.path, target)
        own = read_dataset(source.path).columns
        if ids and columns and (differing := schema_difference(own, columns)):
            raise RoboprefError(f"{source.path} and {kept_by} hold different columns: in the first, {differing}.")
        if ids and not columns:
            columns, kept_by = own, source.path
        for episode_id in ids:
            if targeted is not None and targeted.has(episode_id):
                known.setdefault(episode_id, (targeted.header(episode_id).checksum, target))
            checksum = source.header(episode_id).checksum
            first, where = known.setdefault(episode_id, (checksum, source.path))
            if first != checksum:
                raise _two_of_a_name(episode_id, where, source.path)


def _refuse_itself(source: Path, target: Path) -> None:
    if target.exists() and os.path.samefile(source, target):
        raise RoboprefError(f"{target} is a source and the target: choose another target.")


def _two_of_a_name(episode_id: str, first: Path, second: Path) -> RoboprefError:
    return RoboprefError(
        f"the episode {episode_id} in {second} is another one than that in {first}: one of the two was changed, or "
        "given the other's id; leave one out."
    )


def _move(source: EpisodeStore, target: EpisodeStore, episode_id: str, copy: bool) -> tuple[str, EpisodeHeader]:
    """-> "linked", "copied", or "" when it is there already; and its header."""
    name = f"{episode_id}.safetensors"
    origin, path = source.path / "episodes" / name, target.path / "episodes" / name
    header = check_bytes(origin)
    if header.info.episode_id != episode_id:
        raise RoboprefError(f"{origin} was renamed: have {source.path} repaired by robopref data repair first.")
    try:
        with locked(target.path):
            if path.exists():
                if target.header(episode_id).checksum != header.checksum:
                    raise _two_of_a_name(episode_id, target.path, source.path)
                return "", header
            adopt_schema(target.path, header.columns, running=0, version=header.info.schema_version)
            way = "linked" if not copy and _link(origin, path) else "copied"
            if way == "copied":
                _copy(origin, path)
            sync_directory(path.parent)
    except OSError as error:
        raise write_error(error, path, "What arrived before is whole; run it again to go on") from error
    return way, header


def _link(origin: Path, path: Path) -> bool:
    """Whether a hard link could be made."""
    try:
        # The file itself: os.link makes another symbolic link of one, and those of a download lead astray elsewhere.
        os.link(os.path.realpath(origin), path)
    except OSError as error:
        if error.errno in _NO_LINKS:
            return False
        raise
    return True


def _copy(origin: Path, path: Path) -> None:
    temporary = path.parent.parent / "journal" / f"{path.name}.tmp"
    try:
        with open(origin, "rb") as read, open(temporary, "wb") as written:
            shutil.copyfileobj(read, written, 1 << 20)
            written.flush()
            os.fsync(written.fileno())
        check_bytes(temporary)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _carry_rule(sources: Sequence[Path], target: Path) -> list[str]:
    """Give the target the labelling rule of the sources, if they have one and agree -> notes."""
    rules = [rule for path in [*sources, target] if (rule := _rule(path / _RULE)) is not None]
    if not rules:
        return []
    if any(rule != rules[0] for rule in rules):
        return [f"the labelling rules ({_RULE}) differ: {target} keeps what it has; say how with robopref relabel."]
    if not (target / _RULE).exists():
        temporary = target / f".{_RULE}.tmp"
        # Only the rule: the counts beside it were those of other episodes.
        temporary.write_text(json.dumps({"rule": rules[0]}, indent=2) + "\n")
        temporary.rename(target / _RULE)
    return []


def _rule(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())["rule"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise RoboprefError(
            f"{path} holds no labelling rule ({error}): write it anew with robopref relabel, or remove it."
        ) from error
