"""A finished episode as one immutable safetensors file: a tensor for each column, memory-mapped when read.

The metadata holds ``format``, ``info`` (the ``EpisodeInfo`` as JSON) and ``checksum``: BLAKE2b over the info and over
every tensor's name, type, shape and bytes, in file order.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
    info_to_json,
)
from robopref.store.journal import JournalContent
from robopref.trajectory import STEP_COLUMNS, Episode, EpisodeInfo

FORMAT = "robopref-episode"
_NUMPY_DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}
_DIGEST_SIZE = 32


@dataclass(frozen=True)
class EpisodeHeader:
    """What an episode file says of itself: information, checksum, and each tensor's type, shape and place.

    ``tensors`` maps a name to (dtype, shape, first byte, end byte), bytes counted from ``data_start`` in the file.
    """

    info: EpisodeInfo
    info_json: str
    checksum: str
    tensors: dict[str, tuple[str, tuple[int, ...], int, int]]
    data_start: int

    @property
    def steps(self) -> int:
        """Number of steps."""
        return self.tensors["actor"][1][0]

    @property
    def columns(self) -> dict[str, ColumnSpec]:
        """The columns of a step, in the order of the file."""
        steps = {name: entry for name, entry in self.tensors.items() if not name.startswith(FINAL_OBSERVATION)}
        return {name: ColumnSpec(dtype, shape[1:]) for name, (dtype, shape, *_) in steps.items()}

    @property
    def size(self) -> int:
        """Bytes that the whole file must have."""
        return self.data_start + max(end for *_, end in self.tensors.values())


@dataclass(frozen=True)
class _Tensor:
    name: str
    spec: ColumnSpec  # of one step
    steps: int | None  # None: a single value without a step axis
    offset: int  # of the value within a step's payload, or within the final observation's bytes

    @property
    def shape(self) -> list[int]:
        return list(self.spec.shape) if self.steps is None else [self.steps, *self.spec.shape]

    @property
    def nbytes(self) -> int:
        return self.spec.nbytes * (1 if self.steps is None else self.steps)


def write_episode(path: Path, data: Any, content: JournalContent) -> None:
    """Write a journal's valid part (``data``: its bytes) as an episode file, all at once or not at all.

    The file is written beside the journal, synced and renamed; memory use does not grow with the episode.

    Raises:
        OSError: it could not be written; nothing is left behind.
    """
    assert content.info is not None
    info, tensors = content.info, _layout(content)
    with memoryview(data) as view:
        _write_file(path, info, [(tensor, _journalled_values(view, tensor, content)) for tensor in tensors])


def write_arrays(path: Path, info: EpisodeInfo, columns: Mapping[str, NDArray[Any]]) -> None:
    """Write columns as an episode file, all at once or not at all: [T, ...], final observations without the axis.

    Raises:
        OSError: it could not be written; nothing is left behind.
    """
    tensors = []
    for name, values in columns.items():
        final = name.startswith(FINAL_OBSERVATION)
        spec = ColumnSpec(values.dtype.name, values.shape if final else values.shape[1:])
        tensors.append(_Tensor(name, spec, None if final else len(values), 0))
    blocks = [(tensor, _blocks(columns[tensor.name])) for tensor in _aligned(tensors)]
    _write_file(path, info, blocks)


def _write_file(path: Path, info: EpisodeInfo, tensors: Sequence[tuple[_Tensor, Iterable[Any]]]) -> None:
    temporary = path.parent.parent / "journal" / f"{path.name}.tmp"
    try:
        with open(temporary, "wb", buffering=1 << 20) as file:
            _write_tensors(file, info, tensors)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def _write_tensors(file: Any, info: EpisodeInfo, tensors: Sequence[tuple[_Tensor, Iterable[Any]]]) -> None:
    info_json = info_to_json(info)
    header: dict[str, Any] = {
        "__metadata__": {"format": FORMAT, "info": info_json, "checksum": "0" * 2 * _DIGEST_SIZE},
    }
    begin = 0
    for tensor, _ in tensors:
        end = begin + tensor.nbytes
        header[tensor.name] = {
            "dtype": DTYPE_NAMES[tensor.spec.dtype],
            "shape": tensor.shape,
            "data_offsets": [begin, end],
        }
        begin = end
    file.write(_header_bytes(header))
    digest = _new_digest(info_json)
    for tensor, values in tensors:
        _digest_name(digest, tensor.name, tensor.spec.dtype, tensor.shape)
        for value in values:
            digest.update(value)
            file.write(value)
    # The checksum is known only now; it has the length of the zeros that hold its place.
    header["__metadata__"]["checksum"] = digest.hexdigest()
    file.seek(0)
    file.write(_header_bytes(header))


def _journalled_values(view: memoryview, tensor: _Tensor, content: JournalContent) -> Iterator[memoryview]:
    starts = content.steps if tensor.steps is not None else [content.final_observation or 0]
    for start in starts:
        with view[start + tensor.offset : start + tensor.offset + tensor.spec.nbytes] as value:
            yield value


def _blocks(values: NDArray[Any]) -> Iterator[bytes]:
    # A step at a time: the whole may be a memory map larger than the memory.
    for value in values if values.ndim else [values]:
        yield np.asarray(value, values.dtype.newbyteorder("<")).tobytes()


def _layout(content: JournalContent) -> list[_Tensor]:
    tensors, offset, final_offset = [], 0, 0
    for name, spec in content.schema.items():
        tensors.append(_Tensor(name, spec, len(content.steps), offset))
        offset += spec.nbytes
        if name.startswith(OBSERVATION) and content.final_observation is not None:
            final_name = FINAL_OBSERVATION + name.removeprefix(OBSERVATION)
            tensors.append(_Tensor(final_name, spec, None, final_offset))
            final_offset += spec.nbytes
    return _aligned(tensors)


def _aligned(tensors: list[_Tensor]) -> list[_Tensor]:
    # Wide types first keeps every tensor aligned without holes, which the format forbids.
    return sorted(tensors, key=lambda tensor: -np.dtype(tensor.spec.dtype).itemsize)


def _header_bytes(header: dict[str, Any]) -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _new_digest(info_json: str) -> Any:
    return hashlib.blake2b(info_json.encode(), digest_size=_DIGEST_SIZE)


def _digest_name(digest: Any, name: str, dtype: str, shape: list[int]) -> None:
    digest.update(json.dumps([name, dtype, shape]).encode())


def read_header(path: Path) -> EpisodeHeader:
    """Read what a file says of itself, without its data.

    Raises:
        RoboprefError: the file is not a whole episode file.
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
        tensors = {name: _tensor_entry(name, entry) for name, entry in header.items()}
        result = EpisodeHeader(info_from_json(info_json), info_json, metadata["checksum"], tensors, 8 + length)
        if size != result.size:
            raise ValueError(f"it has {size} bytes instead of {result.size}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise RoboprefError(
            f"{path} is not a whole episode file ({error}): restore it from a copy, or move it away."
        ) from error
    return result


def _tensor_entry(name: str, entry: dict[str, Any]) -> tuple[str, tuple[int, ...], int, int]:
    spec = ColumnSpec(_NUMPY_DTYPES[entry["dtype"]], tuple(entry["shape"]))
    begin, end = entry["data_offsets"]
    if end - begin != spec.nbytes:
        raise ValueError(f"column {name!r} is {spec} in {end - begin} bytes")
    return spec.dtype, spec.shape, begin, end


def read_episode(path: Path) -> Episode:
    """The episode, its arrays read-only views of the memory-mapped file: only what is touched is read.

    Raises:
        RoboprefError: the file is not a whole episode file.
    """
    header = read_header(path)
    arrays = dict(_tensors(path, header))
    try:
        return Episode(
            info=header.info,
            observation=_without_prefix(arrays, OBSERVATION),
            final_observation=_without_prefix(arrays, FINAL_OBSERVATION),
            **{name: arrays[name] for name in STEP_COLUMNS},
        )
    except KeyError as error:
        raise RoboprefError(f"{path} lacks the column {error}.") from error


def check_episode(path: Path) -> EpisodeHeader:
    """Read a whole file and check it against its checksum -> its header.

    Raises:
        RoboprefError: saying what is wrong with it.
    """
    header = read_header(path)
    _check_header_bytes(path, header)
    digest = _new_digest(header.info_json)
    for name, array in _tensors(path, header):
        _digest_name(digest, name, array.dtype.name, list(array.shape))
        digest.update(array.reshape(-1).view(np.uint8))
    if digest.hexdigest() != header.checksum:
        raise RoboprefError(f"{path} was changed or damaged after it was written: its checksum does not fit.")
    read_episode(path)
    return header


def _check_header_bytes(path: Path, header: EpisodeHeader) -> None:
    """See that even the bytes without a meaning, which no checksum covers, are as they were written."""
    with open(path, "rb") as file:
        written = file.read(header.data_start)
    if written != _header_bytes(json.loads(written[8:])):
        raise RoboprefError(f"{path} was changed or damaged after it was written: its header is not as it was.")


def _tensors(path: Path, header: EpisodeHeader) -> Iterator[tuple[str, NDArray[Any]]]:
    # pyarrow's map, because Python's own keeps a file descriptor open for as long as any array lives, and a thousand
    # episodes exhaust the usual limit.
    import pyarrow as pa

    with pa.memory_map(str(path)) as file:
        data = file.read_buffer()
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
