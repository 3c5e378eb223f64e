"""Which episodes and which of their states are measured: no episode twice, states evenly strided."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robopref.diagnosis.collection import EpisodeTrace, duplicate_episodes, episode_digest
from robopref.diagnosis.findings import Played
from robopref.diagnosis.plan import Plan
from robopref.errors import RoboprefError


@dataclass(frozen=True)
class Selection:
    """Evenly strided states of some episodes.

    Attributes:
        steps: the chosen steps of each episode, ascending.
        episode_of: int64 [N], the episode of each, in order.
    """

    steps: tuple[NDArray[np.int64], ...]
    episode_of: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.episode_of)


def select_states(lengths: Sequence[int], max_states: int) -> Selection:
    """Every n-th state of the episodes put end to end, n the least that leaves at most ``max_states`` (0: all)."""
    total = int(sum(lengths))
    stride = -(-total // max_states) if max_states else 1
    return _selected(np.arange(0, total, stride), lengths)


def select_as_many(lengths: Sequence[int], n_states: int) -> Selection:
    """``n_states`` of the episodes' states, as evenly spaced as whole steps allow; all of them if there are fewer."""
    total = int(sum(lengths))
    n = min(n_states, total)
    return _selected(np.arange(n) * total // n, lengths)


def attack_selection(traces: Sequence[EpisodeTrace], shape: Sequence[int], plan: Plan) -> Selection:
    """The clean states that every attack is tried on; no more than half the memory limit holds as gradients."""
    itemsize = 8 if plan.dtype == "float64" else 4
    fitting = max(1, plan.memory_limit // (2 * int(np.prod(shape)) * itemsize))
    return select_states([len(trace) for trace in traces], min(plan.attack_states, fitting))


def _selected(chosen: NDArray[np.int64], lengths: Sequence[int]) -> Selection:
    ends = np.cumsum(lengths)
    episode_of = np.searchsorted(ends, chosen, side="right")
    steps = chosen - (ends - np.asarray(lengths))[episode_of]
    return Selection(tuple(steps[episode_of == e] for e in range(len(lengths))), episode_of)


def distinct_episodes(traces: Sequence[EpisodeTrace]) -> tuple[list[EpisodeTrace], Played]:
    """The traces without those that repeat an earlier one, and how they went.

    Raises:
        RoboprefError: there are none.
    """
    if not traces:
        raise RoboprefError("there are no episodes to look at: play at least one.")
    repeats = {index for group in duplicate_episodes(traces) for index in group[1:]}
    kept = [trace for index, trace in enumerate(traces) if index not in repeats]
    return kept, Played(
        np.array([trace.seed for trace in kept]),
        np.array([trace.score for trace in kept]),
        np.array([len(trace) for trace in kept]),
        np.array([trace.finished for trace in kept]),
        len(repeats),
    )


def independent_episodes(traces: Sequence[EpisodeTrace], clean_digests: Collection[bytes]) -> list[EpisodeTrace]:
    """The different episodes of the null control that repeat no clean one; if all do, those that differ."""
    fresh = [trace for trace in traces if episode_digest(trace) not in clean_digests]
    return distinct_episodes(fresh or traces)[0]
