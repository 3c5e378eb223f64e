"""A Gymnasium wrapper that keeps every step of every episode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from time import monotonic_ns
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError
from robopref.protocols import OPERATOR_EVENT, OPERATOR_STOP, STEP_RECORD, OperatorEvent
from robopref.store.background import BackgroundStore, BackgroundWriter
from robopref.store.store import EpisodeStore
from robopref.store.writer import EpisodeWriter
from robopref.trajectory import Actor, EpisodeInfo, Outcome, Step

_JUDGEMENTS = {OperatorEvent.SUCCESS: Outcome.SUCCESS, OperatorEvent.FAILURE: Outcome.FAILURE}


class RecordEpisodes(gym.Wrapper[Any, Any, Any, Any]):
    """Records what an environment does, with or without an operator in it, one recorded episode for each attempt.

    The outcome is what the operator said last; else aborted when the operator ended the episode; else success if any
    step had ``info["success"]``; else failure when the environment ended it, and aborted when ``reset`` or ``close``
    did. An episode that the operator discards goes to the store's ``discarded/``. The last step's ``info`` has
    ``episode_id``.

    Observations that are a flat ``Dict`` are recorded by key, any other one under the key ``observation``.

    Args:
        env: the environment; an ``InterventionEnv`` goes inside, so that its ``info`` is seen.
        store: where to; a ``BackgroundStore`` if no step is to wait for the disk.
        task: name of the task; by default what ``reset`` reports, else the environment's own.
        instruction: what the robot was told, likewise; may be set between episodes.
        policy_id: which policy proposes the actions.
        operator_id: who watches, or who demonstrates.
        extra: JSON-compatible values to keep with each episode.
        actor: who acts when there is no operator in the environment.
        extra_at_end: called when an episode ends, for values to keep with it beside ``extra``.

    Raises:
        RoboprefError: from ``step`` and ``reset``, what the store cannot keep (see ``EpisodeWriter.append``).
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        store: EpisodeStore | BackgroundStore,
        *,
        task: str | None = None,
        instruction: str | None = None,
        policy_id: str = "",
        operator_id: str = "",
        extra: Mapping[str, Any] | None = None,
        actor: Actor = Actor.EXPERT,
        extra_at_end: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(env)
        self.store = store
        self.task = task
        self.instruction = instruction
        self.policy_id = policy_id
        self.operator_id = operator_id
        self.extra = dict(extra or {})
        self.actor = actor
        self.extra_at_end = extra_at_end
        self._amended = False
        self._writer: EpisodeWriter | BackgroundWriter | None = None
        self._info: EpisodeInfo | None = None  # of the episode that was reset to
        self._observation: dict[str, NDArray[Any]] = {}
        self._judgement: OperatorEvent | None = None
        self._success = False
        self._ending: tuple[Outcome, Mapping[str, Any] | None] | None = None  # of the episode that is being finished

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; one that is still running is kept as aborted."""
        self._end(Outcome.ABORTED)
        observation, info = self.env.reset(seed=seed, options=options)
        base = self.env.unwrapped
        spec_id = base.spec.id if base.spec is not None else type(base).__name__
        self._info = EpisodeInfo(
            task=str(self.task or info.get("task") or getattr(base, "task_name", spec_id)),
            instruction=str(self.instruction or info.get("instruction") or getattr(base, "instruction", "")),
            seed=seed if seed is not None else info.get("seed"),
            policy_id=self.policy_id,
            operator_id=self.operator_id,
            extra=self.extra,
        )
        self._observation = _by_key(observation)
        self._judgement = None
        self._success = self._amended = False
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the environment and record it."""
        if self._info is None:
            raise RoboprefError("no episode is running: call reset() before step().")
        seen, started = self._observation, monotonic_ns()
        # Copied: some environments work on their action in place, and some callers use its array again.
        given = deepcopy(action)
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._observation = _by_key(observation)
        self._judgement = _judging(info.get(OPERATOR_EVENT)) or self._judgement
        stopped = bool(info.get(OPERATOR_STOP, False))
        if not stopped:
            success = bool(info.get("success", False))
            self._success |= success
            if self._writer is None:
                self._writer = self.store.begin(self._info)
            self._writer.append(
                Step(
                    observation=seen,
                    reward=float(reward),
                    terminated=bool(terminated),
                    truncated=bool(truncated),
                    success=success,
                    t_monotonic_ns=started,
                    **(info.get(STEP_RECORD) or self._unsupervised(given)),
                )
            )
        if terminated or truncated:
            self._info = None
            if self._writer is not None:
                info = {**info, "episode_id": self._writer.info.episode_id}
            if stopped:  # a success that was passing is none: the task did not end here, and nobody judged
                self._success = False
            self._end(Outcome.ABORTED if stopped else Outcome.FAILURE, self._observation)
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        """Keep a running episode as aborted, then close the environment."""
        try:
            self._end(Outcome.ABORTED)
        finally:
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            self.env.close()

    def _unsupervised(self, action: Any) -> dict[str, Any]:
        executed = np.asarray(action, dtype=self.action_space.dtype)
        return {
            "action": executed,
            "actor": self.actor,
            "policy_action": executed if self.actor is Actor.POLICY else None,
            "human_action": executed if self.actor is Actor.HUMAN else None,
        }

    def _end(self, otherwise: Outcome, final_observation: Mapping[str, Any] | None = None) -> None:
        """Finish the running episode, if any, with what is known of it or else the given outcome."""
        if self._writer is None:
            return
        if self._writer.steps == 0:
            with self._writer:  # its first step was refused: leaves nothing behind
                pass
            self._writer = None
            return
        # When finishing fails it is tried again by whatever comes next; how the episode ended is not that one's to say.
        self._ending = self._ending or (otherwise, final_observation)
        otherwise, final_observation = self._ending
        self._amend_at_end()
        if self._judgement is OperatorEvent.DISCARD:
            self._writer.discard(final_observation)
        elif self._judgement is not None:
            self._writer.finish(_JUDGEMENTS[self._judgement], final_observation)
        else:
            self._writer.finish(Outcome.SUCCESS if self._success else otherwise, final_observation)
        self._writer = self._ending = None

    def _amend_at_end(self) -> None:
        if self.extra_at_end is None or self._writer is None or self._amended:
            return
        self._writer.amend(extra={**self._writer.info.extra, **self.extra_at_end()})
        self._amended = True  # when finishing fails for want of room it is tried again, and this is done


def _by_key(observation: Any) -> dict[str, NDArray[Any]]:
    """The observation by key, copied: some environments write the next one into the same arrays."""
    if isinstance(observation, Mapping):
        return {key: np.array(value) for key, value in observation.items()}
    return {"observation": np.array(observation)}


def _judging(event: OperatorEvent | None) -> OperatorEvent | None:
    return event if event in (OperatorEvent.SUCCESS, OperatorEvent.FAILURE, OperatorEvent.DISCARD) else None
