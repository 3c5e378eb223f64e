"""The global batch's scores on every process, in the order of the batch.

Every process then evaluates the objective on the whole batch and keeps its own rows of the gradient. So neither the
number of processes nor how evenly the batch divides among them can change a loss, whatever statistics it takes; what
travels is a few numbers per sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from robopref.training.composition import Sampler


class BatchGatherer:
    """Gathers columns of this process's part of a batch, and gives back its rows of what is of the whole batch."""

    def __init__(self, accelerator: Accelerator, sampler: Sampler) -> None:
        self.accelerator, self.sampler = accelerator, sampler

    def gather(self, step: int, columns: Mapping[str, Tensor | None]) -> dict[str, Any]:
        """Float tensors [B, ...] of the part -> the same of the global batch, without graphs; ``None`` stays."""
        present = {name: value.detach() for name, value in columns.items() if value is not None}
        if self.accelerator.num_processes == 1:
            return {name: present.get(name) for name in columns}
        dtype = torch.float64 if any(v.dtype == torch.float64 for v in present.values()) else torch.float32
        table = torch.cat([value.reshape(len(value), -1).to(dtype) for value in present.values()], dim=1)
        ranks = self.accelerator.gather(table.contiguous()).chunk(self.accelerator.num_processes)
        places = [self.sampler.batch_positions(step, rank) for rank in range(self.accelerator.num_processes)]
        # Beyond its samples a process has repetitions of the last.
        rows = torch.cat([part[: len(place)] for part, place in zip(ranks, places, strict=True)])
        whole = torch.empty_like(rows)
        whole[torch.as_tensor(np.concatenate(places), device=rows.device)] = rows
        gathered: dict[str, Any] = dict.fromkeys(columns)
        start = 0
        for name, value in present.items():
            width = value[0].numel()
            gathered[name] = whole[:, start : start + width].reshape(len(whole), *value.shape[1:])
            start += width
        return gathered

    def own_gradient(self, step: int, positions: np.ndarray[Any, Any], whole: Tensor) -> Tensor:
        """A gradient of the global batch [G, L] -> this part's [B, L], 0 for repetitions.

        Times the number of processes, because their gradients are averaged and not summed.
        """
        own = whole[torch.as_tensor(positions, device=whole.device)] * self.accelerator.num_processes
        own[len(self.sampler.batch_positions(step)) :] = 0
        return own
