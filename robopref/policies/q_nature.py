"""The network behind nearly every published Atari policy, rebuilt from its weights alone.

Mnih et al. (Nature 2015): convolutions of 8 x 8 with stride 4, 4 x 4 with stride 2 and 3 x 3 with stride 1, each
followed by a rectifier, then fully connected layers. Strides and activations leave no trace in a state dict, so that
only networks whose format or kernel sizes say them are rebuilt; all others are refused, never guessed.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robopref.errors import RoboprefError

_STRIDES = {8: 4, 4: 2, 3: 1}
_LAYOUTS = ((8, 4, 3), (8, 4))
_USUAL_SIZES = (84, 96, 64, 80, 72, 100, 128, 160)
_LARGEST_IMAGE = 512

_SUPPORTED = (
    "Supported are Stable-Baselines3's DQN, PPO and A2C with CnnPolicy, CleanRL's dqn_atari, c51_atari and ppo_atari, "
    "state dicts of a Nature CNN, and this project's own checkpoints; build any other network in Python and wrap it "
    "with robopref.policies.q_module.as_q_policy."
)


class UnsupportedLayoutError(RoboprefError):
    """The weights are those of a network that cannot be rebuilt from its weights alone; ``reason`` says why not."""

    def __init__(self, reason: str, source: object = "the model", advice: str = "") -> None:
        self.reason = reason
        super().__init__(f"{source} cannot be rebuilt from its weights: {reason}. {advice}{_SUPPORTED}")


@dataclass(frozen=True)
class Layer:
    """Weight and bias of a layer, and what the state dict calls it."""

    name: str
    weight: Tensor
    bias: Tensor


def layer(tensors: Mapping[str, Tensor], name: str) -> Layer:
    """The layer ``name`` of a state dict.

    Raises:
        UnsupportedLayoutError: it has no weight or no bias.
    """
    for part in ("weight", "bias"):
        if f"{name}.{part}" not in tensors:
            raise UnsupportedLayoutError(f"the state dict has no {name}.{part}")
    return Layer(name, tensors[f"{name}.weight"].float(), tensors[f"{name}.bias"].float())


class NatureNetwork(nn.Module):
    """Pixels in [0, 1] -> action values or logits.

    Args:
        convolutions: as ``check_layers`` accepts them.
        linears: the layers after them, the last of which gives the values.
        activations: between the linear layers, one fewer.
        input_scale: what a white pixel is to the first convolution, 1 or 255.
        atoms: of a distributional head (C51), [n_atoms]; the values are then its expectations.
    """

    atoms: Tensor | None

    def __init__(
        self,
        convolutions: Sequence[Layer],
        linears: Sequence[Layer],
        activations: Sequence[nn.Module],
        input_scale: float = 1.0,
        atoms: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.input_scale = input_scale
        modules: list[nn.Module] = []
        for conv in convolutions:
            out_channels, in_channels, kernel, _ = conv.weight.shape
            modules += [_filled(nn.Conv2d(in_channels, out_channels, kernel, _STRIDES[kernel]), conv), nn.ReLU()]
        modules.append(nn.Flatten())
        for linear, activation in zip(linears, [*activations, None], strict=True):
            out_features, in_features = linear.weight.shape
            modules.append(_filled(nn.Linear(in_features, out_features), linear))
            if activation is not None:
                modules.append(activation)
        self.layers = nn.Sequential(*modules)
        self.register_buffer("atoms", None if atoms is None else atoms.float())

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels in [0, 1] [B, C, H, W] -> [B, n_actions]; differentiable."""
        outputs: Tensor = self.layers(pixels if self.input_scale == 1 else pixels * self.input_scale)
        if self.atoms is None:
            return outputs
        probabilities = outputs.unflatten(1, (-1, len(self.atoms))).softmax(dim=2)
        return (probabilities * self.atoms).sum(dim=2)

    def q_values(self, pixels: Tensor) -> Tensor:
        """As ``forward``: the ``QPolicy`` protocol."""
        return self(pixels)


def _filled(module: nn.Module, values: Layer) -> nn.Module:
    module.load_state_dict({"weight": values.weight, "bias": values.bias})
    return module


def check_layers(convolutions: Sequence[Layer], linears: Sequence[Layer]) -> None:
    """That the layers are those of a Nature CNN and fit one another.

    Raises:
        UnsupportedLayoutError: they are another network's.
    """
    kernels = [tuple(conv.weight.shape[2:]) for conv in convolutions]
    if kernels not in [[(size, size) for size in layout] for layout in _LAYOUTS]:
        shown = ", ".join(" x ".join(map(str, kernel)) for kernel in kernels) or "none at all"
        raise UnsupportedLayoutError(
            f"the convolutions have kernels {shown} instead of 8 x 8, 4 x 4, 3 x 3, and their strides cannot be read "
            f"off the weights"
        )
    for before, after in [*itertools.pairwise(convolutions), *itertools.pairwise(linears)]:
        if after.weight.shape[1] != before.weight.shape[0]:
            raise UnsupportedLayoutError(
                f"{after.name} takes {after.weight.shape[1]} features, but {before.name} before it gives "
                f"{before.weight.shape[0]} (a dueling or recurrent head?)"
            )


def fit_image_size(
    convolutions: Sequence[Layer], linears: Sequence[Layer], size: tuple[int, int] | None
) -> tuple[int, int, tuple[str, ...]]:
    """The image that the first linear layer was made for.

    Args:
        convolutions: of the network.
        linears: after them.
        size: height and width, where they are known; else the image is taken to be square, and of the sizes that fit
            (the strides make about eight of them alike) the usual one.

    Returns:
        Height, width, and a note where more than one size fits.

    Raises:
        RoboprefError: ``size`` does not fit, or no square does.
    """
    channels, features = convolutions[-1].weight.shape[0], linears[0].weight.shape[1]
    kernels = [conv.weight.shape[2] for conv in convolutions]
    fitting = [s for s in range(1, _LARGEST_IMAGE + 1) if channels * _side(s, kernels) ** 2 == features]
    if size is not None:
        if channels * _side(size[0], kernels) * _side(size[1], kernels) != features:
            hint = f"images of {fitting[0]} to {fitting[-1]} pixels would" if fitting else "no square image would"
            raise RoboprefError(
                f"the model's first linear layer takes {features} features, and frames of {size[0]} x {size[1]} do not "
                f"give that many; {hint}. Set the image size to what the model was trained on."
            )
        return *size, ()
    if not fitting:
        raise RoboprefError(
            f"the model's first linear layer takes {features} features, which no square image gives: say its "
            f"image_size, or check that the file is complete."
        )
    chosen = next((s for s in _USUAL_SIZES if s in fitting), fitting[0])
    note = f"Images of {fitting[0]} to {fitting[-1]} pixels fit the weights; {chosen} x {chosen} is assumed."
    return chosen, chosen, (note,) if len(fitting) > 1 else ()


def _side(size: int, kernels: Sequence[int]) -> int:
    for kernel in kernels:
        size = (size - kernel) // _STRIDES[kernel] + 1 if size >= kernel else 0
    return size


def head_width(linears: Sequence[Layer], atoms: Tensor | None = None) -> int:
    """The number of actions.

    Raises:
        RoboprefError: the outputs cannot be shared out evenly among the atoms.
    """
    outputs = linears[-1].weight.shape[0]
    if atoms is None:
        return outputs
    if outputs % len(atoms):
        raise RoboprefError(f"{outputs} outputs cannot be the distributions of actions over {len(atoms)} atoms.")
    return outputs // len(atoms)


def describe(convolutions: Sequence[Layer], linears: Sequence[Layer]) -> str:
    """In words, e.g. "Nature CNN, hidden 512"."""
    name = "Nature CNN" if [c.weight.shape[0] for c in convolutions] == [32, 64, 64] else "Nature CNN of other widths"
    hidden = [str(linear.weight.shape[0]) for linear in linears[:-1]]
    return f"{name}, hidden {' + '.join(hidden)}" if hidden else f"{name}, no hidden layer"


def finite_atoms(atoms: Tensor) -> Tensor:
    """The atoms, seen to be a support.

    Raises:
        RoboprefError: fewer than two, or not rising.
    """
    if atoms.ndim != 1 or len(atoms) < 2 or not bool(torch.all(atoms[1:] > atoms[:-1])):
        raise RoboprefError("the atoms of a distributional head must be at least two rising values.")
    return atoms
