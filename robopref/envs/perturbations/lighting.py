"""Perturbation ``lighting``: where lights are and point, their colour and brightness, and the headlight's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robopref.envs.perturbations.scene import Scene

_SHIFT = 0.5  # metres that a light moves along each axis at most, at strength 1
_TILT = 0.5  # length of what is added to a light's unit direction along each axis at most, at strength 1
_DIMMEST, _BRIGHTEST = np.log(0.45), np.log(1.7)  # of the factor on the brightness, at strength 1
_TINT = 0.25  # share by which one colour of the light differs from another at most, at strength 1


def perturb_lighting(scene: Scene, rng: np.random.Generator, strength: float) -> None:
    """Change every light of the scene, and the one at the camera."""
    model = scene.model
    for light in range(model.nlight):
        model.light_pos[light] += rng.uniform(-_SHIFT, _SHIFT, 3) * strength
        direction = model.light_dir[light] + rng.uniform(-_TILT, _TILT, 3) * strength
        direction[2] = min(direction[2], -0.2)  # lights stay above what they shine on
        model.light_dir[light] = direction / np.linalg.norm(direction)
        gain = _gain(rng, strength)
        model.light_diffuse[light] = np.minimum(model.light_diffuse[light] * gain, 1.0)
        model.light_specular[light] = np.minimum(model.light_specular[light] * gain, 1.0)
        model.light_ambient[light] = np.minimum(model.light_ambient[light] * gain, 1.0)
    headlight, gain = model.vis.headlight, _gain(rng, strength)
    headlight.ambient[:] = np.minimum(headlight.ambient * gain, 1.0)
    headlight.diffuse[:] = np.minimum(headlight.diffuse * gain, 1.0)


def _gain(rng: np.random.Generator, strength: float) -> NDArray[np.float64]:
    """Factors on red, green and blue [3]: never below a fifth, so that no scene is dark."""
    brightness = np.exp(strength * rng.uniform(_DIMMEST, _BRIGHTEST))
    tint = 1 + np.clip(strength * rng.uniform(-_TINT, _TINT, 3), -0.6, 0.6)
    gain: NDArray[np.float64] = np.maximum(brightness * tint, 0.2)
    return gain
