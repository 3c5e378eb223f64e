"""Wires task, operator, policy and recorder together for one role: demonstrate, collect or evaluate."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from robopref.cli.episodes import EpisodeJob, EpisodeSetup
from robopref.envs.intervention import InterventionEnv
from robopref.envs.registry import make_task
from robopref.errors import RoboprefError
from robopref.evaluation.rollouts import EpisodeResult, PolicyRunner, instruction_for, run_demonstration, run_episode
from robopref.human_io.scripted import ScriptedOperator, ScriptedOperatorConfig
from robopref.human_io.watching import WatchOnly
from robopref.policies.registry import load_policy, policy_id
from robopref.protocols import OPERATOR_EVENT, STEP_RECORD, Expert, OperatorEvent
from robopref.reporting.videos import write_video
from robopref.store.recorder import RecordEpisodes
from robopref.store.store import EpisodeStore
from robopref.trajectory import Actor

_VIDEO_FPS = 20


class EpisodeRunner:
    """Runs the episodes of a setup, one after another, in one environment.

    Args:
        setup: what to build.
        policy: the setup's, where it is in memory already; else it is loaded.
    """

    def __init__(self, setup: EpisodeSetup, policy: Any = None) -> None:
        self._setup = setup
        self._policy = policy
        task_env: Any = make_task(
            setup.task,
            image="image" in setup.observation_keys,
            image_size=setup.image_size,
            perturb=setup.perturbation.perturb,
            perturb_strength=setup.perturbation.perturb_strength,
        )
        self._task: Any = task_env.unwrapped
        self._env: gym.Env[Any, Any] = task_env
        self._watcher: WatchOnly | None = None
        self._expert: Expert | None = None
        if setup.role == "demonstrate":
            self._expert = self._task.make_expert()
            self._env = SetFailuresAside(self._env)
        else:
            self._add_policy_and_operator()
        self._env = self._film = FilmedEpisode(self._env)
        self._recorder: RecordEpisodes | None = None
        if setup.store is not None:
            self._env = self._recorder = RecordEpisodes(
                self._env,
                EpisodeStore.create_or_open(setup.store),
                task=setup.task,
                instruction=self._task.instruction,
                policy_id=policy_id(setup.policy, setup.vla) if setup.policy else "",
                operator_id="expert" if setup.role == "demonstrate" else self._operator.operator_id,
                extra=self._kept(),
            )

    def _kept(self) -> dict[str, Any]:
        """What goes with each recording: nobody waits for a simulation's clock, so its rate is not in the times."""
        extra: dict[str, Any] = {"operator": self._setup.operator} if self._setup.operator else {}
        extra |= self._setup.perturbation.to_json()
        rate = getattr(self._task, "hz", None)  # of a user's own task perhaps unknown
        return extra if rate is None else extra | {"hz": rate}

    def _add_policy_and_operator(self) -> None:
        setup = self._setup
        if setup.policy is None:
            raise RoboprefError(f"the role {setup.role!r} needs a policy.")
        policy = load_policy(setup.policy, setup.vla) if self._policy is None else self._policy
        self._runner = PolicyRunner(policy, self._env.action_space)
        self._operator = ScriptedOperator(
            self._task.make_expert(), self._task.progress, ScriptedOperatorConfig(**setup.operator)
        )
        if setup.role == "evaluate":
            self._watcher = WatchOnly(self._operator)
        self._env = InterventionEnv(self._env, self._watcher or self._operator)

    def run(self, job: EpisodeJob) -> EpisodeResult:
        """One episode, from its seed to its end."""
        setup = self._setup
        instruction = instruction_for(self._task, job.seed, setup.paraphrase)
        if self._recorder is not None:
            self._recorder.instruction = instruction
        self._film.filming = job.video is not None
        if self._expert is not None:
            result = run_demonstration(self._env, self._expert, task=setup.task, seed=job.seed)
        else:
            result = run_episode(self._env, self._runner, task=setup.task, seed=job.seed, instruction=instruction)
        if job.video is not None:
            job.video.parent.mkdir(parents=True, exist_ok=True)
            write_video(job.video, np.stack(self._film.frames), _VIDEO_FPS, actors=self._film.actors)
        if self._watcher is not None and self._watcher.would_intervene:
            result = result.with_intervention()
        return result

    def close(self) -> None:
        """Finish what is being recorded and free the environment."""
        self._env.close()


class SetFailuresAside(gym.Wrapper[Any, Any, Any, Any]):
    """Discards, for the recorder, the attempts that end without success: a failed demonstration teaches failing."""

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """A new attempt."""
        self._success = False
        return super().reset(**kwargs)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Judge the attempt at its end."""
        observation, reward, terminated, truncated, info = super().step(action)
        self._success = self._success or bool(info.get("success", False))
        if (terminated or truncated) and not self._success:
            info = {**info, OPERATOR_EVENT: OperatorEvent.DISCARD}
        return observation, reward, terminated, truncated, info


class FilmedEpisode(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps the rendered frames and who acted, while ``filming`` is on."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.filming = False
        self.frames: list[NDArray[np.uint8]] = []
        self.actors: list[int] = []

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Forget the last film."""
        self.frames, self.actors = [], []
        return super().reset(**kwargs)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Film the step when asked to."""
        result = super().step(action)
        if self.filming:
            frame: Any = self.env.unwrapped.render()
            if not isinstance(frame, np.ndarray):
                raise RoboprefError("the task's render() returns no picture, so no video can be made of it.")
            self.frames.append(frame)
            self.actors.append(int(result[4][STEP_RECORD]["actor"] if STEP_RECORD in result[4] else Actor.EXPERT))
        return result
