"""What our Minari data sets hold beyond Minari's own: names, spaces, and the package itself, which is optional."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from robopref.errors import RoboprefError
from robopref.store.encoding import OBSERVATION, Schema

DATA = "data"
METADATA = "metadata.json"
MAIN = "main_data.hdf5"

INFO = "robopref_info"
"""In ``infos``: the episode's information as JSON, [1]. There, since that survives Minari's combining of data sets."""

HAS_FINAL = "robopref_has_final"
"""In ``infos``: whether the last observation was seen, [1]; otherwise it repeats the one before."""

INFO_COLUMNS = ("policy_action", "human_action", "actor", "segment_id", "success", "t_monotonic_ns")
"""Columns kept in ``infos``, each [T, ...]: one value for each action."""


def load_minari() -> Any:
    """The ``minari`` package.

    Raises:
        RoboprefError: it is not installed, or its storage of HDF5 files is not.
    """
    try:
        import h5py  # noqa: F401
        import minari
        import PIL  # noqa: F401
    except ImportError as error:
        raise RoboprefError(
            f"Minari data sets need minari, h5py and Pillow ({error}): install them with "
            '`pip install "minari[hdf5]>=0.5.4" pillow`.'
        ) from error
    return minari


def observation_space(schema: Schema) -> spaces.Dict:
    """Boxes by name; a name with slashes becomes spaces within spaces.

    Raises:
        RoboprefError: two names that would be one place, or a name that HDF5 cannot have.
    """
    tree: dict[str, Any] = {}
    for column, spec in schema.items():
        if column.startswith(OBSERVATION):
            _put(tree, column.removeprefix(OBSERVATION), _box(spec.dtype, spec.shape))
    return _as_space(tree)


def observation_tree(observation: Mapping[str, Any]) -> dict[str, Any]:
    """Values by name as Minari nests them."""
    tree: dict[str, Any] = {}
    for key, value in observation.items():
        _put(tree, key, value)
    return tree


def action_space(schema: Schema, highest: int) -> spaces.Space[Any]:
    """A Box, or for numbered actions up to ``highest`` a Discrete."""
    spec = schema["action"]
    if np.dtype(spec.dtype).kind == "f" or spec.shape:
        return _box(spec.dtype, spec.shape)
    return spaces.Discrete(highest + 1)


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    *groups, last = key.split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in (*groups, last)):
        raise RoboprefError(f"the observation {key!r} has a name that Minari cannot keep.")
    for part in groups:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise RoboprefError(f"the observation {key!r} would lie within another one, which Minari cannot keep.")
    if last in tree:
        raise RoboprefError(f"other observations would lie within {key!r}, which Minari cannot keep.")
    tree[last] = value


def _as_space(tree: Mapping[str, Any]) -> spaces.Dict:
    return spaces.Dict({key: _as_space(value) if isinstance(value, dict) else value for key, value in tree.items()})


def _box(dtype: str, shape: tuple[int, ...]) -> spaces.Box:
    low: Any
    high: Any
    if dtype == "bool":
        low, high = np.zeros(shape, np.bool_), np.ones(shape, np.bool_)
    elif np.dtype(dtype).kind == "f":
        low, high = np.full(shape, -np.inf, dtype), np.full(shape, np.inf, dtype)
    else:
        limits = np.iinfo(dtype)
        low, high = np.full(shape, limits.min, dtype), np.full(shape, limits.max, dtype)
    return spaces.Box(low, high, shape, np.dtype(dtype).type)


_READ = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


def leaves(space: spaces.Space[Any], name: str = "") -> Iterator[tuple[tuple[str | int, ...], spaces.Space[Any]]]:
    """The array-like spaces within a space, each with its path of keys and indices.

    Raises:
        RoboprefError: a space of another kind, by its name.
    """
    children: list[tuple[str | int, spaces.Space[Any]]]
    if isinstance(space, _READ):
        yield (), space
        return
    if isinstance(space, spaces.Dict):
        children = list(space.spaces.items())
    elif isinstance(space, spaces.Tuple):
        children = list(enumerate(space.spaces))
    else:
        raise RoboprefError(
            f"{name or 'the space'} is a {type(space).__name__} space: Box, Discrete, MultiDiscrete, MultiBinary, and "
            "Dict and Tuple of those are read."
        )
    for key, child in children:
        for path, leaf in leaves(child, f"{name}/{key}"):
            yield (key, *path), leaf


def data_folder(path: Path) -> Path:
    """Where a data set's files are: in ``data``, or the folder itself is that.

    Raises:
        RoboprefError: the path is no Minari data set.
    """
    for folder in (path / DATA, path):
        if (folder / METADATA).is_file():
            return folder
    raise RoboprefError(f"{path} is no Minari data set: it has no {DATA}/{METADATA}.")
