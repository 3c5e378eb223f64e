"""One training step's forward passes: everything that an objective needs, from policy and frozen reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robopref.protocols import TokenPolicy


@dataclass(frozen=True)
class PolicyOutputs:
    """Token log-probabilities [B, L] of the labelled and the mismatched action, and the greedy tokens [B, A].

    ``kl_logps`` is ``None`` when no second action was asked for.
    """

    logps: Tensor
    kl_logps: Tensor | None
    greedy_tokens: Tensor


class TrainingForward(nn.Module):
    """The policy as one module with one ``forward``, which is what data-parallel wrappers synchronise."""

    def __init__(self, policy: TokenPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(
        self,
        observations: Mapping[str, Any],
        instructions: Sequence[str],
        tokens: Tensor,
        partner_tokens: Tensor | None,
        own_prefix_kl: bool = False,
        partner_gradients: bool = False,
    ) -> PolicyOutputs:
        """Observations [B, ...], tokens [B, A], mismatched tokens [B, A] -> ``PolicyOutputs``.

        With ``own_prefix_kl`` the mismatched action is read off the labelled action's own teacher-forced pass,
        log p(y'_t | x, y_<t), as the public APO trainer does; otherwise it gets a real pass of its own,
        with ``partner_gradients`` one that is differentiated through.
        """
        batch = self.policy.encode(observations, instructions)
        logps = self.policy.action_logps(batch, tokens)
        kl_logps = None
        with torch.no_grad():
            logits = self.policy.action_logits(batch, tokens)
            if partner_tokens is not None and own_prefix_kl:
                own = logits.float().log_softmax(-1).gather(-1, (partner_tokens - 1).unsqueeze(-1)).squeeze(-1)
                kl_logps = torch.cat([own, own.new_zeros(len(own), logps.shape[1] - own.shape[1])], dim=1)
            elif partner_tokens is not None and not partner_gradients:
                kl_logps = self.policy.action_logps(batch, partner_tokens)
        if partner_tokens is not None and partner_gradients:
            kl_logps = self.policy.action_logps(batch, partner_tokens)
        return PolicyOutputs(logps, kl_logps, 1 + logits.argmax(dim=-1))


@torch.no_grad()
def sample_action_tokens(
    policy: TokenPolicy,
    observations: Mapping[str, Any],
    instructions: Sequence[str],
    action_size: int,
    generator: torch.Generator,
) -> Tensor:
    """Action tokens [B, A] on the CPU, drawn from the policy at its own temperature with a CPU generator."""
    batch = policy.encode(observations, instructions)
    tokens = torch.ones(len(instructions), action_size, dtype=torch.int64)
    for place in range(action_size):
        probabilities = policy.action_logits(batch, tokens)[:, place].float().softmax(dim=-1).cpu()
        tokens[:, place] = 1 + torch.multinomial(probabilities, 1, generator=generator).squeeze(1)
    return tokens
