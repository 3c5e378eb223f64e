"""What every MuJoCo task of robopref does alike: spaces, frames, the episode's end, and checks of what comes in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from robopref.envs.perturbations.looks import Looks
from robopref.envs.perturbations.options import check_perturbations, ordered
from robopref.envs.perturbations.position import spread_of
from robopref.envs.perturbations.scene import Scene, Surface
from robopref.envs.perturbations.texture import textures_in_use
from robopref.envs.rendering import OffscreenCamera
from robopref.errors import RoboprefError
from robopref.protocols import Expert, Observation

Observed = dict[str, NDArray[Any]]
VIDEO_SIZE = 256
"""Height and width in pixels of what ``env.render()`` returns."""


class MujocoTask(gymnasium.Env[Any, NDArray[Any]], ABC):
    """An episode of at most ``horizon`` steps that the first success terminates.

    Observations are ``image`` uint8 [image_size, image_size, 3] (absent with ``image=False``: nothing is rendered),
    ``proprio`` float32 [4] (hand x, y, z in metres and gripper opening) and ``state`` float32 [S] (privileged).
    ``info["success"]`` is a bool at every step. The same reset seed gives the same episode, bit for bit, whatever ran
    before.

    A perturbed task draws its perturbations anew at every reset, from the episode's seed and their names, so that
    episodes of the same seed meet the same scene; those that are not of the positions leave the layout and all that
    moves as they are without them. ``reset(options={"perturb": (...)})`` takes some of the task's perturbations, or
    none, for one episode. ``info["perturb"]`` of a reset names those that were applied.

    Args:
        image: whether observations hold an image.
        image_size: height and width of the image in pixels.
        camera: name of the camera that both the image and ``render()`` show.
        horizon: number of steps after which an episode is truncated.
        render_mode: ``"rgb_array"``, or ``None`` for an environment without ``render()``.
        perturb: names of perturbations (``robopref.envs.perturbations.options.KINDS``). With any, ``model`` is one
            that ``perturbable_model`` made.
        perturb_strength: scale of the perturbations, above 0 and at most 3.

    Raises:
        RoboprefError: a size or horizon below 1, a camera that the scene does not have, or perturbations that are
            unknown, too strong, or visual without an image.
    """

    metadata = {  # noqa: RUF012 - Gymnasium declares it so
        "render_modes": ["rgb_array"],
        "render_fps": 25,
    }

    task_name: str
    instruction: str
    paraphrases: tuple[str, ...]

    def __init__(
        self,
        *,
        state_space: spaces.Box,
        proprio_space: spaces.Box,
        action_size: int,
        image: bool,
        image_size: int,
        camera: str,
        horizon: int,
        render_mode: str | None,
        perturb: Sequence[str] = (),
        perturb_strength: float = 1.0,
    ) -> None:
        self.perturb = check_perturbations(perturb, perturb_strength, image=image)
        self.perturb_strength = perturb_strength
        if horizon < 1:
            raise RoboprefError(f"a horizon of {horizon} steps leaves no episode: use at least 1.")
        self.horizon = horizon
        self.camera = camera
        self.render_mode = render_mode
        observed: dict[str, spaces.Space[Any]] = {"proprio": proprio_space, "state": state_space}
        self._image_camera = OffscreenCamera(self.model, image_size, camera) if image else None
        self._video_camera = OffscreenCamera(self.model, VIDEO_SIZE, camera)
        if image:
            observed["image"] = spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
        self.observation_space = spaces.Dict(observed)
        self.action_space = spaces.Box(-1.0, 1.0, (action_size,), np.float32)
        self._steps_left = 0
        self._has_scene = False
        self._looks = Looks(self.model) if self.perturb else None

    @property
    @abstractmethod
    def model(self) -> Any:
        """The ``mujoco.MjModel`` of the scene."""

    @property
    @abstractmethod
    def data(self) -> Any:
        """The ``mujoco.MjData`` of the scene."""

    @property
    @abstractmethod
    def hz(self) -> float:
        """Control ticks in a second of simulated time."""

    @abstractmethod
    def make_expert(self) -> Expert:
        """A fresh scripted demonstrator."""

    @abstractmethod
    def progress(self, observation: Observation) -> float:
        """How far along the attempt is, from the privileged ``state`` alone; larger is better."""

    @property
    @abstractmethod
    def surface(self) -> Surface:
        """Where on the table further objects can lie."""

    @abstractmethod
    def landmarks(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """Where a state [S] has hand, objects and goal, in the order of the attempt -> [K, 3], in metres."""

    @abstractmethod
    def _reset_scene(self, rng: np.random.Generator, spread: float) -> NDArray[np.float32]:
        """Lay out a new scene, drawing from ``rng`` alone -> state [S].

        ``spread`` is a factor on the range of positions: 1 is the task's own.
        """

    @abstractmethod
    def _step_scene(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool]:
        """Act for one control tick -> state [S], reward, success."""

    @abstractmethod
    def _proprio(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """The robot's own part of the state -> [4]."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observed, dict[str, Any]]:
        """Start an episode: the layout of ``seed``, or the next one of this environment's own random stream.

        Args:
            seed: of the episode.
            options: under ``"perturb"``, those of the task's perturbations that this episode takes; unset, all.

        Raises:
            RoboprefError: a perturbation for which the task was not made.
        """
        super().reset(seed=seed)
        kinds = self._perturbations_for(options or {})
        scene_seed = int(self.np_random.integers(2**63))
        if self._looks is not None:
            self._looks.restore()
        spread = spread_of(self.perturb_strength) if "position" in kinds else 1.0
        state = self._reset_scene(np.random.default_rng(scene_seed), spread)
        self._perturb_looks(scene_seed, kinds, state)
        self._steps_left = self.horizon
        self._has_scene = True
        info: dict[str, Any] = {"success": False, "seed": seed, "task": self.task_name, "instruction": self.instruction}
        if kinds:
            info |= {"perturb": list(kinds), "perturb_strength": self.perturb_strength}
        return self._observe(state), info

    def step(self, action: NDArray[Any]) -> tuple[Observed, float, bool, bool, dict[str, Any]]:
        """Act for one control tick.

        Args:
            action: [A] within [-1, 1]; values outside are clipped.

        Raises:
            RoboprefError: the action has another shape or holds NaN, or the episode is over.
        """
        command = np.asarray(action, dtype=np.float32)
        if command.shape != self.action_space.shape:
            raise RoboprefError(
                f"{self.task_name}: the action has shape {command.shape}, the task takes {self.action_space.shape}."
            )
        if not np.isfinite(command).all():
            raise RoboprefError(f"{self.task_name}: the action {command.tolist()} is not finite.")
        if self._steps_left == 0:
            raise RoboprefError(f"{self.task_name}: no episode is running: call reset() first.")
        state, reward, success = self._step_scene(np.clip(command, -1.0, 1.0))
        self._steps_left = 0 if success else self._steps_left - 1
        truncated = not success and self._steps_left == 0
        return self._observe(state), reward, success, truncated, {"success": success}

    def render(self) -> NDArray[np.uint8] | None:
        """The scene now, for videos -> uint8 [256, 256, 3]; ``None`` without a render mode.

        Raises:
            RoboprefError: no scene has been laid out yet.
        """
        if self.render_mode is None:
            return None
        if not self._has_scene:
            raise RoboprefError(f"{self.task_name}: there is nothing to render yet: call reset() first.")
        return self._video_camera.frame(self.data)

    def close(self) -> None:
        """Free what rendering holds; harmless when repeated."""
        if self._image_camera is not None:
            self._image_camera.close()
        self._video_camera.close()

    def _perturbations_for(self, options: dict[str, Any]) -> tuple[str, ...]:
        kinds = ordered(options.get("perturb", self.perturb))
        if missing := [kind for kind in kinds if kind not in self.perturb]:
            raise RoboprefError(
                f"{self.task_name} was made without the perturbation {missing[0]}: name it in make_task(perturb=...)."
            )
        return kinds

    def _perturb_looks(self, scene_seed: int, kinds: tuple[str, ...], state: NDArray[np.float32]) -> None:
        if self._looks is None:
            return
        camera = self.model.camera(self.camera).id
        scene = Scene(self.model, self.data, camera, self.surface, self.landmarks(state))
        self._looks.apply(scene, scene_seed, kinds, self.perturb_strength)
        if "texture" in kinds:
            textures = textures_in_use(self.model)
            for view in filter(None, (self._image_camera, self._video_camera)):
                view.upload_textures(textures)

    def _observe(self, state: NDArray[np.float32]) -> Observed:
        observation: Observed = {"proprio": self._proprio(state), "state": state}
        if self._image_camera is not None:
            observation["image"] = self._image_camera.frame(self.data)
        return observation
