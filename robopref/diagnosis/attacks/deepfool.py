"""DeepFool: the shortest way (L2) over the nearest of the linearised boundaries, again and again until one is crossed.

Source: Moosavi-Dezfooli, Fawzi and Frossard, "DeepFool: a simple and accurate method to fool deep neural networks"
(CVPR 2016, arXiv 1511.04599), algorithm 2. With f_b(x) = Q(x, tau(s)) - Q(x, b) for every other action b and x_0 = s,

    l       = argmin_b |f_b(x_i)| / |grad f_b(x_i)|_2
    r_i     = -f_l(x_i) / |grad f_l(x_i)|_2^2  grad f_l(x_i)
    x_{i+1} = clip(s + (1 + overshoot) (r_0 + ... + r_i)).

On a linear policy, away from the limits of the pixels, one step is exact. Nothing here depends on the size of Q. A step
goes beyond its boundary by a few roundings of Q, or values of float32 that differ by little would never be told apart;
and what the limits of the pixels cut off a step is not carried on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robopref.diagnosis.attacks.base import Attack, require
from robopref.diagnosis.attacks.victim import Victim

_SHORTEST_STEP = 1e-4  # in pixels (L2): a state on the boundary itself must get across


@dataclass(frozen=True)
class DeepFool(Attack):
    """DeepFool in L2; n_actions - 1 gradients a state and step, few steps as a rule.

    Attributes:
        steps: at most.
        overshoot: how much further than the linearised boundary, as a share of the way.
    """

    name: ClassVar[str] = "deepfool"
    steps: int = 50
    overshoot: float = 0.02

    def __post_init__(self) -> None:
        require(self.steps >= 1, self, "steps must be at least 1")
        require(self.overshoot >= 0, self, "overshoot must not be negative")

    def _search(self, victim: Victim) -> Tensor:
        found = victim.clean.clone()
        points, rows = victim.clean, victim.rows
        for _ in range(self.steps):
            step, distance = _nearest_boundary(victim, rows, points)
            clean = victim.clean[rows]
            way = (points - clean) / (1 + self.overshoot) + step
            points = (clean + (1 + self.overshoot) * way).clamp(0, 1)
            flipped = victim.flipped(rows, victim.values(rows, points))
            found[rows[flipped]] = points[flipped]
            going = ~flipped & distance.isfinite()
            rows, points = rows[going], points[going]
            if not len(rows):
                break
        return found


def _nearest_boundary(victim: Victim, rows: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """The step [n, d] onto the nearest linearised boundary, and its length [n]; infinite where no gradient leads on."""
    nearest = torch.full_like(points[:, 0], torch.inf)
    step = torch.zeros_like(points)
    for lead, gradient in victim.leads(rows, points):
        slope = gradient.norm(dim=1)
        beyond = lead.clamp(min=0) + 2 * victim.depth(0.0)[rows]
        distance = torch.where(slope > 0, (beyond / slope).clamp(min=_SHORTEST_STEP), torch.inf)
        closer = distance < nearest
        nearest = torch.where(closer, distance, nearest)
        step[closer] = -(distance / slope)[closer, None] * gradient[closer]
    return step, nearest
