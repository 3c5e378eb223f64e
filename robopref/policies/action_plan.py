"""Open-loop execution of an action chunk: several actions from one inference, until the plan is dropped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError


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
