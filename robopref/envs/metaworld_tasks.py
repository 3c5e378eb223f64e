"""Meta-World's tabletop tasks (a Sawyer arm) as robopref tasks.

Meta-World ignores the reset seed, and the scene of an episode settles in the layout of the one before. Here every
reset puts back all that an episode changes and then lays out the scene from the seed alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np
from gymnasium import spaces
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from numpy.typing import NDArray

from robopref.envs.metaworld_experts import GRIPPER, HAND, OBJECT, MetaWorldExpert
from robopref.envs.metaworld_specs import METAWORLD_SPECS
from robopref.envs.mujoco_task import MujocoTask
from robopref.envs.perturbations.assets import perturbable_model
from robopref.envs.perturbations.position import TRIES, objects_collide, widened
from robopref.envs.perturbations.scene import Surface
from robopref.errors import RoboprefError
from robopref.protocols import Observation

GOAL = slice(36, 39)
"""Where the goal's x, y, z are in the state."""

_SECOND_OBJECT = slice(11, 14)

_SURFACE = Surface(low=(-0.45, 0.42), high=(0.45, 0.93), z=0.0)
"""The part of the table that the cameras show and the arm's pedestal leaves free."""

_REACHABLE = (np.array([-0.45, 0.4, 0.05]), np.array([0.45, 0.92, 0.4]))
"""Limits in metres of where positions are drawn when their range is widened: the hand's, less some margin."""
_NARROWER = {"bin-picking": (np.array([-0.21, 0.645, 0.02]), np.array([-0.03, 0.755, 0.02]))}
"""The same for tasks whose object lies in something: inside of it, with room for the fingers."""

_IN_THE_AIR = 0.05  # metres: a goal whose height varies by more does not lie on something

_LAYOUT_FIELDS = ("body_pos", "body_quat", "site_pos", "site_quat")
"""The fields of the model that Meta-World's resets write into."""


class MetaWorldTask(MujocoTask):
    """One of ``METAWORLD_SPECS``; see ``MujocoTask`` for the arguments.

    State float32 [39]: Meta-World's own observation (hand xyz, gripper, two objects with quaternions, the same one
    step earlier, goal xyz). Action [4]: hand displacement x, y, z and gripper effort (-1 opens, 1 closes).
    Success is Meta-World's own criterion at its first occurrence.
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
        spec = METAWORLD_SPECS[task_name]
        self.task_name = task_name
        self.instruction = spec.instruction
        self.paraphrases = spec.paraphrases
        self._spec = spec
        self._sim = _make_simulation(task_name, perturbable=bool(perturb))
        layouts = self._sim._random_reset_space
        self._own_range = (layouts.low.copy(), layouts.high.copy())
        self._own_goals = self._sim.goal_space
        self._pristine_model = {name: getattr(self._sim.model, name).copy() for name in _LAYOUT_FIELDS}
        low, high = (bound.astype(np.float32) for bound in (self._sim._HAND_SPACE.low, self._sim._HAND_SPACE.high))
        super().__init__(
            state_space=spaces.Box(-np.inf, np.inf, (39,), np.float32),
            proprio_space=spaces.Box(np.append(low, np.float32(0)), np.append(high, np.float32(1)), dtype=np.float32),
            action_size=4,
            image=image,
            image_size=image_size,
            camera=camera or spec.camera,
            horizon=spec.horizon if horizon is None else horizon,
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

    def make_expert(self) -> MetaWorldExpert:
        """Meta-World's scripted policy for this task, with recoveries."""
        return MetaWorldExpert(self.task_name)

    def progress(self, observation: Observation) -> float:
        """Minus the distance still to go, in metres: hand to object plus object to goal (reach: hand to goal)."""
        state = np.asarray(observation["state"], dtype=np.float64)
        moved = state[HAND] if self._spec.object_is_hand else state[OBJECT]
        return -float(np.linalg.norm(state[HAND] - moved) + np.linalg.norm(moved - state[GOAL]))

    @property
    def surface(self) -> Surface:
        """The middle of the table."""
        return _SURFACE

    def landmarks(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """Hand, the object or two, goal."""
        objects = [state[where] for where in (OBJECT, _SECOND_OBJECT) if state[where].any()]  # zeros: there is none
        return np.stack([state[HAND], *objects, state[GOAL]])

    def _reset_scene(self, rng: np.random.Generator, spread: float) -> NDArray[np.float32]:
        self._set_range(spread)
        for _ in range(TRIES):
            self._lay_out(rng)
            if spread == 1.0 or not objects_collide(self.model, self.data):
                break
        else:
            raise RoboprefError(f"{self.task_name}: no room for a layout from {spread:g} times the task's own range.")
        sim = self._sim
        sim._prev_obs = sim._get_curr_obs_combined_no_goal()
        return self._clip(sim._get_obs())

    def _set_range(self, spread: float) -> None:
        """Where positions are drawn from, and what goals the simulation reports as they are: it clips others."""
        sim, own = self._sim, spread == 1.0
        low, high = self._own_range if own else self._widened_range(spread)
        sim._random_reset_space = spaces.Box(low, high, dtype=np.float64)
        sim.goal_space = self._own_goals if own else spaces.Box(-np.inf, np.inf, (3,), np.float64)
        vars(sim).pop("sawyer_observation_space", None)  # cached with the bounds of the goals

    def _lay_out(self, rng: np.random.Generator) -> None:
        sim = self._sim
        for name, values in self._pristine_model.items():
            getattr(sim.model, name)[:] = values
        sim.np_random = rng
        mujoco.mj_resetData(sim.model, sim.data)
        sim.reset_model()
        mujoco.mj_forward(sim.model, sim.data)  # some tasks move bodies last and leave their positions stale

    def _widened_range(self, spread: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Of one or two positions x, y, z; only goals that may be at any height get a wider range of it."""
        low, high = self._own_range
        places = len(low) // 3
        limits = [_REACHABLE] * places
        if self.task_name in _NARROWER:
            limits[0] = _NARROWER[self.task_name]
        within = (np.concatenate([limit[0] for limit in limits]), np.concatenate([limit[1] for limit in limits]))
        wide = widened(low, high, spread, within=within)
        lies = np.tile([False, False, True], places) & (high - low < _IN_THE_AIR)
        return np.where(lies, low, wide[0]), np.where(lies, high, wide[1])

    def _step_scene(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool]:
        self._sim.curr_path_length = 0  # the horizon is ours, Meta-World's 500 steps are not
        state, reward, _, _, info = self._sim.step(action)
        return self._clip(state), float(reward), bool(info["success"])

    def _proprio(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        return state[: GRIPPER + 1].copy()

    def _clip(self, state: NDArray[np.float64]) -> NDArray[np.float32]:
        bounds = self._sim.sawyer_observation_space
        return np.clip(state, bounds.low, bounds.high).astype(np.float32)


def _make_simulation(task_name: str, *, perturbable: bool) -> Any:
    made: Any = ALL_V3_ENVIRONMENTS[f"{task_name}-v3"]
    sim = _perturbable(made)() if perturbable else made()
    sim._set_task_called = True  # tasks come from the seed, not from Meta-World's benchmark pickles
    sim._freeze_rand_vec = False
    sim.seeded_rand_vec = True
    sim._partially_observable = False
    del sim.sawyer_observation_space  # cached while the goal was still hidden; recomputed with the goal's bounds
    return sim


def _perturbable(simulation: Any) -> Any:
    """A simulation's class whose model has what perturbations need."""

    class Perturbable(simulation):
        def _initialize_simulation(self) -> tuple[Any, Any]:
            model = perturbable_model(self.fullpath)
            return model, mujoco.MjData(model)

    return Perturbable
