"""What a recording is as bytes: episode information as JSON, a step as the raw values of named columns."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError
from robopref.trajectory import NULL_DISCRETE, STEP_COLUMNS, Actor, Episode, EpisodeInfo, Outcome, Step

_STEP_DTYPES: Mapping[str, Any] = {
    "actor": np.int8,
    "segment_id": np.int32,
    "reward": np.float64,
    "terminated": np.bool_,
    "truncated": np.bool_,
    "success": np.bool_,
    "t_monotonic_ns": np.int64,
}

Columns = Mapping[str, NDArray[Any]]
"""One step: values by column name, in storage order; observations are ``observation/<key>``."""

OBSERVATION = "observation/"
FINAL_OBSERVATION = "final_observation/"

DTYPE_NAMES: Mapping[str, str] = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "uint32": "U32",
    "int32": "I32",
    "uint64": "U64",
    "int64": "I64",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
}
"""NumPy dtypes that a recording may hold, and their names in the safetensors format (all little-endian)."""


@dataclass(frozen=True)
class ColumnSpec:
    """Type and shape of one step's value in a column."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of one step's value."""
        return int(np.dtype(self.dtype).itemsize * np.prod(self.shape, dtype=np.int64))

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


Schema = Mapping[str, ColumnSpec]
"""The columns of a data directory, in storage order."""


def info_to_json(info: EpisodeInfo) -> str:
    """Raises RoboprefError when ``extra`` holds something that JSON cannot."""
    try:
        return json.dumps(asdict(info), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RoboprefError(f"the episode's extra information cannot be written as JSON: {error}.") from error


def info_from_json(text: str | bytes) -> EpisodeInfo:
    """Raises RoboprefError when the text is not what ``info_to_json`` writes."""
    try:
        values = json.loads(text)
        known = {field.name for field in fields(EpisodeInfo)}
        return EpisodeInfo(**{k: v for k, v in values.items() if k in known} | {"outcome": Outcome(values["outcome"])})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RoboprefError(f"unreadable episode information ({error}).") from error


def schema_to_json(schema: Schema) -> dict[str, Any]:
    """Column names to ``{"dtype", "shape"}``, in order."""
    return {name: {"dtype": spec.dtype, "shape": list(spec.shape)} for name, spec in schema.items()}


def schema_from_json(columns: Mapping[str, Any]) -> dict[str, ColumnSpec]:
    """The inverse of ``schema_to_json``."""
    return {name: ColumnSpec(spec["dtype"], tuple(spec["shape"])) for name, spec in columns.items()}


def step_columns(step: Step) -> dict[str, NDArray[Any]]:
    """A step's values by column, checked: everything finite, known types, actions alike.

    Integer actions become int64. An absent action becomes NaN or ``NULL_DISCRETE``.

    Raises:
        RoboprefError: naming the column at fault.
    """
    action = _checked_action(step.action, "action", None)
    columns = observation_columns(step.observation, OBSERVATION)
    columns["action"] = action
    for name in ("policy_action", "human_action"):
        value = getattr(step, name)
        columns[name] = _null_like(action) if value is None else _checked_action(value, name, action)
    if not np.isfinite(step.reward):
        raise RoboprefError(f"column 'reward' is {step.reward}.")
    Actor(step.actor)  # raises for an unknown one
    columns |= {name: np.array(getattr(step, name), dtype) for name, dtype in _STEP_DTYPES.items()}
    return columns


def observation_columns(observation: Mapping[str, Any], prefix: str) -> dict[str, NDArray[Any]]:
    """An observation's values by column name, checked like those of ``step_columns``."""
    if not observation:
        raise RoboprefError("the observation is empty: there is nothing to learn from.")
    columns = {}
    for key, value in sorted(observation.items()):
        name = prefix + key
        array = np.asarray(value)
        if array.dtype.name not in DTYPE_NAMES:
            raise RoboprefError(f"column {name!r} holds {array.dtype} values, which a recording cannot keep.")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise RoboprefError(f"column {name!r} holds NaN or infinity.")
        columns[name] = _little_endian(array)
    return columns


def schema_of(columns: Columns) -> dict[str, ColumnSpec]:
    """The schema that the values of one step have."""
    return {name: ColumnSpec(value.dtype.name, value.shape) for name, value in columns.items()}


def episode_columns(episode: Episode) -> dict[str, NDArray[Any]]:
    """A whole episode's values by column [T, ...], then its final observation, checked as ``step_columns`` does.

    Raises:
        RoboprefError: naming the column at fault.
    """
    columns = observation_columns(episode.observation, OBSERVATION)
    for name in STEP_COLUMNS:
        columns[name] = _little_endian(np.asarray(getattr(episode, name)))
    for name in ("action", "policy_action", "human_action"):
        if columns[name].dtype.kind not in "iuf":
            raise RoboprefError(f"column {name!r} holds {columns[name].dtype} values; actions are floats or integers.")
        dtype = np.dtype(np.int64) if columns[name].dtype.kind in "iu" else columns["action"].dtype
        columns[name] = _little_endian(columns[name].astype(dtype, copy=False))
    if not np.isfinite(columns["reward"]).all():
        raise RoboprefError("column 'reward' holds NaN or infinity.")
    for name, dtype in _STEP_DTYPES.items():
        columns[name] = _little_endian(columns[name].astype(dtype, copy=False))
    if episode.final_observation:
        final = observation_columns(episode.final_observation, FINAL_OBSERVATION)
        seen = {FINAL_OBSERVATION + key for key in episode.observation}
        if set(final) != seen:
            raise RoboprefError(f"the final observation has {sorted(final)}, the steps have {sorted(seen)}.")
        for name, value in final.items():
            steps = columns[OBSERVATION + name.removeprefix(FINAL_OBSERVATION)]
            if (value.dtype, value.shape) != (steps.dtype, steps.shape[1:]):
                raise RoboprefError(f"column {name!r} is {value.dtype} {list(value.shape)}, unlike those of the steps.")
        columns |= final
    # A recorder's order: each final observation after the steps' own, so that equal episodes are equal files.
    return dict(sorted(columns.items(), key=lambda item: _place(item[0])))


def _place(name: str) -> tuple[int, str, bool]:
    if name in STEP_COLUMNS:
        return 1 + STEP_COLUMNS.index(name), "", False
    final = name.startswith(FINAL_OBSERVATION)
    return 0, name.removeprefix(FINAL_OBSERVATION if final else OBSERVATION), final


def steps_schema(columns: Columns) -> dict[str, ColumnSpec]:
    """The schema of the steps in the columns of an episode, in storage order."""
    steps = {name: value for name, value in columns.items() if not name.startswith(FINAL_OBSERVATION)}
    return {name: ColumnSpec(value.dtype.name, value.shape[1:]) for name, value in steps.items()}


def check_schema(schema: Schema, expected: Schema, where: str) -> None:
    """Raises RoboprefError saying how the two differ and that ``where`` keeps ``expected``."""
    if differing := schema_difference(schema, expected):
        raise RoboprefError(
            f"this step does not fit {where}: {differing}. Record other observations or actions into another directory."
        )


def schema_difference(schema: Schema, expected: Schema) -> str:
    """Which columns differ and how, in words; empty when none does."""
    describe: Callable[[ColumnSpec | None], str] = lambda spec: "absent" if spec is None else str(spec)  # noqa: E731
    names = list(expected) + [name for name in schema if name not in expected]
    differing = [
        f"{name!r} is {describe(schema.get(name))}, expected {describe(expected.get(name))}"
        for name in names
        if schema.get(name) != expected.get(name)
    ]
    return f"column {'; column '.join(differing)}" if differing else ""


def _checked_action(value: Any, name: str, like: NDArray[Any] | None) -> NDArray[Any]:
    array = np.asarray(value)
    if array.dtype.kind in "iu":
        array = array.astype(np.int64)
        if (array <= NULL_DISCRETE).any():
            raise RoboprefError(f"column {name!r} holds {array}: discrete actions are numbered from 0.")
    elif array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise RoboprefError(f"column {name!r} holds NaN or infinity: {array}.")
    else:
        raise RoboprefError(f"column {name!r} holds {array.dtype} values; actions are floats or integers.")
    if like is None:
        return _little_endian(array)
    if array.shape != like.shape or array.dtype.kind != like.dtype.kind:
        raise RoboprefError(
            f"column {name!r} is {array.dtype} {list(array.shape)}, the executed action is {like.dtype} "
            f"{list(like.shape)}."
        )
    return _little_endian(array.astype(like.dtype))


def _null_like(action: NDArray[Any]) -> NDArray[Any]:
    return np.full_like(action, np.nan if action.dtype.kind == "f" else NULL_DISCRETE)


def _little_endian(array: NDArray[Any]) -> NDArray[Any]:
    # Not ascontiguousarray alone: it turns a shape [] into [1].
    return np.require(array, array.dtype.newbyteorder("<"), "C")
