"""Preference losses as pure functions of tensors, a file each."""

from robopref.objectives.apo import apo_loss
from robopref.objectives.base import (
    Objective,
    ObjectiveInputs,
    ObjectiveOutput,
    get_objective,
    objective_names,
    register_objective,
)
from robopref.objectives.bc import bc_loss
from robopref.objectives.dagger import dagger_mixture
from robopref.objectives.dpo import dpo_loss
from robopref.objectives.habc import habc_loss, habc_weights
from robopref.objectives.hg_dagger import hg_dagger_mixture
from robopref.objectives.iwr import iwr_mixture
from robopref.objectives.kto import kto_loss
from robopref.objectives.paired_takeover import paired_takeover_loss
from robopref.objectives.recap import improvement_indicators
from robopref.objectives.sirius import sirius_mixture
from robopref.objectives.tpo import tpo_loss

__all__ = [
    "Objective",
    "ObjectiveInputs",
    "ObjectiveOutput",
    "apo_loss",
    "bc_loss",
    "dagger_mixture",
    "dpo_loss",
    "get_objective",
    "habc_loss",
    "habc_weights",
    "hg_dagger_mixture",
    "improvement_indicators",
    "iwr_mixture",
    "kto_loss",
    "objective_names",
    "paired_takeover_loss",
    "register_objective",
    "sirius_mixture",
    "tpo_loss",
]
