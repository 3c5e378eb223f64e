"""The convolutional Q network of Mnih et al. (Nature 2015) with the dueling heads of Wang et al. (ICML 2016)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robopref.errors import RoboprefError

_SMALLEST_IMAGE = 36  # below, the third convolution has nothing left to see


@dataclass(frozen=True)
class QArchitecture:
    """What a ``QNetwork`` looks like.

    Attributes:
        n_actions: actions that it values, at least 2.
        frame_stack: frames in a state.
        channels_per_frame: 1 grayscale, 3 colour.
        image_size: height and width in pixels.
        hidden: width of each head's hidden layer.
        dueling: value and advantage heads, else one head.

    Raises:
        RoboprefError: a number out of range.
    """

    n_actions: int
    frame_stack: int = 4
    channels_per_frame: int = 1
    image_size: int = 84
    hidden: int = 256
    dueling: bool = True

    def __post_init__(self) -> None:
        if self.n_actions < 2 or self.frame_stack < 1 or self.hidden < 1 or self.channels_per_frame not in (1, 3):
            raise RoboprefError(
                f"a Q network needs at least 2 actions, 1 frame, 1 hidden unit and 1 or 3 channels: {self}."
            )
        if self.image_size < _SMALLEST_IMAGE:
            raise RoboprefError(f"images must be at least {_SMALLEST_IMAGE} pixels wide, got {self.image_size}.")


class QNetwork(nn.Module):
    """Action values of pixels in [0, 1].

    Q(s, a) = V(s) + A(s, a) - mean_b A(s, b) with dueling heads, else the output of the one head.
    """

    def __init__(self, architecture: QArchitecture) -> None:
        super().__init__()
        self.architecture = arch = architecture
        self.features = nn.Sequential(
            nn.Conv2d(arch.frame_stack * arch.channels_per_frame, 32, 8, stride=4),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, stride=2),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3),
            nn.ReLU(),
            nn.Flatten(),
        )
        size = arch.image_size
        for kernel, stride in ((8, 4), (4, 2), (3, 1)):
            size = (size - kernel) // stride + 1
        flat = 64 * size * size
        self.advantage = nn.Sequential(nn.Linear(flat, arch.hidden), nn.ReLU(), nn.Linear(arch.hidden, arch.n_actions))
        self.value = (
            nn.Sequential(nn.Linear(flat, arch.hidden), nn.ReLU(), nn.Linear(arch.hidden, 1)) if arch.dueling else None
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels in [0, 1] [B, C, H, W] -> action values [B, n_actions]; differentiable.

        Under autocast the last layer and what follows stay in float32: targets are sums of small differences.
        """
        features = self.features(pixels)
        advantage = self._head(self.advantage, features)
        if self.value is None:
            return advantage
        return self._head(self.value, features) + advantage - advantage.mean(dim=1, keepdim=True)

    def q_values(self, pixels: Tensor) -> Tensor:
        """As ``forward``: the ``QPolicy`` protocol."""
        return self(pixels)

    @staticmethod
    def _head(head: nn.Sequential, features: Tensor) -> Tensor:
        hidden = head[:-1](features)
        with torch.autocast(hidden.device.type, enabled=False):
            return head[-1](hidden.to(head[-1].weight.dtype))
