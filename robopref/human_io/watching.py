"""Operators for evaluation: hands off, but able to say when they would have stepped in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from robopref.protocols import FOLLOW, Mode, Observation, Operator, OperatorCommand


class WatchOnly:
    """Asks another operator what it would do, and lets the policy go on.

    Up to the first takeover the episode is the one that the other operator would have watched, so
    ``would_intervene`` is exact; what would have come after is nobody's knowledge, and it is not asked again.
    """

    def __init__(self, operator: Operator) -> None:
        self._operator = operator
        self.operator_id = f"watching:{operator.operator_id}"
        self.would_intervene = False

    def reset(self, info: Mapping[str, Any]) -> None:
        """A new episode begins."""
        self._operator.reset(info)
        self.would_intervene = False

    def command(self, observation: Observation, proposed_action: NDArray[Any]) -> OperatorCommand:
        """Always FOLLOW."""
        if not self.would_intervene:
            self.would_intervene = self._operator.command(observation, proposed_action).mode is Mode.TAKE_OVER
        return FOLLOW
