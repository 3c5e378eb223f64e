"""The frozen reference's log-probabilities on disk, so that its forward passes are made once per sample and variant.

A directory with three files: ``reference.json`` says what the numbers are of, ``rows.f32`` holds one row of float32 per
sample and augmentation variant [N, K, W] (log-probabilities of the labelled and the second action, and the tokens of a
second action that was sampled), and ``checksums.u32`` [N, K] one number per row, 0 where nothing was computed yet. Rows
are written as they are needed; both files are sparse until then.

A row counts only if its checksum is right. So a process that is killed while writing, or a disk that keeps the later of
two writes and loses the earlier, leaves a row that is computed again, never a wrong one; and processes may write to one
cache at the same time, the same row included.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError

_HEADER, _ROWS, _CHECKSUMS = "reference.json", "rows.f32", "checksums.u32"
_FORMAT = 1


class ReferenceCache:
    """Rows of numbers by sample and variant, in a directory.

    Args:
        directory: of the cache; made when there is none and this process may.
        key: what the numbers depend on, as JSON values; a cache of anything else is refused.
        shape: (N samples, K variants, W numbers in a row).
        create: whether this process makes the directory. Others open it once it is there.

    Raises:
        RoboprefError: the directory holds something else, or a cache of something else; it says what differs.
    """

    def __init__(
        self, directory: Path, key: Mapping[str, Any], shape: tuple[int, int, int], *, create: bool = True
    ) -> None:
        self.directory, self.shape = Path(directory), shape
        header = {"format": _FORMAT, "shape": list(shape), **key}
        if create and not (self.directory / _HEADER).exists():
            _create(self.directory, header, shape)
        check_header(self.directory, header)
        self._rows = np.memmap(self.directory / _ROWS, dtype=np.float32, mode="r+", shape=shape)
        self._checksums = np.memmap(self.directory / _CHECKSUMS, dtype=np.uint32, mode="r+", shape=shape[:2])

    def read(self, indices: NDArray[Any], variants: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """The rows [B, W] of samples and variants [B], and which of them [B] are there; the others mean nothing."""
        rows = np.array(self._rows[indices, variants])
        expected = self._checksums[indices, variants]
        there = np.array([known != 0 and known == _checksum(row) for row, known in zip(rows, expected, strict=True)])
        return rows, there.astype(bool)

    def write(self, indices: NDArray[Any], variants: NDArray[Any], rows: NDArray[np.float32]) -> None:
        """Keep rows [B, W] of samples and variants [B]."""
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        self._rows[indices, variants] = rows
        self._checksums[indices, variants] = [_checksum(row) for row in rows]

    def missing(self, indices: NDArray[Any]) -> NDArray[np.int64]:
        """Pairs (sample, variant) [M, 2] of these samples that are yet to be computed; reads every row."""
        pairs = np.stack(np.meshgrid(indices, np.arange(self.shape[1]), indexing="ij"), axis=-1).reshape(-1, 2)
        found = [self.read(*pairs[start : start + 4096].T)[1] for start in range(0, len(pairs), 4096)]
        there = np.concatenate(found) if found else np.empty(0, dtype=bool)
        return pairs[~there]

    def flush(self) -> None:
        """Have the disk keep what was written."""
        self._rows.flush()
        self._checksums.flush()


def check_header(directory: Path, wanted: Mapping[str, Any]) -> None:
    """See that the cache in ``directory`` is of what is ``wanted``.

    Raises:
        RoboprefError: which of the things that it depends on differ, or that there is none or no readable one.
    """
    path = directory / _HEADER
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RoboprefError(f"{directory} holds no readable reference cache ({error}): choose another.") from error
    differing = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
    if differing:
        raise RoboprefError(
            f"the reference cache in {directory} was made with another {' and another '.join(differing)}, so its "
            f"numbers are not this run's: choose another directory, or remove it to compute them anew."
        )


def _create(directory: Path, header: Mapping[str, Any], shape: tuple[int, int, int]) -> None:
    if directory.is_dir() and any(directory.iterdir()):
        raise RoboprefError(f"{directory} is not empty and holds no reference cache: choose another directory.")
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        for name, items in ((_ROWS, int(np.prod(shape))), (_CHECKSUMS, shape[0] * shape[1])):
            with (staging / name).open("wb") as file:
                file.truncate(4 * items)  # zeros that take no room
        (staging / _HEADER).write_text(json.dumps(dict(header), indent=2) + "\n")
        staging.chmod(0o755)
        os.replace(staging, directory)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _checksum(row: NDArray[np.float32]) -> int:
    return zlib.crc32(row.tobytes()) or 1  # 0 says that there is none
