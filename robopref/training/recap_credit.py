"""RECAP's critic: a distributional value of recorded observations, and the words that follow from it.

Formulas and source are in ``robopref.objectives.recap``. What they leave open: attempts are cut where a human had to
step in (``robopref.training.attempts``), and such an attempt of the policy failed; the value is fitted to all attempts
whose end is known, of demonstrations, people and the policy alike; a return falls into the nearest bin; an attempt that
nobody judged is followed by the value of its last observation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robopref.objectives.recap import (
    NEGATIVE,
    POSITIVE,
    VALUES,
    advantage_thresholds,
    attempt_advantages,
    attempt_returns,
    attempt_rewards,
    improvement_indicators,
    value_bins,
)
from robopref.training.attempts import attempts
from robopref.training.credit_settings import CreditSettings
from robopref.training.step_credit import Progress, StepCredit, longest_episodes, taught_steps
from robopref.training.value_fit import ObservationTable, fit_values
from robopref.trajectory import Actor, Episode, Label


def episode_returns(episode: Episode, longest: int) -> NDArray[np.float64]:
    """Clipped returns [T] of the attempts of an episode, NaN where nobody knows how they ended."""
    returns = np.full(len(episode), np.nan)
    for part in attempts(episode.actor, episode.info.outcome):
        if part.failed is not None:
            rewards = attempt_rewards(part.stop - part.start, longest, part.failed)
            returns[part.start : part.stop] = attempt_returns(rewards)
    return returns


def episode_advantages(
    episode: Episode, longest: int, values: NDArray[Any], value_after: float, horizon: int
) -> NDArray[np.float64]:
    """Advantages [T] from V at the steps [T] and at what was seen after the last one."""
    found = np.empty(len(episode))
    for part in attempts(episode.actor, episode.info.outcome):
        rewards = attempt_rewards(part.stop - part.start, longest, part.failed)
        after = value_after if part.failed is None else 0.0
        own = np.append(values[part.start : part.stop], after)
        found[part.start : part.stop] = attempt_advantages(rewards, own, horizon)
    return found


def fit_recap_values(
    table: ObservationTable,
    returns: NDArray[Any],
    fitted: NDArray[np.bool_],
    settings: CreditSettings,
    seed: int,
    progress: Progress = lambda done, total: None,
) -> tuple[NDArray[np.float64], list[float]]:
    """V [M] of all observations, fitted to the returns [N] of the steps ``fitted`` [N], and the loss curve.

    Raises:
        RoboprefError: no step is fitted to.
    """
    bins = np.zeros(len(table), dtype=np.int64)
    bins[table.of_steps[fitted]] = value_bins(returns[fitted])

    def loss(outputs: Tensor, rows: NDArray[np.int64]) -> Tensor:
        return nn.functional.cross_entropy(outputs, torch.as_tensor(bins[rows]))

    outputs, curve = fit_values(table, table.of_steps[fitted], loss, len(VALUES), settings, seed, progress)
    values: NDArray[np.float64] = torch.as_tensor(outputs).double().softmax(dim=1).numpy() @ VALUES
    return values, curve


def recap_credit(
    episodes: Sequence[Episode],
    labels: Sequence[NDArray[Any]],
    keys: Sequence[str],
    settings: CreditSettings,
    seed: int,
    progress: Progress = lambda done, total: None,
) -> StepCredit:
    """The indicator of each step as text, all weights 1; see the module.

    Raises:
        RoboprefError: no step has a known return.
    """
    longest = longest_episodes(episodes)
    tasks = np.concatenate([np.full(len(e), e.info.task, dtype=object) for e in episodes])
    drawn = np.concatenate([np.asarray(x) for x in labels]) != Label.EXCLUDED
    table = ObservationTable(episodes, keys)
    returns = np.concatenate([episode_returns(e, longest[e.info.task]) for e in episodes])
    all_values, curve = fit_recap_values(table, returns, drawn & np.isfinite(returns), settings, seed, progress)
    values, after = all_values[table.of_steps], all_values[table.after_steps]
    stops = np.cumsum([len(e) for e in episodes])
    advantages = np.concatenate(
        [
            episode_advantages(
                e, longest[e.info.task], values[stop - len(e) : stop], after[stop - 1], settings.advantage_horizon
            )
            for e, stop in zip(episodes, stops, strict=True)
        ]
    )
    autonomous = drawn & np.concatenate([e.actor == Actor.POLICY for e in episodes])
    thresholds = advantage_thresholds(advantages, tasks, autonomous, settings.positive_share)
    positive = improvement_indicators(advantages, tasks, taught_steps(episodes), thresholds)
    conditions = np.full(len(positive), NEGATIVE, dtype=object)
    conditions[positive] = POSITIVE
    summary = {
        "thresholds": thresholds,
        "positive_policy_steps": int((positive & autonomous).sum()),
        "policy_steps": int(autonomous.sum()),
        "value_loss": curve[-1],
    }
    return StepCredit(np.ones(len(positive)), conditions, summary)
