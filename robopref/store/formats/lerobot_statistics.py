"""What LeRobot normalises with: min, max, mean, std, count and quantiles of every feature, by episode and over all.

Vectors have a value for each component; pictures one for each channel, of shape [C, 1, 1] and in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
NAMES = ("min", "max", "mean", "std", "count", *QUANTILES)
MAX_BYTES = 64 * 2**20
"""Of larger columns, steps at even distances are taken, as LeRobot does with pictures; ``count`` says how many."""

Stats = Mapping[str, NDArray[Any]]
"""Values by the names in ``NAMES``; ``count`` is [1], the others have one shape."""


def vector_stats(values: NDArray[Any]) -> Stats:
    """Statistics of a column [T], [T, D] or [T, ..., D] over all but its last axis -> shape [D], or [1] for [T]."""
    rows = values.reshape(len(values), 1) if values.ndim == 1 else values
    kept = max(1, MAX_BYTES // max(1, rows[0].size * 8))
    if len(rows) > kept:
        rows = rows[np.linspace(0, len(rows) - 1, kept).round().astype(np.int64)]
    flat = rows.reshape(-1, rows.shape[-1]).astype(np.float64)
    least, greatest = flat.min(axis=0), flat.max(axis=0)
    scale = _scale(least, greatest)
    flat /= scale
    quantiles = np.quantile(flat, list(QUANTILES.values()), axis=0)
    return {
        "min": least,
        "max": greatest,
        "mean": flat.mean(axis=0) * scale,
        "std": flat.std(axis=0) * scale,
        "count": np.array([len(rows)], np.int64),
        **dict(zip(QUANTILES, quantiles * scale, strict=True)),
    }


def _scale(least: NDArray[Any], greatest: NDArray[Any]) -> float:
    """What to divide by so that squares of values that large are still numbers: 1 for all but absurd ones."""
    size = float(max(np.abs(least).max(), np.abs(greatest).max()))
    return size if size > 1e100 else 1.0


class ImageStats:
    """Counts the pixel values of pictures [H, W, C] uint8, one after another: exact, whatever their number."""

    def __init__(self, channels: int) -> None:
        self._counts = np.zeros((channels, 256), np.int64)
        self._frames = 0

    def update(self, frame: NDArray[np.uint8]) -> None:
        """Take one more picture into account."""
        import cv2

        for channel, counts in enumerate(self._counts):
            counts += cv2.calcHist([frame], [channel], None, [256], [0, 256]).reshape(-1).astype(np.int64)
        self._frames += 1

    def result(self) -> Stats:
        """The statistics of at least one picture."""
        levels = np.arange(256) / 255
        pixels = self._counts[0].sum()
        mean = self._counts @ levels / pixels
        variance = (self._counts * (levels - mean[:, None]) ** 2).sum(axis=1) / pixels
        seen = [np.flatnonzero(counts) for counts in self._counts]
        cumulated = self._counts.cumsum(axis=1)
        stats = {
            "min": np.array([levels[values[0]] for values in seen]),
            "max": np.array([levels[values[-1]] for values in seen]),
            "mean": mean,
            "std": np.sqrt(variance),
        }
        for name, quantile in QUANTILES.items():
            stats[name] = levels[(cumulated < quantile * pixels).sum(axis=1)]
        shaped = {name: value.reshape(-1, 1, 1) for name, value in stats.items()}
        return {name: shaped[name] if name in shaped else np.array([self._frames], np.int64) for name in NAMES}


def merged(first: Stats, second: Stats) -> Stats:
    """The statistics of both parts together, as LeRobot merges them.

    Exact but for the quantiles, which their parts' do not determine: those up to the median become the smaller of the
    two and those above it the larger, an envelope.
    """
    total = first["count"] + second["count"]
    share = second["count"] / total
    least, greatest = np.minimum(first["min"], second["min"]), np.maximum(first["max"], second["max"])
    scale = _scale(least, greatest)
    change = second["mean"] / scale - first["mean"] / scale
    within = (first["std"] / scale) ** 2 * (1 - share) + (second["std"] / scale) ** 2 * share
    envelope = {q: (np.minimum if level <= 0.5 else np.maximum)(first[q], second[q]) for q, level in QUANTILES.items()}
    return {
        "min": least,
        "max": greatest,
        "mean": (first["mean"] / scale + change * share) * scale,
        "std": np.sqrt(within + change**2 * share * (1 - share)) * scale,
        "count": total,
        **envelope,
    }


def merged_all(first: Mapping[str, Stats], second: Mapping[str, Stats]) -> dict[str, Stats]:
    """``merged`` for each feature; empty ``first`` stands for no data yet."""
    return {name: merged(first[name], stats) if name in first else stats for name, stats in second.items()}
