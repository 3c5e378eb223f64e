"""A small critic: what the policy reads, and which task it is, to a few numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

_CLIP = 5.0  # standardised inputs beyond this many standard deviations say only "far away"
_PIXELS = 48  # a side: a critic need not see what a gripper needs to see
_CHANNELS = (16, 32, 32)
_GRID = 4


class ValueNetwork(nn.Module):
    """Observations [B, ...] and task numbers [B] -> outputs [B, K].

    Images, uint8 [B, H, W, 3], pass a small convolutional network after pixels are averaged in squares to at most 48 a
    side; all other observations [B, S] are standardised.

    Args:
        vectors: name -> example values [N, S] of the observations that are vectors, to standardise by.
        image: whether ``"image"`` is read.
        tasks: how many tasks there are.
        outputs: K.
        width: of the hidden layers.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self, vectors: Mapping[str, NDArray[Any]], *, image: bool, tasks: int, outputs: int, width: int = 128
    ) -> None:
        super().__init__()
        self.vectors, self.tasks = tuple(vectors), tasks
        columns = [np.asarray(v, dtype=np.float64) for v in vectors.values()]
        values = np.concatenate(columns, axis=1) if columns else np.zeros((1, 0))
        self.register_buffer("mean", torch.as_tensor(values.mean(axis=0), dtype=torch.float32))
        self.register_buffer("scale", torch.as_tensor(1 / np.maximum(values.std(axis=0), 1e-2), dtype=torch.float32))
        self.image: nn.Module | None = None
        size = values.shape[1] + tasks
        if image:
            first, second, third = _CHANNELS
            self.image = nn.Sequential(
                nn.Conv2d(3, first, 5, stride=2, padding=2), nn.ReLU(),
                nn.Conv2d(first, second, 3, stride=2, padding=1), nn.ReLU(),
                nn.Conv2d(second, third, 3, stride=2, padding=1), nn.ReLU(),
                nn.AdaptiveAvgPool2d(_GRID), nn.Flatten(),
            )  # fmt: skip
            size += third * _GRID**2
        self.layers = nn.Sequential(
            nn.Linear(size, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)
        )

    def forward(self, observations: Mapping[str, NDArray[Any]], tasks: NDArray[Any]) -> Tensor:
        """See the class."""
        parts = [nn.functional.one_hot(torch.as_tensor(tasks), self.tasks).float()]
        if self.vectors:
            vector = torch.cat([torch.as_tensor(observations[name]).float() for name in self.vectors], dim=1)
            parts.append(((vector - self.mean) * self.scale).clamp(-_CLIP, _CLIP))
        if self.image is not None:
            pixels = torch.as_tensor(observations["image"]).permute(0, 3, 1, 2).float() / 127.5 - 1
            parts.append(self.image(nn.functional.avg_pool2d(pixels, -(-pixels.shape[-1] // _PIXELS))))
        outputs: Tensor = self.layers(torch.cat(parts, dim=1))
        return outputs
