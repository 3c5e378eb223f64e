"""Sirius: clone everything, half of it interventions, next to nothing of what led to them.

Source: Liu et al., "Robot Learning on the Job: Human-in-the-Loop Autonomy and Learning During Deployment", RSS 2023,
arXiv 2211.08416: a sample of class c weighs p*(c) / p(c), p being the classes' shares of the data and

    p*(human) = 0.5,   p*(pre-intervention) = 0.002,   p*(demonstration) = p(demonstration),   p*(rollout) = the rest.

Batches are drawn with the shares p* instead: the same expected loss with less variance. Where demonstrations are so
many that nothing is left for the rollouts, the public code gives those a negative weight; here they get none, and
demonstrations what is left. The pre-intervention class is the undesirable window of the labelling rule.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopref.mixture import Mixture
from robopref.objectives.base import Objective, register_objective
from robopref.objectives.bc import cloning
from robopref.trajectory import Label

HUMAN_SHARE, PRE_INTERVENTION_SHARE = 0.5, 0.002


def sirius_mixture(labels: NDArray[Any]) -> Mixture:
    """Shares p* of human, pre-intervention, demonstration and rollout steps; a class that is absent has none."""
    counts = {label: int((np.asarray(labels) == label).sum()) for label in Label if label is not Label.EXCLUDED}
    undesirable = PRE_INTERVENTION_SHARE if counts[Label.UNDESIRABLE] else 0.0
    left = 1 - HUMAN_SHARE - undesirable
    demonstrations = min(counts[Label.EXPERT] / max(1, sum(counts.values())), left)
    if counts[Label.POLICY] == 0 and counts[Label.EXPERT]:
        demonstrations = left
    rollouts = left - demonstrations if counts[Label.POLICY] else 0.0
    # What classes that do not exist leave over falls to the human steps.
    human = 1 - undesirable - demonstrations - rollouts
    return Mixture(
        (human, undesirable, demonstrations, rollouts),
        ((Label.HUMAN,), (Label.UNDESIRABLE,), (Label.EXPERT,), (Label.POLICY,)),
    )


@register_objective("sirius")
def make_sirius() -> Objective:
    """Sirius for the trainer."""
    return cloning("sirius", sirius_mixture)
