"""Trajectory-wise Preference Optimization (TPO) on windows of consecutive steps.

Source: Zhang et al., "GRAPE: Generalizing Robot Policy via Preference Alignment", 2024, arXiv 2411.19309: DPO's loss
with a trajectory's log ratio, the sum of those of its steps, in the place of a response's:

    l = -log sigmoid(beta (sum_t r(a_t+ | o_t+) - sum_t r(a_t- | o_t-))),   r = log pi - log pi_ref

GRAPE ranks whole trajectories of the same task from the same start by their cost. Episodes with takeovers have no such
twins; here the preferred windows are demonstrations and human steps, the rejected ones policy steps right before a
takeover, of the same task (``robopref.training.window_pairs``), 8 steps each.
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
from robopref.objectives.binary import anchor_loss
from robopref.objectives.pairwise import bradley_terry, pair_metrics

WINDOW = 8


def tpo_loss(
    policy_logps: Tensor,
    reference_logps: Tensor,
    *,
    window: int = WINDOW,
    beta: float = 0.1,
    anchor_weight: float = 0.0,
    reduce: Reduce | None = None,
) -> ObjectiveOutput:
    """The TPO loss of P pairs of windows of W steps with L token log-probabilities each; the mean over the pairs.

    Args:
        policy_logps: log pi of the recorded actions' tokens [P * 2 * W, L] in the order (pair, preferred then rejected,
            step), zeros where masked. The only argument that gets a gradient.
        reference_logps: the same under the frozen reference.
        window: W.
        beta: inverse temperature of the log ratio.
        anchor_weight: times the mean token negative log-likelihood of the preferred windows, added to the loss.
        reduce: mean over ranks with equally many pairs.

    Returns:
        ``per_sample`` and ``weights`` are per step [P * 2 * W]: each step carries its pair's loss.

    Raises:
        RoboprefError: shapes that differ, no whole number of pairs, values that are not finite, impossible settings.
    """
    logps = {"policy_logps": promoted(policy_logps), "reference_logps": promoted(reference_logps).detach()}
    check_settings(beta, anchor_weight)
    size = len(policy_logps)
    if window < 1 or size % (2 * window):
        raise RoboprefError(f"{size} steps are no whole number of pairs of windows of {window} steps.")
    preferred = (torch.arange(size, device=policy_logps.device) // window) % 2 == 0
    check_batch(logps, preferred)
    policy, reference = logps.values()
    ratios = (policy - reference).sum(dim=1).view(-1, 2, window).sum(dim=2)
    totals = policy.sum(dim=1).view(-1, 2, window).sum(dim=2)
    per_pair = bradley_terry(ratios[:, 0], ratios[:, 1], beta)
    preference = per_pair.mean()
    anchor = anchor_loss(policy, preferred, reduce, reference)
    metrics = pair_metrics(totals[:, 0], totals[:, 1], ratios[:, 0], ratios[:, 1], beta)
    metrics |= {"loss/preference": preference.item(), "loss/anchor": anchor.item()}
    loss = preference + anchor_weight * anchor if anchor_weight else preference
    per_sample = per_pair.repeat_interleave(2 * window)
    return ObjectiveOutput(loss, per_sample, torch.ones_like(per_sample), metrics)


@register_objective("tpo")
def make_tpo(*, beta: float = 0.1, anchor_weight: float = 0.0, window: int = WINDOW) -> Objective:
    """TPO for the trainer."""
    check_settings(beta, anchor_weight)

    def compute(inputs: ObjectiveInputs) -> ObjectiveOutput:
        if inputs.reference_logps is None:
            raise RoboprefError("TPO compares with a reference: its log-probabilities are missing.")
        return tpo_loss(
            inputs.policy_logps,
            inputs.reference_logps,
            window=window,
            beta=beta,
            anchor_weight=anchor_weight,
            reduce=inputs.reduce,
        )

    return Objective("tpo", compute, contrast="none", window=window)
