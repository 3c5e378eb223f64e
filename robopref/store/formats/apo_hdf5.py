"""The HDF5 files that the authors of APO (Action Preference Optimization, NeurIPS 2025) released, into a store.

Interactions: an episode a file, ``data/timestep_t/{action, third_obs, is_human}`` and ``data/task_description``, with
``is_human`` 1 where the human acted, 2 where the policy did, 0 where the step is to be skipped. Demonstrations: many a
file, ``demo_i/timestep_t/{action, third_obs}``. Which steps are undesirable is not taken from the flags: labels follow
from who acted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError
from robopref.store.formats.base import Conversion, ConversionOptions
from robopref.store.formats.foreign import DEFAULT_HZ, made_episode, made_id
from robopref.store.formats.hdf5 import reading
from robopref.store.formats.importing import add_all
from robopref.store.store import EpisodeStore
from robopref.trajectory import Actor, Episode, EpisodeInfo, Outcome

STEP = "timestep_"
SUFFIXES = (".hdf5", ".h5")
_ACTORS = {0: Actor.HOLD, 1: Actor.HUMAN, 2: Actor.POLICY}
_HELD = {"action", "third_obs", "is_human"}


def import_apo(path: Path, store: EpisodeStore, options: ConversionOptions) -> Conversion:
    """Add the episodes of a file, or of every HDF5 file in a folder, to a store.

    Raises:
        RoboprefError: a file is none of the authors', it is damaged, or a step lacks something, saying where. Episodes
            before it stay.
    """
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
    if not files:
        raise RoboprefError(f"{path} holds no HDF5 file.")
    told: dict[str, None] = {}
    lost: dict[str, None] = {}
    skipped: list[str] = []
    added = add_all(_episodes(files, options, told, lost, skipped), store, options)
    return Conversion(added.episodes, added.steps, tuple(lost), tuple(told), (*skipped, *added.skipped))


def _episodes(
    files: Sequence[Path],
    options: ConversionOptions,
    told: dict[str, None],
    lost: dict[str, None],
    skipped: list[str],
) -> Iterator[tuple[str, Episode]]:
    for done, path in enumerate(files):
        options.progress(done, len(files))
        with reading(path), h5py.File(path, "r") as file:
            groups = {name: group for name, group in file.items() if isinstance(group, h5py.Group)}
            with_steps = [name for name, group in groups.items() if any(entry.startswith(STEP) for entry in group)]
            if not with_steps:
                raise RoboprefError(f"{path} holds no group with {STEP}0, as the files of the APO authors do.")
            for name in sorted(with_steps, key=lambda name: (len(name), name)):
                where = f"{path}, {name}"
                yield where, _episode(groups[name], name, path, where, options, told, lost, skipped)
    options.progress(len(files), len(files))


def _episode(
    group: Any,
    name: str,
    path: Path,
    where: str,
    options: ConversionOptions,
    told: dict[str, None],
    lost: dict[str, None],
    skipped: list[str],
) -> Episode:
    numbers = _numbers(group, where)
    if numbers != list(range(len(numbers))):
        absent = next(number for number in range(len(numbers)) if number not in numbers)
        told[f"{where}: {STEP}{absent} is not there; the steps on both sides of a gap count as neighbours."] = None
    named = [(f"{where}, {STEP}{number}", group[f"{STEP}{number}"]) for number in numbers]
    interaction = any("is_human" in step for _, step in named)
    empty = [place for place, step in named if interaction and _is_skipped(step) and "action" not in step]
    skipped += [
        f"{place}: it has no action, and is to be skipped; the steps around it count as neighbours." for place in empty
    ]
    named = [(place, step) for place, step in named if place not in empty]
    if not named:
        raise RoboprefError(f"{where} has no step with an action.")
    places, steps = [place for place, _ in named], [step for _, step in named]
    action = _stacked(steps, places, "action")
    if not np.isfinite(action).all():
        bad = int(np.flatnonzero(~np.isfinite(action).reshape(len(action), -1).all(axis=1))[0])
        raise RoboprefError(f"{places[bad]}: action holds NaN or infinity.")
    pictures = _stacked(steps, places, "third_obs")
    if pictures.dtype != np.uint8 or pictures.ndim != 4:
        raise RoboprefError(
            f"{places[0]}: third_obs is {pictures.dtype} {list(pictures.shape[1:])}, the authors' files have pictures "
            "uint8 [H, W, 3]: decode them first."
        )
    actor = np.full(len(steps), Actor.EXPERT, np.int8)
    if interaction:
        actor = _actors(_stacked(steps, places, "is_human").reshape(-1), places)
        told["actor: HOLD where is_human is 0 (to be skipped), which nothing is learned from."] = None
        told["policy_action: none while the human drives, since it was not kept."] = None
    default = Outcome.ABORTED if interaction else Outcome.SUCCESS
    outcome = options.outcome or default
    if options.outcome is None:
        told["outcome: 'aborted' for interactions, judged by nobody, and success for demonstrations: the files do not "
             "say how they ended."] = None  # fmt: skip
    told["steps: all of them; the authors' own loader leaves out actions outside [-1, 1] or near 0."] = None
    for other in sorted({entry for step in steps for entry in step} - _HELD):
        lost[f"{other}: of the steps."] = None
    hz = options.fps or DEFAULT_HZ
    told[f"t_monotonic_ns: {hz:g} steps per second, {'as asked for' if options.fps else 'assumed'}."] = None
    said = _description(group)
    if not said:
        told["instruction: the name of the file, unless it is given."] = None
    info = EpisodeInfo(
        task=options.task or path.stem,
        instruction=options.instruction or said or path.stem.replace("_", " "),
        outcome=outcome,
        episode_id=made_id("apo", path.stem if interaction else f"{path.stem}-{name}", action, actor),
        extra={"hz": hz, "apo": {"file": path.name, "group": name}},
    )
    return made_episode(info, {"image": pictures}, action, hz=hz, actor=actor)


def _is_skipped(step: Any) -> bool:
    return "is_human" in step and not np.asarray(step["is_human"][()]).any()


def _actors(flags: NDArray[Any], places: list[str]) -> NDArray[np.int8]:
    unknown = [place for place, flag in zip(places, flags.tolist(), strict=True) if flag not in _ACTORS]
    if unknown:
        raise RoboprefError(f"{unknown[0]}: is_human is none of 0 (skipped), 1 (human), 2 (policy).")
    return np.array([_ACTORS[int(flag)] for flag in flags], np.int8)


def _numbers(group: Any, where: str) -> list[int]:
    names = [name.removeprefix(STEP) for name in group if name.startswith(STEP)]
    odd = [name for name in names if not name.isdigit()]
    if odd:
        raise RoboprefError(f"{where}: {STEP}{odd[0]} has no number.")
    return sorted(map(int, names))  # by name, 10 would come before 2


def _stacked(steps: list[Any], places: list[str], name: str) -> NDArray[Any]:
    values = []
    for step, place in zip(steps, places, strict=True):
        if not isinstance(step, h5py.Group) or name not in step:
            raise RoboprefError(f"{place} lacks {name!r}.")
        values.append(np.asarray(step[name][()]))
        if (values[-1].shape, values[-1].dtype) != (values[0].shape, values[0].dtype):
            raise RoboprefError(
                f"{place}: {name} is {values[-1].dtype} {list(values[-1].shape)}, the first is {values[0].dtype} "
                f"{list(values[0].shape)}."
            )
    return np.stack(values)


def _description(group: Any) -> str:
    if "task_description" not in group:
        return ""
    text = group["task_description"][()]
    return str(text.decode() if isinstance(text, bytes) else text).replace("_", " ")
