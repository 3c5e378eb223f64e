"""The settings of a diagnosis."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from robopref.errors import RoboprefError


@dataclass(frozen=True)
class Plan:
    """How a policy is diagnosed; what is expensive has a cap, and the caps are recorded.

    Attributes:
        episodes: of the clean set, of the null control and of every shift.
        null: play the null control: as many episodes again, of other seeds.
        random_episodes: of random actions, against which the policy is judged trained or untrained.
        seed: of everything.
        epsilon: probability of a random action in the policy's episodes.
        max_steps: steps after which an episode is cut; None: at the environment's own limit.
        temperature: T of the softmax, in units of Q.
        jitter: standard deviation of Gaussian noise on the pixels in [0, 1], where the gradients are taken.
        dtype: precision of the gradients.
        max_states: states of a set whose gradients make its directions, evenly strided; 0: all.
        memory_limit: bytes that the gradients of a set may take; more are streamed.
        series_steps: steps from an episode's start along which the gradient norm is followed without a gap.
        peaks: states at which the norm peaks that are shown.
        peak_separation: steps between peaks of an episode, at least.
        directions: principal directions that are kept as images.
        rank: leading directions in which the episodes are resampled.
        tie_share: a gap below this share of the policy's scale is a near-tie.
        attack_states: clean states that each attack is tried on, evenly strided.
        attack_episodes: episodes played under each attack, for the return; 0: none.
        attack_steps: steps after which these are cut.
        n_resamples: of the bootstrap.
        confidence: of the intervals.
        batch_size: states per pass.

    Raises:
        RoboprefError: a value out of range.
    """

    episodes: int = 10
    null: bool = True
    random_episodes: int = 10
    seed: int = 0
    epsilon: float = 0.01
    max_steps: int | None = None
    temperature: float = 1.0
    jitter: float = 0.0
    dtype: Literal["float32", "float64"] = "float32"
    max_states: int = 2000
    memory_limit: int = 2**30
    series_steps: int = 3000
    peaks: int = 6
    peak_separation: int = 30
    directions: int = 2
    rank: int = 24
    tie_share: float = 0.05
    attack_states: int = 300
    attack_episodes: int = 3
    attack_steps: int = 400
    n_resamples: int = 1000
    confidence: float = 0.95
    batch_size: int = 64

    def __post_init__(self) -> None:
        least = {
            "episodes": 1, "random_episodes": 1, "seed": 0, "max_states": 0, "memory_limit": 1, "series_steps": 1,
            "peaks": 0, "peak_separation": 1, "directions": 1, "attack_states": 1, "attack_episodes": 0,
            "attack_steps": 1, "n_resamples": 100, "batch_size": 1, "epsilon": 0, "jitter": 0, "tie_share": 0,
        }  # fmt: skip
        for name, lowest in least.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= lowest):
                raise RoboprefError(f"{name} must be at least {lowest}, got {value}.")
        if self.max_steps is not None and self.max_steps < 1:
            raise RoboprefError(f"max_steps must be at least 1, got {self.max_steps}.")
        if self.epsilon > 1:
            raise RoboprefError(f"epsilon is a probability, got {self.epsilon}.")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise RoboprefError(f"the temperature must be positive and finite, got {self.temperature}.")
        if self.dtype not in ("float32", "float64"):
            raise RoboprefError(f"gradients are taken in float32 or float64, not {self.dtype!r}.")
        if self.rank < max(5, self.directions):
            raise RoboprefError(f"rank must be at least {max(5, self.directions)}, got {self.rank}.")
        if not 0 < self.confidence < 1:
            raise RoboprefError(f"a confidence level lies between 0 and 1, got {self.confidence}.")

    @property
    def torch_dtype(self) -> torch.dtype:
        """``dtype`` as torch names it."""
        return torch.float64 if self.dtype == "float64" else torch.float32

    @property
    def clean_seed(self) -> int:
        """Of the clean episodes, and of those under shifts and attacks, which are paired with them."""
        return 3 * self.seed

    @property
    def null_seed(self) -> int:
        """Of the null control."""
        return 3 * self.seed + 1

    @property
    def random_seed(self) -> int:
        """Of the random player."""
        return 3 * self.seed + 2
