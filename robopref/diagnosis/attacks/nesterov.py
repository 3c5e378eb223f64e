"""The Nesterov iterative fast gradient sign method (NI-FGSM): small equal steps of every pixel, with momentum.

Source: Lin, Song, He, Wang and Hopcroft, "Nesterov Accelerated Gradient and Scale Invariance for Adversarial Attacks"
(ICLR 2020, arXiv 1908.06281), eq. 6 to 8. With J(x) = -log pi(x, tau(s)) and x_0 = s, g_0 = 0,

    x_nes   = x_t + alpha mu g_t
    g_{t+1} = mu g_t + grad J(x_nes) / |grad J(x_nes)|_1
    x_{t+1} = clip(x_t + alpha sign(g_{t+1})),    alpha = epsilon / steps,

so that no pixel moves by more than epsilon or leaves [0, 1]. A state is done as soon as its decision flips.

pi is the softmax of Q / (T * spread), spread the largest minus the smallest Q of the clean state: the attack does not
depend on the size of Q. The gradient is taken of the log odds against tau(s), which points the way grad J does and
does not underflow where the policy is sure.

Dividing by the L1 norm, as the paper writes, makes the entries of g about 1 / d: over many pixels the look-ahead
alpha mu g_t is far shorter than a step, and the attack comes close to plain momentum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robopref.diagnosis.attacks.base import Attack, require
from robopref.diagnosis.attacks.victim import Victim
from robopref.diagnosis.gradients import log_odds_against


@dataclass(frozen=True)
class NesterovFGSM(Attack):
    """NI-FGSM in the L-infinity ball; at most ``steps`` gradients a state.

    Attributes:
        epsilon: no pixel moves further; .01 is two and a half grey levels of 255.
        steps: at most, each of epsilon / steps.
        momentum: mu.
        temperature: T > 0, in units of the spread of a state's action values; small: only the closest rival counts.
    """

    name: ClassVar[str] = "nesterov_fgsm"
    epsilon: float = 0.01
    steps: int = 20
    momentum: float = 1.0
    temperature: float = 0.1

    def __post_init__(self) -> None:
        require(0 < self.epsilon <= 1, self, "epsilon must be above 0 and at most 1")
        require(self.steps >= 1, self, "steps must be at least 1")
        require(self.momentum >= 0, self, "momentum must not be negative")
        require(self.temperature > 0, self, "temperature must be positive")

    def _search(self, victim: Victim) -> Tensor:
        found = victim.clean.clone()
        points, velocity = victim.clean.clone(), torch.zeros_like(victim.clean)
        rows, step_size = victim.rows, self.epsilon / self.steps
        for _ in range(self.steps):
            ahead = points + step_size * self.momentum * velocity
            gradient = self._ascent(victim, rows, ahead)
            length = gradient.abs().sum(1, keepdim=True)
            velocity = self.momentum * velocity + torch.where(length > 0, gradient / length, 0)
            points = (points + step_size * velocity.sign()).clamp(0, 1)
            flipped = victim.flipped(rows, victim.values(rows, points))
            found[rows[flipped]] = points[flipped]
            rows, points, velocity = rows[~flipped], points[~flipped], velocity[~flipped]
            if not len(rows):
                break
        return found

    def _ascent(self, victim: Victim, rows: Tensor, points: Tensor) -> Tensor:
        scale = self.temperature * victim.spread[rows, None]
        return victim.gradient(rows, points, lambda q: log_odds_against(q / scale, victim.chosen[rows], 1.0))[1]
