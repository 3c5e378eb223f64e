"""The ``meta`` folder of a LeRobotDataset that grows by an episode at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from robopref.errors import RoboprefError
from robopref.store.formats import lerobot_layout as layout
from robopref.store.formats.lerobot_layout import Feature, feature_from_json, file_path
from robopref.store.formats.lerobot_statistics import NAMES, Stats, merged_all
from robopref.store.formats.lerobot_tables import (
    read_table,
    read_tasks,
    tasks_table,
    write_json,
    write_row,
    write_table,
)
from robopref.store.formats.lerobot_video import PixelError

EPISODE_ID, OUTCOME, EPISODE_INFO = "robopref/episode_id", "robopref/outcome", "robopref/info"
"""Columns of the episodes files beside LeRobot's: id, outcome and the whole ``EpisodeInfo`` as JSON."""

_ROBOT = "unknown"


def read_info(path: Path) -> dict[str, Any]:
    """``meta/info.json`` of a data set, as far as every reader needs it.

    Raises:
        RoboprefError: it is missing, damaged, or of another version.
    """
    file = path / layout.INFO
    try:
        info = json.loads(file.read_bytes())
        version = info["codebase_version"]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RoboprefError(f"{path} is no LeRobotDataset: it has no {layout.INFO}.") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RoboprefError(f"{file} is damaged ({error!r}).") from error
    if version != layout.VERSION:
        raise RoboprefError(
            f"{path} is a LeRobotDataset {version}; only {layout.VERSION} is read. LeRobot's own script "
            "convert_dataset_v21_to_v30 converts a v2.1."
        )
    try:
        fps = float(info["fps"])
        whole: dict[str, Any] = {"fps": int(fps) if fps.is_integer() else fps, "features": dict(info["features"])}
        whole |= {key: int(info[key]) for key in ("total_episodes", "total_frames")}
        if not fps > 0:
            raise ValueError(f"fps is {fps}")
    except (ValueError, KeyError, TypeError) as error:
        raise RoboprefError(f"{file} is damaged ({error!r}).") from error
    return dict(info) | whole


class Metadata:
    """What is written of a data set so far: ``episodes`` and ``frames`` of them, with these ``features``."""

    def __init__(self, path: Path, fps: int, features: Mapping[str, Feature], features_json: dict[str, Any]) -> None:
        self.path, self.fps = path, fps
        self.features = features
        self.features_json = features_json
        self.episodes = self.frames = 0
        self.episode_ids: list[str] = []
        self._tasks: list[str] = []
        self._stats: dict[str, Stats] = {}

    @classmethod
    def create(cls, path: Path, fps: int, features: Mapping[str, Feature]) -> Self:
        """Begin a data set.

        Raises:
            RoboprefError: the place cannot be written.
        """
        metadata = cls(path, fps, features, {name: feature.to_json() for name, feature in features.items()})
        metadata._write_info()
        return metadata

    @classmethod
    def open_to_append(cls, path: Path) -> Self:
        """Go on with a data set that this wrote.

        Raises:
            RoboprefError: it is damaged, of another version, or something else wrote it or added to it.
        """
        info = read_info(path)
        features = {name: feature_from_json(name, entry, str(path)) for name, entry in info["features"].items()}
        if not features.get("actor", Feature("", "", ())).column:
            raise RoboprefError(f"{path} was not exported by robopref: choose another path.")
        metadata = cls(path, info["fps"], features, info["features"])
        for index in range(info["total_episodes"]):
            metadata._take(index)
        if metadata.frames != info["total_frames"]:
            raise RoboprefError(f"{path}: {layout.INFO} and the episodes files disagree on the number of steps.")
        if (path / layout.TASKS).exists():
            metadata._tasks = read_tasks(path / layout.TASKS)
        return metadata

    def _take(self, index: int) -> None:
        file = self.path / file_path(layout.EPISODES_PATH, index)
        table = read_table(file)
        rows = table.to_pylist()
        if len(rows) != 1 or rows[0].get("episode_index") != index or not rows[0].get(EPISODE_ID):
            raise RoboprefError(f"{file} was changed by another program: export to another path.")
        row = rows[0]
        stats = {
            name: {stat: np.array(row[f"stats/{name}/{stat}"]) for stat in NAMES if f"stats/{name}/{stat}" in row}
            for name in self.features
        }
        self._stats = merged_all(self._stats, stats)
        self.episodes, self.frames = index + 1, self.frames + row["length"]
        self.episode_ids.append(row[EPISODE_ID])

    def check_fits(self, features: Mapping[str, Feature]) -> None:
        """Raises RoboprefError unless these are the features of the data set."""
        expected = {name: _comparable(entry) for name, entry in self.features_json.items()}
        given = {name: _comparable(feature.to_json()) for name, feature in features.items()}
        for name in [*expected, *(name for name in given if name not in expected)]:
            if given.get(name) != expected.get(name):
                raise RoboprefError(
                    f"{self.path} has other features: {name!r} is {_told(expected.get(name))} there and "
                    f"{_told(given.get(name))} here. Export to another path."
                )

    def remove_unfinished(self) -> None:
        """Remove what an interrupted export left of an episode that ``info.json`` does not count."""
        templates = [layout.DATA_PATH, layout.EPISODES_PATH, layout.FINAL_PATH]
        left = [self.path / file_path(template, self.episodes) for template in templates]
        for name, feature in self.features.items():
            if feature.dtype == "video":
                left.append(self.path / file_path(layout.VIDEO_PATH, self.episodes, name))
        for file in [*left, *self.path.rglob("*.tmp")]:
            file.unlink(missing_ok=True)

    def add_task(self, instruction: str) -> int:
        """The number of an instruction, which a new one gets."""
        if instruction not in self._tasks:
            tasks = [*self._tasks, instruction]
            write_table(self.path / layout.TASKS, tasks_table(tasks))
            self._tasks = tasks
        return self._tasks.index(instruction)

    def finish_episode(
        self,
        length: int,
        task: int,
        stats: Mapping[str, Stats],
        errors: Mapping[str, PixelError],
        extra: Mapping[str, str],
    ) -> None:
        """Count an episode whose other files are written. ``stats``, ``errors``: by feature; ``extra``: by column."""
        index = self.episodes
        chunk, file = divmod(index, layout.FILES_PER_CHUNK)
        row: dict[str, Any] = {"episode_index": index, "tasks": [self._tasks[task]], "length": length}
        row |= {"data/chunk_index": chunk, "data/file_index": file}
        row |= {"dataset_from_index": self.frames, "dataset_to_index": self.frames + length}
        for name in errors:
            row |= {f"videos/{name}/chunk_index": chunk, f"videos/{name}/file_index": file}
            row |= {f"videos/{name}/from_timestamp": 0.0, f"videos/{name}/to_timestamp": length / self.fps}
        for name, of_feature in stats.items():
            row |= {f"stats/{name}/{stat}": of_feature[stat].tolist() for stat in NAMES}
        row |= {"meta/episodes/chunk_index": chunk, "meta/episodes/file_index": file} | dict(extra)
        write_row(self.path / file_path(layout.EPISODES_PATH, index), row)
        self._stats = merged_all(self._stats, stats)
        for name, error in errors.items():
            self._note_error(name, error, length)
        self.episodes, self.frames = index + 1, self.frames + length
        self.episode_ids.append(extra[EPISODE_ID])
        told = {name: {s: of[s].tolist() for s in NAMES} for name, of in self._stats.items()}
        write_json(self.path / layout.STATS, told)
        self._write_info()

    def _note_error(self, name: str, error: PixelError, length: int) -> None:
        info = self.features_json[name]["info"]
        mean_key, greatest_key = layout.ERROR_KEYS
        before = info.get(mean_key, 0.0) * self.frames
        info[mean_key] = (before + error.mean * length) / (self.frames + length)
        info[greatest_key] = max(info.get(greatest_key, 0), error.greatest)

    def _write_info(self) -> None:
        video = any(feature.dtype == "video" for feature in self.features.values())
        info = {
            "codebase_version": layout.VERSION,
            "fps": self.fps,
            "features": self.features_json,
            "total_episodes": self.episodes,
            "total_frames": self.frames,
            "total_tasks": len(self._tasks),
            "chunks_size": layout.FILES_PER_CHUNK,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "data_path": layout.DATA_PATH,
            "video_path": layout.VIDEO_PATH if video else None,
            "robot_type": _ROBOT,
            "splits": {"train": f"0:{self.episodes}"},
        }
        write_json(self.path / layout.INFO, info)


def _comparable(entry: Mapping[str, Any]) -> dict[str, Any]:
    info = {key: value for key, value in (entry.get("info") or {}).items() if key not in layout.ERROR_KEYS}
    return dict(entry) | {"info": info}


def _told(entry: Mapping[str, Any] | None) -> str:
    return "absent" if entry is None else f"{entry['dtype']} {entry['shape']}"
