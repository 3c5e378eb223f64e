"""The Fetch arm's reach, push and pick-and-place tasks (extra ``fetch``) as robopref tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from robopref.envs.fetch_experts import FetchPickAndPlaceExpert, FetchPushExpert, FetchReachExpert
from robopref.envs.mujoco_task import MujocoTask
from robopref.envs.perturbations.assets import perturbable_model
from robopref.envs.perturbations.position import TRIES, objects_collide
from robopref.envs.perturbations.scene import Surface
from robopref.errors import RoboprefError
from robopref.protocols import Expert, Observation

try:
    from gymnasium_robotics.envs.fetch.pick_and_place import MujocoFetchPickAndPlaceEnv
    from gymnasium_robotics.envs.fetch.push import MujocoFetchPushEnv
    from gymnasium_robotics.envs.fetch.reach import MujocoFetchReachEnv
except ImportError as error:
    raise RoboprefError(
        f'the Fetch tasks need gymnasium-robotics ({error}): install it with `pip install "robopref[fetch]"`.'
    ) from error

_SURFACE = Surface(low=(1.08, 0.43), high=(1.52, 1.07), z=0.4)
"""The table, less a margin of 3 cm."""
_REACHABLE = (np.array([1.1, 0.45, 0.42]), np.array([1.5, 1.05, 0.95]))
"""Limits in metres of objects and goals when their range is widened: on or above the table, within the arm's reach."""
_MAX_GRIPPER_OPENING = 0.1  # metres between the open fingers


@dataclass(frozen=True)
class _FetchSpec:
    simulation: Callable[[], Any]
    expert: Callable[[], Expert]
    instruction: str
    paraphrases: tuple[str, ...]
    state_size: int


_SPECS = {
    "fetch-reach": _FetchSpec(
        MujocoFetchReachEnv,
        FetchReachExpert,
        "move the gripper to the red target",
        ("reach the red target", "bring the hand to the red ball", "touch the red marker with the gripper"),
        13,
    ),
    "fetch-push": _FetchSpec(
        MujocoFetchPushEnv,
        FetchPushExpert,
        "push the cube to the red target",
        (
            "slide the cube onto the red dot",
            "move the cube along the table to the target",
            "push the block to the goal",
        ),
        28,
    ),
    "fetch-pick-and-place": _FetchSpec(
        MujocoFetchPickAndPlaceEnv,
        FetchPickAndPlaceExpert,
        "pick up the cube and bring it to the red target",
        ("lift the cube to the red target", "grasp the block and carry it to the goal", "put the cube at the red dot"),
        28,
    ),
}


class FetchTask(MujocoTask):
    """One of the three Fetch tasks; see ``MujocoTask`` for the arguments.

    State float32 [13] or [28]: gymnasium-robotics' own ``observation`` ([10] or [25]: hand xyz, object xyz, object
    minus hand, finger joints, object rotation, velocities) followed by the goal xyz. Action [4]: hand displacement
    x, y, z (1 is 5 cm) and gripper (-1 closes, 1 opens). Success: the object (reach: the hand) within 5 cm of the
    goal; layouts that are solved from the start are drawn again. The reward is sparse: 0 at success, -1 otherwise.
    """

    def __init__(
        self,
        task_name: str,
        *,
        image: bool = True,
        image_size: int = 84,
        camera: str | None = None,
        horizon: int | None = None,
        render_mode: str | None = "rgb_array",
        perturb: Sequence[str] = (),
        perturb_strength: float = 1.0,
    ) -> None:
        spec = _SPECS[task_name]
        self.task_name = task_name
        self.instruction = spec.instruction
        self.paraphrases = spec.paraphrases
        self._spec = spec
        self._sim = _perturbable(spec.simulation)() if perturb else spec.simulation()
        self._own_ranges = (self._sim.obj_range, self._sim.target_range)
        self._target_site = mujoco.mj_name2id(self._sim.model, mujoco.mjtObj.mjOBJ_SITE, "target0")
        handle = self._sim.model.body("robot0:mocap").id  # long green bars, drawn where the hand is told to go
        self._sim.model.geom_rgba[self._sim.model.geom_bodyid == handle, 3] = 0.0
        super().__init__(
            state_space=spaces.Box(-np.inf, np.inf, (spec.state_size,), np.float32),
            proprio_space=spaces.Box(-10.0, 10.0, (4,), np.float32),
            action_size=4,
            image=image,
            image_size=image_size,
            camera=camera or "external_camera_0",
            horizon=100 if horizon is None else horizon,
            render_mode=render_mode,
            perturb=perturb,
            perturb_strength=perturb_strength,
        )

    @property
    def model(self) -> Any:
        """The ``mujoco.MjModel`` of the scene."""
        return self._sim.model

    @property
    def data(self) -> Any:
        """The ``mujoco.MjData`` of the scene."""
        return self._sim.data

    @property
    def hz(self) -> float:
        """Control ticks in a second of simulated time."""
        return float(1 / self._sim.dt)

    def make_expert(self) -> Expert:
        """robopref's own scripted demonstrator for this task."""
        return self._spec.expert()

    def progress(self, observation: Observation) -> float:
        """Minus the distance still to go, in metres: hand to object plus object to goal (reach: hand to goal)."""
        state = np.asarray(observation["state"], dtype=np.float64)
        hand, goal = state[:3], state[-3:]
        if not self._sim.has_object:
            return -float(np.linalg.norm(hand - goal))
        cube = state[3:6]
        return -float(np.linalg.norm(hand - cube) + np.linalg.norm(cube - goal))

    @property
    def surface(self) -> Surface:
        """The table."""
        return _SURFACE

    def landmarks(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """Hand, the object if there is one, goal."""
        objects = [state[3:6]] if self._sim.has_object else []
        return np.stack([state[:3], *objects, state[-3:]])

    def _reset_scene(self, rng: np.random.Generator, spread: float) -> NDArray[np.float32]:
        self._sim.np_random = rng
        self._sim.obj_range, self._sim.target_range = (spread * own for own in self._own_ranges)
        observed, _ = self._sim.reset()
        tries = 1
        while not self._is_usable(observed, spread):
            if tries == 10 * TRIES:
                raise RoboprefError(
                    f"{self.task_name}: no layout from {spread:g} times the task's own range is usable."
                )
            observed, _ = self._sim.reset()
            tries += 1
        # gymnasium-robotics moves the target's marker only when it renders.
        site = self._target_site
        self.model.site_pos[site] = self._sim.goal - self.data.xpos[self.model.site_bodyid[site]]
        mujoco.mj_forward(self.model, self.data)
        return _flat_state(observed)

    def _is_usable(self, observed: dict[str, NDArray[np.float64]], spread: float) -> bool:
        """Whether something is left to do, and it can be done."""
        thing, goal = observed["achieved_goal"], observed["desired_goal"]
        if self._sim._is_success(thing, goal):
            return False
        if spread == 1.0:
            return True
        low, high = _REACHABLE
        places = [goal, thing] if self._sim.has_object else [goal]
        return all(bool(((low <= p) & (p <= high)).all()) for p in places) and not objects_collide(
            self.model, self.data
        )

    def _step_scene(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool]:
        observed, reward, _, _, info = self._sim.step(action)
        return _flat_state(observed), float(reward), bool(info["is_success"])

    def _proprio(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        fingers = state[9:11] if self._sim.has_object else state[3:5]
        opening = np.clip(fingers.sum() / _MAX_GRIPPER_OPENING, 0.0, 1.0)
        return np.append(state[:3], opening).astype(np.float32)


def _flat_state(observed: dict[str, NDArray[np.float64]]) -> NDArray[np.float32]:
    return np.concatenate([observed["observation"], observed["desired_goal"]]).astype(np.float32)


class _Loader:
    """The module ``mujoco``, but for files of models, which get what perturbations need."""

    class MjModel:
        """Stands in for ``mujoco.MjModel``."""

        from_xml_path = staticmethod(perturbable_model)

    def __getattr__(self, name: str) -> Any:
        return getattr(mujoco, name)


def _perturbable(simulation: Any) -> Any:
    """A simulation's class whose model has what perturbations need."""

    class Perturbable(simulation):
        def _initialize_simulation(self) -> None:
            self._mujoco = _Loader()
            super()._initialize_simulation()
            self._mujoco = mujoco

    return Perturbable
