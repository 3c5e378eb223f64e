"""What the parts ask of one another: tasks, experts, operators and policies, as structural types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum, StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypedDict, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError
from robopref.trajectory import Actor

if TYPE_CHECKING:  # torch takes seconds to import and the operators do not need it
    import torch
    from torch import Tensor

Observation = Mapping[str, NDArray[Any]]
"""One observation: any of ``image`` uint8 [H, W, 3], ``proprio`` float32 [P], ``state`` float32 [S] (privileged)."""


class Mode(Enum):
    """What an operator wants at this tick."""

    FOLLOW = "follow"  # the policy drives
    TAKE_OVER = "take over"  # the operator drives
    HOLD = "hold"  # nobody drives: the safe command
    STOP = "stop"  # end the episode now, as aborted unless the event judges it


class OperatorEvent(StrEnum):
    """What an operator said at a tick besides driving."""

    SUCCESS = "success"
    FAILURE = "failure"
    DISCARD = "discard"
    NEXT = "next"
    PAUSE = "pause"


@dataclass(frozen=True)
class OperatorCommand:
    """An operator's answer for one tick; ``action`` is given exactly when the mode is TAKE_OVER."""

    mode: Mode
    action: NDArray[Any] | None = None
    event: OperatorEvent | None = None

    def __post_init__(self) -> None:
        if (self.action is not None) != (self.mode is Mode.TAKE_OVER):
            verb = "needs an" if self.action is None else "takes no"
            raise RoboprefError(f"an operator command in mode {self.mode.name} {verb} action.")


FOLLOW = OperatorCommand(Mode.FOLLOW)
HOLD = OperatorCommand(Mode.HOLD)


class StepRecord(TypedDict):
    """What a supervised environment reports under ``info[STEP_RECORD]``: the fields of ``Step`` that it decides."""

    action: NDArray[Any]
    actor: Actor
    policy_action: NDArray[Any]
    human_action: NDArray[Any] | None
    segment_id: int


STEP_RECORD = "step_record"
OPERATOR_EVENT = "operator_event"
"""Key in ``info``: the ``OperatorEvent`` of this tick; absent when there was none."""
OPERATOR_STOP = "operator_stop"
"""Key in ``info``: true when the operator ended the episode, and the environment was therefore not stepped."""


@runtime_checkable
class Operator(Protocol):
    """A person, or something that plays one, watching a policy.

    The control loop owns time: an operator that has nothing current to say answers HOLD, never a stale action.
    """

    operator_id: str

    def reset(self, info: Mapping[str, Any]) -> None:
        """A new episode begins; ``info`` holds at least ``seed``, ``task`` and ``instruction``."""

    def command(self, observation: Observation, proposed_action: NDArray[Any]) -> OperatorCommand:
        """What to do at this tick, given what is seen and what the policy is about to do."""


class Expert(Protocol):
    """A demonstrator: a function of the (privileged) observation, usable from any state of the episode."""

    def reset(self) -> None:
        """A new episode begins."""

    def __call__(self, observation: Observation) -> NDArray[Any]:
        """The action [A] that the expert would take now."""


@runtime_checkable
class Task(Protocol):
    """What a Gymnasium environment carries (on ``env.unwrapped``) to be a robopref task.

    Its observation space is a ``Dict`` of the keys of ``Observation``; ``info["success"]`` is a bool at every step,
    and the first success terminates the episode.
    """

    task_name: str
    instruction: str
    paraphrases: tuple[str, ...]

    def make_expert(self) -> Expert:
        """A fresh expert. Raises RoboprefError when the task has none."""

    def progress(self, observation: Observation) -> float:
        """How far along the attempt is, as a watcher would judge; larger is better, comparable within an episode."""


@runtime_checkable
class ChunkTokenizer(Protocol):
    """Chunks of H normalised actions of A dimensions <-> tokens in 1..bins; 0 means that there is no token.

    Attributes:
        horizon: H; 1 for a policy that decides one action at a time.
        variable_length: whether chunks have different numbers of tokens, so that a policy has to say where it stops.
    """

    @property
    def horizon(self) -> int:
        """See the class."""

    @property
    def variable_length(self) -> bool:
        """See the class."""

    @property
    def bins(self) -> int:
        """The largest token."""

    def action_tokens(self, action_size: int) -> int:
        """The most tokens T that a chunk of actions [A] can have; all are padded to it with 0 at the end.

        Raises:
            RoboprefError: the tokenizer is for another action size.
        """

    def encode_chunks(self, chunks: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Chunks [N, H, A] of which the first steps are ``valid`` [N, H] -> tokens [N, T].

        Raises:
            RoboprefError: other shapes, or NaN in a valid step.
        """

    def decode(self, tokens: NDArray[Any]) -> NDArray[np.float32]:
        """Tokens [..., T] -> chunks [..., H, A], or actions [..., A] where the horizon is 1."""

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""


@runtime_checkable
class TokenPolicy(Protocol):
    """A policy that writes its action, or a chunk of several, as tokens.

    Shapes: B observations; T action tokens, ``tokenizer.action_tokens(A)`` at most and for one binned action its A
    dimensions; L = T + 1 columns of log-probabilities (the last is the stop token's, zeros where a policy has none).
    Tokens are padded with 0 at the end, which means "no token here". Class k of the logits is token k + 1; with a
    tokenizer of variable length there is one class more, after the last token: the stop.
    """

    tokenizer: Any  # a ChunkTokenizer
    norm_stats: Any

    @property
    def observation_keys(self) -> tuple[str, ...]:
        """The observation keys that it reads."""

    def encode(self, observations: Mapping[str, Any], instructions: Sequence[str]) -> Any:
        """Batch of stacked observations [B, ...] -> whatever the other methods take; gradients flow through it."""

    def action_logits(self, batch: Any, action_tokens: Tensor) -> Tensor:
        """Teacher-forced logits [B, T, bins] at the action positions, over the action bins (and the stop) only.

        The first t of the tokens [B, t] give the logits [B, t, bins] of these positions.
        """

    def action_logps(self, batch: Any, action_tokens: Tensor) -> Tensor:
        """Log-probabilities [B, L] of the given tokens [B, T], as ``robopref.token_logps`` defines them.

        A token 0 has log-probability 0, whatever the policy thinks there, so that every objective may sum over the
        columns. The last column is the stop's: with a tokenizer of variable length log p(stop) after the last token,
        and 0 where all T places are taken.
        """

    def act(self, observations: Mapping[str, Any], instructions: Sequence[str]) -> NDArray[np.float32]:
        """Greedy actions [B, A] in environment units.

        A policy that decides chunks gives the first action of each; but for a single observation (B = 1) the next
        action of its plan, if one is left. Such a policy has a ``reset()`` that drops the plan.
        """

    def reference(self) -> AbstractContextManager[None]:
        """Inside it the policy answers as the frozen reference does, without gradients."""

    def save(self, directory: Path) -> None:
        """Write a checkpoint that ``load_policy`` reads."""


@runtime_checkable
class ScoringPolicy(TokenPolicy, Protocol):
    """A token policy that scores two actions for little more than the price of one."""

    def score(self, batch: Any, action_tokens: Tensor, second_tokens: Tensor | None) -> Scores:
        """What ``action_logps`` and ``action_logits`` of the first action, and ``action_logps`` of the second, give."""


class Scores(NamedTuple):
    """Log-probabilities [B, L] of the first and (where asked for) second action; logits [B, T, bins] of the first."""

    logps: Tensor
    second_logps: Tensor | None
    logits: Tensor


@runtime_checkable
class QPolicy(Protocol):
    """A value-based policy over discrete actions."""

    def q_values(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels in [0, 1] [B, C, H, W] -> action values [B, n_actions]; differentiable."""
