"""Before a refinement: what the objective's critic says of the recorded steps, and what the policy can read of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from robopref.cli.console import console, progress_bar
from robopref.errors import RoboprefError
from robopref.objectives.base import Objective
from robopref.objectives.recap import NEGATIVE, POSITIVE
from robopref.policies.compact import CompactPolicy
from robopref.policies.instruction import hashed_words
from robopref.training.credit import judge_steps
from robopref.training.credit_settings import CreditSettings
from robopref.training.step_credit import StepCredit
from robopref.trajectory import Episode


def judged(
    policy: Any,
    objective: Objective,
    episodes: Sequence[Episode],
    labels: Sequence[NDArray[Any]],
    settings: CreditSettings,
    seed: int,
) -> StepCredit | None:
    """What the objective's critic says of the steps; ``None`` for objectives without one.

    Raises:
        RoboprefError: the episodes do not hold what the critic is fitted to, or an instruction is so long that the
            policy would not read what is said behind it.
    """
    if objective.credit is None:
        return None
    if objective.credit == "recap" and isinstance(policy, CompactPolicy):
        _check_room(policy, episodes)
    with progress_bar("critic", settings.value_steps) as progress:
        credit = judge_steps(objective.credit, episodes, labels, policy.observation_keys, settings, seed, progress)
    told = ", ".join(f"{name} {value}" for name, value in credit.summary.items())
    console.print(f"critic: {told}", markup=False)
    return credit


def _check_room(policy: CompactPolicy, episodes: Sequence[Episode]) -> None:
    sizes = policy.architecture.word_buckets, policy.architecture.max_words
    for text in sorted({episode.info.instruction for episode in episodes}):
        if hashed_words(text + POSITIVE, *sizes) == hashed_words(text + NEGATIVE, *sizes):
            raise RoboprefError(
                f"the policy reads {sizes[1]} words, too few for an indicator behind the instruction {text[:60]!r}...: "
                f"record with a shorter one."
            )
