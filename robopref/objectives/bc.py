"""Behaviour cloning: token cross-entropy on the desirable samples.

On demonstrations alone it trains the base policy; ``refine`` gives it demonstrations and corrections at two to one. The
methods that clone too, and differ in which steps they draw and how often, are made with ``cloning``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from robopref.mixture import Mixture
from robopref.objectives.base import (
    Objective,
    ObjectiveInputs,
    ObjectiveOutput,
    Reduce,
    check_batch,
    promoted,
    register_objective,
)
from robopref.objectives.binary import anchor_loss


def bc_loss(policy_logps: Tensor, desirable: Tensor, *, reduce: Reduce | None = None) -> ObjectiveOutput:
    """Mean token negative log-likelihood over the desirable samples, of token log-probabilities [B, L].

    Raises:
        RoboprefError: shapes that differ, an empty batch, or values that are not finite.
    """
    logps = promoted(policy_logps)
    check_batch({"policy_logps": logps}, desirable)
    weights = desirable.to(logps.dtype)
    per_sample = -logps.sum(dim=1) * weights
    loss = anchor_loss(logps, desirable, reduce)
    return ObjectiveOutput(loss, per_sample, weights, {"loss/nll": loss.item()})


@register_objective("bc")
def make_bc() -> Objective:
    """Behaviour cloning for the trainer."""
    return Objective("bc", lambda x: bc_loss(x.policy_logps, x.desirable, reduce=x.reduce), needs_reference=False)


def cloning(name: str, mixture: Callable[[NDArray[Any]], Mixture]) -> Objective:
    """Clone whatever the mixture draws, undesirable steps included: the mixture is the method."""

    def compute(inputs: ObjectiveInputs) -> ObjectiveOutput:
        everything = torch.ones_like(inputs.desirable)
        return bc_loss(inputs.policy_logps, everything, reduce=inputs.reduce)

    return Objective(name, compute, needs_reference=False, mixture=mixture)
