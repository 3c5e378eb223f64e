"""What InterventionEnv costs a step, apart from environment and operator: wrapped against bare, in the same run."""

from __future__ import annotations

import argparse
import statistics
from time import perf_counter
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from robopref.envs.intervention import InterventionEnv
from robopref.human_io.scripted import Spectator
from robopref.protocols import Mode, OperatorCommand

LIMIT_US = 100.0


class Trivial(gym.Env[Any, Any]):
    """Costs nothing: the same observation for ever."""

    def __init__(self, action_space: spaces.Space[Any]) -> None:
        self.action_space = action_space
        image = spaces.Box(0, 255, (84, 84, 3), np.uint8)
        self.observation_space = spaces.Dict({"image": image, "proprio": spaces.Box(-1, 1, (4,), np.float32)})
        self._observation = {"image": np.zeros((84, 84, 3), np.uint8), "proprio": np.zeros(4, np.float32)}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Nothing to lay out."""
        super().reset(seed=seed)
        return self._observation, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Nothing happens."""
        return self._observation, 0.0, False, False, {"success": False}


class Driver(Spectator):
    """Always drives."""

    def __init__(self, action: Any) -> None:
        self._command = OperatorCommand(Mode.TAKE_OVER, action)

    def command(self, observation: Any, proposed_action: Any) -> OperatorCommand:
        """The same action for ever."""
        return self._command


def us_per_step(env: gym.Env[Any, Any], action: Any, steps: int) -> float:
    env.reset()
    started = perf_counter()
    for _ in range(steps):
        env.step(action)
    return (perf_counter() - started) / steps * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    box = spaces.Box(-1.0, 1.0, (4,), np.float32)
    cases: dict[str, tuple[spaces.Space[Any], Any]] = {
        "Box(4), 84x84 image": (box, np.full(4, 0.5, np.float32)),
        "Discrete(6), 84x84 image": (spaces.Discrete(6), np.int64(2)),
    }
    print(
        f"{'us/step, median of ' + str(arguments.repeats):<42}{'bare':>8}{'wrapped':>9}{'overhead':>10}{'of limit':>10}"
    )
    for name, (space, action) in cases.items():
        for doing, operator in (("policy drives", Spectator()), ("operator drives", Driver(action))):
            bare_env, wrapped_env = Trivial(space), InterventionEnv(Trivial(space), operator)
            pairs = [
                (us_per_step(bare_env, action, arguments.steps), us_per_step(wrapped_env, action, arguments.steps))
                for _ in range(arguments.repeats)
            ]
            bare, wrapped = (statistics.median(column) for column in zip(*pairs, strict=True))
            overhead = wrapped - bare
            print(f"{name + ', ' + doing:<42}{bare:8.2f}{wrapped:9.2f}{overhead:10.2f}{overhead / LIMIT_US:10.1%}")
    print(f"limit: {LIMIT_US:.0f} us a step, apart from environment and operator")


if __name__ == "__main__":
    main()
