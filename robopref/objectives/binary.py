"""What the objectives on binary labels share: the anchor, the KL estimate, label noise, and metrics by TRL's names.

Label noise: a takeover without a reason makes steps undesirable that were not. With s_i = sigmoid(beta (z0 - r_i)) the
probability, under the present policy, that the undesirable label of sample i is right, and eta its prior,

    E:  w_i = s_i eta / (s_i eta + (1 - s_i) (1 - eta)) = sigmoid(beta (z0 - r_i) + log(eta / (1 - eta)))
    M:  a gradient step on l_i = w_i (1 - s_i) + (1 - w_i) s_i, with w_i held

eta is 0.9 throughout: an objective is a function of its batch and keeps nothing from one to the next. Desirable
samples, which a person drove or which succeeded, are trusted. The form is this project's.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from robopref.errors import RoboprefError
from robopref.objectives.base import Reduce

LabelNoise = Literal["none", "em"]
LABEL_PRIOR = 0.9
"""How likely an undesirable label is to be right, before anything is known of its sample."""


def check_label_noise(label_noise: str) -> None:
    """See that it is a choice that there is.

    Raises:
        RoboprefError: it is not.
    """
    if label_noise not in ("none", "em"):
        raise RoboprefError(f"label_noise is 'none' or 'em', not {label_noise!r}.")


def binary_losses(scaled_margin: Tensor, desirable: Tensor, label_noise: LabelNoise) -> tuple[Tensor, dict[str, float]]:
    """The losses [B] of samples before their weights, and metrics of the label noise where it is estimated.

    Args:
        scaled_margin: beta (r - z0) [B] of desirable samples, beta (z0 - r) of undesirable ones.
        desirable: bool [B].
        label_noise: "none": the loss is 1 - sigmoid(scaled margin). "em": that of undesirable samples is l_i as above.
    """
    # 1 - sigmoid(x) is sigmoid(-x), which keeps its digits when x is large.
    missed = torch.sigmoid(-scaled_margin)
    if label_noise == "none":
        return missed, {}
    trust = torch.sigmoid(scaled_margin.detach() + math.log(LABEL_PRIOR / (1 - LABEL_PRIOR)))
    doubted = trust * missed + (1 - trust) * torch.sigmoid(scaled_margin)
    metrics = {} if desirable.all() else {"label_trust/undesirable": trust[~desirable].mean().item()}
    return torch.where(desirable, missed, doubted), metrics


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
