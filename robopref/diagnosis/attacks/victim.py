"""The decisions of one batch of states under attack, and the units in which an attack measures them.

The attacked decision of a state s is tau(s) = argmax_a Q(s, a), and its margin at a point x is

    m(x) = Q(x, tau(s)) - max_{b != tau(s)} Q(x, b),

negative where the decision has flipped. Action values have no natural size: gaps of 1e-3 are common in Atari games,
and certified training makes others. So attacks see m(x) / unit, per state, with

    unit = max(m(s), 1e-3 |grad m(s)|_2):

the clean action gap, or, where the gap all but vanishes, what a change of 1e-3 in the pixels (L2) does to it to first
order. ``distance`` = unit / |grad m(s)|_2 is the matching length in pixels, the first-order distance to the boundary.
Both make every attack indifferent to Q -> a Q + b, a > 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robopref.diagnosis.gradients import working_copy
from robopref.errors import RoboprefError
from robopref.protocols import QPolicy

_LEAST_DISTANCE = 1e-3  # in the L2 norm of pixels in [0, 1]: a quarter of a grey level in one pixel
_ROUNDING = 8  # in units of the last place of Q


@dataclass(frozen=True)
class Scale:
    """How a margin is measured, per state [B].

    Attributes:
        unit: a margin of this size counts as 1.
        distance: unit / |grad m(s)|_2; infinite where the margin does not move with the pixels.
        gradient: [B, d], grad m(s).
    """

    unit: Tensor
    distance: Tensor
    gradient: Tensor


class Victim:
    """A policy and the batch of states on which its decisions are attacked; states are rows [B, d], d = C * H * W.

    A policy in training mode, on another device or in another precision than the pixels is copied, never changed; no
    parameter gets a gradient.

    Args:
        q_policy: gives action values [B, n_actions], n_actions >= 2, differentiable in the pixels; treats the states
            of a batch independently.
        pixels: [B, C, H, W] in [0, 1], float32 or float64.
        context: tensors [B, ...] that ``q_values`` takes beside the pixels, by name.

    Attributes:
        clean: [B, d], the states.
        chosen: int64 [B], their greedy actions.
        gap: [B], m(s) >= 0.
        spread: [B], largest minus smallest action value; 1 where all are equal.
        gradient_evaluations: int64 [B], gradients taken so far.

    Raises:
        RoboprefError: pixels of another kind, shape or range, no states, fewer than two actions, action values that
            are not finite.
    """

    def __init__(self, q_policy: QPolicy, pixels: Tensor, context: Mapping[str, Any] | None = None) -> None:
        _check_pixels(pixels)
        self.shape = pixels.shape[1:]
        self.policy, _ = working_copy(q_policy, pixels.dtype, pixels.device)
        self.clean = pixels.detach().clone().flatten(1)
        self.context = {
            name: torch.as_tensor(given).detach().clone().to(pixels.device) for name, given in (context or {}).items()
        }
        for name, given in self.context.items():
            if len(given) != len(pixels):
                raise RoboprefError(f"context '{name}' has {len(given)} rows for {len(pixels)} states.")
        self.rows = torch.arange(len(pixels), device=pixels.device)
        self.gradient_evaluations = torch.zeros_like(self.rows)
        q_values = self.values(self.rows, self.clean)
        self._rounding = _ROUNDING * torch.finfo(q_values.dtype).eps * q_values.abs().amax(1)
        self.chosen = q_values.argmax(1)
        self.gap = self.margin(self.rows, q_values)
        self.spread = _positive(q_values.amax(1) - q_values.amin(1))

    def values(self, rows: Tensor, points: Tensor) -> Tensor:
        """Action values [n, n_actions] of points [n, d] that belong to the states ``rows`` [n]."""
        with torch.no_grad():
            return self._q_values(rows, points)

    def margin(self, rows: Tensor, q_values: Tensor) -> Tensor:
        """m [n] of ``q_values`` [n, n_actions] against the clean decisions of the states ``rows``."""
        chosen = self.chosen[rows, None]
        best_other = q_values.scatter(1, chosen, -torch.inf).amax(1)
        return q_values.gather(1, chosen)[:, 0] - best_other

    def depth(self, confidence: float) -> Tensor:
        """How far below 0 a margin counts as a flip [B]: by ``confidence`` times the clean gap.

        By a few roundings at least, so that a flip survives another batch size, which rounds otherwise.
        """
        return torch.maximum(confidence * self.gap, self._rounding)

    def flipped(self, rows: Tensor, q_values: Tensor, confidence: float = 0.0) -> Tensor:
        """Whether the decisions have flipped, bool [n], by ``depth(confidence)`` at least."""
        return self.margin(rows, q_values) < -self.depth(confidence)[rows]

    def gradient(self, rows: Tensor, points: Tensor, objective: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Action values [n, n_actions] at the points, and the gradients [n, d] of ``objective`` ([n] out of them)."""
        with torch.enable_grad():
            inputs = points.detach().requires_grad_()
            q_values = self._differentiable(rows, inputs)
            gradient = self._backward(rows, objective(q_values), inputs, retain=False)
        return q_values.detach(), gradient

    def leads(self, rows: Tensor, points: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """For each of the n_actions - 1 rivals b of a decision: Q(x, tau(s)) - Q(x, b) [n], and its gradient [n, d].

        One forward pass and as many backward passes; holds one gradient at a time.
        """
        with torch.enable_grad():
            inputs = points.detach().requires_grad_()
            q_values = self._differentiable(rows, inputs)
        n_actions = q_values.shape[1]
        for turn in range(1, n_actions):
            with torch.enable_grad():
                rival = (self.chosen[rows] + turn) % n_actions
                lead = (q_values.gather(1, self.chosen[rows, None]) - q_values.gather(1, rival[:, None]))[:, 0]
                gradient = self._backward(rows, lead, inputs, retain=turn < n_actions - 1)
            yield lead.detach(), gradient

    def scale(self) -> Scale:
        """The units of the margins; takes one gradient."""
        _, gradient = self.gradient(self.rows, self.clean, lambda q_values: self.margin(self.rows, q_values))
        slope = gradient.norm(dim=1)
        unit = torch.maximum(self.gap, _LEAST_DISTANCE * slope)
        return Scale(unit, torch.where(slope > 0, unit / slope, torch.inf), gradient)

    def _differentiable(self, rows: Tensor, inputs: Tensor) -> Tensor:
        q_values = self._q_values(rows, inputs)
        if not q_values.requires_grad:
            raise RoboprefError(
                "q_values is not differentiable in its pixels; remove what detaches it (torch.no_grad)."
            )
        return q_values

    def _backward(self, rows: Tensor, objective: Tensor, inputs: Tensor, *, retain: bool) -> Tensor:
        (gradient,) = torch.autograd.grad(objective.sum(), inputs, retain_graph=retain, allow_unused=True)
        if gradient is None:
            raise RoboprefError("q_values does not use its pixels, so there is no gradient to attack with.")
        if not torch.isfinite(gradient.sum()):
            raise RoboprefError("the gradient of the action values is not finite; check the policy's weights.")
        self.gradient_evaluations[rows] += 1
        return gradient

    def _q_values(self, rows: Tensor, points: Tensor) -> Tensor:
        context = {name: given[rows] for name, given in self.context.items()}
        q_values = self.policy.q_values(points.reshape(-1, *self.shape), **context)
        if q_values.ndim != 2 or len(q_values) != len(points) or q_values.shape[1] < 2:
            raise RoboprefError(
                f"q_values must be [{len(points)}, n_actions] with at least 2 actions, got {tuple(q_values.shape)}."
            )
        if q_values.dtype != points.dtype:
            raise RoboprefError(f"the policy computes in {q_values.dtype}, the pixels are {points.dtype}: convert one.")
        if not torch.isfinite(q_values).all():
            raise RoboprefError("the policy's action values are not finite; check its weights for NaN.")
        return q_values


def _positive(values: Tensor) -> Tensor:
    return torch.where(values > 0, values, 1)


def _check_pixels(pixels: Tensor) -> None:
    if pixels.dtype not in (torch.float32, torch.float64):
        raise RoboprefError(f"attacks take float32 or float64 pixels in [0, 1], got {pixels.dtype}.")
    if pixels.ndim != 4 or not len(pixels):
        raise RoboprefError(f"attacks take at least one state [B, C, H, W], got shape {tuple(pixels.shape)}.")
    low, high = pixels.min().item(), pixels.max().item()
    if not (low >= 0 and high <= 1):  # not (...) so that NaN is refused as well
        raise RoboprefError(f"attacks take pixels in [0, 1], got {low:g} to {high:g}.")
