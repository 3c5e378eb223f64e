"""Balanced batches: fixed shares of demonstration, human and undesirable steps in every batch, on average exactly.

Everything is a pure function of (seed, step), so that a resumed run, and a run on another number of processes, sees
the same batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError
from robopref.trajectory import Label

BUCKETS = (Label.EXPERT, Label.HUMAN, Label.UNDESIRABLE)
DEFAULT_SHARES = (0.5, 0.25, 0.25)
"""Shares of the buckets in the APO paper: half demonstrations, a quarter each human and undesirable."""

_ADVICE = {
    Label.EXPERT: "add demonstrations (--demos)",
    Label.HUMAN: "the interactions hold no human step: collect with an operator who takes over",
    Label.UNDESIRABLE: "no policy step precedes a takeover: widen the window, or collect takeovers",
}


def apportion(credit: NDArray[np.floating[Any]], total: int) -> NDArray[np.int64]:
    """Whole numbers [K] >= 0 that sum to ``total``, nearest to ``credit`` [K]: largest remainder, the first on ties."""
    # Rounded before the floor: 0.1 * 30 is 2.9999999999999996 in floating point and means 3.
    counts = np.maximum(np.floor(np.round(credit, 9)), 0).astype(np.int64)
    while (missing := total - int(counts.sum())) != 0:
        remainder = np.round(credit - counts, 9)
        if missing > 0:
            counts[np.argmax(remainder)] += 1
        else:
            counts[np.argmin(np.where(counts > 0, remainder, np.inf))] -= 1
    return counts


class BalancedSampler:
    """Composes batches of sample numbers from labelled samples.

    The global batch of ``batch_size * world_size`` samples is composed once and dealt to the ranks in turn, so that
    each rank's part has the global proportions to within one sample per bucket, and their union is what one process
    with the global batch size would see. Per bucket the samples come without replacement, reshuffled on every pass.

    Args:
        labels: ``Label`` values [N] of all samples; POLICY and EXCLUDED samples are never drawn.
        batch_size: samples per rank and step.
        shares: of EXPERT, HUMAN and UNDESIRABLE samples; they sum to 1.
        seed: of the shuffles and the partners.
        rank: this process, of ``world_size``.

    Raises:
        RoboprefError: a batch below 3, shares that do not sum to 1, or an empty bucket whose share is positive.
    """

    def __init__(
        self,
        labels: NDArray[Any],
        batch_size: int,
        *,
        shares: Sequence[float] = DEFAULT_SHARES,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size < 3:
            raise RoboprefError(f"a batch needs at least 3 samples to hold every class, got batch size {batch_size}.")
        if len(shares) != len(BUCKETS) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-9:
            raise RoboprefError(f"shares are three numbers >= 0 that sum to 1, got {tuple(shares)}.")
        if not 0 <= rank < world_size:
            raise RoboprefError(f"rank {rank} is not one of {world_size} processes.")
        self.batch_size, self.shares, self.seed = batch_size, tuple(shares), seed
        self.rank, self.world_size = rank, world_size
        labels = np.asarray(labels)
        self.buckets = [np.flatnonzero(labels == label) for label in BUCKETS]
        for label, bucket, share in zip(BUCKETS, self.buckets, shares, strict=True):
            if share > 0 and len(bucket) == 0:
                raise RoboprefError(f"there are no {label.name} samples: {_ADVICE[label]}.")
        drawn = np.concatenate([b for b, share in zip(self.buckets, shares, strict=True) if share > 0])
        # A shuffled ring, each sample's partner the next one: nobody is its own, and everybody is somebody's.
        ring = np.random.default_rng((seed, len(BUCKETS))).permutation(np.sort(drawn))
        self._partners = np.full(len(labels), -1, dtype=np.int64)
        self._partners[ring] = np.roll(ring, -1)
        self._drawn = [np.zeros(len(BUCKETS), dtype=np.int64)]
        self._order = lru_cache(maxsize=2 * len(BUCKETS))(self._shuffled)

    def batch(self, step: int) -> NDArray[np.int64]:
        """This rank's sample numbers [batch_size] at a step."""
        return self.global_batch(step)[self.rank :: self.world_size]

    def global_batch(self, step: int) -> NDArray[np.int64]:
        """The sample numbers [batch_size * world_size] of all ranks at a step, bucket after bucket."""
        size = self.batch_size * self.world_size
        self._compose_up_to(step + 1, size)
        before, after = self._drawn[step], self._drawn[step + 1]
        return np.concatenate([self._draw(k, int(before[k]), int(after[k])) for k in range(len(BUCKETS))])

    def _compose_up_to(self, steps: int, size: int) -> None:
        """Extend ``_drawn`` [steps + 1, K], how many samples of each bucket the batches before a step have taken."""
        while len(self._drawn) <= steps:
            # What earlier batches owe a bucket, or took too much of it, is carried over to this one.
            credit = np.asarray(self.shares, dtype=np.float64) * (size * len(self._drawn)) - self._drawn[-1]
            self._drawn.append(self._drawn[-1] + apportion(credit, size))

    def partner(self, indices: NDArray[Any]) -> NDArray[np.int64]:
        """For each sample another one, whose action is its mismatched action: fixed by seed and sample alone.

        With a single drawable sample there is no other, and it is its own partner.
        """
        return self._partners[np.asarray(indices)]

    def _draw(self, bucket: int, start: int, stop: int) -> NDArray[np.int64]:
        """The samples at places start..stop of a bucket's endless sequence of shuffled passes."""
        places = np.arange(start, stop)
        if len(places) == 0:
            return places
        size = len(self.buckets[bucket])
        return np.array([self._order(bucket, p // size)[p % size] for p in places.tolist()], dtype=np.int64)

    def _shuffled(self, bucket: int, number: int) -> NDArray[np.int64]:
        generator = np.random.default_rng((self.seed, bucket, number))
        return generator.permutation(self.buckets[bucket])
