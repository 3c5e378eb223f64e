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
from robopref.objectives.kto import kto_loss

__all__ = [
    "Objective",
    "ObjectiveInputs",
    "ObjectiveOutput",
    "apo_loss",
    "bc_loss",
    "get_objective",
    "kto_loss",
    "objective_names",
    "register_objective",
]
