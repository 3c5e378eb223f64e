"""Policies of Stable-Baselines3, read from its zip files without unpickling anything.

A model's zip holds ``data`` (JSON whose non-JSON values are base64 pickles, with their attributes as text beside) and
``policy.pth`` (a state dict). The text beside the pickles and the weights say all that the forward pass needs; the
pickles are never touched. Checked against files of versions 1.2, 2.0, 2.4 and 2.9.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from robopref.errors import RoboprefError
from robopref.policies.q_hints import GameHint
from robopref.policies.q_nature import (
    Layer,
    NatureNetwork,
    UnsupportedLayoutError,
    check_layers,
    describe,
    fit_image_size,
    head_width,
    layer,
)
from robopref.policies.q_policy import Head, QPolicySpec, check_finite, content_id
from robopref.policies.q_weights import find_state_dict, read_torch

KIND = "stable-baselines3"
ATARI_WRAPPER: dict[str, Any] = {"fire_reset": True}
"""What Stable-Baselines3's AtariWrapper does to a game that a policy may not be able to play without."""

_VERSION = "_stable_baselines3_version"
_ACTIVATIONS: dict[str, type[nn.Module]] = {
    kind.__name__: kind for kind in (nn.ReLU, nn.Tanh, nn.ELU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Identity)
}
# What only the value estimate of an actor-critic uses.
_CRITIC = ("value_net.", "vf_features_extractor.", "mlp_extractor.value_net.")
_FOREIGN = {
    "quantile_net.": "the quantile heads of QR-DQN",
    "lstm_actor.": "a recurrent policy",
    "log_std": "continuous actions",
    "actor.": "an actor of continuous actions (SAC, TD3, DDPG)",
}
_WRAPPERS = (
    "Whether training ended episodes at a lost life, pressed FIRE at their start or clipped rewards "
    "(Stable-Baselines3's AtariWrapper does all three) is not in the file; that it pressed FIRE is taken for granted."
)


@dataclass(frozen=True)
class Sb3Archive:
    """What is in a model's zip: ``data`` as JSON says it, and the policy's state dict."""

    data: dict[str, Any]
    tensors: dict[str, Tensor]
    version: str


@dataclass(frozen=True)
class _Layout:
    algorithm: str
    head: Head
    features: str
    hidden: tuple[str, ...]
    output: str


def is_sb3_archive(contents: bytes) -> bool:
    """Whether this is the zip of a Stable-Baselines3 model."""
    if not zipfile.is_zipfile(io.BytesIO(contents)):
        return False
    return {"data", "policy.pth"} <= set(zipfile.ZipFile(io.BytesIO(contents)).namelist())


def read_sb3_archive(contents: bytes, source: object, *, trust: bool = False) -> Sb3Archive:
    """The parts of a model's zip that the policy needs.

    Raises:
        RoboprefError: it is damaged, or its weights hold code and are not trusted.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(contents)) as archive:
            data = json.loads(archive.read("data"))
            weights = archive.read("policy.pth")
            names = archive.namelist()
            version = archive.read(_VERSION).decode().strip() if _VERSION in names else "unknown"
    except (zipfile.BadZipFile, KeyError, OSError, EOFError, ValueError) as error:
        raise RoboprefError(f"{source} is a damaged Stable-Baselines3 zip ({error}): copy the model again.") from error
    if not isinstance(data, dict):
        raise RoboprefError(f"{source} is no Stable-Baselines3 model: its 'data' is a {type(data).__name__}.")
    tensors, _ = find_state_dict(read_torch(weights, f"policy.pth in {source}", trust=trust), source)
    return Sb3Archive(data, tensors, version)


def import_sb3(
    archive: Sb3Archive, source: Path, hint: GameHint, *, frame_stack: int | None = None
) -> tuple[NatureNetwork, QPolicySpec]:
    """The policy in an archive: a Q network's values, or the logits of an actor.

    The features of DQN's ``CnnPolicy`` and of PPO's and A2C's are ``NatureCNN``; widths, hidden layers and activations
    may be any. Observations are those after ``VecTransposeImage``, as Stable-Baselines3 keeps them.

    Raises:
        UnsupportedLayoutError: another policy or features extractor, recurrent, quantile or continuous.
        RoboprefError: weights that are not finite, or spaces and weights that contradict one another.
    """
    data, tensors = archive.data, archive.tensors
    check_finite(tensors, source)
    settings = _settings(data)
    _check_stock_code(data, settings)
    layout = _layout(tensors, data)
    convolutions = [layer(tensors, f"{layout.features}cnn.{i}") for i in (0, 2, 4)]
    names = (f"{layout.features}linear.0", *layout.hidden, layout.output)
    linears = [layer(tensors, name) for name in names]
    _check_nothing_left(tensors, layout, convolutions, linears)
    check_layers(convolutions, linears)
    stack, per_frame = hint.split_channels(convolutions[0].weight.shape[1], frame_stack)
    image_size, scale = _observations(data, settings, convolutions[0].weight.shape[1])
    height, width, size_notes = fit_image_size(convolutions, linears, image_size)
    n_actions = _actions(data, linears)
    activation = _activation(settings, "ReLU" if layout.algorithm == "dqn" else "Tanh")
    activations = [nn.ReLU(), *(activation() for _ in layout.hidden)]
    network = NatureNetwork(convolutions, linears, activations, scale).eval()
    spec = QPolicySpec(
        kind=KIND,
        algorithm=layout.algorithm,
        architecture=f"Stable-Baselines3 {layout.algorithm.upper()}, {describe(convolutions, linears)}",
        head=layout.head,
        n_actions=n_actions,
        frame_stack=stack,
        channels_per_frame=per_frame,
        height=height,
        width=width,
        source=str(source),
        policy_id=content_id(KIND, network.state_dict()),
        game=hint.game,
        environment=ATARI_WRAPPER | (hint.environment or {}),
        notes=(*hint.notes, *size_notes, _WRAPPERS),
        about=_about(archive),
    )
    return network, spec


def _about(archive: Sb3Archive) -> dict[str, Any]:
    steps = archive.data.get("num_timesteps")
    return {"stable_baselines3": archive.version} | ({"steps": steps} if isinstance(steps, int) else {})


def _settings(data: Mapping[str, Any]) -> dict[str, Any]:
    """``policy_kwargs``: plain JSON, or, where it holds classes, with these as text ("<class 'torch...Tanh'>")."""
    settings = data.get("policy_kwargs")
    return settings if isinstance(settings, dict) else {}


def _check_stock_code(data: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """That the forward pass is Stable-Baselines3's own and not somebody's subclass with the same weights."""
    policy_class = data.get("policy_class")
    module = policy_class.get("__module__") if isinstance(policy_class, dict) else None
    if module is not None and not str(module).startswith(("stable_baselines3.", "sb3_contrib.common.maskable.")):
        raise UnsupportedLayoutError(f"the policy class is custom code (module {module})")
    extractor = settings.get("features_extractor_class")
    if extractor is not None and "stable_baselines3.common.torch_layers.NatureCNN" not in str(extractor):
        raise UnsupportedLayoutError(f"the features extractor is {extractor} and not NatureCNN")


def _layout(tensors: Mapping[str, Tensor], data: Mapping[str, Any]) -> _Layout:
    for prefix, what in _FOREIGN.items():
        if any(name.startswith(prefix) for name in tensors):
            raise UnsupportedLayoutError(f"the model has {what}")
    if any(name.startswith("q_net.") for name in tensors):
        features, mlp = "q_net.features_extractor.", _numbered(tensors, "q_net.q_net.")
        layout = _Layout("dqn", "values", features, mlp[:-1], mlp[-1] if mlp else "q_net.q_net.0")
    elif "action_net.weight" in tensors:
        own = any(name.startswith("pi_features_extractor.") for name in tensors)
        hidden = (
            *_numbered(tensors, "mlp_extractor.shared_net."),  # before version 1.8
            *_numbered(tensors, "mlp_extractor.policy_net."),
        )
        algorithm = "ppo" if "clip_range" in data else "a2c"
        features = "pi_features_extractor." if own else "features_extractor."
        layout = _Layout(algorithm, "logits", features, hidden, "action_net")
    else:
        raise UnsupportedLayoutError(f"the layers {_some(tensors)} are those of no policy that is known")
    if any(name.startswith(f"{layout.features}extractors.") for name in tensors):
        raise UnsupportedLayoutError("the model reads a dictionary of observations (MultiInputPolicy)")
    if f"{layout.features}cnn.0.weight" not in tensors:
        raise UnsupportedLayoutError("the model reads no image through convolutions (MlpPolicy?)")
    return layout


def _numbered(tensors: Mapping[str, Tensor], prefix: str) -> tuple[str, ...]:
    """Names of the layers in an ``nn.Sequential``, in their order."""
    found = {int(m[1]) for name in tensors if (m := re.fullmatch(rf"{re.escape(prefix)}(\d+)\.weight", name))}
    return tuple(f"{prefix}{number}" for number in sorted(found))


def _check_nothing_left(
    tensors: Mapping[str, Tensor], layout: _Layout, convolutions: list[Layer], linears: list[Layer]
) -> None:
    """That every weight of the policy has found its place, or its forward pass is another than assumed."""
    used = {f"{item.name}.{part}" for item in (*convolutions, *linears) for part in ("weight", "bias")}
    idle: tuple[str, ...] = ("q_net_target.",) if layout.algorithm == "dqn" else _CRITIC
    if layout.features.startswith("pi_"):
        idle += ("features_extractor.",)  # the same weights once more
    left = {name for name in tensors if name not in used and not name.startswith(idle)}
    if left:
        raise UnsupportedLayoutError(f"the policy has layers beyond the usual ({_some(left)})")


def _some(names: Any) -> str:
    listed = sorted(names)
    return ", ".join(listed[:4]) + (", ..." if len(listed) > 4 else "")


def _observations(
    data: Mapping[str, Any], settings: Mapping[str, Any], channels: int
) -> tuple[tuple[int, int] | None, float]:
    """Height and width as the observation space says them, and what a white pixel is to the network."""
    space = data.get("observation_space")
    if not isinstance(space, dict):
        raise RoboprefError("the Stable-Baselines3 model says nothing of its observation space: the file is damaged.")
    shape = space.get("_shape", space.get("shape"))
    if not (isinstance(shape, list) and len(shape) == 3):
        raise UnsupportedLayoutError(f"the model's observations have shape {shape}, not [C, H, W]")
    if shape[0] != channels:
        raise RoboprefError(
            f"the observation space is {shape}, but the first convolution takes {channels} channels: the space is "
            f"channels last or the file mixes two models. Save the model with its channels-first environment "
            f"(VecTransposeImage)."
        )
    low, high = _bound(space, "low"), _bound(space, "high")
    if space.get("dtype") == "uint8" and str(settings.get("normalize_images", True)) == "True":
        return (int(shape[1]), int(shape[2])), 1.0
    if low != 0 or high is None or high <= 0:
        raise RoboprefError(
            f"the model's observations run from {low} to {high}, and pixels from 0 to 1 cannot be mapped to that "
            f"without knowing how: load it in Python and wrap it with robopref.policies.q_module.as_q_policy."
        )
    return (int(shape[1]), int(shape[2])), high


def _bound(space: Mapping[str, Any], name: str) -> float | None:
    """A bound of the space that is the same everywhere; None if it is not, or cannot be read."""
    texts = (space.get(f"{name}_repr"), space.get(name))
    text = next((str(value) for value in texts if value not in (None, "None")), "")
    numbers = {float(number) for number in re.findall(r"-?\d+(?:\.\d*)?(?:e[+-]?\d+)?", text)}
    return numbers.pop() if len(numbers) == 1 else None


def _actions(data: Mapping[str, Any], linears: list[Layer]) -> int:
    space = data.get("action_space")
    kind = str(space.get(":type:", "")) if isinstance(space, dict) else ""
    if kind and not kind.endswith(".Discrete'>"):
        raise UnsupportedLayoutError(f"the model's actions are {kind} and not Discrete")
    n_actions = head_width(linears)
    said = space.get("n") if isinstance(space, dict) else None
    if said is not None and str(said) != str(n_actions):
        raise RoboprefError(f"the action space has {said} actions and the weights {n_actions}: the file is damaged.")
    return n_actions


def _activation(settings: Mapping[str, Any], default: str) -> type[nn.Module]:
    said = settings.get("activation_fn")
    if said is None:
        return _ACTIVATIONS[default]
    match = re.fullmatch(r"<class 'torch\.nn\.modules\.\w+\.(\w+)'>", str(said))
    if match is None or match[1] not in _ACTIVATIONS:
        raise UnsupportedLayoutError(f"the activation {said} is none of {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[match[1]]
