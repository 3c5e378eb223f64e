"""Any ``torch.nn.Module`` as a Q policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from robopref.errors import RoboprefError
from robopref.policies.q_policy import Head, QPolicySpec, check_finite, content_id, split_channels

KIND = "module"
_PROBE_STATES = 2


class ModuleQPolicy(nn.Module):
    """A module behind the ``QPolicy`` protocol; ``spec`` says what it is. Made by ``as_q_policy``."""

    spec: QPolicySpec

    def __init__(
        self,
        module: nn.Module,
        input_scale: float,
        channels_last: bool,
        output: Callable[[Any], Tensor] | None,
    ) -> None:
        super().__init__()
        self.module = module
        self.input_scale = input_scale
        self.channels_last = channels_last
        self.output = output

    def forward(self, pixels: Tensor) -> Tensor:
        """As ``q_values``."""
        return self.q_values(pixels)

    def q_values(self, pixels: Tensor) -> Tensor:
        """Pixels in [0, 1] [B, C, H, W] -> action values or logits [B, n_actions]; differentiable."""
        inputs = pixels if self.input_scale == 1 else pixels * self.input_scale
        if self.channels_last:
            inputs = inputs.permute(0, 2, 3, 1)
        answer = self.module(inputs)
        values: Tensor = answer if self.output is None else self.output(answer)
        return values


def as_q_policy(
    module: nn.Module,
    *,
    input_scale: float,
    channels_last: bool = False,
    output: Callable[[Any], Tensor] | None = None,
    head: Head = "values",
    frame_stack: int | None = None,
    channels_per_frame: int | None = None,
    image_size: int | tuple[int, int] = 84,
    game: str | None = None,
    environment: Mapping[str, Any] | None = None,
    name: str | None = None,
) -> ModuleQPolicy:
    """Wrap a network so that everything in ``robopref.diagnosis`` takes it.

    The module is kept, not copied, and put into evaluation mode. It is tried on two random states, so that a layout
    that does not fit is an error here and not a number later.

    Args:
        module: frames -> action values [B, n_actions], differentiable in the frames.
        input_scale: what a white pixel is to it: 1 if it takes frames in [0, 1], 255 if in 0..255 (also if it divides
            by 255 itself).
        channels_last: it takes [B, H, W, C] instead of [B, C, H, W].
        output: picks the action values out of what the module returns, e.g. ``lambda answer: answer[0]``.
        head: "values" for action values, "logits" for the logits of a softmax policy.
        frame_stack: frames in a state, oldest first; inferred from the first convolution when left out, as
            ``q_policy.split_channels`` says.
        channels_per_frame: 1 or 3; inferred likewise.
        image_size: side, or height and width, of a frame in pixels.
        game: what it was trained on, e.g. "Pong".
        environment: fields of ``AtariSpec`` that it was trained with.
        name: what to call it; default: its class.

    Raises:
        RoboprefError: the sizes cannot be inferred, the module refuses such states (channels in the wrong place,
            another image size) or answers with another shape, or a weight is not finite.
    """
    if not (isinstance(module, nn.Module) and callable(module)):
        raise RoboprefError(f"as_q_policy wraps a torch.nn.Module, got a {type(module).__name__}.")
    if not input_scale > 0:
        raise RoboprefError(f"input_scale is what a white pixel is to the network, 1 or 255, got {input_scale}.")
    weights = module.state_dict()
    name = name or type(module).__name__
    check_finite(weights, name)
    frames, per_frame = _frames(module, frame_stack, channels_per_frame)
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    policy = ModuleQPolicy(module, input_scale, channels_last, output).eval()
    n_actions = _try(policy, (frames * per_frame, height, width))
    policy.spec = QPolicySpec(
        kind=KIND,
        algorithm="",
        architecture=type(module).__name__,
        head=head,
        n_actions=n_actions,
        frame_stack=frames,
        channels_per_frame=per_frame,
        height=height,
        width=width,
        source=name,
        policy_id=content_id(KIND, weights),
        game=game,
        environment=environment,
    )
    return policy


def _frames(module: nn.Module, frame_stack: int | None, channels_per_frame: int | None) -> tuple[int, int]:
    if frame_stack is not None and channels_per_frame is not None:
        return frame_stack, channels_per_frame
    first = next((part for part in module.modules() if isinstance(part, nn.Conv2d)), None)
    if first is None:
        raise RoboprefError(
            "the module has no 2-D convolution that would tell how many channels it takes: pass frame_stack and "
            "channels_per_frame."
        )
    channels = first.in_channels
    if channels_per_frame is not None:
        if channels % channels_per_frame:
            raise RoboprefError(f"{channels} channels cannot be frames of {channels_per_frame} channels.")
        frame_stack = channels // channels_per_frame
    return split_channels(channels, frame_stack)


def _try(policy: ModuleQPolicy, shape: tuple[int, int, int]) -> int:
    """The number of actions, after a look at what the module makes of two states."""
    like = next(iter(policy.parameters()), torch.zeros(()))
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand((_PROBE_STATES, *shape), generator=generator).to(like.device, like.dtype)
    try:
        with torch.no_grad():
            values = policy.q_values(pixels)
    except Exception as error:  # somebody else's forward may fail in any way; all that matters is that it does and why
        raise RoboprefError(
            f"the module refuses states of shape {_shape_text(policy, pixels)} ({type(error).__name__}: {error})."
            f"{_other_layout(policy, pixels)}"
        ) from error
    if not (isinstance(values, Tensor) and values.ndim == 2 and len(values) == _PROBE_STATES and values.shape[1] > 1):
        answer = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise RoboprefError(
            f"for {_PROBE_STATES} states the module answers {answer} instead of action values [{_PROBE_STATES}, "
            f"n_actions] with at least 2 actions: pick them with output=."
        )
    return values.shape[1]


def _shape_text(policy: ModuleQPolicy, pixels: Tensor) -> str:
    batch, channels, height, width = pixels.shape
    return str((batch, height, width, channels) if policy.channels_last else (batch, channels, height, width))


def _other_layout(policy: ModuleQPolicy, pixels: Tensor) -> str:
    """What to do, if anything is clear: whether the module takes the channels in the other place."""
    other = ModuleQPolicy(policy.module, policy.input_scale, not policy.channels_last, policy.output)
    try:
        with torch.no_grad():
            other.q_values(pixels)
    except Exception:  # as in _try; then the layout is not what is wrong
        return " Check image_size, frame_stack and channels_per_frame."
    return (
        f" It takes channels {'first' if policy.channels_last else 'last'}: pass channels_last={other.channels_last}."
    )
