"""A store as a Minari data set, written beside its place and moved there, so that what is there can always be read.

HDF5 files do not survive a process that dies while it writes one; an interrupted export leaves what was there before.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from robopref.errors import RoboprefError
from robopref.store.encoding import Schema, check_schema, episode_columns, info_to_json, steps_schema
from robopref.store.formats import minari_layout as layout
from robopref.store.formats.base import Conversion, ConversionOptions
from robopref.store.formats.minari_import import own_episode_ids
from robopref.store.store import EpisodeStore
from robopref.trajectory import Episode


def export_minari(store: EpisodeStore, path: Path, options: ConversionOptions) -> Conversion:
    """Write the episodes of a store as a Minari data set, a folder that holds ``data``, or append to one.

    Appending copies the data set first, so it needs as much room again.

    Raises:
        RoboprefError: the path is taken, the store has no episodes, minari is not installed, an episode does not fit
            the data set, or the disk is full. Finished episodes are kept unless the process was killed.
    """
    ids = store.episode_ids()
    if not ids:
        raise RoboprefError(f"{store.path} has no finished episodes: there is nothing to export.")
    layout.load_minari()
    appending = _is_taken(path)
    if appending and not options.append:
        raise RoboprefError(f"{path} exists already: choose another path, or append to it.")
    schema = steps_schema(episode_columns(store.read(ids[0])))
    known = set(own_episode_ids(path)) if appending else set()
    new = [episode_id for episode_id in ids if episode_id not in known]
    skipped = tuple(f"{episode_id}: {path} has it already." for episode_id in ids if episode_id in known)
    if not new:
        return Conversion(0, 0, skipped=skipped)
    # Absolute, since minari cannot tell the size of a data set at a relative path.
    beside = path.resolve().with_name(f".{path.resolve().name}.partial")
    try:
        shutil.rmtree(beside, ignore_errors=True)
        target = None
        try:
            target = _Target(beside, path, schema, appending)
            for done, episode_id in enumerate(new):
                options.progress(done, len(new))
                target.write(store.read(episode_id))
            options.progress(len(new), len(new))
        finally:
            if target is not None and target.episodes:
                target.publish()
            shutil.rmtree(beside, ignore_errors=True)
    except OSError as error:
        raise RoboprefError(f"{path} could not be written: {error}.") from error
    return Conversion(target.episodes, target.steps, (), tuple(target.invented()), skipped)


def _is_taken(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists()


class _Target:
    """The data set beside its place; ``episodes`` and ``steps`` are what was written."""

    def __init__(self, beside: Path, path: Path, schema: Schema, appending: bool) -> None:
        from minari.dataset.minari_storage import MinariStorage

        self._data, self._beside, self._path, self._schema = beside / layout.DATA, beside, path, schema
        self._appending = appending
        self.episodes, self.steps, self._repeated = 0, 0, 0
        self._highest = 0
        observations = layout.observation_space(schema)
        beside.mkdir(parents=True)
        if appending:
            shutil.copytree(layout.data_folder(path), self._data)
            self._storage = MinariStorage.read(self._data)
            self._check_spaces(observations)
            self._remove_beyond()
        else:
            actions = layout.action_space(schema, 0)
            self._storage = MinariStorage.new(self._data, observations, actions, jpeg_encoding=False)
            self._storage.update_metadata({"dataset_id": _dataset_id(path), "minari_version": _minari_version()})

    def _check_spaces(self, observations: Any) -> None:
        actions = self._storage.action_space
        if hasattr(actions, "n"):
            self._highest = int(actions.n) - 1
        for name, has, given in (
            ("observations", self._storage.observation_space, observations),
            ("actions", actions, layout.action_space(self._schema, self._highest)),
        ):
            if has != given:
                raise RoboprefError(f"{self._path} holds {name} of {has}, not of {given}: export to another path.")
        if self._storage.jpeg_encoding:
            raise RoboprefError(f"{self._path} keeps pictures as JPEG, which loses some: export to another path.")

    def _remove_beyond(self) -> None:
        # An append that was interrupted while moving has episodes that its metadata do not count.
        import h5py

        with h5py.File(self._data / layout.MAIN, "a", track_order=True) as file:
            for name in [name for name in file if int(name.removeprefix("episode_")) >= self._storage.total_episodes]:
                del file[name]

    def write(self, episode: Episode) -> None:
        """Raises RoboprefError, naming the episode; nothing of it stays."""
        from minari.data_collector import EpisodeBuffer

        info = episode.info
        try:
            columns = episode_columns(episode)
            check_schema(steps_schema(columns), self._schema, str(self._path))
            last = episode.final_observation or {key: value[-1] for key, value in episode.observation.items()}
            seen = {key: np.concatenate([value, last[key][None]]) for key, value in episode.observation.items()}
            infos: dict[str, Any] = {name: columns[name] for name in layout.INFO_COLUMNS}
            infos |= {layout.INFO: [info_to_json(info)], layout.HAS_FINAL: np.array([bool(episode.final_observation)])}
            buffer = EpisodeBuffer(
                seed=info.seed if info.seed is not None and 0 <= info.seed < 2**63 else None,
                observations=layout.observation_tree(seen),
                actions=columns["action"],
                rewards=columns["reward"],
                terminations=columns["terminated"],
                truncations=columns["truncated"],
                infos=infos,
            )
            self._storage.update_episodes([buffer])
        except RoboprefError as error:
            raise RoboprefError(f"the episode {info.episode_id} could not be exported: {error}") from error
        self.episodes, self.steps = self.episodes + 1, self.steps + len(episode)
        self._repeated += not episode.final_observation
        if columns["action"].dtype.kind == "i":
            self._highest = max([self._highest, *(int(columns[c].max()) for c in ("action", *layout.INFO_COLUMNS[:2]))])

    def publish(self) -> None:
        """Move the data set to its place."""
        from minari.serialization import serialize_space

        self._remove_beyond()
        metadata = json.loads((self._data / layout.METADATA).read_text())
        metadata["action_space"] = serialize_space(layout.action_space(self._schema, self._highest))
        (self._data / layout.METADATA).write_text(json.dumps(metadata))
        if not self._appending:
            os.replace(self._beside, self._path)
            return
        place = layout.data_folder(self._path)
        for name in (layout.MAIN, layout.METADATA):  # episodes beyond those that the metadata count are not read
            os.replace(self._data / name, place / name)

    def invented(self) -> list[str]:
        """What the data set says beyond the recording."""
        told = [] if self._appending else [f"dataset_id: {_dataset_id(self._path)}, from the name of the folder."]
        if self._repeated:
            told.append(
                f"observations: the last of {self._repeated} episodes repeats the one before, since what was seen "
                "after the last action is not recorded; an import leaves it out again."
            )
        return told


def _dataset_id(path: Path) -> str:
    name = re.sub(r"-v\d+$", "", re.sub(r"[^-\w]", "_", path.resolve().name)).strip("-") or "recording"
    return f"robopref/{name}-v0"


def _minari_version() -> str:
    return str(layout.load_minari().__version__)
