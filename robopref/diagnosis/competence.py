"""Whether a policy plays better than chance, before anything else about it is believed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robopref.diagnosis.results import Competence
from robopref.errors import RoboprefError
from robopref.evaluation.statistics import Estimate, wilson_interval

_PERMUTATIONS = 20_000
_RESAMPLES = 10_000
LEVEL = 0.05


class Indifferent:
    """A Q policy that values all actions alike; with an epsilon of 1 it is the random player."""

    def __init__(self, n_actions: int) -> None:
        self.n_actions = n_actions

    def q_values(self, pixels: Tensor, **context: Tensor) -> Tensor:
        """Zeros [B, n_actions]."""
        return torch.zeros(len(pixels), self.n_actions)


def mean_score(scores: NDArray[Any], *, seed: int = 0, confidence: float = 0.95) -> Estimate:
    """The mean of scores [n] with its percentile bootstrap interval; of zeros and ones, with the Wilson interval.

    Raises:
        RoboprefError: no scores, or not finite.
    """
    scores = _checked(scores)
    if set(np.unique(scores)) <= {0.0, 1.0}:
        low, high = wilson_interval(int(scores.sum()), len(scores), confidence)
        return Estimate(float(scores.mean()), low, high, len(scores))
    resamples = _resampled_means(scores, np.random.default_rng([seed, 0]))
    low, high = np.quantile(resamples, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(float(scores.mean()), float(low), float(high), len(scores))


def judge_competence(
    scores: NDArray[Any], random_scores: NDArray[Any], *, seed: int = 0, confidence: float = 0.95
) -> Competence:
    """Hold the policy's returns [n] against those [m] of random actions.

    The verdict is a one-sided permutation test of the difference in means (Fisher; 20 000 permutations), which assumes
    no distribution. One episode is never enough for it against ten.

    Raises:
        RoboprefError: no scores, or not finite.
    """
    own, other = _checked(scores), _checked(random_scores)
    value = float(own.mean() - other.mean())
    rng = np.random.default_rng([seed, 1])
    resamples = _resampled_means(own, rng) - _resampled_means(other, rng)
    low, high = np.quantile(resamples, [(1 - confidence) / 2, (1 + confidence) / 2])
    pooled = np.concatenate([own, other])
    shuffled = rng.permuted(np.broadcast_to(pooled, (_PERMUTATIONS, len(pooled))), axis=1)[:, : len(own)].mean(axis=1)
    # In terms of own's mean, of which the difference is a rising function; rounding must not break a tie.
    reached = shuffled >= own.mean() - 1e-9 * np.abs(pooled).max()
    p_value = float((1 + reached.sum()) / (1 + _PERMUTATIONS))
    return Competence(
        score=mean_score(own, seed=seed, confidence=confidence),
        random_score=mean_score(other, seed=seed, confidence=confidence),
        random_scores=other,
        difference=Estimate(value, float(low), float(high), min(len(own), len(other))),
        p_value=p_value,
        untrained=p_value > LEVEL,
        undecided=p_value > LEVEL and bool(own.min() > other.max()),
    )


def _resampled_means(scores: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    means: NDArray[np.float64] = scores[rng.integers(len(scores), size=(_RESAMPLES, len(scores)))].mean(axis=1)
    return means


def _checked(scores: NDArray[Any]) -> NDArray[np.float64]:
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 1 or len(scores) == 0 or not np.isfinite(scores).all():
        raise RoboprefError("a mean return needs the finite returns of at least one episode.")
    return scores
