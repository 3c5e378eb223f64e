"""Fitting a critic to recorded observations: a pure function of data, settings and seed, on the CPU.

It is not kept: a run that goes on fits it again, with as many threads on the same machine to the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robopref.errors import RoboprefError
from robopref.training.credit_settings import CreditSettings
from robopref.training.devices import denormals_as_zero
from robopref.training.value_network import ValueNetwork
from robopref.trajectory import Episode

_CHUNK = 512  # observations at a time where nothing is learned
_STREAM = 11  # of the seed: other than those of batches and augmentation

Loss = Callable[[Tensor, NDArray[np.int64]], Tensor]
"""Outputs [B, K] of the critic at the observations with these numbers [B] -> scalar."""


class ObservationTable:
    """Every observation of the episodes by number: those acted upon, and the last one where it was recorded.

    Attributes:
        of_steps: the observation [N] that each recorded step acted upon, in the order of the episodes.
        after_steps: the one [N] that came of it; its own where that was lost.
        has_successor: whether it was recorded [N].
        tasks: names of the tasks.
    """

    def __init__(self, episodes: Sequence[Episode], keys: Sequence[str]) -> None:
        self._episodes, self._keys = list(episodes), tuple(keys)
        ends = [all(key in e.final_observation for key in keys) for e in episodes]
        counts = np.array([len(e) + end for e, end in zip(episodes, ends, strict=True)])
        self._episode = np.repeat(np.arange(len(episodes)), counts)
        self._step = np.concatenate([np.arange(n) for n in counts])
        first = np.cumsum(counts) - counts
        self.of_steps: NDArray[np.int64] = np.concatenate(
            [start + np.arange(len(e)) for start, e in zip(first, episodes, strict=True)]
        )
        last = np.repeat(first + counts - 1, [len(e) for e in episodes])
        self.after_steps: NDArray[np.int64] = np.minimum(self.of_steps + 1, last)
        self.has_successor: NDArray[np.bool_] = self.after_steps > self.of_steps
        names = [e.info.task for e in episodes]
        self.tasks = sorted(set(names))
        self._task = np.array([self.tasks.index(name) for name in names])

    def __len__(self) -> int:
        return len(self._step)

    def gather(self, numbers: NDArray[Any]) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64]]:
        """Stacked observations [B, ...] and numbers of their tasks [B]."""
        found = [(self._episodes[self._episode[i]], self._step[i]) for i in numbers]
        stacked = {
            key: np.stack([(e.observation[key][t] if t < len(e) else e.final_observation[key]) for e, t in found])
            for key in self._keys
        }
        return stacked, self._task[self._episode[numbers]]

    def vectors(self) -> dict[str, NDArray[Any]]:
        """All observations acted upon [N, S] that are no images."""
        return {
            key: np.concatenate([np.asarray(e.observation[key]) for e in self._episodes])
            for key in self._keys
            if key != "image"
        }

    @property
    def has_image(self) -> bool:
        """Whether there are images."""
        return "image" in self._keys


@denormals_as_zero()
def fit_values(
    table: ObservationTable,
    rows: NDArray[Any],
    loss: Loss,
    outputs: int,
    settings: CreditSettings,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[NDArray[np.float32], list[float]]:
    """Fit a critic with K ``outputs`` to the observations ``rows`` -> its outputs [M, K] at all M, and the loss curve.

    Raises:
        RoboprefError: there are no rows, or the loss stopped being finite.
    """
    if len(rows) == 0:
        raise RoboprefError("there is no observation to fit the critic to: none has a known outcome.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ValueNetwork(table.vectors(), image=table.has_image, tasks=len(table.tasks), outputs=outputs)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=settings.value_learning_rate, weight_decay=settings.value_weight_decay
    )
    curve = []
    for step in range(settings.value_steps):
        generator = np.random.default_rng((seed, _STREAM, step))
        batch = generator.choice(rows, min(settings.value_batch_size, len(rows)), replace=False)
        value = loss(network(*table.gather(batch)), batch)
        if not bool(torch.isfinite(value)):
            raise RoboprefError(f"the critic's loss is {value.item()} at step {step}: lower its learning rate.")
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        curve.append(value.item())
        progress(step + 1, settings.value_steps)
    with torch.no_grad():
        found = [
            network(*table.gather(np.arange(start, min(start + _CHUNK, len(table)))))
            for start in range(0, len(table), _CHUNK)
        ]
    return torch.cat(found).numpy(), curve
