"""A Minari data set into a store: our own exports as they were recorded, those of others as far as they go."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from robopref.errors import RoboprefError
from robopref.store.encoding import info_from_json
from robopref.store.formats import minari_layout as layout
from robopref.store.formats.base import Conversion, ConversionOptions
from robopref.store.formats.foreign import DEFAULT_HZ, actors, made_episode, made_id
from robopref.store.formats.importing import add_all, located
from robopref.store.store import EpisodeStore
from robopref.trajectory import Episode, EpisodeInfo, Outcome

SUCCESS = ("success", "is_success")
"""Entries of ``infos`` that environments use to say that the task is done."""


def import_minari(path: Path, store: EpisodeStore, options: ConversionOptions) -> Conversion:
    """Add the episodes of a Minari data set to a store.

    Raises:
        RoboprefError: the path is none, it is damaged, it has spaces that a recording cannot hold, or an episode does
            not fit the store. Those before it stay.
    """
    source = _Source(path, options)
    added = add_all(_episodes(source, path, options), store, options)
    return Conversion(added.episodes, added.steps, tuple(source.lost), tuple(source.invented), tuple(added.skipped))


def _episodes(source: _Source, path: Path, options: ConversionOptions) -> Iterator[tuple[str, Episode]]:
    for index in range(source.total):
        options.progress(index, source.total)
        where = f"{path}, episode {index}"
        with located(where):
            episode = source.episode(index)
        yield where, episode
    options.progress(source.total, source.total)


def own_episode_ids(path: Path) -> Iterator[str]:
    """The ids of the episodes that exports of ours put in a data set.

    Raises:
        RoboprefError: the path is no Minari data set, one that is not kept as HDF5, or damaged.
    """
    import h5py

    file_path = layout.data_folder(path) / layout.MAIN
    total = _Source(path, ConversionOptions()).total
    if not file_path.exists():
        raise RoboprefError(f"{path} is not kept as HDF5, which is all that is appended to: export to another path.")
    with _reading(str(file_path)), h5py.File(file_path, "r") as file:
        for index in range(total):
            infos = file[f"episode_{index}"].get("infos", {})
            if layout.INFO in infos:
                yield _own_info(infos[layout.INFO][()]).episode_id


@contextmanager
def _reading(where: str) -> Iterator[None]:
    # h5py, Pillow and minari each have errors of their own for a damaged file.
    try:
        yield
    except (OSError, KeyError, ValueError, TypeError, IndexError, AssertionError, RuntimeError) as error:
        if isinstance(error, RoboprefError):
            raise
        raise RoboprefError(f"{where} cannot be read ({error or type(error).__name__}): it is damaged.") from error


class _Source:
    """A data set; ``lost`` and ``invented`` fill up as its episodes are read."""

    def __init__(self, path: Path, options: ConversionOptions) -> None:
        minari = layout.load_minari()
        folder = layout.data_folder(path)
        metadata_file = folder / layout.METADATA
        with _reading(str(metadata_file)):
            metadata = json.loads(metadata_file.read_text())
            if not {"observation_space", "action_space"} <= set(metadata) and not options.trust:
                raise RoboprefError(
                    f"{metadata_file} does not tell the spaces: the environment would have to be made, which runs its "
                    "code. Trust the data set to do so."
                )
            dataset = minari.MinariDataset(folder)
        self._folder, self._options, self._storage = folder, options, dataset.storage
        self.total = int(dataset.storage.total_episodes)
        if not self.total:
            raise RoboprefError(f"{path} holds no episodes.")
        self._id, self._env = dataset.id, dataset.env_spec
        self._observations = [
            (_name(parts, leaf), parts) for parts, leaf in layout.leaves(dataset.observation_space, "observations")
        ]
        names = [name for name, _ in self._observations]
        if twice := {name for name in names if names.count(name) > 1}:
            raise RoboprefError(f"{path} has several observations that would be called {sorted(twice)[0]!r}.")
        self._action_space = dataset.action_space
        if isinstance(self._action_space, spaces.Dict | spaces.Tuple):
            raise RoboprefError(f"{path} has actions of {self._action_space}: a recording holds one array of actions.")
        list(layout.leaves(self._action_space, "actions"))
        self.lost: dict[str, None] = {}
        self.invented: dict[str, None] = {}

    def episode(self, index: int) -> Episode:
        """Raises RoboprefError: naming the file, or the field at fault."""
        with _reading(str(self._folder)):
            (values,) = self._storage.get_episodes([index])
            (metadata,) = self._storage.get_episode_metadata([index])
        length = len(values["rewards"])
        seen = {name: _array(values["observations"], parts, name) for name, parts in self._observations}
        for name, array in seen.items():
            if len(array) not in (length, length + 1):
                raise RoboprefError(f"observations {name!r}: {len(array)} values for {length} steps.")
        infos = values["infos"] or {}
        own = layout.INFO in infos
        final = {name: array[length] for name, array in seen.items() if len(array) > length}
        if own and not _entry(infos, layout.HAS_FINAL).any():
            final = {}
        elif len(final) < len(seen):
            final = {}
            self.lost.setdefault("the last observation of episodes that lack it in part or whole.")
        action = np.asarray(values["actions"])
        if action.dtype.kind in "iu":
            action = action.astype(np.int64)
        told = {
            "reward": np.asarray(values["rewards"], np.float64),
            "terminated": np.asarray(values["terminations"], np.bool_),
            "truncated": np.asarray(values["truncations"], np.bool_),
        }
        observation = {name: array[:length] for name, array in seen.items()}
        if own:
            columns = told | {"action": action} | {name: _entry(infos, name) for name in layout.INFO_COLUMNS}
            return Episode(_own_info(infos[layout.INFO]), observation, **columns, final_observation=final)
        hz = self._options.fps or DEFAULT_HZ
        self._say(infos, hz)
        action, success = self._numbered_from_zero(action), _success(infos, length)
        outcome = self._outcome(told, success, _success_name(infos))
        info = self._made_info(index, action, told["reward"], outcome, metadata, hz)
        known = told | {"success": success, "actor": actors(self._options, length, self.invented)}
        return made_episode(info, observation, action, hz=hz, final_observation=final, **known)

    def _numbered_from_zero(self, action: NDArray[Any]) -> NDArray[Any]:
        if isinstance(self._action_space, spaces.Discrete) and (start := int(self._action_space.start)):
            self.invented.setdefault(f"action: numbered from 0, not from {start}.")
            return action - start
        return action

    def _say(self, infos: Mapping[str, Any], hz: float) -> None:
        how = (
            "as asked for" if self._options.fps else "since nothing says how fast it was: give the rate if you know it"
        )
        self.invented.setdefault(f"t_monotonic_ns: {hz:g} steps per second, {how}.")
        for name in infos:
            if name not in SUCCESS:
                self.lost.setdefault(f"infos/{name}: a recording has no place for it.")

    def _made_info(
        self,
        index: int,
        action: NDArray[Any],
        reward: NDArray[Any],
        outcome: Outcome,
        metadata: Mapping[str, Any],
        hz: float,
    ) -> EpisodeInfo:
        task = self._options.task or (self._env.id if self._env is not None else self._id)
        self.invented.setdefault("task, instruction: the environment or the data set's id, unless others are given.")
        if "options" in metadata:
            self.lost.setdefault("options: with which the environment was reset.")
        return EpisodeInfo(
            task=task,
            instruction=self._options.instruction or task,
            seed=metadata.get("seed"),
            outcome=outcome,
            episode_id=made_id("minari", f"{index:06d}", np.frombuffer(self._id.encode(), np.uint8), action, reward),
            extra={"hz": hz, "minari": {"dataset_id": self._id, "episode": index}},
        )

    def _outcome(self, columns: Mapping[str, NDArray[Any]], success: NDArray[np.bool_], name: str | None) -> Outcome:
        """Also marks the last step of ``success`` where the end of the episode tells it."""
        if name is not None:
            self.invented.setdefault(f"outcome: success where infos/{name} is true at a step, otherwise failure.")
            return Outcome.SUCCESS if success.any() else Outcome.FAILURE
        self.invented.setdefault(
            "success, outcome: success where the environment ended the episode and rewarded its last step only, "
            "otherwise what was given, or 'aborted', judged by nobody."
        )
        rewarded = np.flatnonzero(columns["reward"] > 0)
        if not columns["terminated"][-1:].any() or rewarded.tolist() != [len(success) - 1]:
            return self._options.outcome or Outcome.ABORTED
        success[-1] = True
        return Outcome.SUCCESS


def _success(infos: Mapping[str, Any], length: int) -> NDArray[np.bool_]:
    name = _success_name(infos)
    values = np.zeros(length) if name is None else np.asarray(infos[name])
    if values.shape not in ((length,), (length + 1,)):
        return np.zeros(length, np.bool_)
    # The first of length + 1 values came with the first observation, before any action.
    return values.astype(np.bool_)[-length:]


def _success_name(infos: Mapping[str, Any]) -> str | None:
    return next((name for name in SUCCESS if name in infos), None)


def _name(parts: tuple[str | int, ...], leaf: spaces.Space[Any]) -> str:
    if parts:
        return "/".join(map(str, parts))
    picture = leaf.shape is not None and len(leaf.shape) == 3 and leaf.dtype == np.uint8
    return "image" if picture else "state"


def _array(values: Any, parts: tuple[str | int, ...], name: str) -> NDArray[Any]:
    for part in parts:
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError) as error:
            raise RoboprefError(f"observations lack {name!r}.") from error
    return np.asarray(values)


def _entry(infos: Mapping[str, Any], name: str) -> NDArray[Any]:
    if name not in infos:
        raise RoboprefError(f"infos lack {name!r}, which an export of robopref has.")
    return np.asarray(infos[name])


def _own_info(stored: Any) -> EpisodeInfo:
    text = np.asarray(stored, object).reshape(-1)
    if len(text) != 1:
        raise RoboprefError(f"infos/{layout.INFO} has {len(text)} values, expected 1.")
    return info_from_json(text[0])
