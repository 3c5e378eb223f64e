"""Perturbation ``camera``: the policy's camera a few centimetres and degrees away from where it was."""

from __future__ import annotations

import mujoco
import numpy as np

from robopref.envs.perturbations.scene import Scene

SHIFT = 0.04
"""Metres that the camera moves along each axis at most, at strength 1."""
TURN = 4.0
"""Degrees that it turns, about any axis, at most, at strength 1."""


def perturb_camera(scene: Scene, rng: np.random.Generator, strength: float) -> None:
    """Move and turn the camera."""
    model, camera = scene.model, scene.camera
    model.cam_pos[camera] += strength * rng.uniform(-SHIFT, SHIFT, 3)
    axis = rng.normal(size=3)
    axis /= np.linalg.norm(axis)
    turn, turned = np.zeros(4), np.zeros(4)
    mujoco.mju_axisAngle2Quat(turn, axis, np.radians(strength * rng.uniform(0.25, 1.0) * TURN))
    mujoco.mju_mulQuat(turned, model.cam_quat[camera], turn)
    model.cam_quat[camera] = turned
