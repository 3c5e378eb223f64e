"""Direct Preference Optimization (DPO) on pairs of actions at the same observation.

Source: Rafailov et al., "Direct Preference Optimization: Your Language Model is Secretly a Reward Model", NeurIPS 2023,
arXiv 2305.18290, equation 7:

    l = -log sigmoid(beta ([log pi(a+ | o) - log pi_ref(a+ | o)] - [log pi(a- | o) - log pi_ref(a- | o)]))

Where the human drives, a+ is the executed action and a- what the policy proposed at that very observation. Elsewhere
(demonstrations) there is no pair, and a- is sampled from the frozen reference at the same observation, as in self-play
fine-tuning (Chen et al., ICML 2024, arXiv 2401.01335). The APO paper samples negatives too and does not publish how.

With ``min_pair_distance`` D > 0 a recorded pair is a preference only where d = mean_j |a+_j - a-_j| >= D, j over the
dimensions of normalised actions in [-1, 1]: nearer than that the person and the policy agree, and l = 0. The anchor
keeps the sample, and no negative is sampled in its place. The mean is over all samples still, so that the other pairs
weigh what they did.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robopref.mixture import DESIRABLE_SHARES, Mixture
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
from robopref.objectives.binary import anchor_loss
from robopref.objectives.pairwise import (
    bradley_terry,
    check_pair_distance,
    pair_logps,
    pair_metrics,
    preferred_weights,
)


def dpo_loss(
    policy_logps: Tensor,
    reference_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_rejected_logps: Tensor,
    *,
    beta: float = 0.1,
    anchor_weight: float = 0.0,
    preferred: Tensor | None = None,
    reduce: Reduce | None = None,
) -> ObjectiveOutput:
    """The DPO loss of a batch of B pairs with L token log-probabilities each; the mean over the batch.

    Args:
        policy_logps: log pi of the preferred action's tokens [B, L], zeros where masked; gets a gradient.
        reference_logps: the same under the frozen reference [B, L].
        policy_rejected_logps: log pi of the rejected action's tokens [B, L]; gets a gradient.
        reference_rejected_logps: the same under the reference [B, L].
        beta: inverse temperature of the log ratio.
        anchor_weight: times the mean token negative log-likelihood of the preferred actions, added to the loss.
        preferred: bool [B], which pairs are preferences; the others have the loss 0, and only the anchor learns from
            them. Default: all.
        reduce: mean over ranks with equally many pairs.

    Raises:
        RoboprefError: shapes that differ, an empty batch, values that are not finite, or impossible settings.
    """
    logps = {
        "policy_logps": promoted(policy_logps),
        "reference_logps": promoted(reference_logps).detach(),
        "policy_rejected_logps": promoted(policy_rejected_logps),
        "reference_rejected_logps": promoted(reference_rejected_logps).detach(),
    }
    chosen = torch.ones(len(policy_logps), dtype=torch.bool, device=policy_logps.device)
    check_settings(beta, anchor_weight)
    check_batch(logps, chosen)
    policy, reference, rejected, reference_rejected = logps.values()
    ratio, rejected_ratio = (policy - reference).sum(dim=1), (rejected - reference_rejected).sum(dim=1)
    weights = preferred_weights(preferred, ratio)
    per_sample = weights * bradley_terry(ratio, rejected_ratio, beta)
    preference = per_sample.mean()
    anchor = anchor_loss(policy, chosen, reduce, reference)
    metrics = pair_metrics(policy.sum(dim=1), rejected.sum(dim=1), ratio, rejected_ratio, beta, preferred)
    metrics |= {"loss/preference": preference.item(), "loss/anchor": anchor.item()}
    loss = preference + anchor_weight * anchor if anchor_weight else preference
    return ObjectiveOutput(loss, per_sample, weights, metrics)


@register_objective("dpo")
def make_dpo(*, beta: float = 0.1, anchor_weight: float = 0.0, min_pair_distance: float = 0.0) -> Objective:
    """DPO for the trainer."""
    check_settings(beta, anchor_weight)
    check_pair_distance(min_pair_distance)

    def compute(inputs: ObjectiveInputs) -> ObjectiveOutput:
        return dpo_loss(
            *pair_logps(inputs, "DPO"),
            beta=beta,
            anchor_weight=anchor_weight,
            preferred=inputs.preferred,
            reduce=inputs.reduce,
        )

    return Objective(
        "dpo",
        compute,
        contrast="rejected",
        mixture=lambda labels: Mixture(DESIRABLE_SHARES),
        min_pair_distance=min_pair_distance,
    )
