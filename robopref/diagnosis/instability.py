"""How a policy's sensitivity |g(s_t)|_2 moves along its episodes.

Korkmaz (ICML 2024, arXiv 2406.16979) compares mean, variance and oscillation of this norm between policies and defines
the first two only. Here, of a series x_1 .. x_T:

- variation: standard deviation / mean, free of the scale of Q, which the variance is not;
- oscillation: mean_t |x_{t+1} - x_t| / mean_t x_t, the total variation per step in units of the mean. It is 0 for a
  constant, 2 for a norm that is there at every other state only;
- high-frequency share: the part of the series' periodogram, its mean taken away, at frequencies above 1/4 cycle per
  step (the upper half of all there are): about .5 for white noise, near 0 for a norm that drifts. It tells apart a
  series that jumps about from one that moves far but slowly, which oscillation alone does not.

Over several episodes the sums behind these numbers are added up before dividing, so that every state counts alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopref.diagnosis.subspace import resample_counts
from robopref.errors import RoboprefError
from robopref.evaluation.statistics import Estimate

_SHORTEST = 8  # steps below which a periodogram says nothing
_QUARTER = 0.25  # cycles per step
Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def norm_moments(norms: NDArray[Any]) -> NDArray[np.float64]:
    """The sums [7] that the numbers are made of, of one episode's norms [T]; those of several episodes add up.

    Steps, sum of x, sum of x^2, changes, sum of |change|, power above a quarter cycle per step, power in all.

    Raises:
        RoboprefError: not [T] with T >= 1 finite values that are not negative.
    """
    norms = np.asarray(norms, np.float64)
    if norms.ndim != 1 or len(norms) == 0 or not (np.isfinite(norms).all() and (norms >= 0).all()):
        raise RoboprefError("an episode's gradient norms are [T] finite values >= 0, at least one.")
    changes = np.abs(np.diff(norms))
    fast, power = 0.0, 0.0
    if len(norms) >= _SHORTEST:
        spectrum = np.abs(np.fft.rfft(norms - norms.mean())) ** 2
        spectrum[1 : (len(norms) + 1) // 2] *= 2  # their mirror images at negative frequencies
        fast, power = spectrum[np.fft.rfftfreq(len(norms)) > _QUARTER].sum(), spectrum.sum()
    return np.array([len(norms), norms.sum(), (norms**2).sum(), len(changes), changes.sum(), fast, power])


def mean_norm(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean, of sums [..., 7]; as are all of these."""
    mean: NDArray[np.float64] = sums[..., 1] / sums[..., 0]
    return mean


def norm_variance(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Variance over the states."""
    return np.maximum(sums[..., 2] / sums[..., 0] - mean_norm(sums) ** 2, 0)


def norm_variation(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard deviation / mean; NaN if all norms are zero."""
    return _ratio(np.sqrt(norm_variance(sums)), mean_norm(sums))


def oscillation(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean absolute change per step / mean; NaN if all norms are zero or no episode has two steps."""
    return _ratio(_ratio(sums[..., 4], sums[..., 3]), mean_norm(sums))


def high_frequency_share(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the power above 1/4 cycle per step; NaN if the norms do not move or all episodes are short."""
    return _ratio(sums[..., 5], sums[..., 6])


STATISTICS: dict[str, Statistic] = {
    "mean": mean_norm,
    "variance": norm_variance,
    "variation": norm_variation,
    "oscillation": oscillation,
    "high_frequency": high_frequency_share,
}


def bootstrap_moments(
    statistic: Statistic, moments: NDArray[np.float64], *, n_resamples: int = 1000, seed: int = 0
) -> NDArray[np.float64]:
    """The statistic of resampled episodes [n_resamples], of moments [E, 7]."""
    return statistic(resample_counts(len(moments), n_resamples, seed) @ moments)


def moment_estimate(
    statistic: Statistic,
    moments: NDArray[np.float64],
    *,
    n_resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Estimate | None:
    """The statistic with its percentile interval over episodes; None where it is undefined."""
    value = float(statistic(moments.sum(axis=0)))
    if not np.isfinite(value):
        return None
    resamples = bootstrap_moments(statistic, moments, n_resamples=n_resamples, seed=seed)
    low, high = np.nanquantile(resamples, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(value, min(float(low), value), max(float(high), value), len(moments))


def find_peaks(series: Sequence[NDArray[Any]], count: int, separation: int = 30) -> list[tuple[int, int]]:
    """The (episode, step) of the highest values, highest first.

    None lies within ``separation`` steps of a higher one in its episode, and zeros are no peaks; so there may be fewer
    than ``count``.

    Raises:
        RoboprefError: a separation below 1.
    """
    if separation < 1:
        raise RoboprefError(f"the separation of peaks is at least 1 step, got {separation}.")
    left = [np.array(values, np.float64) for values in series]
    found: list[tuple[int, int]] = []
    while len(found) < count:
        highest = max(range(len(left)), key=lambda e: left[e].max(initial=0.0), default=None)
        if highest is None or left[highest].max(initial=0.0) == 0:
            break
        step = int(left[highest].argmax())
        found.append((highest, step))
        left[highest][max(0, step - separation + 1) : step + separation] = 0
    return found


def _ratio(top: NDArray[np.float64], bottom: NDArray[np.float64]) -> NDArray[np.float64]:
    top, bottom = np.asarray(top, np.float64), np.asarray(bottom, np.float64)
    return np.divide(top, bottom, out=np.full(np.broadcast(top, bottom).shape, np.nan), where=bottom > 0)
