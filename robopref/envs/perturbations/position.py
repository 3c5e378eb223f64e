"""Perturbation ``position``: layouts from a wider range than the task's own."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopref.envs.perturbations.scene import is_robot

_FACTOR = 1.5
"""How much wider the range is, around its centre, at strength 1."""
_PENETRATION = 0.002  # metres
TRIES = 100
"""How many layouts are drawn before giving up."""


def spread_of(strength: float) -> float:
    """Factor on the range of positions."""
    return 1 + (_FACTOR - 1) * strength


def widened(
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    spread: float,
    *,
    within: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A range stretched about its centre, but not beyond ``within``; what was allowed before stays so.

    Args:
        low, high: the range along each axis.
        spread: the factor.
        within: lower and upper limits along each axis.
    """
    centre, half = (low + high) / 2, (high - low) / 2 * spread
    return (
        np.minimum(low, np.maximum(centre - half, within[0])),
        np.maximum(high, np.minimum(centre + half, within[1])),
    )


def objects_collide(model: Any, data: Any) -> bool:
    """Whether an object is inside of another one, of a wall or of the robot, in a scene just laid out.

    What it lies on does not count: some tasks begin with an object that sinks into or drops onto the table.
    """
    for contact in data.contact:
        bodies = [int(model.geom_bodyid[geom]) for geom in (contact.geom1, contact.geom2)]
        sideways = abs(contact.frame[2]) < 0.7
        if contact.dist < -_PENETRATION and sideways and not all(is_robot(model, body) for body in bodies):
            return True
    return False
