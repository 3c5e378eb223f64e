"""The critics of recorded steps, by the names under which objectives ask for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from numpy.typing import NDArray

from robopref.training.credit_settings import CreditSettings
from robopref.training.habc_credit import habc_credit
from robopref.training.recap_credit import recap_credit
from robopref.training.step_credit import Progress, StepCredit
from robopref.trajectory import Episode


def judge_steps(
    critic: Literal["habc", "recap"],
    episodes: Sequence[Episode],
    labels: Sequence[NDArray[Any]],
    keys: Sequence[str],
    settings: CreditSettings,
    seed: int,
    progress: Progress = lambda done, total: None,
) -> StepCredit:
    """Fit the critic to the episodes and let it judge their steps.

    Args:
        labels: one label array [T] for each episode; EXCLUDED steps are neither fitted to nor judged.
        keys: the observations that the policy reads; the critic reads the same.

    Raises:
        RoboprefError: the episodes do not hold what the critic is fitted to.
    """
    judge = {"habc": habc_credit, "recap": recap_credit}[critic]
    return judge(episodes, labels, keys, settings, seed, progress)
