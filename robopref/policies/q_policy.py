"""What a Q policy is: its shapes, what its outputs mean, where it comes from. Spoken by every loader and adapter.

A softmax policy is a Q policy whose values are its logits: softmax(q / T) at T = 1 is then the policy itself, and no
analysis needs a second path for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from robopref.errors import RoboprefError
from robopref.protocols import QPolicy

Head = Literal["values", "logits"]


class QPolicyModule(QPolicy, Protocol):
    """A ``QPolicy`` that is a ``torch.nn.Module``, as far as its users need to know."""

    def to(self, *args: Any, **keywords: Any) -> Any:
        """As ``torch.nn.Module.to``."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """As ``torch.nn.Module.parameters``."""


_MOST_CHANNELS = 32  # beyond, it is the width of an image that somebody took for its channels


@dataclass(frozen=True)
class QPolicySpec:
    """Everything about a Q policy but its weights; ``robopref.envs.ale.atari_spec_for`` reads it.

    Attributes:
        kind: the format that it came in: "stable-baselines3", "cleanrl", "state-dict", "q-network" (our own),
            "module" (a ``torch.nn.Module``) or "action-tokens".
        algorithm: "dqn", "c51", "ppo", "a2c", ...; empty if unknown.
        architecture: in words.
        head: "values": the outputs are action values, and the temperature of their softmax is in their units, chosen
            by the analyst; "logits": they are the logits of a softmax policy, which temperature 1 reproduces.
        n_actions: actions that it chooses among.
        frame_stack: frames in a state.
        channels_per_frame: 1 grayscale, 3 colour.
        height, width: of a frame, in pixels.
        source: where it was loaded from.
        policy_id: ``kind`` and a content hash of the weights.
        game: what it was trained on, if its file or the names around it say so.
        environment: fields of ``AtariSpec`` that it is known to have been trained with.
        notes: what could not be read off the file and was assumed, a sentence each.
        about: whatever else the file says, JSON values.

    Raises:
        RoboprefError: a number out of range, or an unknown head.
    """

    kind: str
    algorithm: str
    architecture: str
    head: Head
    n_actions: int
    frame_stack: int
    channels_per_frame: int
    height: int
    width: int
    source: str
    policy_id: str
    game: str | None = None
    environment: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "notes", tuple(self.notes))  # JSON gives lists
        if self.head not in get_args(Head):
            raise RoboprefError(f"a Q policy's head is {' or '.join(get_args(Head))}, not {self.head!r}.")
        if self.n_actions < 2:
            raise RoboprefError(f"a policy must choose among at least 2 actions, this one has {self.n_actions}.")
        for name in ("frame_stack", "channels_per_frame", "height", "width"):
            if getattr(self, name) < 1:
                raise RoboprefError(f"{name} must be at least 1, got {getattr(self, name)}.")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of a state: (C, H, W), C = frame_stack * channels_per_frame, oldest frame first."""
        return self.frame_stack * self.channels_per_frame, self.height, self.width

    @property
    def value_unit(self) -> str:
        """What an output counts."""
        return "discounted reward" if self.head == "values" else "logit"

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self) | {"notes": list(self.notes)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> QPolicySpec:
        """The inverse of ``to_json``."""
        return cls(**fields)


def split_channels(channels: int, frame_stack: int | None = None) -> tuple[int, int]:
    """The frames in a state of ``channels`` channels, and the channels of a frame.

    The rule: as many frames as ``frame_stack`` says, grayscale or colour, whichever gives ``channels``. If it says
    nothing, a number that 3 divides is taken for colour frames (12: four of them; twelve grayscale frames must be asked
    for with ``frame_stack=12``), and any other for that many grayscale frames.

    Returns:
        (frame_stack, channels_per_frame).

    Raises:
        RoboprefError: a single frame although no ``frame_stack`` says so, a ``frame_stack`` that does not fit, or so
            many channels that they must be the rows or columns of an image given channels last.
    """
    if channels > _MOST_CHANNELS:
        raise RoboprefError(
            f"the model's first layer takes {channels} channels, which looks like the height or width of an image: it "
            f"was built for channels last but reads its input channels first. Frames must come as [C, H, W] (in "
            f"Stable-Baselines3 through VecTransposeImage, in Gymnasium through a transposing wrapper)."
        )
    if frame_stack is not None:
        for per_frame in (1, 3):
            if frame_stack * per_frame == channels:
                return frame_stack, per_frame
        raise RoboprefError(
            f"the model takes {channels} channels, which are not {frame_stack} frames of 1 (grayscale) or 3 (colour) "
            f"channels: leave frame_stack out to have it inferred."
        )
    frames, per_frame = (channels // 3, 3) if channels % 3 == 0 else (channels, 1)
    if frames == 1:
        raise RoboprefError(
            f"the model takes a single {'colour' if per_frame == 3 else 'grayscale'} frame ({channels} channels): its "
            f"frame stack is missing, so it cannot see motion. If it was trained that way, say so with frame_stack=1"
            f"{' (or frame_stack=3 if these are three grayscale frames)' if per_frame == 3 else ''}."
        )
    return frames, per_frame


def content_id(kind: str, tensors: Mapping[str, Tensor]) -> str:
    """A short name for exactly these weights: ``kind`` and a hash of names, types, shapes and contents."""
    digest = hashlib.blake2b(digest_size=6)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return f"{kind}-{digest.hexdigest()}"


def check_finite(tensors: Mapping[str, Tensor], source: object) -> None:
    """See that no weight is NaN or infinite.

    Raises:
        RoboprefError: the first that is.
    """
    for name, tensor in tensors.items():
        bad = int((~torch.isfinite(tensor)).sum()) if tensor.is_floating_point() else 0
        if bad:
            raise RoboprefError(
                f"the weights in {source} are not finite: {bad} of {tensor.numel()} in {name!r} are NaN or infinite. "
                f"The training diverged or the file is damaged: use an earlier checkpoint."
            )
