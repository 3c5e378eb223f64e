"""The 2-D Fourier power of a direction and its radial profile: how fine the patterns are that a policy reacts to."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError


def power_spectrum(direction: NDArray[Any]) -> NDArray[np.float64]:
    """|DFT|^2 of each channel of images [..., C, H, W], over its sum over all channels; frequency zero in the middle.

    By Parseval's theorem a channel's share of it is its share of the direction's energy. Zeros for a zero direction.

    Raises:
        RoboprefError: not [..., C, H, W].
    """
    if direction.ndim < 3:
        raise RoboprefError(f"a direction is an image per channel, [C, H, W], got shape {direction.shape}.")
    largest = np.abs(direction).max(axis=(-3, -2, -1), keepdims=True)
    scaled = direction / np.where(largest > 0, largest, 1)  # so that no square underflows
    power = np.abs(np.fft.fftshift(np.fft.fft2(scaled.astype(np.float64)), axes=(-2, -1))) ** 2
    total = power.sum(axis=(-3, -2, -1), keepdims=True)
    normalised: NDArray[np.float64] = power / np.where(total > 0, total, 1)
    return normalised


def radial_profile(power: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean power in rings of equal spatial frequency, over the channel's mean: white noise is 1 everywhere.

    Args:
        power: [..., H, W] as ``power_spectrum`` gives it.

    Returns:
        Frequencies [n] of the rings in cycles per pixel, whole multiples of 1 / min(H, W) up to the corner (about .7),
        and profiles [..., n]; zeros for a channel without power. A ring holds the frequencies nearer to it than to
        its neighbours.
    """
    height, width = power.shape[-2:]
    frequencies, ring, counts = _rings(height, width)
    channels = power.reshape(-1, height * width)
    sums = np.stack([np.bincount(ring, weights=channel, minlength=len(counts)) for channel in channels])
    mean = power.mean(axis=(-2, -1))[..., None]
    profile = (sums / counts).reshape(*power.shape[:-2], len(counts))
    return frequencies, profile / np.where(mean > 0, mean, 1)


@cache
def _rings(height: int, width: int) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """The rings' frequencies [n], the ring of each frequency [H * W], and how many are in each ring [n]."""
    rows, columns = (np.fft.fftshift(np.fft.fftfreq(size)) for size in (height, width))
    nearest = np.rint(np.hypot(rows[:, None], columns) * min(height, width)).astype(np.int64).ravel()
    known, ring, counts = np.unique(nearest, return_inverse=True, return_counts=True)
    return known / min(height, width), ring, counts
