"""Shifts as Gymnasium wrappers, applied to each frame before it is stacked."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from robopref.diagnosis.shifts import Shift
from robopref.errors import RoboprefError


class ShiftObservation(gymnasium.ObservationWrapper):
    """Shifts the frames of one environment; wrap it in ``FrameStackObservation`` afterwards.

    Args:
        env: its observations are single frames, uint8 [H, W] or [H, W, 3].
        shift: what happens to every frame.

    Raises:
        RoboprefError: the observations are anything else, stacked frames for one.
    """

    def __init__(self, env: gymnasium.Env, shift: Shift) -> None:
        super().__init__(env)
        space = env.observation_space
        is_frame = isinstance(space, spaces.Box) and space.dtype == np.uint8 and _is_frame(space.shape)
        if not is_frame:
            raise RoboprefError(
                f"shifts apply to single frames uint8 [H, W] or [H, W, 3], not to {space}: wrap before stacking."
            )
        self.shift = shift

    def observation(self, observation: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The frame, shifted."""
        return self.shift(observation[None])[0]


class ShiftVectorObservation(VectorWrapper):
    """Shifts the frames of a vector of environments, then stacks them.

    Args:
        env: a vector environment that resets at the next step, with unstacked frames uint8 [num_envs, 1, H, W] or
            [num_envs, 1, H, W, 3].
        shift: what happens to every frame.
        frame_stack: frames in a state, oldest first; the older frames of an episode's first state are black.

    Observations: uint8 [num_envs, frame_stack, H, W] or [..., 3].

    Raises:
        RoboprefError: the frames are stacked already, or the environment resets in another way.
    """

    def __init__(self, env: VectorEnv, shift: Shift, frame_stack: int = 1) -> None:
        super().__init__(env)
        space = env.single_observation_space
        shape = space.shape or ()
        is_frame = shape[:1] == (1,) and _is_frame(shape[1:])
        if not (isinstance(space, spaces.Box) and space.dtype == np.uint8 and is_frame):
            raise RoboprefError(
                f"shifts apply to single frames uint8 [1, H, W] or [1, H, W, 3], not to {space}: "
                "set frame_stack of the environment to 1 and stack here."
            )
        if env.metadata.get("autoreset_mode") is not AutoresetMode.NEXT_STEP:
            raise RoboprefError("stacking across steps needs an environment that resets itself at the NEXT_STEP.")
        if frame_stack < 1:
            raise RoboprefError(f"frame_stack must be at least 1, got {frame_stack}.")
        self.shift = shift
        self.single_observation_space = spaces.Box(0, 255, (frame_stack, *shape[1:]), dtype=np.uint8)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self._stacks = np.zeros((self.num_envs, frame_stack, *shape[1:]), np.uint8)
        self._ended = np.zeros(self.num_envs, bool)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """As the environment's; ``reset_mask`` in the options leaves the other games and their stacks alone."""
        frames, info = self.env.reset(seed=seed, options=options)
        reset = (
            np.ones(self.num_envs, bool) if options is None else options.get("reset_mask", np.ones(self.num_envs, bool))
        )
        self._stacks[reset] = 0
        self._push(frames, reset)
        self._ended[reset] = False
        return self._stacks.copy(), info

    def step(self, actions: Any) -> tuple[NDArray[np.uint8], NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """As the environment's; a game that ended at the last step begins again with a fresh stack."""
        frames, rewards, terminations, truncations, info = self.env.step(actions)
        self._stacks[self._ended] = 0
        self._push(frames, np.ones(self.num_envs, bool))
        self._ended = terminations | truncations
        return self._stacks.copy(), rewards, terminations, truncations, info

    def _push(self, frames: NDArray[np.uint8], which: NDArray[np.bool_]) -> None:
        self._stacks[which, :-1] = self._stacks[which, 1:]
        self._stacks[which, -1] = self.shift(frames[which, 0])


def _is_frame(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 or (len(shape) == 3 and shape[-1] == 3)
