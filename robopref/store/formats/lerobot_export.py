"""A store as a LeRobotDataset v3.0: a data file, an episodes file and its videos for each episode.

``info.json`` says how many episodes there are and is replaced last, so that an interrupted export is a valid data set
of the finished ones; the files of an unfinished one are replaced when the export goes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from robopref.errors import RoboprefError
from robopref.store.encoding import Schema, episode_columns, info_to_json, steps_schema
from robopref.store.formats import lerobot_layout as layout
from robopref.store.formats.base import Conversion, ConversionOptions
from robopref.store.formats.lerobot_layout import Feature, file_path
from robopref.store.formats.lerobot_metadata import EPISODE_ID, EPISODE_INFO, OUTCOME, Metadata
from robopref.store.formats.lerobot_rate import frame_rate, require_rate
from robopref.store.formats.lerobot_statistics import ImageStats, Stats, vector_stats
from robopref.store.formats.lerobot_tables import (
    PARQUET_OPTIONS,
    data_schema,
    encode_png,
    images_to_arrow,
    to_arrow,
    whole_file,
    write_table,
)
from robopref.store.formats.lerobot_video import PixelError, measure, video_info, write_video
from robopref.store.store import EpisodeStore
from robopref.trajectory import Actor, Episode, is_null_action

ROW_GROUP_BYTES = 64 * 2**20
"""Of pictures and values that are collected before they are written: what an export needs of memory."""


def export_lerobot(store: EpisodeStore, path: Path, options: ConversionOptions) -> Conversion:
    """Write the episodes of a store as a LeRobotDataset v3.0, or append to one that this wrote.

    Raises:
        RoboprefError: the path is taken, the store has no episodes, an observation has a shape that the format cannot
            hold, the episodes or the rate are not those of the data set appended to, or the disk is full. Finished
            episodes stay.
    """
    ids = store.episode_ids()
    if not ids:
        raise RoboprefError(f"{store.path} has no finished episodes: there is nothing to export.")
    schema = steps_schema(episode_columns(store.read(ids[0])))
    features = layout.features_of(schema, options.images)
    metadata, invented = _target(store, ids, path, options, features)
    known = set(metadata.episode_ids)
    steps, written = 0, 0
    partly: Counter[str] = Counter()
    for done, episode_id in enumerate(ids):
        options.progress(done, len(ids))
        if episode_id in known:
            continue
        episode = store.read(episode_id)
        write_episode(metadata, episode)
        partly.update({column: _partly_missing(getattr(episode, column)) for column in layout.GIVEN})
        steps, written = steps + len(episode), written + 1
    options.progress(len(ids), len(ids))
    skipped = tuple(f"{episode_id}: {path} has it already." for episode_id in ids if episode_id in known)
    return Conversion(written, steps, tuple(_lost(metadata, partly)), invented, skipped)


def _target(
    store: EpisodeStore, ids: list[str], path: Path, options: ConversionOptions, features: dict[str, Feature]
) -> tuple[Metadata, tuple[str, ...]]:
    """The data set to write to, made or opened, and what is said of its rate."""
    if _is_taken(path):
        if not options.append:
            raise RoboprefError(f"{path} exists already: choose another path, or append to it.")
        metadata = Metadata.open_to_append(path)
        metadata.check_fits({name: _with_video_info(feature, metadata.fps) for name, feature in features.items()})
        if options.fps is not None and options.fps != metadata.fps:
            raise RoboprefError(f"{path} has {metadata.fps} steps per second, not {options.fps:g}.")
        known = set(metadata.episode_ids)
        new = [episode_id for episode_id in ids if episode_id not in known]
        if new and options.fps is None:
            require_rate(store, new, path, metadata.fps)
        metadata.remove_unfinished()
        return metadata, ()
    fps, how = frame_rate(store, ids, options.fps)
    features = {name: _with_video_info(feature, fps) for name, feature in features.items()}
    return Metadata.create(path, fps, features), (how,)


def _is_taken(path: Path) -> bool:
    if path.is_dir():  # an export may have died before its first file was complete
        return any(file.suffix != ".tmp" for file in path.rglob("*") if not file.is_dir())
    return path.exists()


def _with_video_info(feature: Feature, fps: int) -> Feature:
    if feature.dtype != "video":
        return feature
    return replace(feature, info=video_info(feature.shape, fps, feature.column))


def write_episode(metadata: Metadata, episode: Episode) -> None:
    """Write the files of one more episode, ``info.json`` last.

    Raises:
        RoboprefError: naming the episode; the data set is as before, but for files that nothing refers to.
    """
    try:
        columns = episode_columns(episode)
        _check_schema(steps_schema(columns), metadata.features)
        stats: dict[str, Stats] = {}
        errors: dict[str, PixelError] = {}
        for feature in metadata.features.values():
            if feature.dtype == "video":
                frames = columns[feature.column]
                stats[feature.name], errors[feature.name] = _write_video(metadata, feature, frames)
        task = metadata.add_task(episode.info.instruction or episode.info.task)
        values = _values(metadata, columns, task)
        stats |= _write_data(metadata, values)
        _write_final(metadata, columns, episode.info.episode_id)
        ordered = {name: stats[name] for name in metadata.features}
        extra = {
            EPISODE_ID: episode.info.episode_id,
            OUTCOME: str(episode.info.outcome),
            EPISODE_INFO: info_to_json(episode.info),
        }
        metadata.finish_episode(len(episode), task, ordered, errors, extra)
    except RoboprefError as error:
        raise RoboprefError(f"the episode {episode.info.episode_id} could not be exported: {error}") from error


def _check_schema(schema: Schema, features: Mapping[str, Feature]) -> None:
    expected = {feature.column: feature.spec for feature in features.values() if feature.spec is not None}
    for column in sorted(set(schema) | set(expected)):
        if schema.get(column) != expected.get(column):
            raise RoboprefError(f"column {column!r} is {schema.get(column)}, expected {expected.get(column)}.")


def _values(metadata: Metadata, columns: Mapping[str, NDArray[Any]], task: int) -> dict[str, NDArray[Any]]:
    """Every feature's values [T, ...] but those of videos."""
    length = len(columns["actor"])
    frames = np.arange(length)
    derived = {
        "intervention": columns["actor"] == Actor.HUMAN,
        "next.done": columns["terminated"] | columns["truncated"],
        "timestamp": (frames / metadata.fps).astype(np.float32),
        "frame_index": frames,
        "episode_index": np.full(length, metadata.episodes),
        "index": frames + metadata.frames,
        "task_index": np.full(length, task),
    }
    for column, flag in layout.GIVEN.items():
        absent = is_null_action(columns[column])
        derived |= {column: _without_nan(columns[column], absent), flag: ~absent}
    values = {}
    for name, feature in metadata.features.items():
        if feature.dtype != "video":
            of_steps = derived[name] if name in derived else columns[feature.column]
            values[name] = of_steps.reshape(length, *feature.shape)
    return values


def _without_nan(actions: NDArray[Any], absent: NDArray[np.bool_]) -> NDArray[Any]:
    if actions.dtype.kind != "f":
        return actions
    filled = actions.copy()
    filled[absent] = 0
    return filled


def _write_data(metadata: Metadata, values: Mapping[str, NDArray[Any]]) -> dict[str, Stats]:
    """Write the data file -> statistics of what it holds."""
    features = metadata.features
    stats: dict[str, Stats] = {}
    for name, of_steps in values.items():
        if not features[name].visual:
            stats[name] = vector_stats(of_steps[:, 0] if features[name].shape == (1,) else of_steps)
    images = {name: ImageStats(features[name].shape[2]) for name in values if features[name].visual}
    schema = data_schema(features)
    path = metadata.path / file_path(layout.DATA_PATH, metadata.episodes)
    with whole_file(path) as temporary, pq.ParquetWriter(temporary, schema, **PARQUET_OPTIONS) as writer:
        for begin, end, pictures in _row_groups(values, images):
            arrays = [
                images_to_arrow(pictures[name], begin) if name in images else to_arrow(values[name][begin:end], feature)
                for name, feature in features.items()
                if feature.dtype != "video"
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
    return stats | {name: image.result() for name, image in images.items()}


def _row_groups(
    values: Mapping[str, NDArray[Any]], images: Mapping[str, ImageStats]
) -> Iterator[tuple[int, int, dict[str, list[bytes]]]]:
    """Ranges of steps and their pictures as PNG: the whole episode in one, unless it is too large."""
    length = len(values["index"])
    step_bytes = sum(of_steps[0].nbytes for name, of_steps in values.items() if name not in images)
    pictures: dict[str, list[bytes]] = {name: [] for name in images}
    begin, size = 0, 0
    for step in range(length):
        size += step_bytes
        for name, image in images.items():
            frame = values[name][step]
            image.update(frame)
            pictures[name].append(encode_png(frame))
            size += len(pictures[name][-1])
        if size >= ROW_GROUP_BYTES or step == length - 1:
            yield begin, step + 1, pictures
            begin, size, pictures = step + 1, 0, {name: [] for name in images}


def _write_video(metadata: Metadata, feature: Feature, frames: NDArray[Any]) -> tuple[Stats, PixelError]:
    stats = ImageStats(feature.shape[2])

    def watched() -> Iterator[NDArray[np.uint8]]:
        for frame in frames:
            stats.update(frame)
            yield frame

    path = metadata.path / file_path(layout.VIDEO_PATH, metadata.episodes, feature.name)
    with whole_file(path) as temporary:
        write_video(temporary, watched(), feature.shape, metadata.fps, feature.column)
    return stats.result(), measure(path, iter(frames), len(frames), metadata.fps, feature.column)


def _write_final(metadata: Metadata, columns: Mapping[str, NDArray[Any]], episode_id: str) -> None:
    """The observation after the last action, which LeRobot has no place for, beside its files."""
    arrays, fields = [], []
    for feature in metadata.features.values():
        final = columns.get("final_" + feature.column)
        if final is not None:
            stored = replace(feature, dtype="image") if feature.visual else feature
            value = final.reshape(1, *feature.shape)
            array = images_to_arrow([encode_png(value[0])], 0) if stored.visual else to_arrow(value, stored)
            arrays.append(array)
            fields.append(pa.field(feature.name, array.type))
    if arrays:
        table = pa.Table.from_arrays(arrays, schema=pa.schema(fields, {EPISODE_ID: episode_id}))
        write_table(metadata.path / file_path(layout.FINAL_PATH, metadata.episodes), table)


def _partly_missing(actions: NDArray[Any]) -> int:
    if actions.dtype.kind != "f":
        return 0
    missing = ~np.isfinite(actions).reshape(len(actions), -1)
    # A whole action that is missing is NaN throughout, and comes back so.
    return int((missing.any(axis=1) & ~np.isnan(actions).reshape(len(actions), -1).all(axis=1)).sum())


def _lost(metadata: Metadata, partly: Mapping[str, int]) -> Iterator[str]:
    for feature in metadata.features.values():
        if feature.dtype == "video":
            mean, greatest = (metadata.features_json[feature.name]["info"][key] for key in layout.ERROR_KEYS)
            yield (
                f"{feature.column}: the video differs from what was recorded, by {mean:.2f} of 255 on average and "
                f"{greatest} at most (PNG images lose nothing)."
            )
    for column, count in partly.items():
        if count:
            yield f"{column}: what there is of {count} actions with missing or infinite components; they count as none."
