"""The HDF5 files that the authors of APO (Action Preference Optimization, NeurIPS 2025) released, into a store.

Interactions: an episode a file, ``data/timestep_t/{action, third_obs, is_human}`` and ``data/task_description``, with
``is_human`` 1 where the human acted, 2 where the policy did, 0 where the step is to be skipped. Demonstrations: many a
file, ``demo_i/timestep_t/{action, third_obs}``. Which steps are undesirable is not taken from the flags: labels follow
from who acted.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError
from robopref.store.formats.base import Conversion, ConversionOptions
from robopref.store.formats.foreign import DEFAULT_HZ, made_episode, made_id
from robopref.store.formats.robomimic_layout import reading
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
    skipped, steps, episodes = [], 0, 0
    for done, file in enumerate(files):
        options.progress(done, len(files))
        for where, episode in _episodes(file, options, told, lost):
            try:
                if store.has(episode.info.episode_id):
                    if not options.append:
                        raise RoboprefError(f"{store.path} already has it, as {episode.info.episode_id}.")
                    skipped.append(f"{episode.info.episode_id}: {store.path} has it already.")
                    continue
                store.add(episode)
            except RoboprefError as error:
                raise RoboprefError(f"{where}: {error}") from error
            episodes, steps = episodes + 1, steps + len(episode)
    options.progress(len(files), len(files))
    return Conversion(episodes, steps, tuple(lost), tuple(told), tuple(skipped))


def _episodes(
    path: Path, options: ConversionOptions, told: dict[str, None], lost: dict[str, None]
) -> Iterator[tuple[str, Episode]]:
    with reading(path), h5py.File(path, "r") as file:
        groups = {name: group for name, group in file.items() if isinstance(group, h5py.Group)}
        with_steps = [name for name, group in groups.items() if any(entry.startswith(STEP) for entry in group)]
        if not with_steps:
            raise RoboprefError(f"{path} holds no group with {STEP}0, as the files of the APO authors do.")
        for name in sorted(with_steps, key=lambda name: (len(name), name)):
            where = f"{path}, {name}"
            yield where, _episode(groups[name], name, path, where, options, told, lost)


def _episode(
    group: Any,
    name: str,
    path: Path,
    where: str,
    options: ConversionOptions,
    told: dict[str, None],
    lost: dict[str, None],
) -> Episode:
    numbers = _numbers(group, where)
    if numbers != list(range(len(numbers))):
        absent = next(number for number in range(len(numbers)) if number not in numbers)
        told[f"{where}: {STEP}{absent} is not there; the steps on both sides of a gap count as neighbours."] = None
    steps = [group[f"{STEP}{number}"] for number in numbers]
    places = [f"{where}, {STEP}{number}" for number in numbers]
    action = _stacked(steps, places, "action")
    observation = {"image": _stacked(steps, places, "third_obs")}
    interaction = "is_human" in steps[0]
    actor = np.full(len(steps), Actor.EXPERT, np.int8)
    if interaction:
        flags = _stacked(steps, places, "is_human").reshape(-1)
        unknown = [place for place, flag in zip(places, flags.tolist(), strict=True) if flag not in _ACTORS]
        if unknown:
            raise RoboprefError(f"{unknown[0]}: is_human is none of 0 (skipped), 1 (human), 2 (policy).")
        actor = np.array([_ACTORS[int(flag)] for flag in flags], np.int8)
        told["actor: HOLD where is_human is 0 (to be skipped), which nothing is learned from."] = None
        told["outcome: 'aborted' for interactions, judged by nobody: the files do not say how they ended."] = None
        told["policy_action: none while the human drives, since it was not kept."] = None
    else:
        told["outcome: success for demonstrations: the files do not say."] = None
    for other in sorted({entry for step in steps for entry in step} - _HELD):
        lost[f"{other}: of the steps."] = None
    hz = options.fps or DEFAULT_HZ
    told[f"t_monotonic_ns: {hz:g} steps per second, {'as asked for' if options.fps else 'assumed'}."] = None
    said = _description(group)
    if not said:
        told["instruction: the name of the file, unless it is given."] = None
    task = options.task or path.stem
    info = EpisodeInfo(
        task=task,
        instruction=options.instruction or said or path.stem.replace("_", " "),
        outcome=Outcome.ABORTED if interaction else Outcome.SUCCESS,
        episode_id=made_id("apo", path.stem if interaction else f"{path.stem}-{name}", action, actor),
        extra={"hz": hz, "apo": {"file": path.name, "group": name}},
    )
    if not np.isfinite(action).all():
        bad = int(np.flatnonzero(~np.isfinite(action).reshape(len(action), -1).all(axis=1))[0])
        raise RoboprefError(f"{places[bad]}: action holds NaN or infinity.")
    return made_episode(info, observation, action, hz=hz, actor=actor)


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
