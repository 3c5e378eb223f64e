"""Perturbation ``background``: plain colours of table, floor and walls, and a room around the scene."""

from __future__ import annotations

import numpy as np

from robopref.envs.perturbations.assets import BACKDROP
from robopref.envs.perturbations.scene import Scene, colour_of

_SHARE = 0.7
"""How far a colour goes from its own to a random one, at strength 1."""


def perturb_background(scene: Scene, rng: np.random.Generator, strength: float) -> None:
    """Give every surface one plain colour, and the black behind the scene two: walls and ground."""
    share = min(1.0, _SHARE * strength)
    model = scene.model
    for geoms in scene.surroundings.values():
        drawn = rng.uniform(0.25, 1.0, 3)
        for geom in geoms:
            colour = (1 - share) * colour_of(model, geom) + share * drawn
            model.geom_rgba[geom] = (*colour, 1.0)
            model.geom_matid[geom] = -1
    ground, walls = share * rng.uniform(0.25, 1.0, (2, 3))
    for geom in range(model.ngeom):
        name = model.geom(geom).name
        if name.startswith(BACKDROP):
            model.geom_rgba[geom] = (*(ground if name.endswith("ground") else walls), 1.0)
