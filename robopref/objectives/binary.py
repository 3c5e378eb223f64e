"""What the objectives on binary labels share: the anchor, the KL estimate, and the metrics by TRL's names."""

from __future__ import annotations

import torch
from torch import Tensor

from robopref.objectives.base import Reduce


def kl_estimate(policy_kl_logps: Tensor, reference_kl_logps: Tensor, reduce: Reduce | None) -> Tensor:
    """Mean over the batch, and all ranks, of log pi(a' | o) - log pi_ref(a' | o) from [B, L] tokens; detached."""
    kl = (policy_kl_logps - reference_kl_logps).sum(dim=1).mean().detach()
    return reduce(kl) if reduce else kl


def anchor_loss(policy_logps: Tensor, desirable: Tensor, reduce: Reduce | None = None) -> Tensor:
    """Mean token negative log-likelihood over the desirable samples, of log-probabilities [B, L] -> scalar.

    Zeros are masked positions: a token counts when its log-probability is not exactly zero (a token that is certain
    has nothing left to learn and contributes nothing to the sum either way). 0 without desirable samples. With
    ``reduce`` the number of tokens is the mean over ranks, so that averaged gradients are those of the global mean.
    """
    chosen = policy_logps[desirable]
    tokens = (chosen != 0).sum().to(policy_logps.dtype)
    if reduce:
        tokens = reduce(tokens)
    return -chosen.sum() / tokens.clamp(min=1)


def binary_metrics(
    policy_logps: Tensor, log_ratio: Tensor, desirable: Tensor, weights: Tensor, beta: float, kl: Tensor
) -> dict[str, float]:
    """Metrics by TRL's names from token log-probabilities [B, L], log ratios [B] and weights [B].

    A class that the batch lacks has no metric. Rewards are beta times the log ratio, as in DPO and KTO.
    """
    metrics = {"kl": kl.item(), "shares/desirable": desirable.to(torch.float64).mean().item()}
    rewards, logps = beta * log_ratio.detach(), policy_logps.detach().sum(dim=1)
    for name, weight_name, mask in (("chosen", "desirable", desirable), ("rejected", "undesirable", ~desirable)):
        if mask.any():
            metrics[f"rewards/{name}"] = rewards[mask].mean().item()
            metrics[f"logps/{name}"] = logps[mask].mean().item()
            metrics[f"weights/{weight_name}"] = weights[mask].mean().item()
    if "rewards/chosen" in metrics and "rewards/rejected" in metrics:
        metrics["rewards/margins"] = metrics["rewards/chosen"] - metrics["rewards/rejected"]
    return metrics
