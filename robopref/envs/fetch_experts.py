"""Scripted demonstrators for the Fetch arm: functions of the state alone, so that they can take over anywhere.

Actions are displacements of the hand in units of ``STEP`` metres, and a gripper command (-1 closes, 1 opens).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robopref.protocols import Observation

STEP = 0.05
"""Metres that a full action moves the hand's target in one control tick."""

_HAND = slice(0, 3)
_OBJECT = slice(3, 6)
_FINGERS = slice(9, 11)
_GOAL = slice(-3, None)
_CUBE = 0.05  # edge of the object, metres
_CLEARANCE = 0.08  # height above the object's centre at which the hand passes over it, metres


def _towards(
    hand: NDArray[np.float64], target: NDArray[np.float64], gripper: float, gain: float = 0.6
) -> NDArray[np.float32]:
    """Action [4] that closes the share ``gain`` of the distance to the target in one tick, as far as it can."""
    return np.append(np.clip(gain * (target - hand) / STEP, -1.0, 1.0), gripper).astype(np.float32)


def _state(observation: Observation) -> NDArray[np.float64]:
    return np.asarray(observation["state"], dtype=np.float64)


class FetchReachExpert:
    """Go straight to the goal."""

    def reset(self) -> None:
        """Nothing is remembered between steps."""

    def __call__(self, observation: Observation) -> NDArray[np.float32]:
        """State [13] -> action [4]."""
        state = _state(observation)
        return _towards(state[_HAND], state[_GOAL], gripper=0.0)


class FetchPushExpert:
    """Get behind the object, seen from the goal, and push it along the line to the goal."""

    def reset(self) -> None:
        """Nothing is remembered between steps."""

    def __call__(self, observation: Observation) -> NDArray[np.float32]:
        """State [28] -> action [4]."""
        state = _state(observation)
        hand, cube, goal = state[_HAND], state[_OBJECT], state[_GOAL]
        to_goal = goal[:2] - cube[:2]
        distance = float(np.linalg.norm(to_goal))
        forward = to_goal / max(distance, 1e-6)
        offset = hand[:2] - cube[:2]
        ahead = float(offset @ forward)
        aside = float(np.linalg.norm(offset - ahead * forward))
        is_low = hand[2] - cube[2] < 0.03
        if is_low and ahead < -0.02 and aside < 0.02:
            aim = cube[:2] - 0.5 * _CUBE * forward + min(distance, 0.04) * forward
            return _towards(hand, np.append(aim, cube[2]), gripper=-1.0)
        behind = cube[:2] - 1.6 * _CUBE * forward
        if np.linalg.norm(hand[:2] - behind) > 0.02:
            if hand[2] - cube[2] < 0.6 * _CLEARANCE and np.linalg.norm(offset) < 2.5 * _CUBE:
                return _towards(hand, np.append(hand[:2], cube[2] + _CLEARANCE), gripper=-1.0)
            return _towards(hand, np.append(behind, cube[2] + _CLEARANCE), gripper=-1.0)
        return _towards(hand, np.append(behind, cube[2]), gripper=-1.0)


class FetchPickAndPlaceExpert:
    """Open above the object, go down, close, and carry it to the goal."""

    def reset(self) -> None:
        """Nothing is remembered between steps."""

    def __call__(self, observation: Observation) -> NDArray[np.float32]:
        """State [28] -> action [4]."""
        state = _state(observation)
        hand, cube, goal = state[_HAND], state[_OBJECT], state[_GOAL]
        width = float(state[_FINGERS].sum())
        aside = float(np.linalg.norm(hand[:2] - cube[:2]))
        above = float(hand[2] - cube[2])
        if aside < 0.02 and abs(above) < 0.02:
            if width > _CUBE + 0.005:
                return _towards(hand, cube, gripper=-1.0)
            return _towards(hand, goal + (hand - cube), gripper=-1.0)
        if aside > 0.02 or (width < 0.08 and above < _CLEARANCE - 0.02):
            return _towards(hand, cube + np.array([0.0, 0.0, _CLEARANCE]), gripper=1.0)
        return _towards(hand, cube, gripper=1.0)
