"""Writing finished episodes: from a journal or from arrays, each file whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopref.store.encoding import DTYPE_NAMES, FINAL_OBSERVATION, OBSERVATION, ColumnSpec, info_to_json
from robopref.store.episode_file import (
    DIGEST_SIZE,
    FORMAT,
    VIDEO_BYTES,
    digest_name,
    header_bytes,
    new_digest,
    sync_directory,
)
from robopref.store.journal import JournalContent
from robopref.trajectory import EpisodeInfo


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


def write_arrays(path: Path, info: EpisodeInfo, columns: Mapping[str, NDArray[Any]], video_json: str = "") -> None:
    """Write columns as an episode file, all at once or not at all.

    Args:
        path: where to, in ``episodes/`` or ``discarded/``.
        info: the episode's information; its ``schema_version`` says what a reader must know.
        columns: [T, ...] each, final observations without the axis of steps, videos as bytes [N] (uint8).
        video_json: the description of the videos, if there are any.

    Raises:
        OSError: it could not be written; nothing is left behind.
    """
    tensors = []
    for name, values in columns.items():
        single = name.startswith((FINAL_OBSERVATION, VIDEO_BYTES))
        spec = ColumnSpec(values.dtype.name, values.shape if single else values.shape[1:])
        tensors.append(_Tensor(name, spec, None if single else len(values), 0))
    blocks = [(tensor, _blocks(tensor, columns[tensor.name])) for tensor in _aligned(tensors)]
    _write_file(path, info, blocks, video_json)


def _write_file(
    path: Path, info: EpisodeInfo, tensors: Sequence[tuple[_Tensor, Iterable[Any]]], video_json: str = ""
) -> None:
    temporary = path.parent.parent / "journal" / f"{path.name}.tmp"
    try:
        with open(temporary, "wb", buffering=1 << 20) as file:
            _write_tensors(file, info, tensors, video_json)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def _write_tensors(
    file: Any, info: EpisodeInfo, tensors: Sequence[tuple[_Tensor, Iterable[Any]]], video_json: str
) -> None:
    info_json = info_to_json(info)
    metadata = {"format": FORMAT, "info": info_json, "checksum": "0" * 2 * DIGEST_SIZE}
    header: dict[str, Any] = {"__metadata__": metadata | ({"video": video_json} if video_json else {})}
    begin = 0
    for tensor, _ in tensors:
        end = begin + tensor.nbytes
        header[tensor.name] = {
            "dtype": DTYPE_NAMES[tensor.spec.dtype],
            "shape": tensor.shape,
            "data_offsets": [begin, end],
        }
        begin = end
    file.write(header_bytes(header))
    digest = new_digest(info_json, video_json)
    for tensor, values in tensors:
        digest_name(digest, tensor.name, tensor.spec.dtype, tensor.shape)
        for value in values:
            digest.update(value)
            file.write(value)
    # The checksum is known only now; it has the length of the zeros that hold its place.
    header["__metadata__"]["checksum"] = digest.hexdigest()
    file.seek(0)
    file.write(header_bytes(header))


def _journalled_values(view: memoryview, tensor: _Tensor, content: JournalContent) -> Iterator[memoryview]:
    starts = content.steps if tensor.steps is not None else [content.final_observation or 0]
    for start in starts:
        with view[start + tensor.offset : start + tensor.offset + tensor.spec.nbytes] as value:
            yield value


def _blocks(tensor: _Tensor, values: NDArray[Any]) -> Iterator[bytes]:
    # A step at a time: the whole may be a memory map larger than the memory.
    for value in [values] if tensor.steps is None else values:
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
