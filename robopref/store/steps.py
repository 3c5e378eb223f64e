"""Every step of a store by number, for training: chosen columns of chosen steps, without reading an episode.

Opening reads the headers only. A step is read from its place in the file straight into the batch, so that memory holds
the index (a few numbers for each episode) and what was asked for, however much is on the disk. Of a column held as
video the frames from the keyframe before are decoded.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robopref.errors import RoboprefError
from robopref.store.encoding import ColumnSpec, schema_difference
from robopref.store.episode_file import VIDEO_BYTES, EpisodeHeader
from robopref.store.store import EpisodeStore
from robopref.store.video import FilePart, VideoColumn, VideoFrames


class StepReader:
    """The N steps of a store's finished episodes, in the order of the episodes' ids.

    May be pickled, forked and used by several threads at once, as data loaders do.

    Args:
        store: where from; episodes that are finished later are not seen.
        columns: what to read, for example ``("observation/image", "action")``; all columns if not given.
        ids: which episodes; all if not given.
        open_files: how many files are kept open at a time.
        open_videos: how many videos likewise; each takes its decoder's memory.

    Attributes:
        episode_ids: of the episodes.
        lengths: steps of each episode, int64 [E].
        columns: type and shape of each column's values.

    Raises:
        RoboprefError: no steps, a damaged episode, an unknown column, or episodes of different columns.
    """

    def __init__(
        self,
        store: EpisodeStore,
        columns: Sequence[str] | None = None,
        *,
        ids: Sequence[str] | None = None,
        open_files: int = 128,
        open_videos: int = 32,
    ) -> None:
        self.episode_ids = list(store.episode_ids() if ids is None else ids)
        if not self.episode_ids:
            raise RoboprefError(f"{store.path} has no finished episode to read steps of.")
        self._folder, self._open_files, self._open_videos = store.path / "episodes", open_files, open_videos
        first = store.header(self.episode_ids[0])
        self.columns = _chosen(first, columns)
        self.lengths = np.empty(len(self.episode_ids), np.int64)
        self._places: dict[str, list[int]] = {name: [] for name in self.columns}  # of each episode's first value
        self._held_as_video: dict[tuple[int, str], tuple[int, VideoColumn]] = {}  # bytes, and what they are
        for e, episode_id in enumerate(self.episode_ids):
            header = store.header(episode_id)
            if {name: header.columns.get(name) for name in self.columns} != self.columns:
                raise RoboprefError(
                    f"the episode {episode_id} has other columns than {self.episode_ids[0]}: "
                    f"{schema_difference(header.columns, first.columns)}."
                )
            self.lengths[e] = header.steps
            for name, places in self._places.items():
                held_as = VIDEO_BYTES + name if name in header.video else name
                _, _, begin, end = header.tensors[held_as]
                places.append(header.data_start + begin)
                if name in header.video:
                    self._held_as_video[e, name] = (end - begin, header.video[name])
        self._videos: OrderedDict[tuple[int, str], VideoFrames] = OrderedDict()
        self._starts = np.concatenate([[0], np.cumsum(self.lengths)])
        self._bounds: list[int] = self._starts.tolist()
        self._files: OrderedDict[int, _OpenFile] = OrderedDict()  # by episode, the longest unused first
        self._lock = Lock()

    def __len__(self) -> int:
        return self._bounds[-1]

    def __getitem__(self, index: int) -> dict[str, NDArray[Any]]:
        """One step's values by column. Raises like ``read``."""
        if not 0 <= index < len(self):
            raise RoboprefError(f"steps are numbered 0 to {len(self) - 1}, not {index}.")
        # Not by way of ``read``: for a single step, arrays of numbers cost more than the reading.
        episode = bisect_right(self._bounds, index) - 1
        step, file = index - self._bounds[episode], self._file(episode)
        result: dict[str, NDArray[Any]] = {}
        for name, spec in self.columns.items():
            if (episode, name) in self._held_as_video:
                result[name] = self._frame(file, episode, name, step)
                continue
            result[name] = value = np.empty(spec.shape, _dtype(spec))
            if value.nbytes:
                file.read_into(value.data.cast("B"), self._places[name][episode] + step * value.nbytes)
        return result

    def locate(self, indices: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Episode numbers [B] (places in ``episode_ids``) and step numbers within them [B] of step numbers [B].

        Raises:
            RoboprefError: there is no such step.
        """
        indices = np.asarray(indices, np.int64).reshape(-1)
        if len(indices) and (indices.min() < 0 or indices.max() >= len(self)):
            raise RoboprefError(f"steps are numbered 0 to {len(self) - 1}, not {indices.min()} to {indices.max()}.")
        episodes = np.searchsorted(self._starts, indices, side="right") - 1
        return episodes.astype(np.int64), indices - self._starts[episodes]

    def read(self, indices: ArrayLike, columns: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """The steps with these numbers, in their order, as arrays [B, ...] by column.

        Raises:
            RoboprefError: no such step or column, or a file is no longer what it was when this was opened.
        """
        episodes, steps = self.locate(indices)
        chosen = self.columns if columns is None else {name: self._column(name) for name in columns}
        result = {name: np.empty((len(steps), *spec.shape), _dtype(spec)) for name, spec in chosen.items()}
        targets = [
            (name, memoryview(values.reshape(-1).view(np.uint8).data), chosen[name].nbytes, self._places[name])
            for name, values in result.items()
        ]
        number, step = episodes.tolist(), steps.tolist()
        for b in np.lexsort((steps, episodes)).tolist() if len(steps) > 1 else range(len(steps)):
            file = self._file(number[b])  # a file at a time, forwards
            for name, into, size, places in targets:
                if (number[b], name) in self._held_as_video:
                    result[name][b] = self._frame(file, number[b], name, step[b])
                    continue
                file.read_into(into[b * size : (b + 1) * size], places[number[b]] + step[b] * size)
        return result

    def _column(self, name: str) -> ColumnSpec:
        if name not in self.columns:
            raise RoboprefError(f"the column {name!r} is not among those read: {list(self.columns)}.")
        return self.columns[name]

    def close(self) -> None:
        """Close the files; a later read opens them again."""
        with self._lock:
            self._files.clear()
            self._videos.clear()

    def __getstate__(self) -> Mapping[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_files", "_videos", "_lock")}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._files, self._videos, self._lock = OrderedDict(), OrderedDict(), Lock()

    def _file(self, episode: int) -> _OpenFile:
        with self._lock:
            file = self._files.pop(episode, None)
            if file is None:
                file = _OpenFile(f"{self._folder}/{self.episode_ids[episode]}.safetensors")
            self._files[episode] = file
            if len(self._files) > self._open_files:
                self._files.popitem(last=False)
            return file

    def _frame(self, file: _OpenFile, episode: int, name: str, step: int) -> NDArray[np.uint8]:
        with self._lock:
            video = self._videos.pop((episode, name), None)
        try:
            if video is None:
                size, column = self._held_as_video[episode, name]
                part = FilePart(file.descriptor, self._places[name][episode], size, keep=file)
                video = VideoFrames(part, column)
            frame = video[step]
        except RoboprefError as error:
            raise RoboprefError(f"{file.path}, column {name!r}: {error}") from error
        with self._lock:  # not before: a decoder serves one thread at a time
            self._videos[episode, name] = video
            if len(self._videos) > self._open_videos:
                self._videos.popitem(last=False)
        return frame


class _OpenFile:
    """Closed when nobody uses it any more, be it that another thread has dropped it from those kept open."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self.descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise RoboprefError(f"cannot read {path} ({error.strerror}): was it moved? Open the store anew.") from error

    def read_into(self, into: memoryview, place: int) -> None:
        if os.preadv(self.descriptor, [into], place) != len(into):
            raise RoboprefError(f"{self.path} is no longer whole: have the directory looked at by robopref data check.")

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


def _dtype(spec: ColumnSpec) -> np.dtype[Any]:
    return np.dtype(spec.dtype).newbyteorder("<")


def _chosen(header: EpisodeHeader, columns: Sequence[str] | None) -> dict[str, ColumnSpec]:
    if columns is None:
        return header.columns
    if unknown := [name for name in columns if name not in header.columns]:
        raise RoboprefError(f"there is no column {unknown[0]!r}; there are {list(header.columns)}.")
    return {name: header.columns[name] for name in columns}
