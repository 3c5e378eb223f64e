"""The feature correlation quotient: how much of a set's sensitivity lies along another set's principal direction.

Source: Korkmaz, "Understanding and Diagnosing Deep Reinforcement Learning", ICML 2024, arXiv 2406.16979:

    Lambda(S', S) = (G_S^T L(S') G_S) / (G_{S'}^T L(S') G_{S'}) = |M' G_S|^2 / lambda_max(M'^T M'),

where the rows of M' [N, d] are the gradients of S' and G_S is the principal direction of S. It lies in [0, 1]: 1 where
the direction is as principal for S' as for S, 0 where S' is not sensitive along it at all. Two sets of the same policy
under the same conditions do not reach 1 either; that null control is what a shift is to be held against.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopref.diagnosis.directions import principal_directions
from robopref.diagnosis.results import Subspace
from robopref.diagnosis.subspace import leading_vectors, reduction_errors, resample_counts
from robopref.errors import RoboprefError
from robopref.evaluation.statistics import Estimate

_ROWS = 256


def feature_correlation_quotient(gradients_shifted: NDArray[Any], direction_base: NDArray[Any]) -> float:
    """Lambda(S', S) of the gradients of S' and the principal direction of S.

    Args:
        gradients_shifted: M' [N, d].
        direction_base: G_S [d]; only its direction matters, not its length or sign.

    Raises:
        RoboprefError: shapes that do not belong together, values that are not finite, a direction of zeros, or
            gradients that are all zero, for which the quotient is undefined.
    """
    direction = np.asarray(direction_base, np.float64)
    if gradients_shifted.ndim != 2 or direction.shape != gradients_shifted.shape[1:]:
        raise RoboprefError(
            f"gradients must be [N, d] and the direction [d], got {gradients_shifted.shape} and {direction.shape}."
        )
    length = np.linalg.norm(direction)
    if not (np.isfinite(length) and length > 0):
        raise RoboprefError("the direction is zero or not finite: its set has no principal direction.")
    own = principal_directions(gradients_shifted, min(2, len(direction)))
    if own.vanished:
        raise RoboprefError(
            "all gradients of the shifted set vanish, so the quotient is undefined: raise the temperature or compute "
            "in float64."
        )
    along = 0.0
    for start in range(0, len(gradients_shifted), _ROWS):
        along += float(((gradients_shifted[start : start + _ROWS] @ (direction / length)) ** 2).sum())
    return min(1.0, along / float(own.eigenvalues[0]))


@dataclass(frozen=True)
class QuotientSample:
    """Lambda with its bootstrap values.

    Attributes:
        value: of the sets as they are, in the subspace.
        resamples: [R]; NaN where all gradients of a resample vanish.
        reduction_error: bound on the relative error of lambda_max(S') that the subspace makes, over all resamples.
    """

    value: float
    resamples: NDArray[np.float64]
    reduction_error: float


def bootstrap_quotient(
    base: Subspace,
    shifted: Subspace,
    cross_grams: NDArray[np.float64],
    *,
    n_resamples: int = 1000,
    seed: int = 0,
    paired: bool = False,
) -> QuotientSample:
    """Lambda(S', S) under resampling of the episodes of both sets, each in its leading subspace.

    The base episodes are drawn alike for every shifted set under the same seed, so that quotients of several sets,
    the null control's for one, may be subtracted resample by resample.

    Args:
        base: S.
        shifted: S'.
        cross_grams: [E', r, r], the episodes of S' in the subspace of S (``episode_grams`` with its basis).
        n_resamples: R.
        seed: of the resampling.
        paired: S' was made of states of the base episodes (episode e of the one is episode e of the other), so that a
            resample draws the same episodes on both sides.

    Raises:
        RoboprefError: the gradients of either set all vanish, or they are paired and have not as many episodes.
    """
    if paired and len(base.grams) != len(shifted.grams):
        raise RoboprefError(
            f"paired sets have the same episodes, got {len(base.grams)} and {len(shifted.grams)} of them."
        )
    for name, subspace in (("base", base), ("shifted", shifted)):
        if not subspace.traces.any():
            raise RoboprefError(f"all gradients of the {name} set vanish, so the quotient is undefined.")
    base_counts = _with_whole(resample_counts(len(base.grams), n_resamples, [seed, 0]))
    counts = base_counts if paired else _with_whole(resample_counts(len(shifted.grams), n_resamples, [seed, 1]))
    base_values, directions = leading_vectors(base_counts, base.grams)
    largest = leading_vectors(counts, shifted.grams)[0][:, 0]
    direction = directions[:, 0]
    along = np.einsum("br,brs,bs->b", direction, np.tensordot(counts.astype(float), cross_grams, axes=1), direction)
    defined = (largest > 0) & (base_values[:, 0] > 0)
    quotients = np.full(len(counts), np.nan)
    # The subspace of S' may hold a little less of G_S than the subspace of S does.
    quotients[defined] = np.minimum(along[defined] / np.maximum(largest[defined], along[defined]), 1)
    error = reduction_errors(counts[defined], shifted, largest[defined]).max()
    return QuotientSample(float(quotients[0]), quotients[1:], float(error))


def quotient_estimate(sample: QuotientSample, n: int, confidence: float = 0.95) -> Estimate:
    """The quotient with its percentile interval, stretched where needed to hold the value itself.

    It is an interval for what two such sets of episodes give on average, not for the limit of endless sets: noise in
    the directions only lowers Lambda, in the resamples as in the value itself. In simulations with ten episodes a side
    it held that average 96 to 99 % of the time; the reflected and the bias-corrected interval 20 to 60 %.
    """
    return _estimate(sample.value, sample.resamples, n, confidence)


def quotient_difference(first: QuotientSample, second: QuotientSample, n: int, confidence: float = 0.95) -> Estimate:
    """first - second, subtracted resample by resample (``bootstrap_quotient`` under the same seed)."""
    return _estimate(first.value - second.value, first.resamples - second.resamples, n, confidence)


def _with_whole(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Row 0: every episode once."""
    return np.vstack([np.ones_like(counts[:1]), counts])


def _estimate(value: float, resamples: NDArray[np.float64], n: int, confidence: float) -> Estimate:
    low, high = np.nanquantile(resamples, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(value, min(float(low), value), max(float(high), value), n)
