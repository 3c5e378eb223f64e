"""What batches are made of: buckets of labels and the share of every batch that each gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopref.trajectory import Label

BUCKETS = (Label.EXPERT, Label.HUMAN, Label.UNDESIRABLE)
DEFAULT_SHARES = (0.5, 0.25, 0.25)
"""Shares of the buckets in the APO paper: half demonstrations, a quarter each human and undesirable."""
DESIRABLE_SHARES = (2 / 3, 1 / 3, 0.0)
"""What is left of them without the undesirable steps."""


@dataclass(frozen=True)
class Mixture:
    """Buckets of labels and their shares, which sum to 1; within a bucket every step is as likely as any other.

    The default buckets are EXPERT, HUMAN and UNDESIRABLE steps, each by itself.
    """

    shares: tuple[float, ...] = DEFAULT_SHARES
    buckets: tuple[tuple[Label, ...], ...] = tuple((label,) for label in BUCKETS)

    def drawn(self, labels: NDArray[Any]) -> NDArray[np.bool_]:
        """Which of the labelled steps [N] batches are drawn from."""
        used = [bucket for bucket, share in zip(self.buckets, self.shares, strict=True) if share > 0]
        return np.isin(labels, [label for bucket in used for label in bucket])
