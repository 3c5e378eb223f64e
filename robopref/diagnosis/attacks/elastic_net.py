"""The elastic-net attack (EAD): few pixels changed, by proximal gradient steps that shrink small changes to nothing.

Source: Chen, Sharma, Zhang, Yi and Hsieh, "EAD: elastic-net attacks to deep neural networks via adversarial examples"
(AAAI 2018, arXiv 1709.04114), with FISTA of Beck and Teboulle (SIAM J. Imaging Sci. 2009). For each state and c,

    minimise  beta |delta|_1 + |delta|_2^2 + c h(s + delta)   over s + delta in [0, 1],

h the hinge on the margin (``tradeoff``), and c found by binary search. With steps eta_k falling as sqrt(1 - k / steps),

    delta_{k+1} = clip(shrink(y_k - s - eta_k (2 (y_k - s) + c grad h(y_k)), eta_k beta))
    y_{k+1}     = clip(s + delta_{k+1} + k / (k + 3) (delta_{k+1} - delta_k)).

The paper shrinks by beta whatever the step, which amounts to a beta that grows as the steps shorten; here it is the
beta of the objective throughout. The paper's beta at its first step of .01 corresponds to 100 times as much here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from robopref.diagnosis.attacks.base import Attack, require
from robopref.diagnosis.attacks.tradeoff import Hinge, Plateau, first_order, search_constant, shrink
from robopref.diagnosis.attacks.victim import Victim

_RULES = ("L1", "EN")


@dataclass(frozen=True)
class ElasticNet(Attack):
    """EAD; at most ``1 + steps * searches`` gradients a state, twice to three times ``steps`` as a rule.

    Attributes:
        steps: of FISTA for each c, at most; fewer where they gain nothing any more.
        searches: values of c that are tried on a state, at most.
        rate: eta_0, at most 1/2 (one over the curvature of the squared norm); times D / (D + beta) for each state, D
            twice the largest change that a linear policy would need, for steps of about beta would swamp smaller ones.
        beta: weight of |delta|_1 against |delta|_2^2 in pixels of [0, 1]; the larger, the fewer pixels change.
        confidence: how far beyond the boundary, as a share of the clean action gap.
        rule: which of the flips is kept, that of the least |delta|_1 ("L1") or beta |delta|_1 + |delta|_2^2 ("EN").
    """

    name: ClassVar[str] = "elastic_net"
    steps: int = 30
    searches: int = 4
    rate: float = 0.05
    beta: float = 0.01
    confidence: float = 0.0
    rule: str = "L1"

    def __post_init__(self) -> None:
        require(self.steps >= 1 and self.searches >= 1, self, "steps and searches must be at least 1")
        require(0 < self.rate <= 0.5, self, "rate must be above 0 and at most 0.5")
        require(self.beta >= 0, self, "beta must not be negative")
        require(self.confidence >= 0, self, "confidence must not be negative")
        require(self.rule in _RULES, self, f"rule must be {' or '.join(_RULES)}")

    def _search(self, victim: Victim) -> Tensor:
        hinge = Hinge(victim, self.confidence)
        start, change = first_order(hinge, self.beta)
        largest = 2 * change.abs().amax(1)
        rates = self.rate * largest / (largest + self.beta)
        return search_constant(hinge, start, self.searches, lambda rows, c: self._descend(hinge, rows, c, rates[rows]))

    def _descend(self, hinge: Hinge, rows: Tensor, constant: Tensor, rates: Tensor) -> None:
        clean = points = ahead = hinge.victim.clean[rows]
        plateau = Plateau(constant, self.steps)
        for step in range(self.steps):
            eta = rates[:, None] * math.sqrt(1 - step / self.steps)
            _, slope = hinge.gradient(rows, ahead)
            wanted = (1 - 2 * eta) * (ahead - clean) - eta * constant[:, None] * slope
            before, points = points, shrink(wanted, eta * self.beta).add_(clean).clamp_(0, 1)
            ahead = (points - before).mul_(step / (step + 3)).add_(points).clamp_(0, 1)

            q_values, added = hinge.victim.values(rows, points), points - clean
            l1, squared = added.abs().sum(1), added.norm(dim=1) ** 2
            elastic = self.beta * l1 + squared
            hinge.offer(rows, points, q_values, l1 if self.rule == "L1" else elastic)

            going = plateau.going(elastic + constant * hinge(rows, q_values))
            if not going.all():
                rows, constant, rates = (kept[going] for kept in (rows, constant, rates))
                clean, points, ahead = (kept[going] for kept in (clean, points, ahead))
                if not len(rows):
                    break
