"""Intervention Weighted Regression (IWR): clone everything, half of each batch from the interventions.

Source: Mandlekar et al., "Human-in-the-Loop Imitation Learning using Remote Teleoperation", 2020, arXiv 2012.06733:
intervention samples and all others are drawn equally often, whatever their numbers. Demonstrations count among the
others, as in the public code of Sirius, which runs IWR as a baseline.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from robopref.mixture import Mixture
from robopref.objectives.base import Objective, register_objective
from robopref.objectives.bc import cloning
from robopref.trajectory import Label


def iwr_mixture(labels: NDArray[Any]) -> Mixture:
    """Half human steps; half demonstrations and policy steps, those before a takeover included."""
    return Mixture((0.5, 0.5), ((Label.HUMAN,), (Label.EXPERT, Label.POLICY, Label.UNDESIRABLE)))


@register_objective("iwr")
def make_iwr() -> Objective:
    """IWR for the trainer."""
    return cloning("iwr", iwr_mixture)
