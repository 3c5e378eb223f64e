"""All perturbations of how a scene looks: drawn from an episode's seed, applied together, and taken back."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import mujoco
import numpy as np

from robopref.envs.perturbations.background import perturb_background
from robopref.envs.perturbations.camera import perturb_camera
from robopref.envs.perturbations.distractor import perturb_distractor
from robopref.envs.perturbations.lighting import perturb_lighting
from robopref.envs.perturbations.options import VISUAL, ordered
from robopref.envs.perturbations.scene import Scene
from robopref.envs.perturbations.texture import perturb_texture

_PERTURB: Mapping[str, Callable[[Scene, np.random.Generator, float], None]] = MappingProxyType(
    {
        "background": perturb_background,
        "texture": perturb_texture,
        "lighting": perturb_lighting,
        "camera": perturb_camera,
        "distractor": perturb_distractor,
    }
)

_FIELDS = (
    "body_pos", "body_quat", "geom_size", "geom_rgba", "geom_matid", "cam_pos", "cam_quat",
    "light_pos", "light_dir", "light_diffuse", "light_ambient", "light_specular",
)  # fmt: skip
"""Of the model, all that the perturbations write into, but for the pixels of spare textures, which only they use."""
_HEADLIGHT = ("ambient", "diffuse")


class Looks:
    """How a scene looks originally, to be changed and restored. Nothing here touches what moves or collides.

    Args:
        model: a ``mujoco.MjModel`` made by ``perturbable_model``, before anything is changed.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._original = {name: getattr(model, name).copy() for name in _FIELDS}
        self._headlight = {name: getattr(model.vis.headlight, name).copy() for name in _HEADLIGHT}

    def restore(self) -> None:
        """Put back the original looks; where a task's objects are is not looks, and the task's to lay out anew."""
        for name, values in self._original.items():
            getattr(self._model, name)[:] = values
        for name, values in self._headlight.items():
            getattr(self._model.vis.headlight, name)[:] = values

    def apply(self, scene: Scene, seed: int, kinds: Sequence[str], strength: float) -> None:
        """Change a scene that was restored and laid out since.

        Each kind draws from the seed and its own name alone, so that it is the same whatever others are with it.

        Args:
            scene: the scene.
            seed: of the episode.
            kinds: names of perturbations; those that are not visual are left to the task.
            strength: scale of the changes.
        """
        chosen = [kind for kind in ordered(kinds) if kind in VISUAL]
        for kind in chosen:
            _PERTURB[kind](scene, np.random.default_rng((seed, zlib.crc32(kind.encode()))), strength)
        if chosen:
            # Not mj_forward: that would also change from where the solver of the next step starts.
            mujoco.mj_kinematics(scene.model, scene.data)
            mujoco.mj_camlight(scene.model, scene.data)
