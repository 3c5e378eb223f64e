"""Balanced batches: fixed shares of demonstration, human and undesirable steps in every batch, on average exactly.

Everything is a pure function of (seed, step), so that a resumed run, and a run on another number of processes, sees
the same batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError
from robopref.mixture import BUCKETS, DEFAULT_SHARES, Mixture
from robopref.trajectory import Label

_ADVICE = {
    Label.EXPERT: "add demonstrations (--demos)",
    Label.POLICY: "the policy drives in none of the interactions",
    Label.HUMAN: "the interactions hold no human step: collect with an operator who takes over",
    Label.UNDESIRABLE: "no policy step precedes a takeover: widen the window, or collect takeovers",
}

# Which random stream of the seed; the other numbers are the buckets'.
_RING, _DEAL = len(BUCKETS), len(BUCKETS) + 1
_BLOCK = 256  # samples


def apportion(credit: NDArray[np.floating[Any]], total: int) -> NDArray[np.int64]:
    """Whole numbers [K] >= 0 that sum to ``total``, nearest to ``credit`` [K]: largest remainder, the first on ties.

    ``credit`` sums to ``total``; its entries may be negative.
    """
    # Rounded before the floor: 0.29 * 100 is 28.999999999999996 in floating point and means 29.
    counts = np.maximum(np.floor(np.round(credit, 9)), 0).astype(np.int64)
    while (missing := total - int(counts.sum())) != 0:
        remainder = np.round(credit - counts, 9)
        if missing > 0:
            counts[np.argmax(remainder)] += 1
        else:
            counts[np.argmin(np.where(counts > 0, remainder, np.inf))] -= 1
    return counts


def check_batch_size(batch_size: int) -> None:
    """See that a batch can hold a sample of each of the three classes.

    Raises:
        RoboprefError: it cannot.
    """
    if batch_size < 3:
        raise RoboprefError(f"a batch needs at least 3 samples for its three classes, got batch size {batch_size}.")


class BalancedSampler:
    """Composes batches of sample numbers from labelled samples.

    After t steps, each of up to three buckets has given its exact share of all t * B samples to within 5/6 of a sample,
    whatever the shares, the sizes of the buckets and the global batch size B: what a batch owes a bucket is carried
    over to the next. (``_compose_up_to`` has the proof; with more buckets the carrying over is the same.)

    The global batch of ``batch_size`` samples is composed once and dealt to the ranks in turn, beginning with a rank
    drawn for the step, so that each rank's part has the global proportions to within one sample per bucket at every
    step, and exactly on average. The parts' sizes differ by one sample at most; their union is what one process would
    see. Per bucket the samples come without replacement, reshuffled on every pass.

    Args:
        labels: ``Label`` values [N] of all samples; those in no bucket are never drawn.
        batch_size: samples per step, of all ranks together.
        shares: of the buckets, by default EXPERT, HUMAN and UNDESIRABLE samples; they sum to 1.
        seed: of the shuffles and the partners.
        rank: this process, of ``world_size``.
        buckets: the labels in each bucket.

    Raises:
        RoboprefError: a batch below 3 or smaller than the number of ranks, shares that do not sum to 1, a rank out of
            range, a negative seed, or an empty bucket whose share is positive.
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
        buckets: Sequence[Sequence[Label]] = Mixture.buckets,
    ) -> None:
        check_batch_size(batch_size)
        if len(shares) != len(buckets) or not (min(shares) >= 0 and abs(sum(shares) - 1) <= 1e-9):
            raise RoboprefError(f"shares are {len(buckets)} numbers >= 0 that sum to 1, got {tuple(shares)}.")
        if not 0 <= rank < world_size:
            raise RoboprefError(f"rank {rank} is not one of {world_size} processes.")
        if batch_size < world_size:
            raise RoboprefError(
                f"a batch of {batch_size} samples leaves some of the {world_size} processes without any: "
                f"raise the batch size, or use fewer processes."
            )
        if seed < 0:
            raise RoboprefError(f"the seed must not be negative, got {seed}.")
        self.batch_size, self.shares, self.seed = batch_size, tuple(shares), seed
        self.rank, self.world_size = rank, world_size
        labels = np.asarray(labels)
        self.buckets = [np.flatnonzero(np.isin(labels, bucket)) for bucket in buckets]
        for names, bucket, share in zip(buckets, self.buckets, shares, strict=True):
            if share > 0 and len(bucket) == 0:
                raise RoboprefError(f"there are no {' or '.join(n.name for n in names)} samples: {_ADVICE[names[0]]}.")
        drawn = np.concatenate([b for b, share in zip(self.buckets, shares, strict=True) if share > 0])
        # A shuffled ring, each sample's partner the next one: nobody is its own, and everybody is somebody's.
        ring = np.random.default_rng((seed, _RING)).permutation(np.sort(drawn))
        self.partners: NDArray[np.int64] = np.full(len(labels), -1, dtype=np.int64)
        """For each sample [N] the one whose action is its mismatched action; -1 for samples that no batch draws."""
        self.partners[ring] = np.roll(ring, -1)
        # Exact arithmetic: in floating point the rounding of step * size * share grows with the step.
        fractions = [Fraction(float(share)).limit_denominator(10**9) for share in shares]
        denominator = math.lcm(*(f.denominator for f in fractions))
        self._units = [int(f * denominator) for f in fractions]
        self._drawn = [(0,) * len(buckets)]
        self._order = lru_cache(maxsize=2 * len(buckets))(self._shuffled)

    def batch(self, step: int) -> NDArray[np.int64]:
        """This rank's sample numbers at a step >= 0: ``batch_size / world_size`` of them, rounded up or down."""
        return self.global_batch(step)[self.batch_positions(step)]

    def batch_positions(self, step: int, rank: int | None = None) -> NDArray[np.int64]:
        """The places in the global batch of the samples that this rank, or another one, gets at a step >= 0."""
        rank = self.rank if rank is None else rank
        if self.world_size > 1:
            # A drawn beginning, since a fixed one would give the first ranks the odd sample of a bucket every time.
            first = int(np.random.default_rng((self.seed, _DEAL, step)).integers(self.world_size))
            rank = (rank + first) % self.world_size
        return np.arange(rank, self.batch_size, self.world_size)

    def global_batch(self, step: int) -> NDArray[np.int64]:
        """The sample numbers [batch_size] of all ranks at a step >= 0, bucket after bucket."""
        if step < 0:
            raise RoboprefError(f"steps are counted from 0, got {step}.")
        self._compose_up_to(step + 1)
        before, after = self._drawn[step], self._drawn[step + 1]
        return np.concatenate([self._draw(k, before[k], after[k]) for k in range(len(self.buckets))])

    def partner(self, indices: NDArray[Any]) -> NDArray[np.int64]:
        """For each sample another one, whose action is its mismatched action: fixed by seed and sample alone.

        With a single drawable sample there is no other, and it is its own partner.

        Raises:
            RoboprefError: a sample that no batch draws.
        """
        partners = self.partners[np.asarray(indices)]
        if (partners < 0).any():
            raise RoboprefError("only samples of a bucket with a positive share have partners.")
        return partners

    def drawable(self) -> NDArray[np.int64]:
        """The numbers of all samples that some batch may hold, ascending."""
        return np.flatnonzero(self.partners >= 0)

    def _compose_up_to(self, steps: int) -> None:
        """Extend ``_drawn`` to ``steps`` + 1 entries: how many of each bucket the batches before a step have taken."""
        # Let a bucket's excess be what it has given beyond its share. By induction it stays within [-5/6, 2/3]. A batch
        # first gives each bucket what it owes, rounded down (0 if negative); the remainders sum to the number m that
        # is missing, which goes to the largest ones.
        #   Nothing owed is negative: all remainders are in [0, 1). m = 1: the largest is >= 1/3, the others <= 1/2.
        #   m = 2: the second largest is > 1/2, the smallest <= 2/3.
        #   One is negative, by at most 2/3: the other two sum to m + 2/3 at most, so m <= 1. m = 1: the larger is
        #   > 1/2, the smaller <= 5/6. m = 0: neither exceeds 2/3.
        #   Two are negative: their excesses, which shrink, summed to 5/6 at most (what the third lacked); m = 0.
        size, denominator = self.batch_size, sum(self._units)
        while len(self._drawn) <= steps:
            done, total = self._drawn[-1], size * len(self._drawn)
            owed = [(u * total - n * denominator) / denominator for u, n in zip(self._units, done, strict=True)]
            counts = apportion(np.array(owed), size).tolist()
            self._drawn.append(tuple(n + count for n, count in zip(done, counts, strict=True)))

    def _draw(self, bucket: int, start: int, stop: int) -> NDArray[np.int64]:
        """The samples at places start..stop of a bucket's endless sequence of shuffled passes."""
        if start == stop:
            return np.empty(0, dtype=np.int64)
        length = len(self.buckets[bucket]) * self._passes(bucket)
        blocks = range(start // length, (stop - 1) // length + 1)
        samples = np.concatenate([self._order(bucket, block) for block in blocks])
        return samples[start - blocks[0] * length : stop - blocks[0] * length]

    def _passes(self, bucket: int) -> int:
        """How many passes are shuffled at once: one, but for buckets so small that a batch takes many."""
        return -(-_BLOCK // len(self.buckets[bucket]))

    def _shuffled(self, bucket: int, block: int) -> NDArray[np.int64]:
        stream = bucket if bucket < len(BUCKETS) else bucket + 2  # past the ring's and the deal's
        generator = np.random.default_rng((self.seed, stream, block))
        passes = np.tile(self.buckets[bucket], (self._passes(bucket), 1))
        return generator.permuted(passes, axis=1).reshape(-1)
