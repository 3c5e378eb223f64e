"""What the objectives on binary labels share: the anchor, the KL estimate, and the metrics by TRL's names."""

from __future__ import annotations

import torch
from torch import Tensor

from robopref.objectives.base import Reduce


def kl_estimate(policy_kl_logps: Tensor, reference_kl_logps: Tensor, reduce: Reduce | None) -> Tensor:
    """Mean over the batch, and all ranks, of log pi(a' | o) - log pi_ref(a' | o) from [B, L] tokens; detached.

    The ranks' means are averaged, so every rank must hold equally many samples.
    """
    kl = (policy_kl_logps - reference_kl_logps).sum(dim=1).mean().detach()
    return reduce(kl) if reduce else kl


def anchor_loss(
    policy_logps: Tensor, desirable: Tensor, reduce: Reduce | None = None, reference_logps: Tensor | None = None
) -> Tensor:
    """Mean token negative log-likelihood over the desirable samples, of log-probabilities [B, L] -> scalar.

    The mean is over their tokens. A column is masked in a row where the policy's and (if given) the reference's
    log-probability are both exactly 0, so a stop column that a policy lacks does not count, and a token of which only
    the policy has become certain still does: the divisor does not jump while it learns. A token of which both are
    certain cannot be told from a masked one; it adds nothing to the sum. 0 without desirable samples. With ``reduce``
    the number of tokens is the mean over ranks, so that the ranks' anchors, and their gradients, average to those of
    the global mean.
    """
    chosen = policy_logps[desirable]
    present = chosen != 0
    if reference_logps is not None:
        present = present | (reference_logps[desirable] != 0)
    tokens = present.sum().to(policy_logps.dtype)
    if reduce:
        tokens = reduce(tokens)
    # Not a clamp at 1: the mean over ranks is a fraction when few ranks hold a desirable token.
    return -chosen.sum() / torch.where(tokens > 0, tokens, 1)


def binary_metrics(
    logps: Tensor, log_ratio: Tensor, desirable: Tensor, weights: Tensor, beta: float, kl: Tensor
) -> dict[str, float]:
    """Metrics by TRL's names from log-probabilities, log ratios, weights [B] as they entered the loss.

    A class that the batch lacks has no metric. Rewards are beta times the log ratio, as in DPO and KTO.
    """
    metrics = {"kl": kl.item(), "shares/desirable": int(desirable.sum()) / len(desirable)}
    values = torch.stack([beta * log_ratio, logps, weights]).detach()
    for name, weight_name, mask in (("chosen", "desirable", desirable), ("rejected", "undesirable", ~desirable)):
        if mask.any():
            means = values[:, mask].mean(dim=1).tolist()
            metrics |= zip((f"rewards/{name}", f"logps/{name}", f"weights/{weight_name}"), means, strict=True)
    if "rewards/chosen" in metrics and "rewards/rejected" in metrics:
        metrics["rewards/margins"] = metrics["rewards/chosen"] - metrics["rewards/rejected"]
    return metrics
