"""Which LeRobot feature holds which column of a recording, and where the files of a LeRobotDataset v3.0 lie.

A feature made from a recording says so in its ``info``: ``robopref.column``, ``robopref.dtype``, ``robopref.shape``.
LeRobot and its tools carry that along unread, and the importer goes by it instead of by names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from robopref.errors import RoboprefError
from robopref.store.encoding import OBSERVATION, ColumnSpec, Schema

VERSION = "v3.0"
FILES_PER_CHUNK = 1000
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
FINAL_PATH = "meta/robopref/final/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
INFO, STATS, TASKS = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"

COLUMN_KEY, DTYPE_KEY, SHAPE_KEY = "robopref.column", "robopref.dtype", "robopref.shape"
ERROR_KEYS = ("robopref.mean_abs_error", "robopref.max_abs_error")

STEP_NAMES: Mapping[str, str] = {
    "action": "action",
    "policy_action": "policy_action",
    "human_action": "human_action",
    "actor": "actor",
    "segment_id": "segment_id",
    "reward": "next.reward",
    "terminated": "next.terminated",
    "truncated": "next.truncated",
    "success": "next.success",
    "t_monotonic_ns": "t_monotonic_ns",
}
"""LeRobot's names for a recording's columns. It takes what begins with ``action`` or ``observation`` to be a policy's
output or input, so that no other name may begin like that."""

GIVEN = {"policy_action": "has_policy_action", "human_action": "has_human_action"}
"""Which feature says whether there was such an action. Where there was none it is 0 (or ``NULL_DISCRETE``) and not NaN,
of which LeRobot's tools make missing values that LeRobot cannot load."""

DERIVED = ("intervention", "next.done", *GIVEN.values())
"""Features that follow from others; the first two LeRobot knows: a human drove, the episode is over."""

DEFAULTS = {"timestamp": "float32", "frame_index": "int64", "episode_index": "int64", "index": "int64"} | {
    "task_index": "int64"
}
"""LeRobot's own bookkeeping: every data set has it."""

MAX_DIMENSIONS = 5
_IMAGE_NAMES = ["height", "width", "channels"]


@dataclass(frozen=True)
class Feature:
    """One feature of a data set: ``dtype`` is NumPy's name, ``image`` or ``video``; ``shape`` is that of one step.

    ``column`` and ``spec`` are the recording's column behind it and what one step is there; empty for LeRobot's own.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    column: str = ""
    spec: ColumnSpec | None = None
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def visual(self) -> bool:
        """Whether it is pictures."""
        return self.dtype in ("image", "video")

    def to_json(self) -> dict[str, Any]:
        """As ``info.json`` holds it."""
        told: dict[str, Any] = {"dtype": self.dtype, "shape": list(self.shape)}
        told["names"] = _IMAGE_NAMES if self.visual else None
        info = dict(self.info)
        if self.spec is not None:
            info |= {COLUMN_KEY: self.column, DTYPE_KEY: self.spec.dtype, SHAPE_KEY: list(self.spec.shape)}
        return told | ({"info": info} if info else {})


def file_path(template: str, index: int, video_key: str = "") -> str:
    """The path of the index-th file of a kind: one file for each episode."""
    chunk, file = divmod(index, FILES_PER_CHUNK)
    return template.format(chunk_index=chunk, file_index=file, video_key=video_key)


def features_of(schema: Schema, images: Literal["png", "video"]) -> dict[str, Feature]:
    """The features for recordings of a schema, by name, in the order of ``info.json``.

    Raises:
        RoboprefError: a column has a shape that no feature can have.
    """
    features: dict[str, Feature] = {}
    keys = [name.removeprefix(OBSERVATION) for name in schema if name.startswith(OBSERVATION)]
    for key in keys:
        spec = schema[OBSERVATION + key]
        dtype = _visual_dtype(spec, images) or spec.dtype
        name = _free_name(_observation_name(key, dtype, keys), features)
        features[name] = _feature(name, dtype, OBSERVATION + key, spec)
    for column, name in STEP_NAMES.items():
        features[name] = _feature(name, schema[column].dtype, column, schema[column])
    features |= {name: Feature(name, "bool", (1,)) for name in DERIVED}
    features |= {name: Feature(name, dtype, (1,)) for name, dtype in DEFAULTS.items()}
    return features


def _feature(name: str, dtype: str, column: str, spec: ColumnSpec) -> Feature:
    if len(spec.shape) > MAX_DIMENSIONS or 0 in spec.shape:
        raise RoboprefError(
            f"column {column!r} is {spec}: LeRobot holds values of up to {MAX_DIMENSIONS} dimensions, none empty."
        )
    return Feature(name, dtype, spec.shape or (1,), column, spec)


def _visual_dtype(spec: ColumnSpec, images: Literal["png", "video"]) -> str:
    """``image`` or ``video`` for uint8 [H, W, 3] and [H, W, 1]; empty for what is no picture.

    LeRobot decodes every video to three channels, hence one channel stays a PNG.
    """
    if spec.dtype != "uint8" or len(spec.shape) != 3 or spec.shape[2] not in (1, 3):
        return ""
    return "video" if images == "video" and spec.shape[2] == 3 else "image"


def _observation_name(key: str, dtype: str, keys: Iterable[str]) -> str:
    if dtype in ("image", "video"):
        return "observation.images." + key.removeprefix("images/").replace("/", ".")
    if key == "proprio":
        return "observation.state"
    if key == "state" and "proprio" in keys:
        return "observation.environment_state"  # what a simulator knows beside what the robot feels
    # LeRobot expects the statistics of a picture for everything with "image" in its name.
    return "observation." + key.replace("/", ".").replace("image", "pixels")


def _free_name(name: str, taken: Mapping[str, Feature]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free


def feature_from_json(name: str, entry: Mapping[str, Any], where: str) -> Feature:
    """One entry of ``features`` in an ``info.json``.

    Raises:
        RoboprefError: it is none.
    """
    try:
        info = entry.get("info") or {}
        spec = None
        if COLUMN_KEY in info:
            spec = ColumnSpec(np.dtype(info[DTYPE_KEY]).name, tuple(int(n) for n in info[SHAPE_KEY]))
        shape = tuple(int(n) for n in entry["shape"]) or (1,)
        return Feature(name, str(entry["dtype"]), shape, str(info.get(COLUMN_KEY, "")), spec, info)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RoboprefError(f"{where}: the feature {name!r} is damaged ({error!r}).") from error
