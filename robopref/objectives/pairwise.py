"""What the objectives on pairs share: the Bradley-Terry term, and the metrics by TRL's names."""

from __future__ import annotations

import torch
from torch import Tensor

from robopref.errors import RoboprefError
from robopref.objectives.base import ObjectiveInputs


def pair_logps(inputs: ObjectiveInputs, name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probabilities [B, L] of the preferred action under policy and reference, then of the rejected one.

    Raises:
        RoboprefError: saying that ``name`` needs what is missing.
    """
    preferred = inputs.policy_logps, inputs.reference_logps
    rejected = inputs.policy_rejected_logps, inputs.reference_rejected_logps
    if preferred[1] is None or rejected[0] is None or rejected[1] is None:
        raise RoboprefError(f"{name} compares pairs with a reference: their log-probabilities are missing.")
    return preferred[0], preferred[1], rejected[0], rejected[1]


def check_pair_distance(distance: float) -> None:
    """See that it is one that two actions in [-1, 1] can have.

    Raises:
        RoboprefError: it is not.
    """
    if not 0 <= distance <= 2:
        raise RoboprefError(
            f"min_pair_distance is in normalised action units, 0 (every pair counts) to 2 (the whole range), got "
            f"{distance}."
        )


def preferred_weights(preferred: Tensor | None, like: Tensor) -> Tensor:
    """Weights [B] of the pairs' preference terms: 1, or 0 where ``preferred`` [B] says that a pair is none.

    Raises:
        RoboprefError: ``preferred`` is not bool [B].
    """
    if preferred is None:
        return torch.ones_like(like)
    if preferred.dtype != torch.bool or preferred.shape != like.shape:
        raise RoboprefError(f"preferred is bool [{len(like)}], got {preferred.dtype} {tuple(preferred.shape)}.")
    return preferred.to(like.dtype)


def bradley_terry(chosen_ratio: Tensor, rejected_ratio: Tensor, beta: float) -> Tensor:
    """-log sigmoid(beta (chosen - rejected)) [P] of log ratios [P] of pairs."""
    return torch.nn.functional.softplus(-beta * (chosen_ratio - rejected_ratio))


def pair_metrics(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    chosen_ratio: Tensor,
    rejected_ratio: Tensor,
    beta: float,
    preferred: Tensor | None = None,
) -> dict[str, float]:
    """Metrics by TRL's names from summed log-probabilities and log ratios [P]; rewards are beta times the ratio.

    ``rewards/accuracies`` is the share of pairs whose margin is positive. Given which pairs are ``preferred`` [P], they
    are over these alone (none where there are none), and ``shares/preferred`` is their share.
    """
    if preferred is not None:
        share = {"shares/preferred": preferred.float().mean().item()}
        if not preferred.any():
            return share
        chosen_logps, rejected_logps = chosen_logps[preferred], rejected_logps[preferred]
        chosen_ratio, rejected_ratio = chosen_ratio[preferred], rejected_ratio[preferred]
        return share | pair_metrics(chosen_logps, rejected_logps, chosen_ratio, rejected_ratio, beta)
    margin = chosen_ratio - rejected_ratio
    means = torch.stack(
        [beta * chosen_ratio, beta * rejected_ratio, beta * margin, (margin > 0).to(margin.dtype), chosen_logps,
         rejected_logps]
    ).detach().mean(dim=1).tolist()  # fmt: skip
    names = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen",
             "logps/rejected")  # fmt: skip
    return dict(zip(names, means, strict=True))
