"""What a critic says of recorded steps, in the form that the trainer takes: weights and words."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError
from robopref.trajectory import Actor, Episode

CREDIT_FILE = "credit.npz"
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class StepCredit:
    """Of each recorded step [N], in the order of the episodes.

    Attributes:
        weights: how much it counts [N].
        conditions: text [N] behind its instruction in training.
        summary: what is worth noting, as JSON values.
    """

    weights: NDArray[np.float64]
    conditions: NDArray[np.object_]
    summary: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def alike(cls, steps: int) -> StepCredit:
        """N steps that all weigh 1 and of which nothing is said."""
        return cls(np.ones(steps), np.full(steps, "", dtype=object))


def save_credit(path: Path, credit: StepCredit, of: str) -> None:
    """Write what a critic said, and ``of`` what, so that ``path`` holds either all of it or what was there before."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        np.savez(
            file,
            weights=credit.weights,
            conditions=credit.conditions.astype(np.str_),
            summary=np.array(json.dumps(credit.summary)),
            of=np.array(of),
        )
    os.replace(temporary, path)


def load_credit(path: Path, of: str) -> StepCredit | None:
    """The inverse of ``save_credit``; nothing where it was said of something else.

    Raises:
        RoboprefError: the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if str(arrays["of"]) != of:
                return None
            return StepCredit(
                arrays["weights"], arrays["conditions"].astype(object), json.loads(str(arrays["summary"]))
            )
    except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
        raise RoboprefError(f"{path} cannot be read ({error}): remove it, and the critic is fitted anew.") from error


def taught_steps(episodes: Sequence[Episode]) -> NDArray[np.bool_]:
    """Steps [N] that a person took, whatever they are labelled."""
    return np.concatenate([np.isin(e.actor, (Actor.EXPERT, Actor.HUMAN)) for e in episodes])


def longest_episodes(episodes: Sequence[Episode]) -> dict[str, int]:
    """Steps of the longest episode of each task: what its durations are measured by."""
    longest: dict[str, int] = {}
    for episode in episodes:
        longest[episode.info.task] = max(longest.get(episode.info.task, 0), len(episode))
    return longest
