"""The network of the compact VLA: image or state, instruction, proprioception -> autoregressive action tokens."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robopref.errors import RoboprefError
from robopref.token_logps import tokens_of_classes

_CLIP = 5.0  # standardised inputs beyond this many standard deviations say only "far away"


@dataclass(frozen=True)
class CompactArchitecture:
    """Sizes of a compact policy.

    ``inputs`` names the observation keys it reads: any of ``image``, ``proprio``, ``state``.
    """

    inputs: tuple[str, ...] = ("image", "proprio")
    image_size: int = 84
    proprio_size: int = 4
    state_size: int = 39
    action_size: int = 4
    bins: int = 256
    width: int = 256
    channels: tuple[int, ...] = (32, 64, 96, 128)
    word_buckets: int = 2048
    max_words: int = 48
    instruction_width: int = 64
    token_width: int = 32

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", tuple(self.inputs))  # JSON gives lists
        object.__setattr__(self, "channels", tuple(self.channels))
        unknown = set(self.inputs) - {"image", "proprio", "state"}
        if unknown or not self.inputs:
            raise RoboprefError(f"a compact policy reads image, proprio and state, not {sorted(unknown) or 'nothing'}.")


class InstructionEncoder(nn.Module):
    """Hashed words [B, max_words] (0 = padding) -> [B, instruction_width]."""

    def __init__(self, arch: CompactArchitecture) -> None:
        super().__init__()
        self.words = nn.Embedding(arch.word_buckets, arch.instruction_width, padding_idx=0)
        self.mlp = nn.Sequential(
            nn.Linear(arch.instruction_width, arch.instruction_width),
            nn.GELU(),
            nn.Linear(arch.instruction_width, arch.instruction_width),
        )

    def forward(self, words: Tensor) -> Tensor:
        """See the class."""
        present = (words > 0).sum(dim=1, keepdim=True).clamp(min=1)
        encoded: Tensor = self.mlp(self.words(words).sum(dim=1) / present.sqrt())
        return encoded


def _downsample(before: int, after: int, *, first: bool) -> nn.Conv2d:
    # The first stage takes most of the time on a CPU; stride 3 there halves the whole against stride 2.
    if first:
        return nn.Conv2d(before, after, kernel_size=7, stride=3, padding=3)
    return nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1)


class ImageEncoder(nn.Module):
    """Pixels [B, H, W, 3], uint8 or floats in [0, 1], -> [B, width].

    The instruction modulates the last stages (FiLM, Perez et al. 2018).
    """

    def __init__(self, arch: CompactArchitecture) -> None:
        super().__init__()
        sizes = (3, *arch.channels)
        self.stages = nn.ModuleList(
            nn.Sequential(
                _downsample(before, after, first=i == 0),
                nn.GroupNorm(8, after),
            )
            for i, (before, after) in enumerate(itertools.pairwise(sizes))
        )
        film = [nn.Linear(arch.instruction_width, 2 * channels) for channels in arch.channels[-2:]]
        for layer in film:
            nn.init.zeros_(layer.weight)  # start unmodulated
            nn.init.zeros_(layer.bias)
        self.film = nn.ModuleList(film)
        side = arch.image_size
        for i in range(len(arch.channels)):
            side = (side + 2) // 3 if i == 0 else (side + 1) // 2
        self.project = nn.Linear(arch.channels[-1] * side * side, arch.width)

    def forward(self, image: Tensor, instruction: Tensor) -> Tensor:
        """See the class."""
        half = 0.5 if image.is_floating_point() else 127.5  # of white
        features = image.permute(0, 3, 1, 2).to(self.project.weight.dtype).div(half).sub(1.0)
        first_modulated = len(self.stages) - len(self.film)
        for i, stage in enumerate(self.stages):
            features = stage(features)
            if i >= first_modulated:
                scale, shift = self.film[i - first_modulated](instruction)[:, :, None, None].chunk(2, dim=1)
                features = features * (1 + scale) + shift
            features = nn.functional.relu(features)
        encoded: Tensor = self.project(features.flatten(1))
        return encoded


class PrefixLayer(nn.Linear):
    """A linear layer over the earlier tokens side by side, those to come as zeros: a sum over the earlier ones."""

    def forward(self, embedded: Tensor, first: int = 0) -> Tensor:
        """Embedded tokens [B, n, token_width] of the places from ``first`` on -> what each adds [B, n, width]."""
        count, width = embedded.shape[1:]
        if count == 1:  # acting: the general contraction costs more in calls than in arithmetic
            return nn.functional.linear(embedded, self.weight[:, first * width : (first + 1) * width])
        layers = self.weight.view(self.out_features, -1, width).transpose(0, 1)[first : first + count]
        return torch.einsum("bie,iwe->biw", embedded, layers)


class CompactNetwork(nn.Module):
    """Encoder and token decoder; the numbers that standardise proprioception and state are saved with the weights.

    Args:
        arch: the sizes.
        positions: T, the most tokens that it writes; default: one per action dimension.
        stops: whether it may stop before, which is one class more at each position, the last.
    """

    vector_mean: Tensor
    vector_scale: Tensor

    def __init__(self, arch: CompactArchitecture, positions: int | None = None, stops: bool = False) -> None:
        super().__init__()
        self.arch = arch
        self.positions = positions or arch.action_size
        self.stops = stops
        classes = arch.bins + stops
        self.instruction = InstructionEncoder(arch)
        self.image = ImageEncoder(arch) if "image" in arch.inputs else None
        self.vector_inputs = [name for name in ("proprio", "state") if name in arch.inputs]
        vector_size = sum({"proprio": arch.proprio_size, "state": arch.state_size}[n] for n in self.vector_inputs)
        self.register_buffer("vector_mean", torch.zeros(vector_size))
        self.register_buffer("vector_scale", torch.ones(vector_size))
        parts = arch.width * (self.image is not None) + vector_size + arch.instruction_width
        self.fuse = nn.Sequential(nn.Linear(parts, arch.width), nn.GELU(), nn.Linear(arch.width, arch.width), nn.GELU())
        before = self.positions - 1
        self.tokens = nn.ModuleList(nn.Embedding(arch.bins, arch.token_width) for _ in range(before))
        self.prefix = PrefixLayer(arch.token_width * max(before, 1), arch.width, bias=False)
        self.position = nn.Parameter(torch.randn(self.positions, arch.width) * 0.02)
        self.decode = nn.Sequential(nn.Linear(arch.width, arch.width), nn.GELU())
        self.heads = nn.Parameter(torch.randn(self.positions, arch.width, classes) * arch.width**-0.5)
        self.head_bias = nn.Parameter(torch.zeros(self.positions, classes))

    def encode(self, observation: dict[str, Tensor], words: Tensor) -> Tensor:
        """Observation tensors [B, ...] and hashed words [B, max_words] -> features [B, width]."""
        instruction = self.instruction(words)
        parts = [instruction]
        if self.image is not None:
            parts.append(self.image(observation["image"], instruction))
        if self.vector_inputs:
            vector = torch.cat([observation[name].to(self.vector_mean) for name in self.vector_inputs], dim=1)
            parts.append(((vector - self.vector_mean) * self.vector_scale).clamp(-_CLIP, _CLIP))
        features: Tensor = self.fuse(torch.cat(parts, dim=1))
        return features

    def logits(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Features [B, width], tokens [B, t <= T] in 0..bins -> logits [B, t, bins], with the stop [B, t, bins + 1].

        Position i sees only earlier tokens. What comes after a 0 says nothing.
        """
        size = tokens.shape[1]
        nothing = features.new_zeros(len(features), 1, self.arch.token_width)
        embedded = [table(tokens[:, i].clamp(min=1) - 1) for i, table in enumerate(self.tokens[: size - 1])]
        added = self.prefix(torch.stack(embedded, dim=1) if embedded else nothing[:, :0])
        written = torch.cat([torch.zeros_like(features)[:, None], added], dim=1).cumsum(dim=1)
        hidden = features[:, None] + written + self.position[:size]
        return torch.einsum("baw,awk->bak", self.decode(hidden), self.heads[:size]) + self.head_bias[:size]

    def greedy(self, features: Tensor) -> Tensor:
        """Features [B, width] -> the greedy tokens [B, T], each given those chosen before it; 0 from a stop on."""
        tokens = torch.zeros(len(features), self.positions, dtype=torch.long, device=features.device)
        going = torch.ones(len(features), dtype=torch.bool, device=features.device)
        written = torch.zeros_like(features)
        for position in range(self.positions):
            if position > 0:
                embedded = self.tokens[position - 1](tokens[:, position - 1].clamp(min=1) - 1)
                written = written + self.prefix(embedded[:, None], position - 1)[:, 0]
            hidden = self.decode(features + written + self.position[position])
            best = torch.addmm(self.head_bias[position], hidden, self.heads[position]).argmax(dim=1)
            if not self.stops:
                tokens[:, position] = best + 1
                continue
            tokens[:, position] = torch.where(going, tokens_of_classes(best, self.arch.bins), 0)
            going = tokens[:, position] > 0
            if not bool(going.any()):
                break
        return tokens

    def fit_vector_statistics(self, vectors: Sequence[Tensor]) -> None:
        """Set the standardisation from the inputs [N, *] in the order of ``vector_inputs``."""
        values = torch.cat([v.float() for v in vectors], dim=1)
        self.vector_mean.copy_(values.mean(dim=0))
        # A coordinate that never moved in the demonstrations must not explode when it moves a little in deployment.
        self.vector_scale.copy_(1 / values.std(dim=0).clamp(min=1e-2))
