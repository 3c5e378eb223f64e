"""Behaviour cloning: token cross-entropy on the desirable samples.

On demonstrations alone it trains the base policy; on demonstrations and corrections it is HG-DAgger's update (Kelly et
al. 2019, arXiv 1810.02890).
"""

from __future__ import annotations

from torch import Tensor

from robopref.objectives.base import (
    Objective,
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
