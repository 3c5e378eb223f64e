"""The episodes of a data directory as twins in another one, their images held as video.

The originals stay: finished episodes are never written anew, and what lossy video costs can only be judged beside them.
What it costs is measured for every episode and column, and kept in the twin's file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError
from robopref.store.dataset_file import adopt_schema, locked
from robopref.store.encoding import OBSERVATION, episode_columns
from robopref.store.episode_file import VIDEO_BYTES, EpisodeHeader
from robopref.store.episode_writing import write_arrays
from robopref.store.journal import write_error
from robopref.store.store import EpisodeStore
from robopref.store.versions import VIDEO
from robopref.store.video import VideoColumn, VideoOptions, can_be_video, encode, made_of, video_to_json

_LOSSLESS = VideoOptions()


@dataclass(frozen=True)
class ColumnError:
    """What video cost a column over all episodes: greatest difference of a value (of 255), and PSNR in dB.

    0 and infinite when lossless.
    """

    max_error: int
    psnr: float


@dataclass(frozen=True)
class Compressed:
    """What came of it.

    ``original_bytes`` and ``video_bytes`` are those of the files, ``errors`` by column; ``left_out`` are the ids that
    the target had already, made of the same originals (they count in all the figures).
    """

    episodes: int
    steps: int
    original_bytes: int
    video_bytes: int
    errors: dict[str, ColumnError]
    left_out: tuple[str, ...] = ()


def compress(
    source: EpisodeStore,
    target: EpisodeStore,
    options: VideoOptions = _LOSSLESS,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Compressed:
    """Make a video-held twin of every finished episode. When it is interrupted, run it again.

    Args:
        source: the originals.
        target: another data directory, empty or holding some of the twins.
        options: how to encode.
        progress: called with episodes done and all episodes.

    Raises:
        RoboprefError: there is nothing to hold as video, the target has an episode of the same id that is made of
            another one, an original is held as video itself, the encoder failed, or there is no room.
    """
    ids = source.episode_ids()
    if not ids:
        raise RoboprefError(f"{source.path} has no finished episode.")
    columns = _chosen(source.header(ids[0]), options)
    left_out = []
    for done, episode_id in enumerate(ids):
        original = source.header(episode_id)
        if target.has(episode_id):
            _check_twin(target, original)
            left_out.append(episode_id)
        else:
            _add_twin(source, target, original, columns, options)
        progress(done + 1, len(ids))
    headers = [target.header(episode_id) for episode_id in ids]
    return Compressed(
        episodes=len(ids),
        steps=sum(header.steps for header in headers),
        original_bytes=sum(source.header(episode_id).size for episode_id in ids),
        video_bytes=sum(header.size for header in headers),
        errors={name: _over_all([(h.steps, h.video[name]) for h in headers if name in h.video]) for name in columns},
        left_out=tuple(left_out),
    )


def _chosen(header: EpisodeHeader, options: VideoOptions) -> list[str]:
    possible = [name for name, spec in header.columns.items() if name.startswith(OBSERVATION) and can_be_video(spec)]
    if unfit := [name for name in options.columns if name not in possible]:
        raise RoboprefError(f"the column {unfit[0]!r} cannot be held as video; these can: {possible or 'none'}.")
    if not possible:
        raise RoboprefError(f"no column can be held as video (colour images, uint8 [H, W, 3]): {list(header.columns)}.")
    return list(options.columns) or possible


def _check_twin(target: EpisodeStore, original: EpisodeHeader) -> None:
    there = target.header(original.info.episode_id)
    if not there.video or made_of(there.video_json) != original.checksum:
        raise RoboprefError(
            f"the episode {original.info.episode_id} in {target.path} is not made of that in the source: choose an "
            "empty directory."
        )


def _add_twin(
    source: EpisodeStore, target: EpisodeStore, original: EpisodeHeader, columns: list[str], options: VideoOptions
) -> None:
    episode_id = original.info.episode_id
    if original.video:
        raise RoboprefError(f"the episode {episode_id} in {source.path} is held as video already: take its original.")
    values: dict[str, NDArray[Any]] = episode_columns(source.read(episode_id))
    video: dict[str, VideoColumn] = {}
    for name in columns:
        try:
            values[VIDEO_BYTES + name], video[name] = encode(values.pop(name), options)
        except RoboprefError as error:
            raise RoboprefError(f"{source.path}, episode {episode_id}, column {name!r}: {error}") from error
    info = replace(original.info, schema_version=VIDEO)
    path = target.path / "episodes" / f"{episode_id}.safetensors"
    try:
        with locked(target.path):
            adopt_schema(target.path, original.columns, running=0, version=VIDEO)
            write_arrays(path, info, values, video_to_json(video, original.checksum))
    except OSError as error:
        raise write_error(error, path, "The originals are as they were; run it again to go on") from error


def _over_all(parts: list[tuple[int, VideoColumn]]) -> ColumnError:
    steps = sum(count for count, _ in parts)
    mse = sum(count * column.mse for count, column in parts) / steps
    psnr = float("inf") if mse == 0 else float(10 * np.log10(255**2 / mse))
    return ColumnError(max(column.max_error for _, column in parts), psnr)
