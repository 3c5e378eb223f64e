"""Settings of the critics that judge recorded steps; apart, for command lines that must not wait for torch."""

from __future__ import annotations

from dataclasses import dataclass

from robopref.errors import RoboprefError


@dataclass(frozen=True)
class CreditSettings:
    """Of objectives with a critic, habc and recap: how it is fitted, and what is made of its values.

    Raises:
        RoboprefError: a number that is not positive, or a share that is not between 0 and 1.
    """

    value_steps: int = 500
    """Optimiser steps of the critic, before the refinement."""
    value_batch_size: int = 256
    value_learning_rate: float = 1e-3
    value_weight_decay: float = 1e-2
    advantage_horizon: int = 20
    """Of recap: steps looked ahead before the critic's value is taken; 20 is a second at 20 Hz."""
    positive_share: float = 0.35
    """Of recap: the share of a task's policy steps that count as better than expected."""

    def __post_init__(self) -> None:
        for name in ("value_steps", "value_batch_size", "value_learning_rate", "advantage_horizon"):
            if not getattr(self, name) > 0:
                raise RoboprefError(f"{name} must be positive, got {getattr(self, name)}.")
        if not self.value_weight_decay >= 0:
            raise RoboprefError(f"value_weight_decay must be zero or positive, got {self.value_weight_decay}.")
        if not 0 < self.positive_share < 1:
            raise RoboprefError(f"positive_share lies between 0 and 1, got {self.positive_share}.")


DEFAULT_CREDIT = CreditSettings()
"""What is used unless something else is asked for."""
