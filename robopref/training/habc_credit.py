"""HABC's critic: the heads of viability and efficiency, and the weights that follow from them.

Formulas and source are in ``robopref.objectives.habc``. The outcome of an episode is a label of the policy's steps
after the last human one only, all of them where nobody took over: a human's rescue is not the policy's success, and
what led to it has no label. What the source leaves open: V_e is fitted to those of them that end in success and to
demonstrations, as -(steps left) in units of the task's longest episode; both heads share one network; the observation
after the last driven step is fitted to as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robopref.errors import RoboprefError
from robopref.labeling import autonomous_suffix
from robopref.objectives.habc import habc_weights
from robopref.training.credit_settings import CreditSettings
from robopref.training.step_credit import Progress, StepCredit, longest_episodes, taught_steps
from robopref.training.value_fit import ObservationTable, fit_values
from robopref.trajectory import Actor, Episode, Label, Outcome


def outcome_labels(episode: Episode) -> NDArray[np.float64]:
    """Of each step [T]: 1 where the policy was on its own way to a success, 0 to a failure, NaN elsewhere."""
    labels = np.full(len(episode), np.nan)
    if episode.info.outcome != Outcome.ABORTED:
        labels[autonomous_suffix(episode.actor)] = float(episode.info.outcome == Outcome.SUCCESS)
    return labels


def efficiency_targets(episode: Episode) -> NDArray[np.float64]:
    """-(steps to the end of the episode) at the steps [T] of demonstrations and of the policy's successes, else NaN."""
    demonstrated = (episode.actor == Actor.EXPERT) & (episode.info.outcome == Outcome.SUCCESS)
    left = np.arange(len(episode), 0, -1)
    return np.where(demonstrated | (outcome_labels(episode) == 1), -left, np.nan)


def last_driven_steps(episodes: Sequence[Episode]) -> NDArray[np.int64]:
    """Of each episode the last step that somebody drove, counted over all: after it the robot may have been held."""
    starts = np.cumsum([0, *(len(e) for e in episodes)])[:-1]
    driven = [np.flatnonzero(e.actor != Actor.HOLD) for e in episodes]
    last = [d[-1] if len(d) else len(e) - 1 for d, e in zip(driven, episodes, strict=True)]
    return starts + np.array(last)


def fit_habc_heads(
    table: ObservationTable,
    outcomes: NDArray[Any],
    efficiency: NDArray[Any],
    ends: NDArray[np.int64],
    settings: CreditSettings,
    seed: int,
    progress: Progress = lambda done, total: None,
) -> tuple[NDArray[np.float64], list[float]]:
    """z_v and V_e [M, 2] of all observations, and the loss curve.

    Args:
        outcomes: of the steps [N], 1 or 0 or NaN where there is none.
        efficiency: V_e that is fitted to at the steps [N], NaN where there is none, in any unit.
        ends: the last driven steps of the episodes; what was seen after them is fitted to where they are: with their
            outcome, and with V_e = 0.

    Raises:
        RoboprefError: no step is fitted to.
    """
    targets = np.full((len(table), 2), np.nan)
    targets[table.of_steps] = np.stack([outcomes, efficiency], axis=1)
    ends = ends[table.has_successor[ends]]
    targets[table.after_steps[ends]] = np.stack([outcomes[ends], efficiency[ends] * 0], axis=1)

    def loss(outputs: Tensor, rows: NDArray[np.int64]) -> Tensor:
        wanted = torch.as_tensor(targets[rows], dtype=torch.float32)
        given = torch.isfinite(wanted)
        wanted = torch.nan_to_num(wanted)
        viable = nn.functional.binary_cross_entropy_with_logits(outputs[:, 0], wanted[:, 0], reduction="none")
        slow = (outputs[:, 1] - wanted[:, 1]).square()
        return (torch.stack([viable, slow], dim=1) * given).sum() / len(rows)

    fitted = np.flatnonzero(np.isfinite(targets).any(axis=1))
    outputs, curve = fit_values(table, fitted, loss, 2, settings, seed, progress)
    return outputs.astype(np.float64), curve


def habc_credit(
    episodes: Sequence[Episode],
    labels: Sequence[NDArray[Any]],
    keys: Sequence[str],
    settings: CreditSettings,
    seed: int,
    progress: Progress = lambda done, total: None,
) -> StepCredit:
    """The weight of each step, of mean 1 over those that are drawn; see the module.

    Raises:
        RoboprefError: no step of the policy has an outcome of its own, or all weights are zero.
    """
    drawn = np.concatenate([np.asarray(x) for x in labels]) != Label.EXCLUDED
    outcomes = np.concatenate([outcome_labels(e) for e in episodes])
    if not np.isfinite(outcomes[drawn]).any():
        raise RoboprefError(
            "no episode tells how the policy fares by itself, which HABC learns from: all were aborted or finished by "
            "a human. Collect some in which the policy drives to the end."
        )
    longest = longest_episodes(episodes)
    unit = np.concatenate([np.full(len(e), longest[e.info.task], dtype=np.float64) for e in episodes])
    left = np.concatenate([efficiency_targets(e) for e in episodes])
    table = ObservationTable(episodes, keys)
    heads, curve = fit_habc_heads(
        table,
        np.where(drawn, outcomes, np.nan),
        np.where(drawn, left / unit, np.nan),
        last_driven_steps(episodes),
        settings,
        seed,
        progress,
    )
    here, there = heads[table.of_steps], heads[table.after_steps]
    weights = habc_weights(
        here[:, 0],
        there[:, 0],
        here[:, 1] * unit,
        there[:, 1] * unit,
        failed=outcomes == 0,
        taught=taught_steps(episodes),
        drawn=drawn,
    )
    policy = drawn & ~taught_steps(episodes)
    summary = {
        "outcomes": {"success": int((outcomes == 1).sum()), "failure": int((outcomes == 0).sum())},
        "mean_weights": {
            name: float(weights[steps].mean()) if steps.any() else None
            for name, steps in (("people", drawn & ~policy), ("policy", policy))
        },
        "value_loss": curve[-1],
    }
    return StepCredit(weights, np.full(len(weights), "", dtype=object), summary)
