"""RECAP: clone everything, told in words whether an action was better than expected; deploy on "better".

Source: Physical Intelligence et al., "pi*0.6: a VLA That Learns From Experience", 2025, arXiv 2511.14759. With L the
length of the longest recorded episode of the task, an attempt o_0 .. o_{T-1} has the rewards

    r_t = -1 / L,   and of its last step 0 after a success and -C / L after a failure,   C = L,

and the returns R_t = sum_{k >= t} r_k, clipped to [-1, 0]. V is the mean of a distribution over 201 values in [-1, 0],
fitted to R by cross-entropy (``robopref.training.value_fit``). The advantage of a step and its indicator are

    A_t = clip(sum_{k < n} r_{t+k} + V(o_{t+n}), -1, 0) - V(o_t),   n = min(N, T - t),   V(o_T) = 0,
    I_t = 1[A_t > eps] for the policy's own steps, 1 for those of people,

eps being the quantile of the task's own policy steps that leaves a given share of them positive. The policy reads the
indicator behind its instruction, except for a share of the samples, and is deployed with the positive one: guidance of
weight 1 in the paper's terms. L, C and clipping the sum, which gives it the range of what V was fitted to, are this
project's choices; the formulas come from a summary of the paper.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError
from robopref.objectives.base import Objective, register_objective
from robopref.objectives.bc import cloning
from robopref.objectives.dagger import dagger_mixture

POSITIVE, NEGATIVE = ". Advantage: positive", ". Advantage: negative"
"""What stands behind the instruction."""
VALUES: NDArray[np.float64] = np.linspace(-1, 0, 201)
"""Of the bins of the distributional value."""


def attempt_rewards(steps: int, longest: int, failed: bool | None) -> NDArray[np.float64]:
    """Rewards [T] of an attempt of T steps, in units of the task's longest episode; C is that length.

    ``failed`` is ``None`` where nobody knows how it would have ended: its last step then is like any other.
    """
    rewards = np.full(steps, -1 / longest)
    if failed is not None:
        rewards[-1] = -1.0 if failed else 0.0
    return rewards


def attempt_returns(rewards: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums of the rewards [T] from each step on, clipped to [-1, 0]."""
    return np.clip(np.cumsum(rewards[::-1])[::-1], -1, 0)


def value_bins(returns: NDArray[Any]) -> NDArray[np.int64]:
    """The bin [...] of ``VALUES`` nearest to each return [...] in [-1, 0]."""
    return np.rint((np.asarray(returns) + 1) * (len(VALUES) - 1)).astype(np.int64)


def attempt_advantages(rewards: NDArray[Any], values: NDArray[Any], horizon: int) -> NDArray[np.float64]:
    """Advantages [T] of an attempt with the rewards [T], N steps ahead.

    Args:
        values: V [T + 1] of its observations and of what came after it: 0 where the attempt is over.
        horizon: N, at least 1.
    """
    before = np.concatenate([[0.0], np.cumsum(rewards)])
    start = np.arange(len(rewards))
    end = np.minimum(start + horizon, len(rewards))
    return np.clip(before[end] - before[start] + np.asarray(values)[end], -1, 0) - np.asarray(values)[start]


def advantage_thresholds(
    advantages: NDArray[Any], tasks: NDArray[Any], autonomous: NDArray[np.bool_], positive_share: float
) -> dict[str, float]:
    """For each task the eps above which ``positive_share`` of its ``autonomous`` steps lie; fewer on ties.

    Args:
        advantages: of all steps [N]; ``tasks`` [N] and ``autonomous`` [N] go with them.

    Raises:
        RoboprefError: the share is not between 0 and 1.
    """
    if not 0 < positive_share < 1:
        raise RoboprefError(f"the share of positive policy steps lies between 0 and 1, got {positive_share}.")
    return {
        str(task): float(np.quantile(advantages[autonomous & (tasks == task)], 1 - positive_share))
        for task in np.unique(tasks[autonomous])
    }


def improvement_indicators(
    advantages: NDArray[Any], tasks: NDArray[Any], taught: NDArray[np.bool_], thresholds: dict[str, float]
) -> NDArray[np.bool_]:
    """I [N]: the steps of people (``taught`` [N]), and those of the policy above the threshold of their task."""
    eps = np.array([thresholds.get(str(task), np.inf) for task in tasks])
    return taught | (advantages > eps)


@register_objective("recap")
def make_recap(indicator_dropout: float = 0.3) -> Objective:
    """RECAP for the trainer; ``indicator_dropout`` is the share of samples without an indicator.

    Raises:
        RoboprefError: a share that is not in [0, 1).
    """
    if not 0 <= indicator_dropout < 1:
        raise RoboprefError(f"the share of samples without an indicator is in [0, 1), got {indicator_dropout}.")
    return replace(
        cloning("recap", dagger_mixture), credit="recap", condition_dropout=indicator_dropout, deployed_suffix=POSITIVE
    )
