"""This process's part of a step's global batch, ready for the forward passes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robopref.objectives.base import Objective
from robopref.sampling import BalancedSampler
from robopref.training.augmentation import shift_images
from robopref.training.dataset import Samples, StepDataset
from robopref.training.randomness import SampleRandomness
from robopref.training.window_pairs import WindowPairSampler

Sampler = BalancedSampler | WindowPairSampler


@dataclass(frozen=True)
class Part:
    """B samples of a global batch.

    Attributes:
        step: of training.
        positions: places [B] in the global batch.
        indices: sample numbers [B].
        variants: of each sample's augmentation [B].
        samples: observations (augmented), instructions and tokens.
        second_tokens: of the action that each is contrasted with [B, A]; 0 where it is yet to be sampled.
        sampled: where it is [B].
    """

    step: int
    positions: NDArray[np.int64]
    indices: NDArray[np.int64]
    variants: NDArray[np.int64]
    samples: Samples
    second_tokens: Tensor | None
    sampled: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, rows: Any) -> Part:
        """The samples in these rows: a slice or row numbers."""
        return Part(
            self.step,
            self.positions[rows],
            self.indices[rows],
            self.variants[rows],
            Samples(
                {key: values[rows] for key, values in self.samples.observations.items()},
                tuple(np.array(self.samples.instructions, dtype=object)[rows]),
                self.samples.tokens[rows],
            ),
            None if self.second_tokens is None else self.second_tokens[torch.as_tensor(np.arange(len(self))[rows])],
            self.sampled[rows],
        )

    def pieces(self, size: int | None) -> Iterator[Part]:
        """The samples in order, at most ``size`` at a time."""
        size = len(self) if size is None else size
        if size >= len(self):
            yield self
            return
        for start in range(0, len(self), size):
            yield self.take(slice(start, start + size))


class Composer:
    """Composes the parts of global batches: which samples, how augmented, contrasted with which actions."""

    def __init__(
        self,
        dataset: StepDataset,
        sampler: Sampler,
        objective: Objective,
        image_shift: int,
        randomness: SampleRandomness,
        action_smoothing: float = 0.0,
    ) -> None:
        self.dataset, self.sampler, self.objective = dataset, sampler, objective
        self.image_shift, self.randomness, self.action_smoothing = image_shift, randomness, action_smoothing
        self.rejecting = objective.contrast in ("rejected", "sampled")

    def part(self, step: int) -> Part:
        """This process's samples at a step, the last one repeated where another process has one more.

        All processes so make forward passes of the same sizes, as sharded weights require. Whoever uses the result
        drops what a repetition gives: its place in the global batch is taken.
        """
        positions = self.sampler.batch_positions(step)
        most = max(len(self.sampler.batch_positions(step, rank)) for rank in range(self.sampler.world_size))
        positions = np.pad(positions, (0, most - len(positions)), mode="edge")
        everything = self.sampler.global_batch(step)
        partners = None
        if self.objective.own_prefix_kl:
            # The public trainer's a' is the next row of the batch; ours does not depend on the batch (methods of APO).
            partners = np.roll(everything, -1)[positions]
        return self._compose(
            step, positions, everything[positions], self.randomness.variants(step, positions), partners
        )

    def fixed(self, indices: NDArray[Any], variants: NDArray[Any]) -> Part:
        """Samples by number and variant, as any step would see them; for objectives with fixed partners."""
        return self._compose(0, np.zeros(len(indices), dtype=np.int64), indices, variants, None)

    def _compose(
        self,
        step: int,
        positions: NDArray[np.int64],
        indices: NDArray[np.int64],
        variants: NDArray[np.int64],
        partners: NDArray[np.int64] | None,
    ) -> Part:
        unconditioned = self.randomness.dropped(step, positions, self.objective.condition_dropout)
        samples = self.dataset.gather(indices, unconditioned)
        shifts = self.randomness.shifts(step, positions, indices, variants, self.image_shift)
        tokens, noise = samples.tokens, None
        if self.action_smoothing:
            normal = self.randomness.noise(step, positions, indices, variants, self.dataset.chunk_values)
            noise = self.action_smoothing * normal
            tokens = self.dataset.noisy_tokens(indices, noise)
        samples = Samples(shift_images(samples.observations, shifts), samples.instructions, tokens)
        second, sampled = self.second_tokens(indices, partners, noise)
        return Part(step, positions, indices, variants, samples, second, sampled)

    def second_tokens(
        self,
        indices: NDArray[Any],
        partners: NDArray[Any] | None = None,
        noise: NDArray[np.float64] | None = None,
    ) -> tuple[Tensor | None, NDArray[np.bool_]]:
        """What is known of the second actions of samples [B]: tokens [B, A] or ``None``, and which are to be sampled.

        That of a pair is the recorded proposal where the objective takes it, else a sample of the reference; the
        mismatched one is that of the partner. A recorded proposal gets the same ``noise`` [B, H * A] as the sample's
        own action.
        """
        nowhere = np.zeros(len(indices), dtype=bool)
        if self.rejecting:
            paired = self.dataset.has_pair[indices] & (self.objective.contrast == "rejected")
            recorded = np.where(paired[:, None], self.dataset.rejected_tokens[indices], 0)
            if noise is not None and paired.any():
                recorded[paired] = self.dataset.noisy_rejected_tokens(indices[paired], noise[paired])
            return torch.as_tensor(recorded), ~paired
        if not self.objective.needs_reference or self.objective.contrast != "mismatched":
            return None, nowhere
        if partners is None:
            if not isinstance(self.sampler, BalancedSampler):
                return None, nowhere
            partners = self.sampler.partner(indices)
        return torch.as_tensor(self.dataset.tokens[partners]), nowhere
