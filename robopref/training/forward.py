"""The forward passes of a training step: everything that an objective needs, from policy and frozen reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from robopref.protocols import ScoringPolicy, TokenPolicy
from robopref.token_logps import tokens_of_classes


class PolicyOutputs(NamedTuple):
    """Token log-probabilities [B, L] of the labelled and the mismatched action, and the greedy tokens [B, T].

    The greedy tokens are teacher-forced, and 0 where the labelled action has none. ``kl_logps`` is ``None`` when no
    second action was asked for. A tuple, for wrappers that look for tensors in it.
    """

    logps: Tensor
    kl_logps: Tensor | None
    greedy_tokens: Tensor


class TrainingForward(nn.Module):
    """The policy as one module with one ``forward``, which is what data-parallel wrappers synchronise."""

    def __init__(self, policy: TokenPolicy) -> None:
        super().__init__()
        self.policy = policy
        self._scores_both = isinstance(policy, ScoringPolicy)

    def forward(
        self,
        observations: Mapping[str, Any],
        instructions: Sequence[str],
        tokens: Tensor | None,
        partner_tokens: Tensor | None = None,
        own_prefix_kl: bool = False,
        partner_gradients: bool = False,
        uniforms: Tensor | None = None,
    ) -> PolicyOutputs | Tensor:
        """Observations [B, ...], tokens [B, T], mismatched tokens [B, T] -> ``PolicyOutputs``.

        With ``own_prefix_kl`` the mismatched action is read off the labelled action's own teacher-forced pass,
        log p(y'_t | x, y_<t), as the public APO trainer does; otherwise it gets a real pass of its own,
        with ``partner_gradients`` one that is differentiated through. A ``ScoringPolicy`` scores both actions at once.

        With ``uniforms`` [B, A] the result is ``sample_action_tokens``: sharded weights are whole in here only.
        """
        if tokens is None:
            if uniforms is None:
                raise ValueError("either tokens to score or uniform numbers to sample by")
            return sample_action_tokens(self.policy, observations, instructions, uniforms)
        tokenizer = self.policy.tokenizer
        present = tokens > 0
        if partner_tokens is not None and partner_gradients and not tokenizer.variable_length:
            # A pair is compared over the same steps: of a chunk that was cut short, no more is rejected than preferred.
            partner_tokens = torch.where(present, partner_tokens, 0)
        batch = self.policy.encode(observations, instructions)
        second = None if own_prefix_kl else partner_tokens
        if self._scores_both:
            scores = cast(ScoringPolicy, self.policy).score(batch, tokens, second)
            logps, kl_logps, logits = scores.logps, scores.second_logps, scores.logits.detach()
            if kl_logps is not None and not partner_gradients:
                kl_logps = kl_logps.detach()
        else:
            logps, kl_logps = self.policy.action_logps(batch, tokens), None
            with torch.no_grad():
                logits = self.policy.action_logits(batch, tokens)
            if second is not None:
                with torch.set_grad_enabled(partner_gradients and torch.is_grad_enabled()):
                    kl_logps = self.policy.action_logps(batch, second)
        if partner_tokens is not None and own_prefix_kl:
            kl_logps = _own_prefix_logps(
                logps.detach(), logits.detach().float(), tokens, torch.where(present, partner_tokens, 0), tokenizer
            )
        greedy = tokens_of_classes(logits.argmax(dim=-1), tokenizer.bins)
        return PolicyOutputs(logps, kl_logps, torch.where(present, greedy, 0))


def _own_prefix_logps(logps: Tensor, logits: Tensor, tokens: Tensor, others: Tensor, tokenizer: Any) -> Tensor:
    """log p(y'_t | x, y_<t) [B, T + 1] of the tokens y' ``others`` [B, T], 0 past the end of y: there is no y_<t.

    ``logps`` [B, T + 1] and ``logits`` [B, T, classes] are those of the teacher-forced pass over y, ``tokens`` [B, T].
    The logits are of what may be chosen, while the log-probabilities may be over a whole vocabulary. Both are of the
    same distribution at each position, so a difference of logits is one of log-probabilities whatever they sum over.
    """
    classes = logits.shape[-1]
    own, other = (logits.gather(-1, ((t - 1) % classes).unsqueeze(-1)).squeeze(-1) for t in (tokens, others))
    scored = logps[:, :-1] + other - own
    stop = logps[:, -1:]  # the same for both, where both end at the same place
    if tokenizer.variable_length:
        absent = others == 0
        earlier = absent & (absent.cumsum(dim=1) == 1) & (tokens > 0)
        stop = torch.where(
            earlier.any(dim=1, keepdim=True), torch.where(earlier, scored, 0.0).sum(1, keepdim=True), stop
        )
    return torch.cat([torch.where(others > 0, scored, 0.0), stop], dim=1)


@torch.no_grad()
def sample_action_tokens(
    policy: TokenPolicy, observations: Mapping[str, Any], instructions: Sequence[str], uniforms: Tensor
) -> Tensor:
    """Action tokens [B, T] on the CPU, drawn from the policy at its own temperature by uniform numbers [B, T].

    Each is where its number falls in the cumulative distribution, so a sample's action does not depend on the batch.
    From a stop on they are 0.
    """
    batch = policy.encode(observations, instructions)
    tokens = torch.ones(uniforms.shape, dtype=torch.int64)
    going = torch.ones(len(tokens), dtype=torch.bool)
    for place in range(uniforms.shape[1]):
        logits = policy.action_logits(batch, tokens)[:, place]
        cumulative = logits.cpu().double().softmax(dim=-1).cumsum(dim=-1)
        # Times the last entry, which rounding may leave below 1.
        thresholds = uniforms[:, place, None].cpu() * cumulative[:, -1:]
        drawn = torch.searchsorted(cumulative, thresholds, right=True).squeeze(1).clamp(max=logits.shape[-1] - 1)
        tokens[:, place] = torch.where(going, tokens_of_classes(drawn, policy.tokenizer.bins), 0)
        going = tokens[:, place] > 0
    return tokens


@contextmanager
def reference_mode(policy: Any) -> Iterator[None]:
    """Inside it the policy is its frozen reference, without dropout; each module's training flag is restored.

    ``policy.reference()`` alone does not switch dropout off: a reference that is a second adapter of the same network
    shares its modules with the policy in training.
    """
    flags = [(module, module.training) for module in policy.modules()]
    policy.eval()
    try:
        with policy.reference(), torch.no_grad():
            yield
    finally:
        for module, training in flags:
            module.training = training
