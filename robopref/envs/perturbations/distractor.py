"""Perturbation ``distractor``: further objects on the table that have nothing to do with the task.

They are seen and not felt: the robot passes through them, so that the task is mechanically the same. They lie where the
policy's camera looks, and keep away from the task's objects, its goal and the ways between them.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopref.envs.perturbations.assets import DISTRACTOR_SHAPES, distractor_name
from robopref.envs.perturbations.scene import Scene

_NUMBER = 4  # at strength 1
_RADIUS = (0.022, 0.045)  # metres, seen from above
_GAP = 0.025  # metres between two things
_WAY = 0.05  # metres to either side of a way that stay free
_TALLEST = 0.11  # metres
_TRIES = 200


def perturb_distractor(scene: Scene, rng: np.random.Generator, strength: float) -> None:
    """Put some of the spare objects on the table, with random shapes, sizes, colours and places.

    Where there is no room for one, it stays away.
    """
    model, surface = scene.model, scene.surface
    number = int(np.clip(round(_NUMBER * strength), 1, len(DISTRACTOR_SHAPES)))
    boxes = [_footprint(scene, geom) for geom in _low_geoms(scene)]
    placed: list[tuple[NDArray[np.float64], float]] = []
    for spare in rng.permutation(len(DISTRACTOR_SHAPES))[:number]:
        shape, body = DISTRACTOR_SHAPES[spare], model.body(distractor_name(int(spare))).id
        radius = float(rng.uniform(*_RADIUS))
        size, height = _size(shape, radius, rng)
        turn, colour = rng.uniform(-np.pi, np.pi), rng.uniform(0.05, 1.0, 3)
        low, high = np.array(surface.low) + radius, np.array(surface.high) - radius
        for _ in range(_TRIES):
            place = rng.uniform(low, high)
            if _is_in_view(scene, np.append(place, surface.z)) and _is_free(
                place, radius, scene.landmarks[:, :2], boxes, placed
            ):
                placed.append((place, radius))
                geom = model.body_geomadr[body]
                model.body_pos[body] = (*place, surface.z + height)
                model.body_quat[body] = (np.cos(turn / 2), 0.0, 0.0, np.sin(turn / 2))
                model.geom_size[geom] = size
                model.geom_rgba[geom] = (*colour, 1.0)
                break


def _size(shape: str, radius: float, rng: np.random.Generator) -> tuple[tuple[float, float, float], float]:
    """MuJoCo's size of a geom that stands within a circle, and the height of its middle, in metres."""
    half = float(rng.uniform(0.6, 1.2)) * radius
    if shape == "sphere":
        return (radius, 0.0, 0.0), radius
    if shape == "box":
        side = radius / np.sqrt(2)
        return (side, side, half), half
    if shape == "cylinder":
        return (radius, half, 0.0), half
    if shape == "capsule":
        thick = 0.7 * radius
        return (thick, 0.5 * half, 0.0), thick + 0.5 * half
    return (radius, 0.7 * radius, half), half


def _low_geoms(scene: Scene) -> Iterable[int]:
    """Geoms of objects and robot that reach down to where the distractors are."""
    for geom in [*(g for geoms in scene.objects.values() for g in geoms), *scene.robot]:
        centre, half = _bounds(scene, geom)
        if centre[2] - half[2] < scene.surface.z + _TALLEST:
            yield geom


def _bounds(scene: Scene, geom: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centre and half size of a geom's box along the axes of the world, in metres."""
    turn = scene.data.geom_xmat[geom].reshape(3, 3)
    box = scene.model.geom_aabb[geom]
    return scene.data.geom_xpos[geom] + turn @ box[:3], np.abs(turn) @ box[3:]


def _footprint(scene: Scene, geom: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    centre, half = _bounds(scene, geom)
    return centre[:2], half[:2]


def _is_in_view(scene: Scene, point: NDArray[np.float64]) -> bool:
    """Whether the camera, where it is before any perturbation, has a point well inside its square picture."""
    x, y, z = scene.data.cam_xmat[scene.camera].reshape(3, 3).T @ (point - scene.data.cam_xpos[scene.camera])
    edge = 0.9 * np.tan(np.radians(scene.model.cam_fovy[scene.camera]) / 2)
    return bool(z < 0 and max(abs(x), abs(y)) < -z * edge)  # cameras look along their negative z axis


def _is_free(
    place: NDArray[np.float64],
    radius: float,
    landmarks: NDArray[Any],
    boxes: list[tuple[NDArray[np.float64], NDArray[np.float64]]],
    placed: list[tuple[NDArray[np.float64], float]],
) -> bool:
    if any(np.linalg.norm(np.maximum(np.abs(place - c) - h, 0.0)) < radius + _GAP for c, h in boxes):
        return False
    if any(np.linalg.norm(place - other) < radius + r + _GAP for other, r in placed):
        return False
    ways = pairwise(landmarks)
    return all(_distance_to_segment(place, begin, end) > radius + _WAY for begin, end in ways)


def _distance_to_segment(point: NDArray[np.float64], begin: NDArray[Any], end: NDArray[Any]) -> float:
    way = end - begin
    along = np.clip((point - begin) @ way / max(float(way @ way), 1e-12), 0.0, 1.0)
    return float(np.linalg.norm(point - begin - along * way))
