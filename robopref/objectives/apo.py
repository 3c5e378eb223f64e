"""Action Preference Optimization (APO): binary desirability with weights from how wrong the policy's action is.

Source: Xia et al., "Human-assisted Robotic Policy Refinement via Action Preference Optimization", NeurIPS 2025,
arXiv 2506.07127. (Not TRL's ``apo_zero`` / ``apo_down``, which are *Anchored* Preference Optimization.)

For a sample with summed log ratio r = log pi(a | o) - log pi_ref(a | o) and the batch's KL estimate z0:

    desirable:    l = lambda_D (1 - sigmoid(beta (r - z0))),     lambda_D = 1 - exp(-beta_D w)
    undesirable:  l = lambda_U (1 - sigmoid(beta (z0 - r))),     lambda_U = exp(-beta_U w)

where w compares a sample's action error with the others of its class, and neither w nor z0 carries a gradient.
"""

from __future__ import annotations

import math
from typing import Literal

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

Variant = Literal["default", "reference"]
_EPSILON = 1e-4  # in both variants: classes without any error keep a weight


def apo_loss(
    policy_logps: Tensor,
    reference_logps: Tensor,
    policy_kl_logps: Tensor,
    reference_kl_logps: Tensor,
    desirable: Tensor,
    action_error: Tensor,
    *,
    beta: float = 0.1,
    beta_desirable: float = 1.0,
    beta_undesirable: float = 1.0,
    kl_min: float = -5.0,
    kl_max: float = 5.0,
    anchor_weight: float = 0.0,
    label_noise: LabelNoise = "none",
    reduce: Reduce | None = None,
    variant: Variant = "default",
) -> ObjectiveOutput:
    """The APO loss of a batch of B samples with L token log-probabilities each.

    ``variant="default"``: w = (e + 1e-4) / (mean e + 1e-4) within the class, the loss is the batch mean, and every
    statistic is over all ranks, so that neither the batch size nor the number of ranks changes a sample's weight.

    ``variant="reference"``: the public trainer's arithmetic: w = (e + 1e-4) / (sum e + 1e-4) within the class, the
    loss is the batch sum, statistics are per rank (``reduce`` is not used for them), and the undesirable and KL
    log-probabilities leave out the last column, the (padded) stop token, while the desirable ones keep it. Its caller
    scores a' on the labelled action's own prefix and normalises over the full vocabulary.

    Args:
        policy_logps: log pi of the labelled action's tokens [B, L], zeros where masked; the last column is the stop
            token's. The only argument that gets a gradient.
        reference_logps: the same under the frozen reference [B, L].
        policy_kl_logps: log pi of the mismatched action a' [B, L].
        reference_kl_logps: the same under the reference [B, L].
        desirable: bool [B]; True for demonstrations and human corrections.
        action_error: L1 distance [B] between the policy's greedy action and the labelled one, mean over dimensions.
        beta: inverse temperature of the log ratio.
        beta_desirable: how fast the weight of desirable samples rises with their error.
        beta_undesirable: how fast the weight of undesirable samples falls with their error.
        kl_min: lower clamp of z0, in nats.
        kl_max: upper clamp of z0, in nats.
        anchor_weight: times the mean token negative log-likelihood over the desirable samples (``anchor_loss``), added
            to the loss; not divided or multiplied by the batch size in either variant.
        label_noise: "em" doubts undesirable labels (``robopref.objectives.binary``); in the default variant only.
        reduce: mean over ranks, for data-parallel training with equally many samples on every rank. The ranks' losses,
            and their gradients, then average to those of the global batch.
        variant: see above.

    Returns:
        ``loss`` scalar; ``per_sample`` [B] and ``weights`` lambda [B] in input order, without the anchor.

    Raises:
        RoboprefError: shapes that differ, an empty batch, values that are not finite, or impossible settings.
    """
    logps = {
        "policy_logps": promoted(policy_logps),
        "reference_logps": promoted(reference_logps).detach(),
        "policy_kl_logps": promoted(policy_kl_logps).detach(),
        "reference_kl_logps": promoted(reference_kl_logps).detach(),
    }
    _check_apo_settings(beta, beta_desirable, beta_undesirable, kl_min, kl_max, anchor_weight, label_noise, variant)
    check_batch(logps, desirable, action_error)
    policy, reference, policy_kl, reference_kl = logps.values()
    error = action_error.detach().to(policy.dtype)
    sample_logps, log_ratio = policy.sum(dim=1), (policy - reference).sum(dim=1)
    if variant == "reference":
        sample_logps = torch.where(desirable, sample_logps, policy[:, :-1].sum(dim=1))
        log_ratio = torch.where(desirable, log_ratio, (policy - reference)[:, :-1].sum(dim=1))
        z0 = kl_estimate(policy_kl[:, :-1], reference_kl[:, :-1], None)
        scale, _ = _class_totals_and_counts(error, desirable)
    else:
        z0 = kl_estimate(policy_kl, reference_kl, reduce)
        totals_and_counts = _class_totals_and_counts(error, desirable)
        # Sums and counts are reduced, not class means: the ranks hold different numbers of a class.
        totals, counts = reduce(totals_and_counts) if reduce else totals_and_counts
        scale = totals / torch.where(counts > 0, counts, 1)
    z0 = z0.clamp(kl_min, kl_max)
    relative = (error + _EPSILON) / (scale[desirable.long()] + _EPSILON)
    weights = torch.where(desirable, -torch.expm1(-beta_desirable * relative), torch.exp(-beta_undesirable * relative))
    margin = torch.where(desirable, log_ratio - z0, z0 - log_ratio)
    losses, noise_metrics = binary_losses(beta * margin, desirable, label_noise)
    per_sample = weights * losses
    preference = per_sample.sum() if variant == "reference" else per_sample.mean()
    anchor = anchor_loss(policy, desirable, reduce, reference)
    metrics = binary_metrics(sample_logps, log_ratio, desirable, weights, beta, z0)
    metrics |= noise_metrics | {"loss/preference": preference.item(), "loss/anchor": anchor.item()}
    loss = preference + anchor_weight * anchor if anchor_weight else preference
    return ObjectiveOutput(loss, per_sample, weights, metrics)


def _class_totals_and_counts(error: Tensor, desirable: Tensor) -> Tensor:
    """Rows (summed error, number of samples), columns (undesirable, desirable) [2, 2], within this rank's batch."""
    member = torch.stack([~desirable, desirable]).to(error.dtype)
    return torch.stack([(member * error).sum(dim=1), member.sum(dim=1)])


def _check_apo_settings(
    beta: float,
    beta_desirable: float,
    beta_undesirable: float,
    kl_min: float,
    kl_max: float,
    anchor_weight: float,
    label_noise: str,
    variant: str,
) -> None:
    check_settings(beta, anchor_weight)
    # At zero or below, the desirable weights vanish or turn negative, and the undesirable ones grow without bound.
    if not (0 < beta_desirable < math.inf and 0 <= beta_undesirable < math.inf):
        raise RoboprefError(
            f"beta_desirable must be positive and beta_undesirable not negative, got {beta_desirable} and "
            f"{beta_undesirable}."
        )
    if not kl_min <= kl_max:
        raise RoboprefError(f"kl_min must not exceed kl_max, got [{kl_min}, {kl_max}].")
    if variant not in ("default", "reference"):
        raise RoboprefError(f"the APO variants are 'default' and 'reference', not {variant!r}.")
    check_label_noise(label_noise)
    if variant == "reference" and label_noise != "none":
        raise RoboprefError("the reference variant is the public trainer's arithmetic, which knows no label noise.")


@register_objective("apo")
def make_apo(
    *,
    beta: float = 0.1,
    beta_desirable: float = 1.0,
    beta_undesirable: float = 1.0,
    kl_min: float = -5.0,
    kl_max: float = 5.0,
    anchor_weight: float = 0.0,
    label_noise: LabelNoise = "none",
    variant: Variant = "default",
) -> Objective:
    """APO for the trainer."""
    _check_apo_settings(beta, beta_desirable, beta_undesirable, kl_min, kl_max, anchor_weight, label_noise, variant)

    def compute(inputs: ObjectiveInputs) -> ObjectiveOutput:
        if inputs.reference_logps is None or inputs.policy_kl_logps is None or inputs.reference_kl_logps is None:
            raise RoboprefError("APO compares with a reference: its log-probabilities are missing.")
        return apo_loss(
            inputs.policy_logps,
            inputs.reference_logps,
            inputs.policy_kl_logps,
            inputs.reference_kl_logps,
            inputs.desirable,
            inputs.action_error,
            beta=beta,
            beta_desirable=beta_desirable,
            beta_undesirable=beta_undesirable,
            kl_min=kl_min,
            kl_max=kl_max,
            anchor_weight=anchor_weight,
            label_noise=label_noise,
            reduce=inputs.reduce,
            variant=variant,
        )

    return Objective("apo", compute, own_prefix_kl=variant == "reference")
