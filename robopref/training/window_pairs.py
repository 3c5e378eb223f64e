"""Batches of pairs of windows: steps in a row that a person drove against steps in a row that led to a takeover."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError
from robopref.mixture import DESIRABLE_SHARES
from robopref.training.dataset import StepDataset
from robopref.trajectory import Label


def window_starts(episode: NDArray[Any], labels: NDArray[Any], label: Label, length: int) -> NDArray[np.int64]:
    """Numbers of the steps at which ``length`` steps of one episode in a row carry the label; steps are in order."""
    same = (labels == label).astype(np.int64)
    if len(same) < length:
        return np.empty(0, dtype=np.int64)
    runs = np.convolve(same, np.ones(length, dtype=np.int64), mode="valid") == length
    one_episode = episode[: len(runs)] == episode[length - 1 :]
    return np.flatnonzero(runs & one_episode)


class WindowPairSampler:
    """Composes batches of window pairs: the preferred window first, then the rejected one of the same task.

    A batch holds ``batch_size // (2 * window)`` pairs per rank, in the order [pair, preferred or rejected, step].
    Rejected windows are UNDESIRABLE steps, drawn evenly. The preferred one is of the same task: demonstration or human
    steps two to one, or what there is of them, drawn evenly within each. A pure function of (seed, step): the ranks
    together see what one process with the global batch would.

    Raises:
        RoboprefError: a batch without room for one pair, or no task with windows of both kinds.
    """

    def __init__(
        self,
        dataset: StepDataset,
        batch_size: int,
        window: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.pairs = batch_size // (2 * window)
        if self.pairs < 1:
            raise RoboprefError(
                f"a pair of windows of {window} steps needs a batch size of at least {2 * window}, got {batch_size}."
            )
        self.window, self.seed, self.rank, self.world_size = window, seed, rank, world_size
        found = {
            label: window_starts(dataset.episode, dataset.labels, label, window)
            for label in (Label.EXPERT, Label.HUMAN, Label.UNDESIRABLE)
        }
        tasks = dataset.tasks
        self._preferred = {
            task: [found[label][tasks[found[label]] == task] for label in (Label.EXPERT, Label.HUMAN)]
            for task in np.unique(tasks)
        }
        usable = [task for task, kinds in self._preferred.items() if any(len(kind) for kind in kinds)]
        self._rejected = found[Label.UNDESIRABLE][np.isin(tasks[found[Label.UNDESIRABLE]], usable)]
        self._task_of = tasks
        if len(self._rejected) == 0:
            raise RoboprefError(
                f"no task has {window} undesirable steps in a row and {window} steps in a row that a person drove: "
                f"label at least {window} steps before each takeover (--window), or collect more takeovers."
            )

    def batch(self, step: int) -> NDArray[np.int64]:
        """This rank's sample numbers [pairs * 2 * window] at a step >= 0."""
        generator = np.random.default_rng((self.seed, step))
        pairs = [self._pair(generator) for _ in range(self.pairs * self.world_size)]
        starts = np.array(pairs[self.rank :: self.world_size])
        return (starts[:, :, None] + np.arange(self.window)).reshape(-1)

    def _pair(self, generator: np.random.Generator) -> tuple[int, int]:
        rejected = int(generator.choice(self._rejected))
        kinds = self._preferred[self._task_of[rejected]]
        weights = np.array([share if len(kind) else 0.0 for kind, share in zip(kinds, DESIRABLE_SHARES, strict=False)])
        kind = kinds[generator.choice(len(kinds), p=weights / weights.sum())]
        return int(generator.choice(kind)), rejected
