"""Ask a value-based policy for one greedy action at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from robopref.errors import RoboprefError
from robopref.protocols import QPolicy


class QPolicyRunner:
    """Greedy actions of a ``QPolicy`` for states uint8 [C, H, W] or, in colour, [F, H, W, 3]."""

    def __init__(self, policy: QPolicy) -> None:
        self._policy = policy

    def reset(self) -> None:
        """Nothing is planned ahead, so there is nothing to drop."""

    def __call__(self, observation: NDArray[Any], instruction: str = "") -> NDArray[np.int64]:
        """The index [] of the action with the largest value.

        Raises:
            RoboprefError: the values are not finite.
        """
        state = np.asarray(observation)
        if state.ndim == 4:  # colour frames come channels last, and policies take them stacked channels first
            state = np.moveaxis(state, -1, 1).reshape(-1, *state.shape[1:3])
        with torch.no_grad():
            pixels = torch.from_numpy(np.ascontiguousarray(state)).float() / 255
            values = self._policy.q_values(pixels[None])[0]
        if not torch.isfinite(values).all():
            raise RoboprefError("the policy's action values are not finite: its weights are damaged or diverged.")
        return np.asarray(int(values.argmax()), np.int64)
