"""The 2-D Fourier power of a direction and its radial profile: how fine the patterns are that a policy reacts to."""

from __future__ import annotations

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
    rows, columns = (np.fft.fftshift(np.fft.fftfreq(size)) for size in (height, width))
    ring = np.rint(np.hypot(rows[:, None], columns) * min(height, width)).astype(int).ravel()
    members = np.zeros((height * width, ring.max() + 1))
    members[np.arange(len(ring)), ring] = 1
    members = members[:, members.any(axis=0)]
    frequencies = np.unique(ring) / min(height, width)
    profile = power.reshape(*power.shape[:-2], -1) @ (members / members.sum(axis=0))
    mean = power.mean(axis=(-2, -1))[..., None]
    return frequencies, profile / np.where(mean > 0, mean, 1)
