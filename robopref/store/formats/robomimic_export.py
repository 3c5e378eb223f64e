"""A store as a robomimic HDF5 file: ``data/demo_i`` with ``obs``, ``next_obs``, ``actions``, ``rewards``, ``dones``.

An HDF5 file does not survive a process that dies while it writes one, so it is written beside its place and renamed.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from robopref.errors import RoboprefError
from robopref.store.encoding import (
    FINAL_OBSERVATION,
    OBSERVATION,
    ColumnSpec,
    Schema,
    check_schema,
    episode_columns,
    info_to_json,
    steps_schema,
)
from robopref.store.formats import robomimic_layout as layout
from robopref.store.formats.base import Conversion, ConversionOptions
from robopref.store.formats.hdf5 import reading
from robopref.store.journal import write_error
from robopref.store.store import EpisodeStore
from robopref.trajectory import Actor, Episode

_BLOCK = 64  # steps of an image that are in memory at a time
_HELD_OUT = 10  # every tenth demonstration is for validation, whatever is appended later


def export_robomimic(store: EpisodeStore, path: Path, options: ConversionOptions) -> Conversion:
    """Write the episodes of a store as a robomimic file, or append to one that this wrote (which copies it first).

    Raises:
        RoboprefError: the path is taken, the store has no episodes or others than the file, or the disk is full. What
            was there stays as it was.
    """
    ids = store.episode_ids()
    if not ids:
        raise RoboprefError(f"{store.path} has no finished episodes: there is nothing to export.")
    appending = path.exists()
    if appending and not options.append:
        raise RoboprefError(f"{path} exists already: choose another path, or append to it.")
    beside = path.with_name(f".{path.name}.partial")
    try:
        if appending:
            shutil.copyfile(path, beside)
        conversion = _write(store, ids, beside, path, options, appending)
        os.replace(beside, path)
    except OSError as error:
        raise write_error(error, path, "What was there before is as it was") from error
    finally:
        beside.unlink(missing_ok=True)
    return conversion


def _write(
    store: EpisodeStore, ids: list[str], beside: Path, path: Path, options: ConversionOptions, appending: bool
) -> Conversion:
    steps = written = repeated = 0
    skipped = []
    schema = steps_schema(episode_columns(store.read(ids[0])))
    with h5py.File(beside, "a" if appending else "w") as file:
        if appending:
            with reading(path):
                known = {info["episode_id"] for info in _infos(file, path)}
                _check_fits(file, schema, path)
        else:
            known = set()
            file.create_group("data").attrs["env_args"] = _env_args(store, ids)
        data = file["data"]
        # After the highest, not the number of them: some may have been removed.
        numbers = [number for name in data if (number := layout.demo_number(name)) < layout.UNNUMBERED]
        first = max(numbers, default=-1) + 1
        for done, episode_id in enumerate(ids):
            options.progress(done, len(ids))
            if episode_id in known:
                skipped.append(f"{episode_id}: {path} has it already.")
                continue
            episode = store.read(episode_id)
            try:
                check_schema(steps_schema(episode_columns(episode)), schema, str(path))
                _write_demo(data.create_group(f"demo_{first + written}"), episode)
            except RoboprefError as error:
                raise RoboprefError(f"the episode {episode_id} could not be exported: {error}") from error
            steps, written, repeated = steps + len(episode), written + 1, repeated + (not episode.final_observation)
        data.attrs["total"] = sum(int(demo.attrs["num_samples"]) for demo in data.values())
        _write_masks(file)
    options.progress(len(ids), len(ids))
    invented = []
    if repeated:
        invented.append(
            f"next_obs: the last of {repeated} episodes repeats what was seen before, since what was seen after the "
            "last action is not recorded; an import leaves it out again."
        )
    return Conversion(written, steps, (), tuple(invented), tuple(skipped))


def _env_args(store: EpisodeStore, ids: list[str]) -> str:
    info = store.info(ids[0])
    kwargs = {"control_freq": info.extra["hz"]} if isinstance(info.extra.get("hz"), int | float) else {}
    return json.dumps({"env_name": info.task, "type": layout.GYM, "env_kwargs": kwargs})


def _infos(file: Any, path: Path) -> list[dict[str, Any]]:
    if any(layout.RECORD not in demo for demo in file["data"].values()):
        raise RoboprefError(f"{path} was not written by robopref: import it, and export both to another path.")
    return [json.loads(demo[layout.RECORD].attrs[layout.INFO]) for demo in file["data"].values()]


def _check_fits(file: Any, schema: Schema, path: Path) -> None:
    for demo in list(file["data"].values())[:1]:
        keys = json.loads(demo[layout.RECORD].attrs[layout.KEYS])
        held = {OBSERVATION + key: demo["obs"][name] for name, key in keys.items()}
        held |= {name: demo[layout.RECORD][name] for name in (*layout.COLUMNS, *layout.FLAGS)}
        check_schema(
            schema, {name: ColumnSpec(values.dtype.name, values.shape[1:]) for name, values in held.items()}, str(path)
        )


def _write_demo(demo: Any, episode: Episode) -> None:
    columns = episode_columns(episode)
    names = layout.robomimic_names(episode.observation)
    length = len(episode)
    demo.attrs["num_samples"] = length
    action = columns["action"].reshape(length, -1)
    demo["actions"] = action if action.dtype.kind == "f" else action.astype(np.float32)
    demo["rewards"] = columns["reward"]
    demo["dones"] = (columns["terminated"] | columns["truncated"]).astype(np.int64)
    record = demo.create_group(layout.RECORD)
    record.attrs[layout.INFO] = info_to_json(episode.info)
    record.attrs[layout.KEYS] = json.dumps({name: key for key, name in names.items()})
    for name in (*layout.COLUMNS, *layout.FLAGS):
        record[name] = columns[name]
    for key, name in names.items():
        seen = columns[f"observation/{key}"]
        _write_in_blocks(demo, f"obs/{name}", [seen])
        last = columns.get(FINAL_OBSERVATION + key, seen[-1])
        _write_in_blocks(demo, f"next_obs/{name}", [seen[1:], last[None]])
        if FINAL_OBSERVATION + key in columns:
            record[f"{layout.FINAL}/{name}"] = last


def _write_in_blocks(demo: Any, name: str, parts: list[Any]) -> None:
    first = parts[-1]
    dataset = demo.create_dataset(name, (sum(map(len, parts)), *first.shape[1:]), first.dtype)
    at = 0
    for part in parts:
        for begin in range(0, len(part), _BLOCK):
            block = np.ascontiguousarray(part[begin : begin + _BLOCK])
            dataset[at : at + len(block)] = block
            at += len(block)


def _write_masks(file: Any) -> None:
    """Filter keys of robomimic: by outcome, by who acted, and for training and validation."""
    masks: dict[str, list[str]] = {"train": [], "valid": []}
    for name in sorted(file["data"], key=layout.demo_number):
        record = file["data"][name][layout.RECORD]
        actors = set(np.unique(record["actor"][:]).tolist())
        masks["valid" if layout.demo_number(name) % _HELD_OUT == _HELD_OUT - 1 else "train"].append(name)
        masks.setdefault(str(json.loads(record.attrs[layout.INFO])["outcome"]), []).append(name)
        if Actor.HUMAN in actors:
            masks.setdefault("corrected", []).append(name)
        if actors == {Actor.EXPERT}:
            masks.setdefault("demonstrations", []).append(name)
    if "mask" in file:
        del file["mask"]
    for name, demos in masks.items():
        if demos:
            file[f"mask/{name}"] = np.array(demos, dtype="S")
