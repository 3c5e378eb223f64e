"""Several action suffixes after one prefix, in one pass: who sees whom, and which positions they have.

The prefix (pictures and prompt) is by far the longest part of a sequence, and the labelled action and the mismatched
action of the KL estimate share it. Laid out as ``prefix | suffix 1 | suffix 2``, with the second suffix blind to the
first and counting its positions from the end of the prefix like the first, both get exactly the log-probabilities that
they would get alone. Attention is a set operation over (key, position) pairs, so this is an identity, not an
approximation; ``tests/test_vla_packing.py`` holds it to 1e-5.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_UNSEEN = torch.finfo(torch.float16).min


@dataclass(frozen=True)
class Layout:
    """A packed sequence of N = P + k S places: ``visible`` bool [B, N, N] (query, key), ``positions`` int64 [B, N].

    ``predictors`` int64 [B, k, S + 1]: the places whose hidden states predict each suffix's S tokens and what follows
    them. The first is the last real place of the prefix.
    """

    visible: Tensor
    positions: Tensor
    predictors: Tensor


def pack(
    prefix_mask: Tensor, suffixes: int, length: int, *, bidirectional_prefix: bool = False, first_position: int = 0
) -> Layout:
    """The layout of ``suffixes`` suffixes of ``length`` tokens each after right-padded prefixes.

    Args:
        prefix_mask: bool [B, P], true at real places; each row is true up to its length and has at least one.
        bidirectional_prefix: whether prefix places see all of the prefix, not only what comes before them.
        first_position: the position id of the first place.
    """
    batch, prefix = prefix_mask.shape
    device = prefix_mask.device
    suffix_number = torch.arange(suffixes, device=device).repeat_interleave(length)
    place_in_suffix = torch.arange(length, device=device).repeat(suffixes)

    visible = torch.zeros(
        batch, prefix + suffixes * length, prefix + suffixes * length, dtype=torch.bool, device=device
    )
    among_prefix = prefix_mask[:, None, :].expand(batch, prefix, prefix)
    if not bidirectional_prefix:
        among_prefix = among_prefix & torch.ones(prefix, prefix, dtype=torch.bool, device=device).tril()
    # Nobody looks at padding, but a row of attention that sees nothing is NaN: padding looks at itself.
    padding_at_itself = torch.eye(prefix, dtype=torch.bool, device=device) & ~prefix_mask[:, :, None]
    visible[:, :prefix, :prefix] = among_prefix | padding_at_itself
    visible[:, prefix:, :prefix] = prefix_mask[:, None, :]
    same_suffix = suffix_number[:, None] == suffix_number[None, :]
    visible[:, prefix:, prefix:] = same_suffix & (place_in_suffix[:, None] >= place_in_suffix[None, :])

    lengths = prefix_mask.sum(dim=1)
    positions = torch.cat(
        [torch.arange(prefix, device=device).expand(batch, prefix), lengths[:, None] + place_in_suffix], dim=1
    )
    last = (lengths - 1)[:, None, None].expand(batch, suffixes, 1)
    own = prefix + torch.arange(suffixes * length, device=device).view(1, suffixes, length).expand(batch, -1, -1)
    return Layout(visible, positions + first_position, torch.cat([last, own], dim=2))


def additive_mask(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """bool [B, Q, K] -> [B, 1, Q, K]: 0 where seen, a large negative number where not.

    Not minus infinity, since a query that sees nothing must not become NaN; and one that every floating-point type
    holds, since mixed precision casts the mask.
    """
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, _UNSEEN)[:, None]
