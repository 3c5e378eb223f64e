"""Attacks that minimise  distortion(delta) + c * hinge(s + delta): the hinge, where to begin with c, its search.

With the margin m and its unit as in ``victim``, the hinge of a state is

    h(x) = max(0, (m(x) + aim) / unit),    aim = max(confidence * gap, rounding) + unit / 100:

it pushes until the decision has flipped by the confidence asked for, and a hundredth more, so that what converges
lands beyond the boundary and not on it. Were m linear, the least c that gets there would follow from the gradient at
the clean state. The search begins there, which leaves it few trials to make.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from robopref.diagnosis.attacks.victim import Victim

_BEYOND = 0.01  # in units of the margin
_START, _GROWTH, _CLOSE_ENOUGH = 1.5, 4.0, 2.0
_DOUBLINGS, _HALVINGS = 24, 10
_PATIENCE, _PROGRESS = 20, 1e-4


class Hinge:
    """h of a batch's states, and the least distorted flips found so far.

    Attributes:
        victim: the batch.
        scale: its units.
        found: [B, d], the best flipped point of each state; the clean state where there is none.
        distortion: [B], of ``found`` as the attack measures it; infinite where there is none.
        flipped: bool [B], whether any point offered since this was last cleared flips the decision.
    """

    def __init__(self, victim: Victim, confidence: float) -> None:
        self.victim, self.scale, self._confidence = victim, victim.scale(), confidence
        self._aim = victim.depth(confidence) + _BEYOND * self.scale.unit
        self.found = victim.clean.clone()
        self.distortion = torch.full_like(victim.gap, torch.inf)
        self.flipped = torch.zeros_like(victim.gap, dtype=torch.bool)

    @property
    def height(self) -> Tensor:
        """h at the clean states [B]: the way to go, in units of the margin."""
        return (self.victim.gap + self._aim) / self.scale.unit

    def __call__(self, rows: Tensor, q_values: Tensor) -> Tensor:
        """h [n], of action values [n, n_actions] at points that belong to the states ``rows`` [n]."""
        return torch.relu((self.victim.margin(rows, q_values) + self._aim[rows]) / self.scale.unit[rows])

    def gradient(self, rows: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Action values at the points, and grad h [n, d]."""
        return self.victim.gradient(rows, points, lambda q_values: self(rows, q_values))

    def offer(self, rows: Tensor, points: Tensor, q_values: Tensor, distortion: Tensor) -> None:
        """Keep the points [n, d] that flip their decisions with less ``distortion`` [n] than any before."""
        flipped = self.victim.flipped(rows, q_values, self._confidence)
        self.flipped[rows[flipped]] = True
        better = flipped & (distortion < self.distortion[rows])
        self.found[rows[better]] = points[better]
        self.distortion[rows[better]] = distortion[better]


class Plateau:
    """Which descents still get somewhere: not those that gain under 1e-4 of their best loss in a fifth of the steps."""

    def __init__(self, like: Tensor, steps: int) -> None:
        self._best = torch.full_like(like, torch.inf)
        self._waited = torch.zeros_like(like)
        self._patience = max(_PATIENCE, steps // 5)

    def going(self, loss: Tensor) -> Tensor:
        """Bool [n] of the losses [n] after one more step; the descents that are not going leave."""
        gained = loss < (1 - _PROGRESS) * self._best
        self._best = torch.where(gained, loss, self._best)
        self._waited = torch.where(gained, 0, self._waited + 1)
        going = self._waited < self._patience
        self._best, self._waited = self._best[going], self._waited[going]
        return going


def search_constant(hinge: Hinge, start: Tensor, searches: int, descend: Callable[[Tensor, Tensor], None]) -> Tensor:
    """The least distorted flip of each state [B, d] over several descents, each with a c of its own.

    c is multiplied by 4 until a descent flips the decision, or halved until one does not, then bisected until it is
    known to within a factor of 2.

    Args:
        hinge: of the batch.
        start: [B], 2/3 of the first c; infinite: the state is left alone.
        searches: descents per state, at most.
        descend: minimises for the states ``rows`` [n] and their c [n], and offers the hinge what it meets.

    Returns:
        The clean state where no descent flipped the decision.
    """
    constant = _START * start
    low, high = torch.zeros_like(constant), torch.full_like(constant, torch.inf)
    rows = hinge.victim.rows[constant.isfinite()]
    for _ in range(searches):
        if not len(rows):
            break
        hinge.flipped[:] = False
        descend(rows, constant[rows])
        high = torch.where(hinge.flipped, constant, high)
        low = torch.where(hinge.flipped, low, constant)
        constant = torch.where(high.isfinite(), (low + high) / 2, _GROWTH * constant)
        rows = rows[high[rows] > _CLOSE_ENOUGH * low[rows]]
    return hinge.found


def first_order(hinge: Hinge, l1_weight: float) -> tuple[Tensor, Tensor]:
    """The least c at which min |delta|_2^2 + l1_weight |delta|_1 + c h reaches h = 0, were m linear, and that delta.

    Up to that c the minimum is delta = shrink(-c grad m / unit, l1_weight) / 2, cut off at the limits of the pixels.

    Where even all pixels at their limits would not be enough, c is what it would be without limits: m is not linear.

    Returns:
        c [B], infinite where the margin does not move; and delta [B, d].
    """
    victim, scale = hinge.victim, hinge.scale
    pull = -scale.gradient / scale.unit[:, None]

    def change(constant: Tensor) -> Tensor:
        wanted = shrink(constant[:, None] * pull, pull.new_tensor(l1_weight)) / 2
        return (victim.clean + wanted).clamp(0, 1) - victim.clean

    def enough(constant: Tensor) -> Tensor:
        return (pull * change(constant)).sum(1) >= hinge.height

    # Exact without limits or l1_weight; with one, c must make the steepest pixel worth its price first.
    unlimited = 2 * hinge.height * scale.distance**2 + l1_weight / pull.abs().amax(1)
    low, high = torch.zeros_like(unlimited), unlimited
    for _ in range(_DOUBLINGS):
        reached = enough(high)
        if reached.all():
            break
        low, high = torch.where(reached, low, high), torch.where(reached, high, 2 * high)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        reached = enough(middle)
        low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
    constant = torch.where(enough(high), high, unlimited)
    return torch.where(scale.distance.isfinite(), constant, torch.inf), change(constant)


def shrink(values: Tensor, threshold: Tensor) -> Tensor:
    """Every entry moved towards 0 by ``threshold``, at most to 0."""
    return values - values.clamp(-threshold, threshold)
