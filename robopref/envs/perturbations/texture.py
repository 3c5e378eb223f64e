"""Perturbation ``texture``: noise, checkers and stripes on table, floor, walls and objects."""

from __future__ import annotations

import cv2
import mujoco
import numpy as np
from numpy.typing import NDArray

from robopref.envs.perturbations.assets import is_perturbable, spare_materials
from robopref.envs.perturbations.scene import Scene, colour_of, texture_pixels

PATTERNS = ("noise", "checker", "stripes")
_CONTRAST = 0.75
"""How much of the second colour a pattern has where it is strongest, at strength 1."""


def perturb_texture(scene: Scene, rng: np.random.Generator, strength: float) -> None:
    """Draw new textures and lay them over the scene; ``strength`` is of their contrast.

    Surroundings take any two colours. Objects get darker patterns on their own colour, by which an instruction may
    tell them apart.
    """
    contrast = min(1.0, _CONTRAST * strength)
    model = scene.model
    spares = {use: spare_materials(model, use) for use in ("plane", "surface", "object")}
    for use, materials in spares.items():
        for _, texture in materials:
            first, second = (np.ones(3), np.full(3, 0.15)) if use == "object" else rng.uniform(0.15, 1.0, (2, 3))
            _draw(texture_pixels(model, texture), rng, first, (1 - contrast) * first + contrast * second)
    for number, geoms in enumerate(scene.surroundings.values()):
        for geom in geoms:
            flat = model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_PLANE
            use = "plane" if flat else "surface"
            model.geom_matid[geom] = spares[use][number % len(spares[use])][0]
    for number, geoms in enumerate(scene.objects.values()):
        for geom in geoms:
            model.geom_rgba[geom, :3] = np.maximum(colour_of(model, geom), 0.1)
            model.geom_matid[geom] = spares["object"][number % len(spares["object"])][0]


def textures_in_use(model: mujoco.MjModel) -> list[int]:
    """Ids of the textures that ``perturb_texture`` draws; none in a model that was not made to be perturbed."""
    if not is_perturbable(model):
        return []
    return [texture for use in ("plane", "surface", "object") for _, texture in spare_materials(model, use)]


def _draw(
    pixels: NDArray[np.uint8], rng: np.random.Generator, first: NDArray[np.float64], second: NDArray[np.float64]
) -> None:
    height, edge, _ = pixels.shape
    pattern = PATTERNS[rng.integers(len(PATTERNS))]
    cells = int(rng.integers(4, 9))
    for top in range(0, height, edge):  # the faces of a cube, or the one of a flat texture
        amount = _pattern(pattern, edge, cells, rng)[..., None]
        pixels[top : top + edge] = np.round(255 * ((1 - amount) * first + amount * second)).astype(np.uint8)


def _pattern(name: str, edge: int, cells: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Amount of the second colour [edge, edge] in [0, 1]."""
    y, x = np.mgrid[:edge, :edge] * cells // edge
    if name == "checker":
        return ((x + y) % 2).astype(np.float64)
    if name == "stripes":
        return (x % 2).astype(np.float64)
    coarse = cv2.resize(rng.random((cells, cells)), (edge, edge), interpolation=cv2.INTER_CUBIC)
    fine = cv2.resize(rng.random((4 * cells, 4 * cells)), (edge, edge), interpolation=cv2.INTER_LINEAR)
    mixed: NDArray[np.float64] = np.clip(0.65 * coarse + 0.35 * fine, 0.0, 1.0)
    return mixed
