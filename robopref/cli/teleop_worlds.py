"""What an operator watches: a robot task under a token policy, or a game under a Q policy, made alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from robopref.envs.perturbations.options import ORIGINAL, PerturbationOptions
from robopref.errors import RoboprefError
from robopref.human_io.station_operator import ActionLayout
from robopref.policies.vla.options import VLAOptions

ROBOT_HZ = 20.0
_EMULATOR_HZ = 60.0
_ROBOT_LABELS = ("x", "y", "z", "gripper")


class Runner(Protocol):
    """Proposes one action at a time."""

    def reset(self) -> None:
        """Drop what was planned for earlier observations."""

    def __call__(self, observation: Any, instruction: str) -> NDArray[Any]:
        """The policy's action now."""


@dataclass(frozen=True)
class World:
    """An environment, who proposes actions in it, and what the operator has to know.

    Attributes:
        env: without operator and recorder.
        runner: the policy.
        layout: the actions.
        task: name of the task or game.
        policy_id: what recordings call the policy.
        instruction: what the policy is told in the episode of a seed.
        hz: control ticks a second at which the task is meant to run.
        extra: values to keep with each episode.
    """

    env: gym.Env[Any, Any]
    runner: Runner
    layout: ActionLayout
    task: str
    policy_id: str
    instruction: Callable[[int], str]
    hz: float
    extra: dict[str, Any] = field(default_factory=dict)


def robot_world(
    policy_name: str,
    task: str,
    vla: VLAOptions,
    *,
    image: bool,
    image_size: int | None,
    paraphrase: bool,
    perturbation: PerturbationOptions = ORIGINAL,
) -> World:
    """A robot task under a policy that writes actions.

    Raises:
        RoboprefError: no such task or policy, or they do not fit one another.
    """
    from robopref.cli.episodes import image_size_of
    from robopref.envs.registry import make_task
    from robopref.evaluation.rollouts import PolicyRunner, instruction_for
    from robopref.policies.registry import load_policy, policy_id

    policy = load_policy(policy_name, vla)
    env = make_task(
        task,
        image=image,
        image_size=image_size or image_size_of(policy),
        perturb=perturbation.perturb,
        perturb_strength=perturbation.perturb_strength,
    )
    runner = PolicyRunner(policy, env.action_space)  # which checks that the actions are a Box of the policy's size
    base: Any = env.unwrapped
    space: Any = env.action_space
    labels = tuple(getattr(base, "action_labels", ()))
    if len(labels) != space.shape[0]:
        labels = _ROBOT_LABELS if space.shape == (4,) else tuple(f"a{i}" for i in range(space.shape[0]))
    return World(
        env=env,
        runner=runner,
        layout=ActionLayout(labels, space.low, space.high),
        task=task,
        policy_id=policy_id(policy_name, vla),
        instruction=lambda seed: instruction_for(base, seed, paraphrase),
        hz=ROBOT_HZ,
        extra=perturbation.to_json(),
    )


def game_world(policy_name: str, game: str | None, *, trust: bool) -> World:
    """An Atari game under a policy over discrete actions.

    Raises:
        RoboprefError: no such game or policy, or they do not fit one another.
    """
    from dataclasses import asdict, replace

    from robopref.envs.ale import action_meanings, atari_spec_for, make_atari
    from robopref.evaluation.q_runner import QPolicyRunner
    from robopref.policies.q_loading import load_q_policy

    policy, about = load_q_policy(policy_name, trust=trust)
    # Whole games with their own score, whatever the training did.
    spec = replace(atari_spec_for(about, game), reward_clip=False, episodic_life=False)
    env = make_atari(spec)
    return World(
        env=ScoredGame(env),
        runner=QPolicyRunner(policy),
        layout=ActionLayout(action_meanings(spec)),
        task=spec.game,
        policy_id=about.policy_id,
        instruction=lambda seed: "",
        hz=_EMULATOR_HZ / spec.frame_skip,
        extra={"game": asdict(spec)},
    )


class ScoredGame(gym.Wrapper[Any, Any, Any, Any]):
    """Judges a game that nobody judged: it is a success when it is over and its score is above zero."""

    def reset(self, **keywords: Any) -> tuple[Any, dict[str, Any]]:
        """A new game."""
        self.score = 0.0
        return self.env.reset(**keywords)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Keep the score."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.score += float(reward)
        return observation, reward, terminated, truncated, {**info, "success": bool(terminated and self.score > 0)}


def check_rate(world: World, hz: float | None) -> float:
    """The rate to run at: the task's own, unless told otherwise.

    Raises:
        RoboprefError: a game is to run faster than it is played.
    """
    if hz is None:
        return world.hz
    if not 0 < hz < np.inf:
        raise RoboprefError(f"--hz {hz} is no rate: give control ticks a second.")
    if world.layout.discrete and hz > world.hz:
        raise RoboprefError(f"{world.task} is played at {world.hz:g} actions a second: --hz slows it down, at most.")
    return hz
