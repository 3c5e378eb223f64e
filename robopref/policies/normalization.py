"""Action normalisation by quantiles, frozen with the base policy.

Source: the OpenVLA recipe: each dimension's 1 % and 99 % quantiles map to -1 and 1; dimensions that the mask leaves
out (the gripper) pass unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError


@dataclass(frozen=True)
class NormStats:
    """Per-dimension quantiles ``q01`` [A], ``q99`` [A] and the ``mask`` [A] of dimensions that are normalised.

    Raises:
        RoboprefError: lengths differ, a quantile is not finite, or q99 < q01.
    """

    q01: NDArray[np.float64]
    q99: NDArray[np.float64]
    mask: NDArray[np.bool_]

    def __post_init__(self) -> None:
        for name, dtype in (("q01", np.float64), ("q99", np.float64), ("mask", np.bool_)):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=dtype))
        if not (self.q01.ndim == 1 and self.q01.shape == self.q99.shape == self.mask.shape):
            raise RoboprefError(
                f"normalisation statistics need q01, q99 and mask of one length, got shapes {self.q01.shape}, "
                f"{self.q99.shape} and {self.mask.shape}."
            )
        if not (np.isfinite(self.q01).all() and np.isfinite(self.q99).all() and (self.q01 <= self.q99).all()):
            raise RoboprefError("normalisation statistics need finite quantiles with q01 <= q99.")

    @classmethod
    def from_actions(cls, actions: NDArray[Any], mask: Sequence[bool] | NDArray[np.bool_] | None = None) -> NormStats:
        """Quantiles of actions [N, A]; ``mask`` defaults to every dimension but a gripper's.

        That is the last one, where it has values as commands of a gripper have: in [-1, 1], and two or three of them,
        or not in a small part of it only. Pixels or metres in its place are normalised like the rest.

        Raises:
            RoboprefError: ``actions`` is not [N, A] with N >= 1, or holds NaN.
        """
        actions = np.asarray(actions, dtype=np.float64)
        if actions.ndim != 2 or len(actions) == 0 or not np.isfinite(actions).all():
            raise RoboprefError(f"need finite actions [N, A] to normalise, got shape {actions.shape}.")
        size = actions.shape[1]
        q01, q99 = np.quantile(actions, [0.01, 0.99], axis=0)
        if mask is None:
            mask = [True] * size
            mask[-1] = size == 1 or not _is_gripper(actions[:, -1])
        return cls(q01, q99, np.asarray(mask))

    def __len__(self) -> int:
        return len(self.q01)

    def normalize(self, actions: NDArray[Any]) -> NDArray[np.float64]:
        """Environment units [..., A] -> [-1, 1] where masked in, unchanged elsewhere.

        A dimension that never varied is -1 whatever the action: there is but one value to come back to, and what lies
        beside it by a rounding error is not the far end of a range.
        """
        actions = self._checked(actions)
        scale = self.q99 - self.q01
        scaled = 2 * (actions - self.q01) / (scale + 1e-8) - 1
        scaled = np.where(scale <= 1e-6 * np.maximum(1, np.abs(self.q01)), -1.0, scaled)
        return np.where(self.mask, np.clip(scaled, -1, 1), actions)

    def outside(self, actions: NDArray[Any]) -> NDArray[np.bool_]:
        """Which values of actions [..., A] lie outside the range that tokens can express and are therefore clipped.

        The range is q01 to q99 where masked in (by definition 2 % of the data that they were taken from lie outside),
        and -1 to 1 elsewhere.
        """
        actions = self._checked(actions)
        low, high = np.where(self.mask, self.q01, -1.0), np.where(self.mask, self.q99, 1.0)
        return (actions < low) | (actions > high)

    def unnormalize(self, actions: NDArray[Any]) -> NDArray[np.float32]:
        """The way back: 0.5 (a + 1) (q99 - q01) + q01 where masked in."""
        actions = self._checked(actions)
        return np.where(self.mask, 0.5 * (actions + 1) * (self.q99 - self.q01) + self.q01, actions).astype(np.float32)

    def _checked(self, actions: NDArray[Any]) -> NDArray[np.float64]:
        actions = np.asarray(actions, dtype=np.float64)
        if actions.shape[-1:] != (len(self),):
            raise RoboprefError(f"the policy's actions have {len(self)} dimensions, got shape {actions.shape}.")
        return actions

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {"q01": self.q01.tolist(), "q99": self.q99.tolist(), "mask": self.mask.tolist()}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> NormStats:
        """The inverse of ``to_json``."""
        return cls(fields["q01"], fields["q99"], fields["mask"])


def _is_gripper(values: NDArray[np.float64]) -> bool:
    """Whether a dimension with these values [N] looks like the command of a gripper: open to closed, or constant."""
    q01, q99 = np.quantile(values, [0.01, 0.99])
    within = q01 >= -1.05 and q99 <= 1.05  # noise on a command may lead a little beyond its ends
    return bool(within and (max(abs(q01), abs(q99)) >= 0.5 or len(np.unique(values)) <= 3))
