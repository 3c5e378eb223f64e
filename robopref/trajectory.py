"""The words that everything else speaks: who acted, what a step is, what an episode is.

A whole attempt is one episode, corrections included. Every control tick keeps what the policy proposed (also while
the human drives), what the human commanded and what was executed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError

SCHEMA_VERSION = 1
NULL_DISCRETE = -1
"""Stands for "no action" in a discrete action column; float columns use NaN."""


class Actor(IntEnum):
    """Who produced the action that was executed at a step."""

    EXPERT = 0  # a demonstration: nobody's policy was being watched
    POLICY = 1
    HUMAN = 2
    HOLD = 3  # nobody drove: the safe command was executed


class Label(IntEnum):
    """What a step is to the learner. The APO paper numbers the first three the same way (c = 0, 1, 2)."""

    UNDESIRABLE = 0
    POLICY = 1
    HUMAN = 2
    EXPERT = 3
    EXCLUDED = 4  # HOLD steps: never sampled


class Outcome(StrEnum):
    """How an episode ended."""

    SUCCESS = "success"
    FAILURE = "failure"
    ABORTED = "aborted"  # stopped by the operator or cut off by a crash: judged by nobody


@dataclass(frozen=True)
class Step:
    """One control tick: the observation acted upon, the three actions, and what came of it.

    ``policy_action`` and ``human_action`` are ``None`` when there was none. Continuous actions are float arrays of
    shape [A]; discrete actions are integers (shape []).
    """

    observation: Mapping[str, NDArray[Any]]
    action: NDArray[Any]
    actor: Actor
    policy_action: NDArray[Any] | None = None
    human_action: NDArray[Any] | None = None
    segment_id: int = -1
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    success: bool = False
    t_monotonic_ns: int = 0


@dataclass(frozen=True)
class EpisodeInfo:
    """What is known of an episode as a whole.

    ``extra`` holds JSON-compatible values that a caller wants kept (for example the operator's settings).
    """

    task: str
    instruction: str
    seed: int | None = None
    policy_id: str = ""
    operator_id: str = ""
    outcome: Outcome = Outcome.ABORTED
    episode_id: str = ""
    started_at: str = ""  # UTC wall clock, ISO 8601; the step times are monotonic
    schema_version: int = SCHEMA_VERSION
    extra: Mapping[str, Any] = field(default_factory=dict)

    def finished(self, outcome: Outcome) -> EpisodeInfo:
        """The same information with its outcome."""
        return replace(self, outcome=outcome)


@dataclass(frozen=True)
class Episode:
    """A recorded attempt of T steps as arrays with a leading axis of length T.

    ``observation[name]`` is [T, ...], what was seen *before* each action; ``final_observation[name]`` is [...], what
    was seen after the last one (empty when it was lost in a crash). ``policy_action`` and ``human_action`` have the
    shape of ``action`` and hold NaN (float) or ``NULL_DISCRETE`` (integer) where there was none.

    Raises:
        RoboprefError: the arrays contradict one another (lengths, shapes, unknown actors, time running backwards).
    """

    info: EpisodeInfo
    observation: Mapping[str, NDArray[Any]]
    action: NDArray[Any]
    policy_action: NDArray[Any]
    human_action: NDArray[Any]
    actor: NDArray[np.int8]
    segment_id: NDArray[np.int32]
    reward: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    success: NDArray[np.bool_]
    t_monotonic_ns: NDArray[np.int64]
    final_observation: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.actor)

    def __post_init__(self) -> None:
        length = len(self.actor)
        where = f"episode {self.info.episode_id or '(unnamed)'}"
        if length == 0:
            raise RoboprefError(f"{where} has no steps.")
        columns: dict[str, NDArray[Any]] = {f"observation/{k}": v for k, v in self.observation.items()}
        columns |= {name: getattr(self, name) for name in STEP_COLUMNS}
        for name, values in columns.items():
            if values.shape[:1] != (length,):
                raise RoboprefError(f"{where}: column {name!r} has shape {values.shape}, expected {length} steps.")
        for name in ("policy_action", "human_action"):
            if getattr(self, name).shape != self.action.shape:
                raise RoboprefError(
                    f"{where}: {name} has shape {getattr(self, name).shape}, action has {self.action.shape}."
                )
        unknown = set(np.unique(self.actor).tolist()) - {int(a) for a in Actor}
        if unknown:
            raise RoboprefError(f"{where}: unknown actor values {sorted(unknown)}.")
        if is_null_action(self.action).any():
            raise RoboprefError(f"{where}: an executed action is missing or NaN.")
        if np.any(np.diff(self.t_monotonic_ns) < 0):
            raise RoboprefError(f"{where}: t_monotonic_ns runs backwards.")


STEP_COLUMNS = (
    "action",
    "policy_action",
    "human_action",
    "actor",
    "segment_id",
    "reward",
    "terminated",
    "truncated",
    "success",
    "t_monotonic_ns",
)
"""The columns of every episode besides its observations, in storage order."""


def is_null_action(actions: NDArray[Any]) -> NDArray[np.bool_]:
    """Which of the [T, A] or [T] actions are absent (any NaN component, or ``NULL_DISCRETE``) -> bool [T]."""
    if np.issubdtype(actions.dtype, np.integer):
        null = np.asarray(actions == NULL_DISCRETE)
    else:
        null = ~np.isfinite(actions)
    return np.asarray(null.reshape(len(actions), -1).any(axis=1))


def takeover_count(actor: NDArray[Any]) -> int:
    """Number of maximal runs of HUMAN steps, HOLD steps inside a run not ending it, in actors [T]."""
    driven = np.asarray(actor)
    driven = driven[driven != Actor.HOLD]
    human = driven == Actor.HUMAN
    return int(np.count_nonzero(human & ~np.concatenate([[False], human[:-1]])))
