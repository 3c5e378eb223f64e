"""The episodes of a LeRobotDataset v3.0, whoever wrote it, one after another with their values.

A data file may hold several episodes, and so may a video; an episode is read in pieces, its pictures into a file of
their own once they are large.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from robopref.errors import RoboprefError
from robopref.store.formats import lerobot_layout as layout
from robopref.store.formats.lerobot_layout import Feature, feature_from_json
from robopref.store.formats.lerobot_metadata import EPISODE_INFO, read_info
from robopref.store.formats.lerobot_tables import decode_image, from_arrow, read_tasks, reading
from robopref.store.formats.lerobot_video import read_video

MEMORY_BYTES = 64 * 2**20
"""Larger arrays of an episode lie in a temporary file."""

_BATCH = 64  # steps that are decoded at a time


@dataclass(frozen=True)
class EpisodeRow:
    """An episode as the episodes files describe it; ``videos``: file and time of the first picture, by feature."""

    index: int
    length: int
    tasks: tuple[str, ...]
    data: Path
    videos: Mapping[str, tuple[Path, float]]
    extra: Mapping[str, Any]

    @property
    def task(self) -> str:
        """The first of its instructions."""
        return self.tasks[0]

    @property
    def own(self) -> bool:
        """Whether an export of ours noted what a recording knows of the episode."""
        return bool(self.extra.get(EPISODE_INFO))


class Source:
    """What a data set says of itself: ``info``, ``features`` and ``rows``.

    Raises:
        RoboprefError: the path is no LeRobotDataset v3.0, or its ``meta`` folder is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.info = read_info(path)
        where = str(path / layout.INFO)
        self.features = {name: feature_from_json(name, entry, where) for name, entry in self.info["features"].items()}
        if self.info["total_episodes"] == 0:
            raise RoboprefError(f"{path} holds no episodes.")
        self.tasks = read_tasks(path / layout.TASKS)
        self.rows = self._read_rows()

    @property
    def fps(self) -> float:
        """Steps per second."""
        return float(self.info["fps"])

    def _read_rows(self) -> list[EpisodeRow]:
        rows: dict[int, EpisodeRow] = {}
        for file in sorted((self.path / "meta/episodes").glob("*/*.parquet")):
            with reading(file):
                names = [name for name in pq.read_schema(file).names if not name.startswith("stats/")]
                table = pq.read_table(file, columns=names, partitioning=None)
            for row in table.to_pylist():
                episode = self._row(row, file)
                rows[episode.index] = episode
        total = self.info["total_episodes"]  # what is beyond was being written when an export was interrupted
        absent = [index for index in range(total) if index not in rows]
        if absent:
            raise RoboprefError(f"{self.path} has {total} episodes, but meta/episodes lacks number {absent[0]}.")
        return [rows[index] for index in range(total)]

    def _row(self, row: Mapping[str, Any], file: Path) -> EpisodeRow:
        try:
            places = {"chunk_index": row["data/chunk_index"], "file_index": row["data/file_index"]}
            data = self.path / str(self.info.get("data_path") or layout.DATA_PATH).format(**places)
            videos = {}
            for name, feature in self.features.items():
                if feature.dtype == "video":
                    template = str(self.info.get("video_path") or layout.VIDEO_PATH)
                    places = {key: row[f"videos/{name}/{key}"] for key in ("chunk_index", "file_index")}
                    video = self.path / template.format(video_key=name, **places)
                    videos[name] = (video, float(row[f"videos/{name}/from_timestamp"]))
            tasks = tuple(str(task) for task in row["tasks"] or [""])
            extra = {key: value for key, value in row.items() if key.startswith("robopref/")}
            return EpisodeRow(int(row["episode_index"]), int(row["length"]), tasks, data, videos, extra)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise RoboprefError(f"{file}: an episode is described incompletely ({error!r}).") from error

    def episodes(
        self, rows: Sequence[EpisodeRow], names: Sequence[str], folder: Path
    ) -> Iterator[tuple[EpisodeRow, dict[str, NDArray[Any]]]]:
        """These episodes with the values [T, ...] of the named features; large ones in temporary files in a folder.

        Raises:
            RoboprefError: naming the file, the episode and the feature at fault.
        """
        features = [self.features[name] for name in names]
        for data, within in groupby(rows, key=lambda row: row.data):
            for row, values in self._from_file(data, {row.index: row for row in within}, features, folder):
                for feature in features:
                    if feature.dtype == "video":
                        values[feature.name] = self._video(row, feature, folder)
                yield row, values

    def _from_file(
        self, data: Path, rows: Mapping[int, EpisodeRow], features: Sequence[Feature], folder: Path
    ) -> Iterator[tuple[EpisodeRow, dict[str, NDArray[Any]]]]:
        stored = [feature for feature in features if feature.dtype != "video"]
        names = list(dict.fromkeys(["episode_index", "frame_index", *(feature.name for feature in stored)]))
        with reading(data):
            file = pq.ParquetFile(data)
        absent = [name for name in names if name not in file.schema_arrow.names]
        if absent:
            raise RoboprefError(f"{data} lacks the feature {absent[0]!r}.")
        unread, collected = list(rows), None
        for index, batch in _runs(file, names, data):
            if collected is None or collected.row.index != index:
                if collected is not None:
                    yield collected.row, collected.finished()
                collected = None
                if index in unread:
                    unread.remove(index)
                    collected = _Collected(rows[index], stored, folder)
                elif index in rows:
                    raise RoboprefError(f"{data}: the steps of episode {index} do not lie together.")
            if collected is not None:
                collected.add(batch)
        if collected is not None:
            yield collected.row, collected.finished()
        if unread:
            raise RoboprefError(f"{data} lacks episode {unread[0]}.")

    def _video(self, row: EpisodeRow, feature: Feature, folder: Path) -> NDArray[Any]:
        file, start = row.videos[feature.name]
        shape = picture_shape(feature)
        frames = _room((row.length, *shape), np.dtype(np.uint8), folder)
        where = f"{feature.name} of episode {row.index}"
        for step, frame in enumerate(read_video(file, start, row.length, self.fps, where)):
            if frame.shape != shape:
                raise RoboprefError(f"{file}: the pictures {where} are {list(frame.shape)}, expected {list(shape)}.")
            frames[step] = frame
        return frames


class _Collected:
    """The values of one episode as they come in."""

    def __init__(self, row: EpisodeRow, features: Sequence[Feature], folder: Path) -> None:
        self.row, self._features, self._steps = row, features, 0
        self._values = {}
        for feature in features:
            shape = picture_shape(feature) if feature.visual else feature.shape
            dtype = np.dtype(np.uint8) if feature.visual else np.dtype(feature.dtype)
            self._values[feature.name] = _room((row.length, *shape), dtype, folder)

    def add(self, batch: pa.RecordBatch) -> None:
        begin, end = self._steps, self._steps + batch.num_rows
        where = f"{self.row.data}, episode {self.row.index}"
        frames = batch.column("frame_index").to_numpy(zero_copy_only=False)
        if end > self.row.length or (frames != np.arange(begin, end)).any():
            raise RoboprefError(f"{where}: steps are missing, too many or out of order (about step {begin}).")
        for feature in self._features:
            values, column = self._values[feature.name], batch.column(feature.name)
            if feature.visual:
                for offset, picture in enumerate(_picture_files(column, feature, where)):
                    told = f"{where}, step {begin + offset}, {feature.name!r}"
                    values[begin + offset] = decode_image(picture, values.shape[1:], told)
            else:
                values[begin:end] = from_arrow(column, feature, where)
        self._steps = end

    def finished(self) -> dict[str, NDArray[Any]]:
        if self._steps != self.row.length:
            raise RoboprefError(
                f"{self.row.data} has {self._steps} steps of episode {self.row.index}, which has {self.row.length}."
            )
        return self._values


def picture_shape(feature: Feature) -> tuple[int, ...]:
    """[H, W, C] of a visual feature; its own shape may have the channels first.

    Raises:
        RoboprefError: the feature is no picture of one or three channels.
    """
    shape = feature.shape
    if len(shape) == 3 and shape[2] in (1, 3):
        return shape
    if len(shape) == 3 and shape[0] in (1, 3):
        return (shape[1], shape[2], shape[0])
    raise RoboprefError(f"the feature {feature.name!r} is a picture of shape {list(shape)}: 1 or 3 channels are read.")


def _runs(file: pq.ParquetFile, names: list[str], path: Path) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Pieces of a data file, none of which has steps of two episodes, with the episode's index."""
    batches = file.iter_batches(_BATCH, columns=names)
    while True:
        with reading(path):
            batch = next(batches, None)
        if batch is None:
            return
        episodes = batch.column("episode_index").to_numpy(zero_copy_only=False)
        edges = [0, *(np.flatnonzero(np.diff(episodes)) + 1).tolist(), len(episodes)]
        for begin, end in pairwise(edges):
            yield int(episodes[begin]), batch.slice(begin, end - begin)


def _picture_files(column: pa.Array, feature: Feature, where: str) -> list[bytes | None]:
    if not pa.types.is_struct(column.type) or column.type.get_field_index("bytes") < 0:
        raise RoboprefError(f"{where}: the pictures {feature.name!r} are {column.type}, expected bytes and path.")
    return [None if picture is None else picture["bytes"] for picture in column.to_pylist()]


def _room(shape: tuple[int, ...], dtype: np.dtype[Any], folder: Path) -> NDArray[Any]:
    if int(np.prod(shape, dtype=np.int64)) * dtype.itemsize <= MEMORY_BYTES:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile(dir=folder) as file:  # gone with the array that maps it
        return np.memmap(file, dtype, "w+", shape=shape)
