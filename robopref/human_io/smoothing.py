"""Commands of an operator without a jump when they take over."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError


class RateLimiter:
    """Follows a target from where the robot's command is, by at most so much a second.

    A component that the operator lets go of (its target was not zero and now is) is zero at once: stopping is never
    slowed down. The current command that a takeover starts from is not the operator's own, and so it is led to the
    target, be it zero, at the limited rate.

    Args:
        per_second: largest change of a component in a second, in the units of the action.
        hz: control ticks a second.

    Raises:
        RoboprefError: a rate or frequency that is not positive.
    """

    def __init__(self, per_second: float, hz: float) -> None:
        if not (per_second > 0 and hz > 0):
            raise RoboprefError(f"a command's rate {per_second}/s at {hz} Hz: both must be positive.")
        self._step = per_second / hz
        self.start(np.zeros(0))

    def start(self, command: NDArray[Any]) -> None:
        """Begin at ``command`` [A], what is executed now."""
        self._command = np.array(command, dtype=np.float64)
        self._target = np.zeros_like(self._command)

    def __call__(self, target: NDArray[Any]) -> NDArray[np.float32]:
        """The command [A] of the next tick on the way to ``target`` [A]."""
        change = np.clip(target - self._command, -self._step, self._step)
        released = (self._target != 0) & (target == 0)
        self._command = np.where(released, 0.0, self._command + change)
        self._target = np.array(target, dtype=np.float64)
        return self._command.astype(np.float32)
