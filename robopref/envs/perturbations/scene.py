"""What a perturbation is given: the model and data of a scene, and which of its geoms are what."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from robopref.envs.perturbations.assets import PREFIX

_ROBOTS = ("base", "robot0:base_link")
"""Bodies that carry a robot: Sawyer's, Fetch's."""
_SURROUNDINGS = ("world", "tablelink", "RetainingWall", "floor0", "table0")
"""Bodies that are neither robot nor objects of a task."""
_SHOWN_GROUPS = 3  # MuJoCo draws the first three groups of geoms unless told otherwise


@dataclass(frozen=True)
class Surface:
    """Where free-standing things can be put down: x and y ``low`` to ``high``, at height ``z``, in metres."""

    low: tuple[float, float]
    high: tuple[float, float]
    z: float


@dataclass(frozen=True)
class Scene:
    """A scene that is laid out.

    Attributes:
        model: the ``mujoco.MjModel``, made by ``perturbable_model``.
        data: its ``mujoco.MjData``, with up-to-date kinematics.
        camera: id of the camera that the policy sees by.
        surface: where things can be put down.
        landmarks: [K, 3] where the task takes place (hand, objects, goal, in this order), in metres.
    """

    model: Any
    data: Any
    camera: int
    surface: Surface
    landmarks: NDArray[np.floating[Any]]

    @cached_property
    def surroundings(self) -> dict[str, list[int]]:
        """Visible geoms of table, floor and walls, by the name of their body."""
        found: dict[str, list[int]] = {}
        for geom in self._shown:
            name = self._body(geom)
            if name in _SURROUNDINGS:
                found.setdefault(name, []).append(geom)
        return found

    @cached_property
    def objects(self) -> dict[str, list[int]]:
        """Visible geoms of the task's objects, by the name of their body."""
        found: dict[str, list[int]] = {}
        for geom in self._shown:
            name = self._body(geom)
            if name not in _SURROUNDINGS and not self._is_robot(geom):
                found.setdefault(name, []).append(geom)
        return found

    @cached_property
    def robot(self) -> list[int]:
        """Visible geoms of the robot."""
        return [geom for geom in self._shown if self._is_robot(geom)]

    @cached_property
    def _shown(self) -> list[int]:
        model = self.model
        return [
            geom
            for geom in range(model.ngeom)
            if model.geom_group[geom] < _SHOWN_GROUPS
            and (model.mat_rgba[model.geom_matid[geom], 3] if model.geom_matid[geom] >= 0 else 1) > 0
            and model.geom_rgba[geom, 3] > 0
            and not self._body(geom).startswith(PREFIX)
        ]

    def _body(self, geom: int) -> str:
        return str(self.model.body(self.model.geom_bodyid[geom]).name)

    def _is_robot(self, geom: int) -> bool:
        return is_robot(self.model, int(self.model.geom_bodyid[geom]))


def is_robot(model: Any, body: int) -> bool:
    """Whether a body is part of a robot, or the handle by which it is moved."""
    root = int(model.body_rootid[body])
    return model.body(root).name in _ROBOTS or model.body_mocapid[root] >= 0


def colour_of(model: Any, geom: int) -> NDArray[np.float64]:
    """Red, green and blue [3] of a geom on the whole, in [0, 1]: its texture's mean included."""
    rgba, material = model.geom_rgba[geom], int(model.geom_matid[geom])
    colour = np.array(rgba[:3], np.float64)
    if material < 0:
        return colour
    if np.allclose(rgba, (0.5, 0.5, 0.5, 1.0)):  # MuJoCo's default, which lets the material's colour through
        colour = np.array(model.mat_rgba[material, :3], np.float64)
    texture = int(model.mat_texid[material, mujoco.mjtTextureRole.mjTEXROLE_RGB])
    return colour if texture < 0 else colour * texture_pixels(model, texture).mean((0, 1))[:3] / 255


def texture_pixels(model: Any, texture: int) -> NDArray[np.uint8]:
    """The pixels uint8 [H, W, channels] of a texture, as a view into the model."""
    height, width = int(model.tex_height[texture]), int(model.tex_width[texture])
    channels, start = int(model.tex_nchannel[texture]), int(model.tex_adr[texture])
    pixels: NDArray[np.uint8] = model.tex_data[start : start + height * width * channels]
    return pixels.reshape(height, width, channels)
