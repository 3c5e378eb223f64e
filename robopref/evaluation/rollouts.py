"""Run a policy in an environment, one seeded episode at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError
from robopref.protocols import STEP_RECORD, Expert, Observation, Task, TokenPolicy
from robopref.trajectory import Actor


@dataclass(frozen=True)
class EpisodeResult:
    """What came of one episode. ``human_steps`` counts executed human actions, ``takeovers`` their segments."""

    task: str
    seed: int
    success: bool
    steps: int
    total_reward: float
    takeovers: int = 0
    human_steps: int = 0

    def with_intervention(self) -> EpisodeResult:
        """The same episode, marked as one in which a watching operator would have stepped in."""
        return replace(self, takeovers=1)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)


class PolicyRunner:
    """Asks a batch policy for one action at a time.

    Raises:
        RoboprefError: the policy's action does not fit the environment, or is not finite.
    """

    def __init__(self, policy: TokenPolicy, action_space: gym.Space[Any]) -> None:
        size = len(policy.norm_stats)
        if not isinstance(action_space, gym.spaces.Box) or action_space.shape != (size,):
            raise RoboprefError(
                f"the policy writes actions of {size} dimensions, the task takes {action_space}: "
                f"use a policy that was trained for this robot."
            )
        self._policy, self._space = policy, action_space

    def reset(self) -> None:
        """What was planned for earlier observations is dropped; for policies that have such plans and a ``reset``."""
        reset = getattr(self._policy, "reset", None)
        if callable(reset):
            reset()

    def __call__(self, observation: Observation, instruction: str) -> NDArray[np.float32]:
        """The policy's action [A] now, clipped to the action space."""
        batch = {name: np.asarray(value)[None] for name, value in observation.items()}
        action = self._policy.act(batch, [instruction])[0]
        if not np.isfinite(action).all():
            raise RoboprefError("the policy's action holds NaN or infinity: its weights are damaged or diverged.")
        return np.clip(action, self._space.low, self._space.high).astype(np.float32)


def run_episode(
    env: gym.Env[Any, Any], runner: PolicyRunner, *, task: str, seed: int, instruction: str
) -> EpisodeResult:
    """One episode from ``reset(seed=seed)`` to its end; the environment brings its own operator and recorder."""
    observation, info = env.reset(seed=seed)
    runner.reset()  # a plan for the episode before is none for this one
    steps = human_steps = 0
    total_reward, success, segments = 0.0, False, set()
    while True:
        action = runner(observation, instruction)
        observation, reward, terminated, truncated, info = env.step(action)
        steps += 1
        total_reward += float(reward)
        success = success or bool(info.get("success", False))
        record = info.get(STEP_RECORD)
        if record is not None and record["actor"] is Actor.HUMAN:
            human_steps += 1
            segments.add(record["segment_id"])
        if driven_by_others(info):
            runner.reset()  # the proposal of this very step stays the plan's: it is what would have been executed
        if terminated or truncated:
            return EpisodeResult(task, seed, success, steps, total_reward, len(segments), human_steps)


def driven_by_others(info: Mapping[str, Any]) -> bool:
    """Whether a step was the operator's or nobody's, so that a policy's plans of before it no longer hold."""
    record = info.get(STEP_RECORD)
    return record is not None and record["actor"] is not Actor.POLICY


def run_demonstration(env: gym.Env[Any, Any], expert: Expert, *, task: str, seed: int) -> EpisodeResult:
    """One episode driven by an expert."""
    observation, _ = env.reset(seed=seed)
    expert.reset()
    steps, total_reward, success = 0, 0.0, False
    while True:
        observation, reward, terminated, truncated, info = env.step(expert(observation))
        steps += 1
        total_reward += float(reward)
        success = success or bool(info.get("success", False))
        if terminated or truncated:
            return EpisodeResult(task, seed, success, steps, total_reward)


def instruction_for(task: Task, seed: int, paraphrase: bool) -> str:
    """The task's instruction, or one of its wordings drawn by the episode's seed."""
    wordings = (task.instruction, *task.paraphrases)
    return wordings[seed % len(wordings)] if paraphrase else task.instruction
