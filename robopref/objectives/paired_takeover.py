"""Paired takeover preference: a person's action against a fresh sample of the reference at the same observation.

For chosen action a+, rejected a- ~ pi_ref(. | o) and r(a) = log pi(a | o) - log pi_ref(a | o):

    l = -log sigmoid(beta (r(a+) - r(a-))) + rho (p(beta r(a+)) + p(beta r(a-))) / 2 + the anchor on a+,
    p(x) = (softplus(x) + softplus(-x)) / 2 - log 2,    zero at x = 0 and growing like |x| / 2.

DPO (arXiv 2305.18290) fixes only the difference of the two rewards, so both actions may lose probability together.
Since softplus(-h) = -h / 2 + (softplus(h) + softplus(-h)) / 2, its loss is a linear push and a regulariser of the
difference; the proximal term p puts that regulariser on each action's own reward. The idea is that of Proximalized
Preference Optimization (Guo et al. 2025, arXiv 2505.23316), which FlowPRO (arXiv 2606.05468) uses on takeovers; the
form above, for one pair and without their other parts, is this project's.

With ``min_pair_distance`` D > 0 a sample at which the policy's own recorded proposal was nearer than D to what the
person did (measured as in ``robopref.objectives.dpo``) has l = 0 but for the anchor: the two agree there.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from robopref.errors import RoboprefError
from robopref.mixture import DESIRABLE_SHARES, Mixture
from robopref.objectives.base import (
    Objective,
    ObjectiveInputs,
    ObjectiveOutput,
    Reduce,
    check_settings,
    promoted,
    register_objective,
)
from robopref.objectives.dpo import dpo_loss
from robopref.objectives.pairwise import check_pair_distance, pair_logps


def paired_takeover_loss(
    policy_logps: Tensor,
    reference_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_rejected_logps: Tensor,
    *,
    beta: float = 0.1,
    anchor_weight: float = 0.0,
    proximal_weight: float = 1.0,
    preferred: Tensor | None = None,
    reduce: Reduce | None = None,
) -> ObjectiveOutput:
    """The loss of a batch of pairs; the arguments are those of ``dpo_loss``, and rho.

    Raises:
        RoboprefError: shapes that differ, an empty batch, values that are not finite, or impossible settings.
    """
    _check_proximal(proximal_weight)
    tables = (policy_logps, reference_logps, policy_rejected_logps, reference_rejected_logps)
    out = dpo_loss(*tables, beta=beta, anchor_weight=anchor_weight, preferred=preferred, reduce=reduce)
    policy, reference, rejected, reference_rejected = (promoted(table) for table in tables)
    chosen_reward = beta * (policy - reference.detach()).sum(dim=1)
    rejected_reward = beta * (rejected - reference_rejected.detach()).sum(dim=1)
    proximal = out.weights * proximal_weight * (_proximity(chosen_reward) + _proximity(rejected_reward)) / 2
    metrics = out.metrics | {"loss/proximal": proximal.mean().item()}
    return replace(out, loss=out.loss + proximal.mean(), per_sample=out.per_sample + proximal, metrics=metrics)


def _proximity(reward: Tensor) -> Tensor:
    softplus = torch.nn.functional.softplus
    return (softplus(reward) + softplus(-reward)) / 2 - math.log(2)


def _check_proximal(weight: float) -> None:
    if not 0 <= weight < math.inf:
        raise RoboprefError(f"proximal_weight must be zero or positive, got {weight}.")


@register_objective("paired-takeover")
def make_paired_takeover(
    *, beta: float = 0.1, anchor_weight: float = 0.0, proximal_weight: float = 1.0, min_pair_distance: float = 0.0
) -> Objective:
    """The paired takeover preference for the trainer."""
    check_settings(beta, anchor_weight)
    check_pair_distance(min_pair_distance)
    _check_proximal(proximal_weight)

    def compute(inputs: ObjectiveInputs) -> ObjectiveOutput:
        return paired_takeover_loss(
            *pair_logps(inputs, "paired-takeover"),
            beta=beta,
            anchor_weight=anchor_weight,
            proximal_weight=proximal_weight,
            preferred=inputs.preferred,
            reduce=inputs.reduce,
        )

    return Objective(
        "paired-takeover",
        compute,
        contrast="sampled",
        mixture=lambda labels: Mixture(DESIRABLE_SHARES),
        min_pair_distance=min_pair_distance,
    )
