"""Kahneman-Tversky Optimization (KTO) on binary labels.

Source: Ethayarajh et al., "KTO: Model Alignment as Prospect Theoretic Optimization", ICML 2024, arXiv 2402.01306, as
TRL computes it: desirable l = 1 - sigmoid(beta (r - z0)), undesirable l = 1 - sigmoid(beta (z0 - r)),
z0 = max(batch mean of the KL log ratio, 0), batch mean.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robopref.errors import RoboprefError
from robopref.objectives.base import (
    Objective,
    ObjectiveInputs,
    ObjectiveOutput,
    Reduce,
    check_batch,
    check_settings,
    promoted,
    register_objective,
)
from robopref.objectives.binary import (
    LabelNoise,
    anchor_loss,
    binary_losses,
    binary_metrics,
    check_label_noise,
    kl_estimate,
)


def kto_loss(
    policy_logps: Tensor,
    reference_logps: Tensor,
    policy_kl_logps: Tensor,
    reference_kl_logps: Tensor,
    desirable: Tensor,
    *,
    beta: float = 0.1,
    anchor_weight: float = 0.0,
    label_noise: LabelNoise = "none",
    reduce: Reduce | None = None,
) -> ObjectiveOutput:
    """The KTO loss of a batch; the arguments are those of ``apo_loss``, every weight is 1.

    Raises:
        RoboprefError: shapes that differ, an empty batch, values that are not finite, or impossible settings.
    """
    logps = {
        "policy_logps": promoted(policy_logps),
        "reference_logps": promoted(reference_logps).detach(),
        "policy_kl_logps": promoted(policy_kl_logps).detach(),
        "reference_kl_logps": promoted(reference_kl_logps).detach(),
    }
    check_settings(beta, anchor_weight)
    check_label_noise(label_noise)
    check_batch(logps, desirable)
    policy, reference, policy_kl, reference_kl = logps.values()
    log_ratio = (policy - reference).sum(dim=1)
    z0 = kl_estimate(policy_kl, reference_kl, reduce).clamp(min=0)
    margin = torch.where(desirable, log_ratio - z0, z0 - log_ratio)
    per_sample, noise_metrics = binary_losses(beta * margin, desirable, label_noise)
    weights = torch.ones_like(per_sample)
    preference = per_sample.mean()
    anchor = anchor_loss(policy, desirable, reduce, reference)
    metrics = binary_metrics(policy.sum(dim=1), log_ratio, desirable, weights, beta, z0)
    metrics |= noise_metrics | {"loss/preference": preference.item(), "loss/anchor": anchor.item()}
    loss = preference + anchor_weight * anchor if anchor_weight else preference
    return ObjectiveOutput(loss, per_sample, weights, metrics)


@register_objective("kto")
def make_kto(*, beta: float = 0.1, anchor_weight: float = 0.0, label_noise: LabelNoise = "none") -> Objective:
    """KTO for the trainer."""
    check_settings(beta, anchor_weight)
    check_label_noise(label_noise)

    def compute(inputs: ObjectiveInputs) -> ObjectiveOutput:
        if inputs.reference_logps is None or inputs.policy_kl_logps is None or inputs.reference_kl_logps is None:
            raise RoboprefError("KTO compares with a reference: its log-probabilities are missing.")
        return kto_loss(
            inputs.policy_logps,
            inputs.reference_logps,
            inputs.policy_kl_logps,
            inputs.reference_kl_logps,
            inputs.desirable,
            beta=beta,
            anchor_weight=anchor_weight,
            label_noise=label_noise,
            reduce=inputs.reduce,
        )

    return Objective("kto", compute)
