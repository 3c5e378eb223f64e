"""A robomimic HDF5 file into a store: our own exports as they were recorded, those of others as demonstrations."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError
from robopref.store.encoding import info_from_json
from robopref.store.formats import robomimic_layout as layout
from robopref.store.formats.base import Conversion, ConversionOptions
from robopref.store.formats.foreign import DEFAULT_HZ, actors, made_episode, made_id
from robopref.store.formats.hdf5 import reading
from robopref.store.formats.importing import add_all, located
from robopref.store.store import EpisodeStore
from robopref.trajectory import Episode, EpisodeInfo, Outcome


def import_robomimic(path: Path, store: EpisodeStore, options: ConversionOptions) -> Conversion:
    """Add the demonstrations of a robomimic file to a store.

    Raises:
        RoboprefError: the file is none, it is damaged, or a demonstration does not fit the store, saying which. Those
            before it stay.
    """
    told: dict[str, None] = {}
    lost: dict[str, None] = {}
    added = add_all(_episodes(path, options, told, lost), store, options)
    return Conversion(added.episodes, added.steps, tuple(lost), tuple(told), tuple(added.skipped))


def _episodes(
    path: Path, options: ConversionOptions, told: dict[str, None], lost: dict[str, None]
) -> Iterator[tuple[str, Episode]]:
    with reading(path), h5py.File(path, "r") as file:
        if not isinstance(file.get("data"), h5py.Group) or not len(file["data"]):
            raise RoboprefError(f"{path} holds no demonstrations: it has no group data/demo_0.")
        names = sorted(file["data"], key=layout.demo_number)
        for done, name in enumerate(names):
            options.progress(done, len(names))
            where = f"{path}, {name}"
            with located(where):
                episode = _episode(file, name, path, options, told, lost)
            yield where, episode
        options.progress(len(names), len(names))


def _episode(
    file: Any, name: str, path: Path, options: ConversionOptions, told: dict[str, None], lost: dict[str, None]
) -> Episode:
    demo = file["data"][name]
    if not isinstance(demo, h5py.Group):
        raise RoboprefError("it is no group.")
    for needed, kind in (("obs", h5py.Group), ("actions", h5py.Dataset)):
        if not isinstance(demo.get(needed), kind):
            raise RoboprefError(f"it lacks {needed!r}.")
    length, told_length = len(demo["actions"]), demo.attrs.get("num_samples")
    if told_length is not None and int(told_length) != length:
        raise RoboprefError(f"num_samples is {int(told_length)}, actions has {length} steps.")
    if layout.RECORD in demo:
        return _own(demo)
    return _strangers(file, name, path, options, told, lost)


def _own(demo: Any) -> Episode:
    record = demo[layout.RECORD]
    missing = [name for name in (*layout.COLUMNS, *layout.FLAGS) if name not in record]
    if missing:
        raise RoboprefError(f"it lacks {layout.RECORD}/{missing[0]}.")
    columns = {name: record[name][()] for name in (*layout.COLUMNS, *layout.FLAGS)}
    keys = json.loads(record.attrs[layout.KEYS])
    observation = {key: demo["obs"][name][()] for name, key in keys.items()}
    final = {}
    if layout.FINAL in record:
        final = {key: np.asarray(record[layout.FINAL][name][()]) for name, key in keys.items()}
    info = info_from_json(record.attrs[layout.INFO])
    return Episode(info, observation, **columns, final_observation=final)


def _strangers(
    file: Any, name: str, path: Path, options: ConversionOptions, told: dict[str, None], lost: dict[str, None]
) -> Episode:
    demo = file["data"][name]
    action = demo["actions"][()]
    length = len(action)
    observation = {key: values[()] for key, values in _leaves(demo["obs"])}
    for key, values in observation.items():
        if len(values) != length:
            raise RoboprefError(f"obs/{key} has {len(values)} steps, actions has {length}.")
    final = {}
    if "next_obs" in demo:
        following = dict(_leaves(demo["next_obs"]))
        for key, values in following.items():
            if len(values) != length:
                raise RoboprefError(f"next_obs/{key} has {len(values)} steps, actions has {length}.")
        final = {key: following[key][-1] for key in observation if key in following}
        if len(final) < len(observation):
            final = {}
            told["final observation: none, since next_obs lacks some of obs."] = None
    env_args = _env_args(file)
    hz, how = _rate(options, env_args)
    reward = _column(demo, "rewards", length, np.float64)
    success = reward > 0
    sparse = bool(np.isin(reward, (0.0, 1.0)).all()) and "rewards" in demo
    unjudged = options.outcome or Outcome.ABORTED
    outcome = (Outcome.SUCCESS if success.any() else Outcome.FAILURE) if sparse else unjudged
    told[f"t_monotonic_ns: {hz:g} steps per second, {how}."] = None
    told[
        "success, outcome: success at the steps whose reward is 1, where rewards are 0 or 1; otherwise the outcome is "
        "what was given, or 'aborted', judged by nobody."
    ] = None
    told["task, instruction: the environment's name, unless others are given; seed, policy_id, operator_id: empty."] = (
        None
    )
    for other in demo:
        if other not in ("obs", "next_obs", "actions", "rewards", "dones"):
            lost[f"{other}: a recording has no place for it."] = None
    if demo.attrs.keys() - {"num_samples"}:
        lost[f"attributes of the demonstrations: {', '.join(sorted(demo.attrs.keys() - {'num_samples'}))}."] = None
    task = options.task or str(env_args.get("env_name") or path.stem)
    number = layout.demo_number(name)
    info = EpisodeInfo(
        task=task,
        instruction=options.instruction or task,
        outcome=outcome,
        episode_id=made_id("robomimic", f"{number:06d}" if number < 1 << 60 else name, action, reward),
        extra={"hz": hz, "robomimic": {"demo": name, "masks": _masks(file, name), "env_args": env_args}},
    )
    return made_episode(
        info,
        observation,
        action.astype(np.float32) if action.dtype.kind not in "iuf" else action,
        hz=hz,
        final_observation=final,
        actor=actors(options, length, told),
        reward=reward,
        terminated=_column(demo, "dones", length, np.float64) > 0,
        success=success if sparse else np.zeros(length, np.bool_),
    )


def _leaves(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in group.items():
        if isinstance(value, h5py.Group):
            yield from _leaves(value, f"{prefix}{key}/")
        else:
            yield prefix + key, value


def _column(demo: Any, name: str, length: int, dtype: Any) -> NDArray[Any]:
    if name not in demo:
        return np.zeros(length, dtype)
    values = demo[name][()].astype(dtype).reshape(-1)
    if len(values) != length:
        raise RoboprefError(f"{name} has {len(values)} steps, actions has {length}.")
    return np.asarray(values)


def _env_args(file: Any) -> dict[str, Any]:
    text = file["data"].attrs.get("env_args", "{}")
    try:
        found = json.loads(text)
    except ValueError as error:
        raise RoboprefError(f"data.attrs['env_args'] is no JSON ({error}).") from error
    return found if isinstance(found, dict) else {}


def _rate(options: ConversionOptions, env_args: Mapping[str, Any]) -> tuple[float, str]:
    if options.fps is not None:
        return options.fps, "as asked for"
    kwargs = env_args.get("env_kwargs")
    told = kwargs.get("control_freq") if isinstance(kwargs, dict) else None
    if isinstance(told, int | float) and told > 0:
        return float(told), "as env_args say"
    return DEFAULT_HZ, "since nothing says how fast it was: give the rate if you know it"


def _masks(file: Any, name: str) -> list[str]:
    """The filter keys that a demonstration has."""
    masks = file.get("mask", {})
    return sorted(mask for mask, entries in masks.items() if name.encode() in entries[()].astype("S").tolist())
