"""DAgger's aggregate: clone every step of demonstrations and interactions alike.

Source: Ross, Gordon and Bagnell, "A Reduction of Imitation Learning and Structured Prediction to No-Regret Online
Learning", AISTATS 2011, arXiv 1011.0686, algorithm 3.1: run the mixture beta pi* + (1 - beta) pi_i, add what it
visited to the data, clone all of it. Here the operator's takeovers are the mixture. The algorithm labels every visited
step with the expert's action; nobody says what they would have done while they let the policy drive, so at those steps
the action that the mixture executed stands, as where whole interaction trajectories are cloned.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from robopref.mixture import Mixture
from robopref.objectives.base import Objective, register_objective
from robopref.objectives.bc import cloning
from robopref.trajectory import Label


def dagger_mixture(labels: NDArray[Any]) -> Mixture:
    """All steps but those where nobody drove, each as likely as any other."""
    return Mixture((1.0,), ((Label.EXPERT, Label.HUMAN, Label.POLICY, Label.UNDESIRABLE),))


@register_objective("dagger")
def make_dagger() -> Objective:
    """DAgger for the trainer."""
    return cloning("dagger", dagger_mixture)
