"""A finished episode as one immutable safetensors file: a tensor for each column, memory-mapped when read.

The metadata holds ``format``, ``info`` (the ``EpisodeInfo`` as JSON), ``video`` if any column is held as video (the
tensor ``video/<column>`` is an MP4 file then, and the column is described in JSON), and ``checksum``: BLAKE2b over the
info, the description of the videos, and every tensor's name, type, shape and bytes, in file order.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError
from robopref.store.encoding import (
    DTYPE_NAMES,
    FINAL_OBSERVATION,
    OBSERVATION,
    ColumnSpec,
    info_from_json,
)
from robopref.store.versions import NEWEST, migrated_metadata
from robopref.store.video import VideoColumn, decode, video_from_json
from robopref.trajectory import STEP_COLUMNS, Episode, EpisodeInfo

FORMAT = "robopref-episode"
VIDEO_BYTES = "video/"
"""What the name of a video's tensor has before the column's."""
_NUMPY_DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}
DIGEST_SIZE = 32


class UnreadableEpisode(RoboprefError):
    """The system does not give the file's bytes, which says nothing of what they are."""


@dataclass(frozen=True)
class EpisodeHeader:
    """What an episode file says of itself: information, checksum, and each tensor's type, shape and place.

    ``tensors`` maps a name to (dtype, shape, first byte, end byte), bytes counted from ``data_start`` in the file;
    ``video`` describes the columns that are held as video, by name.
    """

    info: EpisodeInfo
    info_json: str
    checksum: str
    tensors: dict[str, tuple[str, tuple[int, ...], int, int]]
    data_start: int
    video: Mapping[str, VideoColumn] = field(default_factory=dict)
    video_json: str = ""

    @property
    def steps(self) -> int:
        """Number of steps.

        Raises:
            RoboprefError: the header names no column of actors: it is damaged.
        """
        shape = self.tensors["actor"][1] if "actor" in self.tensors else ()
        if not shape:
            raise RoboprefError(f"the header of episode {self.info.episode_id} names no column of actors: damaged.")
        return shape[0]

    @property
    def columns(self) -> dict[str, ColumnSpec]:
        """The columns of a step, in the order of the file, those held as video as what they decode to."""
        columns = {}
        for name, (dtype, shape, *_) in self.tensors.items():
            if name.startswith(VIDEO_BYTES):
                column = name.removeprefix(VIDEO_BYTES)
                columns[column] = self.video[column].spec
            elif not name.startswith(FINAL_OBSERVATION):
                columns[name] = ColumnSpec(dtype, shape[1:])
        return columns

    @property
    def size(self) -> int:
        """Bytes that the whole file must have."""
        return self.data_start + max(end for *_, end in self.tensors.values())


def header_bytes(header: dict[str, Any]) -> bytes:
    """The header as it stands at the beginning of a file."""
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def new_digest(info_json: str, video_json: str) -> Any:
    """The checksum before any tensor."""
    return hashlib.blake2b((info_json + video_json).encode(), digest_size=DIGEST_SIZE)


def digest_name(digest: Any, name: str, dtype: str, shape: list[int]) -> None:
    """Add a tensor's name, type and shape to the checksum; its bytes follow."""
    digest.update(json.dumps([name, dtype, shape]).encode())


def read_header(path: Path) -> EpisodeHeader:
    """Read what a file says of itself, without its data.

    Raises:
        RoboprefError: the file is not a whole episode file, or (``UnreadableEpisode``) cannot be read.
    """
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            size = os.fstat(file.fileno()).st_size
            header = json.loads(file.read(length) if length < size else b"")
        metadata = header.pop("__metadata__")
        if metadata["format"] != FORMAT:
            raise ValueError(f"its format is {metadata['format']!r}")
        info_json = metadata["info"]
        info = info_from_json(info_json)
        if not 1 <= info.schema_version <= NEWEST:
            raise ValueError(f"it has schema {info.schema_version}, this robopref reads up to {NEWEST}")
        video_json = migrated_metadata(metadata, info.schema_version)["video"]
        tensors = {name: _tensor_entry(name, entry) for name, entry in header.items()}
        video = video_from_json(video_json)
        if {VIDEO_BYTES + name for name in video} != {name for name in tensors if name.startswith(VIDEO_BYTES)}:
            raise ValueError("its videos are not those that it describes")
        result = EpisodeHeader(info, info_json, metadata["checksum"], tensors, 8 + length, video, video_json)
        if size != result.size:
            raise ValueError(f"it has {size} bytes instead of {result.size}")
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise RoboprefError(
            f"{path} is not a whole episode file ({error}): restore it from a copy, or move it away."
        ) from error
    return result


def _unreadable(path: Path, error: OSError) -> UnreadableEpisode:
    return UnreadableEpisode(f"{path} cannot be read ({error.strerror or error}): it may be whole. See that it can be.")


def _tensor_entry(name: str, entry: dict[str, Any]) -> tuple[str, tuple[int, ...], int, int]:
    spec = ColumnSpec(_NUMPY_DTYPES[entry["dtype"]], tuple(entry["shape"]))
    begin, end = entry["data_offsets"]
    if end - begin != spec.nbytes:
        raise ValueError(f"column {name!r} is {spec} in {end - begin} bytes")
    return spec.dtype, spec.shape, begin, end


def read_episode(path: Path) -> Episode:
    """The episode, its arrays read-only views of the memory-mapped file: only what is touched is read.

    Columns held as video are decoded here, whole, into memory: an episode is arrays to all who use it. Single steps of
    them are read by ``steps.StepReader`` without that.

    Raises:
        RoboprefError: the file is not a whole episode file.
    """
    header = read_header(path)
    arrays = dict(_tensors(path, header))
    try:
        for name, column in header.video.items():
            arrays[name] = decode(arrays.pop(VIDEO_BYTES + name), column)
    except RoboprefError as error:
        raise RoboprefError(f"{path}, column {name!r}: {error}") from error
    try:
        return Episode(
            info=header.info,
            observation=_without_prefix(arrays, OBSERVATION),
            final_observation=_without_prefix(arrays, FINAL_OBSERVATION),
            **{name: arrays[name] for name in STEP_COLUMNS},
        )
    except KeyError as error:
        raise RoboprefError(f"{path} lacks the column {error}.") from error


def check_bytes(path: Path) -> EpisodeHeader:
    """Read a whole file and check it against its checksum -> its header.

    Raises:
        RoboprefError: saying what is wrong with it.
    """
    header = read_header(path)
    _check_header_bytes(path, header)
    digest = new_digest(header.info_json, header.video_json)
    for name, array in _tensors(path, header):
        digest_name(digest, name, array.dtype.name, list(array.shape))
        digest.update(array.reshape(-1).view(np.uint8))
    if digest.hexdigest() != header.checksum:
        raise RoboprefError(f"{path} was changed or damaged after it was written: its checksum does not fit.")
    return header


def check_episode(path: Path) -> EpisodeHeader:
    """``check_bytes``, and see that the file can be read as an episode. Raises likewise."""
    header = check_bytes(path)
    read_episode(path)
    return header


def _check_header_bytes(path: Path, header: EpisodeHeader) -> None:
    """See that even the bytes without a meaning, which no checksum covers, are as they were written."""
    try:
        with open(path, "rb") as file:
            written = file.read(header.data_start)
    except OSError as error:
        raise _unreadable(path, error) from error
    if written != header_bytes(json.loads(written[8:])):
        raise RoboprefError(f"{path} was changed or damaged after it was written: its header is not as it was.")


def _tensors(path: Path, header: EpisodeHeader) -> Iterator[tuple[str, NDArray[Any]]]:
    # pyarrow's map, because Python's own keeps a file descriptor open for as long as any array lives, and a thousand
    # episodes exhaust the usual limit.
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as file:
            data = file.read_buffer()
    except OSError as error:
        raise _unreadable(path, error) from error
    for name, (dtype, shape, begin, _) in header.tensors.items():
        count = int(np.prod(shape, dtype=np.int64))
        yield name, np.frombuffer(data, dtype, count, header.data_start + begin).reshape(shape)


def _without_prefix(arrays: dict[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def sync_directory(directory: Path) -> None:
    """Make what was created, renamed or removed in a directory safe from power loss."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
