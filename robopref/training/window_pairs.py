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

    A global batch holds ``batch_size // (2 * window)`` pairs in the order [pair, preferred or rejected, step]; they are
    dealt to the ranks in turn, whose parts differ by one pair at most. Rejected windows are UNDESIRABLE steps, drawn
    evenly. The preferred one is of the same task: demonstration or human steps two to one, or what there is of them,
    drawn evenly within each. A pure function of (seed, step): the ranks together see what one process would.

    Raises:
        RoboprefError: a batch without room for one pair per rank, or no task with windows of both kinds.
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
        if self.pairs < world_size:
            raise RoboprefError(
                f"a batch of {self.pairs} pairs leaves some of the {world_size} processes without any: raise the batch "
                f"size to at least {2 * window * world_size}, or use fewer processes."
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
        """This rank's sample numbers [its pairs * 2 * window] at a step >= 0."""
        return self.global_batch(step)[self.batch_positions(step)]

    def batch_positions(self, step: int, rank: int | None = None) -> NDArray[np.int64]:
        """The places in the global batch of the samples that this rank, or another one, gets; alike at every step."""
        pairs = np.arange(self.rank if rank is None else rank, self.pairs, self.world_size)
        return (pairs[:, None] * 2 * self.window + np.arange(2 * self.window)).reshape(-1)

    def global_batch(self, step: int) -> NDArray[np.int64]:
        """The sample numbers [pairs * 2 * window] of all ranks at a step >= 0."""
        generator = np.random.default_rng((self.seed, step))
        starts = np.array([self._pair(generator) for _ in range(self.pairs)])
        return (starts[:, :, None] + np.arange(self.window)).reshape(-1)

    def drawable(self) -> NDArray[np.int64]:
        """The numbers of all samples that some batch may hold, ascending."""
        preferred = [starts for kinds in self._preferred.values() for starts in kinds]
        starts = np.concatenate([self._rejected, *preferred])
        return np.unique(starts[:, None] + np.arange(self.window))

    def _pair(self, generator: np.random.Generator) -> tuple[int, int]:
        rejected = int(generator.choice(self._rejected))
        kinds = self._preferred[self._task_of[rejected]]
        weights = np.array([share if len(kind) else 0.0 for kind, share in zip(kinds, DESIRABLE_SHARES, strict=False)])
        kind = kinds[generator.choice(len(kinds), p=weights / weights.sum())]
        return int(generator.choice(kind)), rejected
