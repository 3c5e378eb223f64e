"""HG-DAgger's aggregate: clone demonstrations and the human's own steps, each step as likely as any other.

Source: Kelly et al., "HG-DAgger: Interactive Imitation Learning with Human Experts", ICRA 2019, arXiv 1810.02890,
algorithm 1: D <- D + the expert's labels where the expert drove; train on D. It differs from ``bc`` in the proportion
of demonstrations to corrections, which is that of the data.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from robopref.mixture import Mixture
from robopref.objectives.base import Objective, register_objective
from robopref.objectives.bc import cloning
from robopref.trajectory import Label


def hg_dagger_mixture(labels: NDArray[Any]) -> Mixture:
    """Demonstrations and human steps in the proportion in which they were recorded."""
    return Mixture((1.0,), ((Label.EXPERT, Label.HUMAN),))


@register_objective("hg-dagger")
def make_hg_dagger() -> Objective:
    """HG-DAgger for the trainer."""
    return cloning("hg-dagger", hg_dagger_mixture)
