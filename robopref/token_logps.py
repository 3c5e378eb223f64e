"""Log-probabilities of action tokens from logits, where a token 0 means that there is none.

A policy with a variable number of tokens has one class more than there are tokens, after them: the stop. So class k is
token k + 1 in every policy, and the class after the last token is token 0.
"""

from __future__ import annotations

import torch
from torch import Tensor


def token_logps(logits: Tensor, tokens: Tensor, bins: int) -> Tensor:
    """Log-probabilities [B, L + 1] of tokens [B, L] that run from 1 to ``bins``, padded at the end with 0.

    A token 0 has log-probability 0 in its own column. The last column is the stop's: with logits [B, L, bins + 1] the
    log-probability of stopping after the last token, and 0 where all L places are taken; with logits [B, L, bins] it
    is 0 everywhere.
    """
    logps = logits.float().log_softmax(dim=-1)
    classes = logps.shape[-1]
    chosen = logps.gather(-1, ((tokens - 1) % classes).unsqueeze(-1)).squeeze(-1)
    present = tokens > 0
    stop = chosen.new_zeros(len(chosen), 1)
    if classes > bins:
        # The first place without a token is where the policy has to say that it stops; the later ones say nothing.
        first = ~present & (torch.cumsum(~present, dim=1) == 1)
        stop = torch.where(first, chosen, 0.0).sum(dim=1, keepdim=True)
    return torch.cat([torch.where(present, chosen, 0.0), stop], dim=1)


def tokens_of_classes(classes: Tensor, bins: int) -> Tensor:
    """Numbers of classes, from 0, -> tokens: class k is token k + 1, the class after the last token is 0, the stop."""
    return torch.where(classes < bins, classes + 1, 0)
