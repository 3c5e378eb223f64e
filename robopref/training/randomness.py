"""What is drawn at random for a sample: a function of the seed, the step and its place in the global batch.

Never of the process that happens to hold the sample, so that the number of processes does not change the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

# Which random stream of the seed. The fixed ones go with a sample and its variant, the others with a step.
_SHIFT, _UNIFORM, _DROPOUT, _VARIANT, _FIXED_SHIFT, _FIXED_UNIFORM, _CONDITION = 1, 2, 3, 4, 5, 6, 7
_NOISE, _FIXED_NOISE = 8, 9


class SampleRandomness:
    """The random numbers of samples.

    Args:
        seed: of everything that is drawn.
        batch_size: samples in the global batch.
        variants: ``None``, and every step draws afresh; or a number K, and each sample has K fixed draws, of which a
            step takes one. What is computed from a sample then takes K values only, which can be kept.
    """

    def __init__(self, seed: int, batch_size: int, variants: int | None = None) -> None:
        self.seed, self.batch_size, self.count = seed, batch_size, variants

    def variants(self, step: int, positions: NDArray[Any]) -> NDArray[np.int64]:
        """Which variant [B] of the samples at these places of the global batch [B] a step takes; 0 without any."""
        if self.count is None:
            return np.zeros(len(positions), dtype=np.int64)
        return np.random.default_rng((self.seed, _VARIANT, step)).integers(self.count, size=self.batch_size)[positions]

    def shifts(
        self, step: int, positions: NDArray[Any], indices: NDArray[Any], variants: NDArray[Any], pixels: int
    ) -> NDArray[np.int64]:
        """Row and column shifts [2, B] in -pixels..pixels of the samples numbered ``indices`` [B] at these places."""
        if self.count is None:
            generator = np.random.default_rng((self.seed, _SHIFT, step))
            return generator.integers(-pixels, pixels + 1, size=(2, self.batch_size))[:, positions]
        return np.stack(
            [g.integers(-pixels, pixels + 1, size=2) for g in self._fixed(_FIXED_SHIFT, indices, variants)], axis=1
        )

    def uniforms(
        self, step: int, positions: NDArray[Any], indices: NDArray[Any], variants: NDArray[Any], size: int
    ) -> NDArray[np.float64]:
        """Uniform numbers in [0, 1) [B, size], to sample an action's tokens by."""
        streams = _UNIFORM, _FIXED_UNIFORM
        return self._drawn(np.random.Generator.random, streams, step, positions, indices, variants, size)

    def noise(
        self, step: int, positions: NDArray[Any], indices: NDArray[Any], variants: NDArray[Any], size: int
    ) -> NDArray[np.float64]:
        """Standard normal numbers [B, size], for the actions that are learned."""
        streams = _NOISE, _FIXED_NOISE
        return self._drawn(np.random.Generator.standard_normal, streams, step, positions, indices, variants, size)

    def dropped(self, step: int, positions: NDArray[Any], share: float) -> NDArray[np.bool_]:
        """Which samples [B] at these places of the global batch lose their condition: each with this probability."""
        if share == 0:
            return np.zeros(len(positions), dtype=bool)
        dropped = np.random.default_rng((self.seed, _CONDITION, step)).random(self.batch_size) < share
        return dropped[positions]

    @contextmanager
    def dropout(self, step: int, position: int, device: torch.device) -> Iterator[None]:
        """Inside it torch draws by seed, step and the place of a forward pass's first sample in the global batch.

        Repeating the pass repeats its dropout, whatever was drawn in between.
        """
        state = np.random.SeedSequence((self.seed, _DROPOUT, step, position)).generate_state(1, np.uint64)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(int(state[0] >> np.uint64(1)))  # torch takes 63 bits
            yield

    def _drawn(
        self,
        draw: Callable[[np.random.Generator, Any], NDArray[np.float64]],
        streams: tuple[int, int],
        step: int,
        positions: NDArray[Any],
        indices: NDArray[Any],
        variants: NDArray[Any],
        size: int,
    ) -> NDArray[np.float64]:
        """Numbers [B, size] of the first stream afresh at each step, or of the second, fixed for a sample's variant."""
        if self.count is None:
            return draw(np.random.default_rng((self.seed, streams[0], step)), (self.batch_size, size))[positions]
        return np.stack([draw(generator, size) for generator in self._fixed(streams[1], indices, variants)])

    def _fixed(self, stream: int, indices: NDArray[Any], variants: NDArray[Any]) -> Iterator[np.random.Generator]:
        for index, variant in zip(indices.tolist(), variants.tolist(), strict=True):
            yield np.random.default_rng((self.seed, stream, index, variant))
