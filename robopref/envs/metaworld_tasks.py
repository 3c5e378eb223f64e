"""Meta-World's tabletop tasks (a Sawyer arm) as robopref tasks.

Meta-World ignores the reset seed, and the scene of an episode settles in the layout of the one before. Here every
reset puts back all that an episode changes and then lays out the scene from the seed alone.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from gymnasium import spaces
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from numpy.typing import NDArray

from robopref.envs.metaworld_experts import GRIPPER, HAND, OBJECT, MetaWorldExpert
from robopref.envs.metaworld_specs import METAWORLD_SPECS
from robopref.envs.mujoco_task import MujocoTask
from robopref.protocols import Observation

GOAL = slice(36, 39)
"""Where the goal's x, y, z are in the state."""

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
    ) -> None:
        spec = METAWORLD_SPECS[task_name]
        self.task_name = task_name
        self.instruction = spec.instruction
        self.paraphrases = spec.paraphrases
        self._spec = spec
        self._sim = _make_simulation(task_name)
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

    def _reset_scene(self, rng: np.random.Generator) -> NDArray[np.float32]:
        sim = self._sim
        for name, values in self._pristine_model.items():
            getattr(sim.model, name)[:] = values
        sim.np_random = rng
        mujoco.mj_resetData(sim.model, sim.data)
        sim.reset_model()
        mujoco.mj_forward(sim.model, sim.data)  # some tasks move bodies last and leave their positions stale
        sim._prev_obs = sim._get_curr_obs_combined_no_goal()
        return self._clip(sim._get_obs())

    def _step_scene(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool]:
        self._sim.curr_path_length = 0  # the horizon is ours, Meta-World's 500 steps are not
        state, reward, _, _, info = self._sim.step(action)
        return self._clip(state), float(reward), bool(info["success"])

    def _proprio(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        return state[: GRIPPER + 1].copy()

    def _clip(self, state: NDArray[np.float64]) -> NDArray[np.float32]:
        bounds = self._sim.sawyer_observation_space
        return np.clip(state, bounds.low, bounds.high).astype(np.float32)


def _make_simulation(task_name: str) -> Any:
    sim = ALL_V3_ENVIRONMENTS[f"{task_name}-v3"]()
    sim._set_task_called = True  # tasks come from the seed, not from Meta-World's benchmark pickles
    sim._freeze_rand_vec = False
    sim.seeded_rand_vec = True
    sim._partially_observable = False
    del sim.sawyer_observation_space  # cached while the goal was still hidden; recomputed with the goal's bounds
    return sim
