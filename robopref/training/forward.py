"""One training step's forward passes: everything that an objective needs, from policy and frozen reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robopref.protocols import TokenPolicy
from robopref.token_logps import token_logps, tokens_of_classes


@dataclass(frozen=True)
class PolicyOutputs:
    """Token log-probabilities [B, L] of the labelled and the mismatched action, and the greedy tokens [B, T].

    The greedy tokens are teacher-forced, and 0 where the labelled action has none.
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
        """Observations [B, ...], tokens [B, T], mismatched tokens [B, T] -> ``PolicyOutputs``.

        With ``own_prefix_kl`` the mismatched action is read off the labelled action's own teacher-forced pass,
        log p(y'_t | x, y_<t), as the public APO trainer does; otherwise it gets a real pass of its own,
        with ``partner_gradients`` one that is differentiated through.
        """
        tokenizer = self.policy.tokenizer
        present = tokens > 0
        if partner_tokens is not None and partner_gradients and not tokenizer.variable_length:
            # A pair is compared over the same steps: of a chunk that was cut short, no more is rejected than preferred.
            partner_tokens = torch.where(present, partner_tokens, 0)
        batch = self.policy.encode(observations, instructions)
        logps = self.policy.action_logps(batch, tokens)
        kl_logps = None
        with torch.no_grad():
            logits = self.policy.action_logits(batch, tokens)
            if partner_tokens is not None and own_prefix_kl:
                # Past the labelled action's own tokens there is no prefix y_<t.
                kl_logps = token_logps(logits, torch.where(present, partner_tokens, 0), tokenizer.bins)
            elif partner_tokens is not None and not partner_gradients:
                kl_logps = self.policy.action_logps(batch, partner_tokens)
        if partner_tokens is not None and partner_gradients:
            kl_logps = self.policy.action_logps(batch, partner_tokens)
        greedy = tokens_of_classes(logits.argmax(dim=-1), tokenizer.bins)
        return PolicyOutputs(logps, kl_logps, torch.where(present, greedy, 0))


@torch.no_grad()
def sample_action_tokens(
    policy: TokenPolicy,
    observations: Mapping[str, Any],
    instructions: Sequence[str],
    action_size: int,
    generator: torch.Generator,
) -> Tensor:
    """Action tokens [B, T] on the CPU, drawn from the policy at its own temperature with a CPU generator.

    ``action_size`` is T, the number of tokens of the longest action; from a stop on they are 0.
    """
    batch = policy.encode(observations, instructions)
    tokens = torch.ones(len(instructions), action_size, dtype=torch.int64)
    going = torch.ones(len(instructions), dtype=torch.bool)
    for place in range(action_size):
        probabilities = policy.action_logits(batch, tokens)[:, place].float().softmax(dim=-1).cpu()
        drawn = torch.multinomial(probabilities, 1, generator=generator).squeeze(1)
        tokens[:, place] = torch.where(going, tokens_of_classes(drawn, policy.tokenizer.bins), 0)
        going = tokens[:, place] > 0
    return tokens
