"""How clear a policy's decisions are, and how many a change of the picture flips.

The action gap is Q of the best action minus Q of the second best (Bellemare et al., AAAI 2016). Its size means
something only against how far the values of actions lie apart at all: the scale of a policy is the median over states
of (highest - lowest Q), and a state whose gap is below a twentieth of that is called a near-tie. The scale is one
number per policy, so that a state in which all actions are equally good counts as a tie.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robopref.diagnosis.gradients import to_pixels, working_copy
from robopref.diagnosis.strided_convolutions import InputGradientsOnly
from robopref.diagnosis.subspace import resample_counts
from robopref.errors import RoboprefError
from robopref.evaluation.statistics import Estimate
from robopref.protocols import QPolicy

TIE_SHARE = 0.05
_CELLS_AT_ONCE = 4_000_000


def action_gaps(q_values: NDArray[Any]) -> NDArray[Any]:
    """Best minus second best of q_values [N, n_actions] -> [N], not negative.

    Raises:
        RoboprefError: fewer than two actions.
    """
    if q_values.ndim != 2 or q_values.shape[1] < 2:
        raise RoboprefError(f"action values are [N, n_actions] with at least 2 actions, got {q_values.shape}.")
    best = np.partition(q_values, -2, axis=1)[:, -2:]
    gaps: NDArray[Any] = best[:, 1] - best[:, 0]
    return gaps


def synonym_labels(n_actions: int, synonyms: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """int64 [n_actions], equal for actions that are synonyms: the least index of their group.

    Raises:
        RoboprefError: an index outside 0..n_actions-1, or an action in two groups.
    """
    labels = np.arange(n_actions)
    members = [action for group in synonyms for action in group]
    if len(set(members)) != len(members) or not all(0 <= action < n_actions for action in members):
        raise RoboprefError(f"synonyms are disjoint groups of actions 0 to {n_actions - 1}, got {synonyms}.")
    for group in synonyms:
        labels[list(group)] = min(group)
    return labels


def other_gaps(q_values: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[Any]:
    """Best Q minus that of the best action with another label, of q_values [N, n_actions] -> [N].

    Infinite where all actions are synonyms.
    """
    best = q_values.argmax(axis=1)
    others = np.where(labels[None] == labels[best][:, None], -np.inf, q_values)
    gaps: NDArray[Any] = q_values.max(axis=1) - others.max(axis=1)
    return gaps


def value_scale(q_values: NDArray[Any]) -> float:
    """The median over states of (highest - lowest Q), of q_values [N, n_actions]."""
    return float(np.median(np.ptp(q_values, axis=1)))


def boundary_distances(
    q_policy: QPolicy,
    states: NDArray[Any],
    *,
    batch_size: int = 64,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    context: dict[str, Any] | None = None,
) -> NDArray[Any]:
    """First-order distance of each state to the boundary with its second best action: gap / |grad gap|_2.

    The first step of DeepFool (Moosavi-Dezfooli et al., CVPR 2016) towards the runner-up alone; a boundary with
    another action may be nearer.

    Args:
        q_policy: as ``state_gradients`` takes it, and so are the other arguments.
        states: [N, C, H, W], uint8 or floats in [0, 1].
        batch_size: states per pass.
        dtype: of the passes.
        device: where to compute.
        context: arrays [N, ...] that ``q_values`` takes beside the pixels, by name.

    Returns:
        [N] in the L2 norm of pixels in [0, 1]; infinite where the gap does not move with the pixels.
    """
    policy, target = working_copy(q_policy, dtype, device)
    found = []
    for start in range(0, len(states), batch_size):
        rows = slice(start, start + batch_size)
        pixels = to_pixels(states[rows], dtype).to(target).requires_grad_()
        beside = {name: torch.as_tensor(values[rows]).to(target) for name, values in (context or {}).items()}
        with torch.enable_grad(), InputGradientsOnly():
            best = policy.q_values(pixels, **beside).topk(2, dim=1).values
            gaps = best[:, 0] - best[:, 1]
            (gradient,) = torch.autograd.grad(gaps.sum(), pixels)
        found.append(_distances(gaps.detach(), gradient.flatten(1).norm(dim=1)))
    return np.concatenate(found) if found else np.zeros(0, np.float32)


def _distances(gaps: Tensor, slopes: Tensor) -> NDArray[Any]:
    distances: NDArray[Any] = torch.where(slopes > 0, gaps / slopes, torch.inf).cpu().numpy()
    return distances


def greedy_actions(
    q_policy: QPolicy,
    states: NDArray[Any],
    *,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    context: dict[str, Any] | None = None,
) -> NDArray[np.int64]:
    """argmax_a Q(s, a) of states [N, C, H, W] -> [N]."""
    policy, target = working_copy(q_policy, torch.float32, device)
    actions = []
    for start in range(0, len(states), batch_size):
        rows = slice(start, start + batch_size)
        beside = {name: torch.as_tensor(values[rows]).to(target) for name, values in (context or {}).items()}
        with torch.no_grad():
            values = policy.q_values(to_pixels(states[rows], torch.float32).to(target), **beside)
        actions.append(values.argmax(1).cpu().numpy())
    return np.concatenate(actions) if actions else np.zeros(0, np.int64)


def bootstrap_median(
    episodes: Sequence[NDArray[Any]], *, n_resamples: int = 1000, seed: int = 0, confidence: float = 0.95
) -> Estimate:
    """The median over the pooled values of all episodes, with its percentile interval over episodes.

    Raises:
        RoboprefError: no values, or NaN among them, or an infinite median.
    """
    pooled = np.concatenate([np.asarray(values, np.float64) for values in episodes]) if episodes else np.zeros(0)
    if not len(pooled) or np.isnan(pooled).any():
        raise RoboprefError("a median needs values, none of them NaN.")
    order = np.argsort(pooled)
    owner = np.repeat(np.arange(len(episodes)), [len(values) for values in episodes])[order]
    counts = np.vstack([np.ones((1, len(episodes)), np.int64), resample_counts(len(episodes), n_resamples, seed)])
    medians = []
    at_once = max(1, _CELLS_AT_ONCE // len(pooled))
    for start in range(0, len(counts), at_once):
        cumulated = counts[start : start + at_once, owner].cumsum(axis=1)
        upper = (2 * cumulated > cumulated[:, -1:]).argmax(axis=1)  # the lower and upper median of an even number
        lower = (2 * cumulated >= cumulated[:, -1:]).argmax(axis=1)
        medians.append((pooled[order[lower]] + pooled[order[upper]]) / 2)
    values = np.concatenate(medians)
    if not np.isfinite(values[0]):
        raise RoboprefError("the median is infinite.")
    finite = values[1:][np.isfinite(values[1:])]
    low, high = np.quantile(finite, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(
        float(values[0]), min(float(low), float(values[0])), max(float(high), float(values[0])), len(episodes)
    )
