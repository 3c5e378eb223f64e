"""Open-loop execution of an action chunk: several actions from one inference, until the plan is dropped."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robopref.errors import RoboprefError
from robopref.policies.normalization import NormStats
from robopref.protocols import ChunkTokenizer


class ActionPlan:
    """The actions of the latest chunk that are still to be executed.

    Args:
        execute_steps: how many actions of each chunk are executed before the next inference.

    Raises:
        RoboprefError: fewer than one.
    """

    def __init__(self, execute_steps: int) -> None:
        if execute_steps < 1:
            raise RoboprefError(f"at least one action of each chunk is executed, got execute_steps {execute_steps}.")
        self.execute_steps = execute_steps
        self._left: list[NDArray[Any]] = []

    def reset(self) -> None:
        """Drop what is left: it was planned for a world that is no more."""
        self._left = []

    def next(self, make_chunk: Callable[[], NDArray[np.float32]]) -> NDArray[np.float32]:
        """The next action [A] of the plan; when none is left, of a new chunk [H, A] from ``make_chunk()``."""
        if not self._left:
            self._left = list(make_chunk()[: self.execute_steps])
        return self._left.pop(0)


class ActsInChunks(ABC):
    """``act`` and ``reset`` of a policy that writes the tokens of an action or a chunk: greedy, and by plan."""

    tokenizer: ChunkTokenizer
    norm_stats: NormStats
    _plan: ActionPlan

    def _plan_to_execute(self, execute_steps: int | None) -> None:
        """Execute so many actions of each chunk before the next inference; ``None``: all of them.

        Raises:
            RoboprefError: more than the chunk has, or fewer than one.
        """
        if execute_steps is not None and execute_steps > self.tokenizer.horizon:
            raise RoboprefError(f"{execute_steps} actions cannot be executed of chunks of {self.tokenizer.horizon}.")
        self._plan = ActionPlan(self.tokenizer.horizon if execute_steps is None else execute_steps)

    @abstractmethod
    def _greedy_tokens(self, observations: Mapping[str, Any], instructions: Sequence[str]) -> Tensor:
        """The greedy tokens [B, T] for stacked observations [B, ...] and B instructions."""

    @torch.inference_mode()
    def act(self, observations: Mapping[str, Any], instructions: Sequence[str]) -> NDArray[np.float32]:
        """Greedy actions [B, A] in environment units.

        With chunks, a single observation (B = 1) gets the next action of the plan made at an earlier one, until
        ``execute_steps`` of it are used or ``reset`` drops it. Of larger batches, nobody's plan: the first actions.
        """
        if len(instructions) == 1 and self.tokenizer.horizon > 1:
            return self._plan.next(lambda: self._chunks(observations, instructions)[0])[None]
        return self._chunks(observations, instructions)[:, 0]

    def reset(self) -> None:
        """Drop the plan, so that the next action is decided from what is seen then."""
        self._plan.reset()

    def _chunks(self, observations: Mapping[str, Any], instructions: Sequence[str]) -> NDArray[np.float32]:
        """Greedy chunks [B, H, A] in environment units."""
        tokens = self._greedy_tokens(observations, instructions)
        decoded = self.tokenizer.decode(tokens.cpu().numpy())
        return self.norm_stats.unnormalize(decoded.reshape(len(tokens), self.tokenizer.horizon, len(self.norm_stats)))
