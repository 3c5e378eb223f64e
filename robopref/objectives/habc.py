"""HABC: clone every step, weighted by what a critic of viability and efficiency says of it.

Source: arXiv 2606.17043. With z_v(o) the logit of the policy succeeding from o, p_v = sigmoid(z_v(o)), and V_e(o) minus
the number of steps that a success takes from o, a step from o to o' of the policy weighs

    g = 1 + tanh((1 - p_v) A_v + p_v A_e),   A_v = z_v(o') - z_v(o),   A_e = -1 + V_e(o') - V_e(o),

one of an autonomous failure 0, one of a person 1, all divided by their mean. The heads are fitted beforehand
(``robopref.training.habc_credit``). The formulas come from a summary of the paper.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robopref.errors import RoboprefError
from robopref.objectives.base import (
    Objective,
    ObjectiveInputs,
    ObjectiveOutput,
    Reduce,
    check_batch,
    promoted,
    register_objective,
)
from robopref.objectives.bc import cloning
from robopref.objectives.dagger import dagger_mixture


def habc_weights(
    viability: NDArray[Any],
    next_viability: NDArray[Any],
    efficiency: NDArray[Any],
    next_efficiency: NDArray[Any],
    *,
    failed: NDArray[np.bool_],
    taught: NDArray[np.bool_],
    drawn: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Weights [N] of steps, whose mean over those that are ``drawn`` is 1.

    Args:
        viability: z_v at each step [N], ``next_viability`` at the observation after it.
        efficiency: V_e in steps [N], ``next_efficiency`` at the observation after it.
        failed: steps [N] that the policy took on its own way to a failure.
        taught: steps [N] of people.
        drawn: steps [N] that batches are made of; the others' weights are 0.

    Raises:
        RoboprefError: no step has a positive weight.
    """
    viable = 0.5 * (1 + np.tanh(0.5 * np.asarray(viability, dtype=np.float64)))  # sigmoid without overflow
    gain = next_viability - np.asarray(viability, dtype=np.float64)
    saved = -1 + next_efficiency - np.asarray(efficiency, dtype=np.float64)
    weights = 1 + np.tanh((1 - viable) * gain + viable * saved)
    weights = np.where(drawn, np.where(taught, 1.0, np.where(failed, 0.0, weights)), 0.0)
    total = float(weights.sum())
    if total <= 0:
        raise RoboprefError(
            "every step weighs nothing, so there is nothing to clone: add demonstrations or takeovers, or deploy a "
            "policy that succeeds at times."
        )
    return weights * (int(drawn.sum()) / total)


def habc_loss(policy_logps: Tensor, sample_weights: Tensor, *, reduce: Reduce | None = None) -> ObjectiveOutput:
    """Token negative log-likelihood weighted by sample: log-probabilities [B, L], weights [B] of mean 1 in the data.

    The sum is divided by the number of the batch's tokens, not by the weights in it: equal weights give ``bc_loss``.

    Raises:
        RoboprefError: shapes that differ, an empty batch, values that are not finite, or a negative weight.
    """
    logps = promoted(policy_logps)
    check_batch({"policy_logps": logps}, torch.ones(len(logps), dtype=torch.bool, device=logps.device))
    if sample_weights.shape != logps.shape[:1]:
        raise RoboprefError(f"sample_weights is [{len(logps)}], got shape {tuple(sample_weights.shape)}.")
    if not (torch.isfinite(sample_weights).all() and (sample_weights >= 0).all()):
        raise RoboprefError("sample weights are finite and not negative.")
    weights = sample_weights.to(logps)
    per_sample = -logps.sum(dim=1) * weights
    tokens = (logps != 0).sum().to(logps.dtype)
    if reduce:
        tokens = reduce(tokens)
    loss = per_sample.sum() / torch.where(tokens > 0, tokens, 1)
    return ObjectiveOutput(loss, per_sample, weights, {"loss/nll": loss.item(), "weights/mean": weights.mean().item()})


@register_objective("habc")
def make_habc() -> Objective:
    """HABC for the trainer; samples without weights weigh 1."""

    def compute(inputs: ObjectiveInputs) -> ObjectiveOutput:
        weights = inputs.sample_weights
        if weights is None:
            weights = torch.ones(len(inputs.policy_logps), device=inputs.policy_logps.device)
        return habc_loss(inputs.policy_logps, weights, reduce=inputs.reduce)

    return replace(cloning("habc", dagger_mixture), compute=compute, credit="habc")
