"""Statistics of columns over a whole data directory in two passes and constant memory: moments first, then quantiles.

Quantiles come from a histogram over the range that the first pass found. They are exact for 8-bit values and for whole
numbers that span less than 2048, and else off by at most 1/2048 of the range.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopref.trajectory import NULL_DISCRETE

QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)
_BINS = 2048
_MAX_DIMENSIONS = 64
_BLOCK_BYTES = 1 << 22


@dataclass(frozen=True)
class ColumnStatistics:
    """Statistics of a column: arrays [D], D its dimensions for vectors of up to 64, else 1 (all values together).

    ``count`` values each were counted, ``missing`` left out (absent actions); ``quantiles`` [D, 5] are ``QUANTILES``.
    Where nothing was counted they are NaN. ``std`` is that of the values at hand (divided by their number).
    """

    count: NDArray[np.int64]
    missing: NDArray[np.int64]
    minimum: NDArray[np.float64]
    maximum: NDArray[np.float64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    quantiles: NDArray[np.float64]


class ColumnPasses:
    """Takes the blocks of one column twice: ``measure`` all of them, then ``sort_in`` all of them."""

    def __init__(self, dtype: np.dtype[Any], shape: tuple[int, ...], *, null: bool = False) -> None:
        self._whole = dtype.kind in "iub"
        self._null = null and dtype.kind in "iu"
        size = int(np.prod(shape, dtype=np.int64))
        self.dimensions = size if len(shape) <= 1 and size <= _MAX_DIMENSIONS else 1
        self._count = np.zeros(self.dimensions, np.int64)
        self._missing = np.zeros(self.dimensions, np.int64)
        self._mean = np.zeros(self.dimensions)
        self._squares = np.zeros(self.dimensions)
        self._low = np.full(self.dimensions, np.inf)
        self._high = np.full(self.dimensions, -np.inf)
        self._bins: NDArray[np.int64] | None = None

    def measure(self, values: NDArray[Any]) -> None:
        """Count a block [n, ...] in."""
        for block in blocks(values):
            table, present = self._table(block)
            count = present.sum(axis=0)
            self._missing += len(table) - count
            seen = count > 0
            if not seen.any():
                continue
            total = np.where(present, table, 0.0).sum(axis=0)
            mean = total / np.maximum(count, 1)
            squares = np.where(present, table - mean, 0.0)
            squares = np.square(squares, out=squares).sum(axis=0)
            # Chan, Golub and LeVeque (1983): two sets' moments joined without cancellation.
            joint = self._count + count
            delta = mean - self._mean
            self._squares += squares + delta**2 * self._count * count / np.maximum(joint, 1)
            self._mean += np.where(seen, delta * count / np.maximum(joint, 1), 0.0)
            self._count = joint
            self._low = np.minimum(self._low, np.where(present, table, np.inf).min(axis=0))
            self._high = np.maximum(self._high, np.where(present, table, -np.inf).max(axis=0))

    def sort_in(self, values: NDArray[Any]) -> None:
        """Sort a block [n, ...] into the histogram; every block was measured before."""
        if self._bins is None:
            self._bins = np.zeros((self.dimensions, _BINS), np.int64)
        offset = np.arange(self.dimensions) * _BINS
        for block in blocks(values):
            table, present = self._table(block)
            # The dimensions that hold nothing have an infinite range, and nothing to be placed in it.
            with np.errstate(invalid="ignore"):
                place = np.where(present, (table - self._low) / self._width(), 0.0)
            place = np.clip(place.astype(np.int64), 0, _BINS - 1) + offset
            self._bins += np.bincount(place[present], minlength=self._bins.size).reshape(self._bins.shape)

    def result(self) -> ColumnStatistics:
        """The statistics of all blocks that were counted and sorted in."""
        empty = self._count == 0
        nothing = np.where(empty, np.nan, 0.0)
        return ColumnStatistics(
            count=self._count,
            missing=self._missing,
            minimum=np.where(empty, np.nan, self._low),
            maximum=np.where(empty, np.nan, self._high),
            mean=self._mean + nothing,
            std=np.sqrt(self._squares / np.maximum(self._count, 1)) + nothing,
            quantiles=np.stack([self._quantile(share) for share in QUANTILES], axis=1),
        )

    def _table(self, block: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        table = np.asarray(block, np.float64).reshape(-1, self.dimensions)
        present = table != NULL_DISCRETE if self._null else np.isfinite(table)
        return table, present

    def _width(self) -> NDArray[np.float64]:
        span = self._high - self._low
        narrow = self._whole & (span < _BINS)
        return np.asarray(np.where(narrow | (span == 0), 1.0, span / _BINS))

    def _quantile(self, share: float) -> NDArray[np.float64]:
        """The lowest value with at least this share of the values at or below it."""
        if self._bins is None:
            return np.full(self.dimensions, np.nan)
        width = self._width()
        reached = np.cumsum(self._bins, axis=1) >= np.ceil(share * self._count)[:, None]
        place = reached.argmax(axis=1)
        middle = np.where(width == 1.0, 0.0, 0.5)
        with np.errstate(invalid="ignore"):
            value = np.clip(self._low + (place + middle) * width, self._low, self._high)
        return np.where(self._count == 0, np.nan, value)


class ByteColumnPasses:
    """``ColumnPasses`` for 8-bit images, taken together: one count of all values says everything."""

    dimensions = 1

    def __init__(self) -> None:
        self._bins = np.zeros(256, np.int64)

    def measure(self, values: NDArray[np.uint8]) -> None:
        """Count a block [n, ...] in."""
        for block in blocks(values):
            self._bins += np.bincount(block.reshape(-1), minlength=256)

    def sort_in(self, values: NDArray[np.uint8]) -> None:
        """Nothing: the first pass knows it all."""

    def result(self) -> ColumnStatistics:
        """The statistics of all blocks."""
        number = np.arange(256)
        count = int(self._bins.sum())
        present = number[self._bins > 0]
        mean = (self._bins @ number) / count if count else np.nan
        variance = (self._bins @ (number - mean) ** 2) / count if count else np.nan
        reached = [np.searchsorted(np.cumsum(self._bins), np.ceil(share * count)) for share in QUANTILES]
        return ColumnStatistics(
            count=np.array([count]),
            missing=np.array([0]),
            minimum=np.array([present[0] if count else np.nan], np.float64),
            maximum=np.array([present[-1] if count else np.nan], np.float64),
            mean=np.array([mean]),
            std=np.array([np.sqrt(variance)]),
            quantiles=np.array([reached], np.float64) if count else np.full((1, len(QUANTILES)), np.nan),
        )


def column_passes(dtype: np.dtype[Any], shape: tuple[int, ...], *, null: bool) -> ColumnPasses | ByteColumnPasses:
    """What takes the blocks of a column with such values a step; ``null``: ``NULL_DISCRETE`` is no value."""
    if dtype == np.uint8 and len(shape) > 1:
        return ByteColumnPasses()
    return ColumnPasses(dtype, shape, null=null)


def blocks(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """A column [T, ...] a few megabytes at a time: the whole may be a memory map larger than the memory."""
    step = max(1, _BLOCK_BYTES // max(1, values[:1].nbytes))
    for start in range(0, len(values), step):
        yield values[start : start + step]
