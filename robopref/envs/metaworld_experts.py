"""Meta-World's scripted policies, made fit to take over in the middle of an attempt.

As they come they only work from a fresh layout: they never reopen fingers that closed on nothing, and the door policy
pushes against the wrong side of a handle for ever. The corrections here leave an undisturbed attempt nearly unchanged.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from metaworld.policies import ENV_POLICY_MAP
from numpy.typing import NDArray

from robopref.protocols import Observation

HAND = slice(0, 3)
GRIPPER = 3
OBJECT = slice(4, 7)

_GRASP_X_OFFSET = {
    "push": -0.005,
    "pick-place": -0.005,
    "assembly": -0.02,
    "hammer": -0.04,
    "bin-picking": 0.0,
    "peg-insert-side": 0.0,
}
"""Where along x the scripted policy grasps the object, relative to its position, in metres."""


class MetaWorldExpert:
    """A scripted policy of Meta-World with recoveries: a function of the state, clipped to the action space."""

    def __init__(self, task_name: str) -> None:
        make: Any = ENV_POLICY_MAP[f"{task_name}-v3"]
        self._policy = make()
        self._task_name = task_name

    def reset(self) -> None:
        """Nothing is remembered between steps."""

    def __call__(self, observation: Observation) -> NDArray[np.float32]:
        """State [39] -> action [4] in [-1, 1]."""
        state = np.array(observation["state"], dtype=np.float64)
        if self._task_name == "peg-insert-side":
            _settle_grasp(state)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns whenever it wants more than the action space allows
            scripted = self._policy.get_action(state.copy())  # the door policy writes into its argument
        action = np.clip(scripted, -1.0, 1.0).astype(np.float32)
        if self._task_name in _GRASP_X_OFFSET:
            return _regrasp(state, action, _GRASP_X_OFFSET[self._task_name])
        if self._task_name == "door-open":
            return _rehook(state, action)
        return action


def _regrasp(state: NDArray[np.float64], action: NDArray[np.float32], x_offset: float) -> NDArray[np.float32]:
    """Come down on the object with open fingers only. Heights in metres; the gripper reads 1 open, 0.3 shut."""
    offset = state[HAND] - state[OBJECT] - (x_offset, 0.0, 0.0)
    is_over = float(np.linalg.norm(offset[:2])) < 0.04
    height = float(offset[2])
    if is_over and height > 0.06 and state[GRIPPER] < 0.55:  # shut, and above where the object could be held
        return np.array([0.0, 0.0, 1.0 if height < 0.13 else 0.0, -1.0], dtype=np.float32)
    if action[3] <= 0 and state[GRIPPER] < 0.95:
        action[3] = -1.0
        if is_over:
            action[2] = max(action[2], 0.0)
    return action


def _settle_grasp(state: NDArray[np.float64]) -> None:
    """Let the peg policy see its grasp: it goes on pressing down for as long as the hand is over 25 mm above the peg,
    and a peg held well hangs at 24 to 32 mm.
    """
    offset = state[HAND] - state[OBJECT]
    if np.linalg.norm(offset[:2]) < 0.03 and offset[2] < 0.035 and state[GRIPPER] < 0.35:
        state[OBJECT.stop - 1] = state[HAND.stop - 1] - 0.024


def _rehook(state: NDArray[np.float64], action: NDArray[np.float32]) -> NDArray[np.float32]:
    """Lift the fingers over the handle when they are low on its wrong side."""
    offset = state[HAND] - state[OBJECT]
    is_hooked = -0.05 < offset[0] < 0.1 and -0.02 < offset[1] < 0.08
    if is_hooked or np.linalg.norm(offset[:2]) > 0.2:
        return action
    if offset[2] < 0.1:
        return np.array([-0.3, 0.0, 1.0, 1.0], dtype=np.float32)
    above_hook = np.array([0.01, 0.02, 0.15]) - offset
    return np.append(np.clip(25.0 * above_hook, -1.0, 1.0), 1.0).astype(np.float32)
