"""The attack of Carlini and Wagner in L2: the least squared change of the pixels that flips the decision, by Adam.

Source: Carlini and Wagner, "Towards evaluating the robustness of neural networks" (IEEE S&P 2017, arXiv 1608.04644),
section VI.A, untargeted. Over w, with x = (1 + tanh(w)) / 2 so that pixels stay in [0, 1],

    minimise  |x(w) - s|_2^2 + c h(x(w)),

h the hinge on the margin (``tradeoff``), and c found for each state by binary search. What departs from the paper:

- The margin is measured in units of the state's own gap and Adam's steps in units of its first-order distance to the
  boundary, so that neither the size of Q nor a boundary close by stalls it, and 30 steps do for thousands.
- Adam's epsilon is large: where gradients are small, their size counts as in plain descent. With a small one every
  pixel moves alike at first, also those that change nothing, and taking that back is what costs the thousands of steps.
- tanh reaches somewhat beyond 0 and 1, where pixels are cut off. In the paper x(w) is flat at the limits, so that
  black pixels hardly move; in many games most are black.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robopref.diagnosis.attacks.base import Attack, require
from robopref.diagnosis.attacks.tradeoff import Hinge, Plateau, first_order, search_constant
from robopref.diagnosis.attacks.victim import Victim

_DECAY, _SQUARE_DECAY = 0.9, 0.999
_EPSILON = 10.0  # gradients are about 1 to 5 in the units below, where all pixels matter alike
_LEAST_WIDENING = 1e-6


@dataclass(frozen=True)
class CarliniWagner(Attack):
    """Carlini-Wagner L2; at most ``1 + steps * searches`` gradients a state, twice to three times ``steps`` as a rule.

    Attributes:
        steps: of Adam for each c, at most; fewer where they gain nothing any more.
        searches: values of c that are tried on a state, at most.
        rate: Adam's, falling with the square root of the steps left, in units of first-order distance / sqrt(d).
        confidence: how far beyond the boundary, as a share of the clean action gap.
        widening: how far tanh reaches beyond the limits of the pixels, as a share of half their range.
    """

    name: ClassVar[str] = "carlini_wagner"
    steps: int = 30
    searches: int = 4
    rate: float = 3.0
    confidence: float = 0.0
    widening: float = 0.3

    def __post_init__(self) -> None:
        require(self.steps >= 1 and self.searches >= 1, self, "steps and searches must be at least 1")
        require(self.rate > 0, self, "rate must be positive")
        require(self.confidence >= 0, self, "confidence must not be negative")
        require(self.widening >= 0, self, "widening must not be negative")

    def _search(self, victim: Victim) -> Tensor:
        hinge = Hinge(victim, self.confidence)
        start, _ = first_order(hinge, 0.0)
        return search_constant(hinge, start, self.searches, lambda rows, c: self._descend(hinge, rows, c))

    def _descend(self, hinge: Hinge, rows: Tensor, constant: Tensor) -> None:
        half = (1 + max(self.widening, _LEAST_WIDENING)) / 2
        limit = math.atanh(0.5 / half)
        clean = hinge.victim.clean[rows]
        distance = hinge.scale.distance[rows, None].clamp(max=math.sqrt(clean.shape[1]))  # the box ends there
        w = torch.atanh((clean - 0.5) / half)
        mean, square = torch.zeros_like(w), torch.zeros_like(w)
        plateau = Plateau(constant, self.steps)
        for step in range(1, self.steps + 1):
            tanh = torch.tanh(w)
            points = (half * tanh).add_(0.5).clamp_(0, 1)
            q_values, slope = hinge.gradient(rows, points)
            added = points - clean
            norm = added.norm(dim=1)
            hinge.offer(rows, points, q_values, norm)

            # d/dw of (|x(w) - s|^2 + c h) / distance^2, for w in its unit: about distance / sqrt(d) in a grey pixel.
            unit = distance / (half * math.sqrt(w.shape[1]))
            gradient = added.mul_(2).addcmul_(constant[:, None], slope).mul_(1 - tanh**2)
            gradient *= half * unit * w.shape[1] / distance**2
            mean.lerp_(gradient, 1 - _DECAY)
            square.mul_(_SQUARE_DECAY).addcmul_(gradient, gradient, value=1 - _SQUARE_DECAY)
            rate = self.rate * math.sqrt(1 - (step - 1) / self.steps) / (1 - _DECAY**step)
            w -= (rate * unit * mean).div_((square / (1 - _SQUARE_DECAY**step)).sqrt_().add_(_EPSILON))
            w.clamp_(-limit, limit)

            going = plateau.going(norm**2 + constant * hinge(rows, q_values))
            if not going.all():
                rows, constant, clean, distance = (kept[going] for kept in (rows, constant, clean, distance))
                w, mean, square = (kept[going] for kept in (w, mean, square))
                if not len(rows):
                    break
