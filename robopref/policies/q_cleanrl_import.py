"""Policies of CleanRL, and any other state dict of a Nature CNN.

CleanRL's ``dqn_atari.py`` saves a bare state dict (``network.0`` ... ``network.9``), ``c51_atari.py`` one with the
atoms among its buffers under ``model_weights`` and its arguments beside; ``ppo_atari.py``'s agent has ``network``,
``actor`` and ``critic``. All three divide their frames by 255.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from robopref.errors import RoboprefError
from robopref.policies.q_hints import GameHint, read_environment_id
from robopref.policies.q_nature import (
    NatureNetwork,
    UnsupportedLayoutError,
    check_layers,
    describe,
    finite_atoms,
    fit_image_size,
    head_width,
    layer,
)
from robopref.policies.q_policy import Head, QPolicySpec, check_finite, content_id

CLEANRL = "cleanrl"
STATE_DICT = "state-dict"
_FIRE: dict[str, Any] = {"fire_reset": True}
_CONVOLUTIONS = ("network.0", "network.2", "network.4")
_RECURRENT = ("lstm", "gru", "rnn")
_WRAPPERS = (
    "Whether training ended episodes at a lost life, pressed FIRE at their start or clipped rewards (CleanRL's Atari "
    "scripts do all three) is not in the file; that it pressed FIRE is taken for granted."
)
_ASSUMED = "The activations are taken to be rectifiers and the outputs action values, which a state dict does not say."


@dataclass(frozen=True)
class _Names:
    kind: str
    algorithm: str
    head: Head
    convolutions: tuple[str, ...]
    linears: tuple[str, ...]
    idle: tuple[str, ...] = ()


def import_state_dict(
    tensors: Mapping[str, Tensor],
    beside: Mapping[str, Any],
    source: Path,
    hint: GameHint,
    *,
    frame_stack: int | None = None,
    input_scale: float | None = None,
    image_size: int | None = None,
) -> tuple[NatureNetwork, QPolicySpec]:
    """The policy in a state dict.

    A state dict that is not CleanRL's is read as one chain of layers in its order, with rectifiers between them.

    Args:
        tensors: the state dict.
        beside: what was saved with it, e.g. CleanRL's ``args``.
        source: the file.
        hint: what the names around it say.
        frame_stack: frames in a state; inferred when left out.
        input_scale: what a white pixel is to the first convolution, 1 or 255; known for CleanRL (1), needed otherwise.
        image_size: side of a frame; inferred when left out.

    Raises:
        UnsupportedLayoutError: a network other than the Nature CNN with one chain of layers.
        RoboprefError: weights that are not finite, an image size that does not fit, or no ``input_scale``.
    """
    check_finite(tensors, source)
    names = _names(tensors)
    convolutions = [layer(tensors, name) for name in names.convolutions]
    linears = [layer(tensors, name) for name in names.linears]
    _check_nothing_left(tensors, names)
    check_layers(convolutions, linears)
    atoms = finite_atoms(tensors["atoms"]) if names.algorithm == "c51" else None
    hint = _hint_beside(beside, source) or hint
    stack, per_frame = hint.split_channels(convolutions[0].weight.shape[1], frame_stack)
    size = None if image_size is None else (image_size, image_size)
    height, width, size_notes = fit_image_size(convolutions, linears, size)
    if input_scale is None and names.kind != CLEANRL:
        raise RoboprefError(
            f"{source} does not say whether its network takes pixels from 0 to 1 or from 0 to 255: pass input_scale=1 "
            f"(also if it divides by 255 itself before the first convolution) or input_scale=255 (--input-scale)."
        )
    rectifiers = [nn.ReLU() for _ in linears[1:]]
    network = NatureNetwork(convolutions, linears, rectifiers, input_scale or 1.0, atoms).eval()
    title = f"CleanRL {names.algorithm.upper()}" if names.kind == CLEANRL else "State dict"
    spec = QPolicySpec(
        kind=names.kind,
        algorithm=names.algorithm,
        architecture=f"{title}, {describe(convolutions, linears)}",
        head=names.head,
        n_actions=head_width(linears, atoms),
        frame_stack=stack,
        channels_per_frame=per_frame,
        height=height,
        width=width,
        source=str(source),
        policy_id=content_id(names.kind, network.state_dict()),
        game=hint.game,
        environment=(_FIRE if names.kind == CLEANRL else {}) | (hint.environment or {}) or None,
        notes=(*hint.notes, *size_notes, _WRAPPERS if names.kind == CLEANRL else _ASSUMED),
        about=_about(beside),
    )
    return network, spec


def _about(beside: Mapping[str, Any]) -> dict[str, Any]:
    """Of what was saved with the weights, the plain values."""
    args = beside.get("args", beside)
    plain = (str, int, float, bool, type(None))
    return {str(k): v for k, v in args.items() if isinstance(v, plain)} if isinstance(args, Mapping) else {}


def _hint_beside(beside: Mapping[str, Any], source: Path) -> GameHint | None:
    args = beside.get("args", {})
    named = args.get("env_id") if isinstance(args, Mapping) else None
    return read_environment_id(str(named), f"the arguments saved in {source.name} ({named})") if named else None


def _names(tensors: Mapping[str, Tensor]) -> _Names:
    for name in tensors:
        if any(part.startswith(_RECURRENT) for part in name.lower().split(".")):
            raise UnsupportedLayoutError(f"the network is recurrent ({name})")
    if all(f"{name}.weight" in tensors for name in (*_CONVOLUTIONS, "network.7")):
        if "network.9.weight" in tensors:
            algorithm = "c51" if "atoms" in tensors else "dqn"
            idle = ("atoms",) if algorithm == "c51" else ()
            return _Names(CLEANRL, algorithm, "values", _CONVOLUTIONS, ("network.7", "network.9"), idle)
        if "actor.weight" in tensors:
            return _Names(CLEANRL, "ppo", "logits", _CONVOLUTIONS, ("network.7", "actor"), ("critic.",))
    weights = {name.removesuffix(".weight"): tensor for name, tensor in tensors.items() if name.endswith(".weight")}
    convolutions = tuple(name for name, tensor in weights.items() if tensor.ndim == 4)
    linears = tuple(name for name, tensor in weights.items() if tensor.ndim == 2)
    if not convolutions:
        raise UnsupportedLayoutError("the network has no convolutions, so it does not read images")
    if not linears:
        raise UnsupportedLayoutError("the network has no fully connected layer")
    return _Names(STATE_DICT, "", "values", convolutions, linears)


def _check_nothing_left(tensors: Mapping[str, Tensor], names: _Names) -> None:
    used = {f"{name}.{part}" for name in (*names.convolutions, *names.linears) for part in ("weight", "bias")}
    left = sorted(name for name in tensors if name not in used and not (names.idle and name.startswith(names.idle)))
    if left:
        raise UnsupportedLayoutError(f"the network has layers beyond the usual ({', '.join(left[:4])})")
