"""LoRA adapters on a backbone: the one that is trained, and a frozen one beside it as the reference.

One copy of the base weights serves both, which is what makes a second 7B model unnecessary. Files are PEFT's, so that
an adapter trained here loads there and the other way round.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from robopref.errors import RoboprefError
from robopref.policies.vla.options import LoraOptions
from robopref.policies.vla.requirements import require

TRAINED = "default"
REFERENCE = "reference"
_PREFIX = "base_model.model."  # what PEFT puts before every key of its files
_WEIGHTS, _SETTINGS = "adapter_model.safetensors", "adapter_config.json"


def add_adapter(model: Any, settings: LoraOptions, unused: Sequence[str] = (), name: str = TRAINED) -> None:
    """Put a fresh adapter, which changes nothing yet, on every linear layer but the output embedding.

    Args:
        unused: modules that nothing depends on; they get none.
    """
    peft = require("peft")
    config = peft.LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=_linear_layers(model, unused),
        init_lora_weights="gaussian",
    )
    _inject(model, config, name)


def has_adapter(model: Any, name: str = TRAINED) -> bool:
    """Whether the model carries an adapter of that name."""
    return name in getattr(model, "peft_config", {})


def settings_of(model: Any, name: str = TRAINED) -> LoraOptions:
    """The settings of an adapter that the model carries."""
    config = model.peft_config[name]
    return LoraOptions(config.r, config.lora_alpha, config.lora_dropout)


def copy_adapter(model: Any, source: str, target: str) -> None:
    """Make the adapter ``target`` a frozen copy of ``source``; it is created when it does not exist."""
    peft = require("peft")
    if not has_adapter(model, target):
        _inject(model, model.peft_config[source], target)
    weights = _weights(model, source)
    peft.set_peft_model_state_dict(model, {key: value.clone() for key, value in weights.items()}, adapter_name=target)
    _activate(model, source)


def save_adapter(model: Any, directory: Path, base: str, name: str = TRAINED) -> None:
    """Write the adapter in PEFT's layout; ``base`` is recorded as the model that it belongs to."""
    from safetensors.torch import save

    peft = require("peft")
    tensors = {_PREFIX + key: value.detach().cpu().contiguous() for key, value in _weights(model, name).items()}
    (directory / _WEIGHTS).write_bytes(save(tensors, metadata={"format": "pt"}))
    config = peft.LoraConfig.from_peft_type(**model.peft_config[name].to_dict())
    config.base_model_name_or_path, config.inference_mode = base, True
    config.save_pretrained(str(directory))


def load_adapter(model: Any, directory: Path, base: str, name: str = TRAINED) -> None:
    """Put the adapter in ``directory`` on the model, trainable.

    Args:
        base: what the model is, for the error that says that the adapter belongs to another.

    Raises:
        RoboprefError: no adapter there, not a LoRA, damaged, or trained for another base.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    peft = require("peft")
    if not (directory / _SETTINGS).is_file() or not (directory / _WEIGHTS).is_file():
        raise RoboprefError(
            f"{directory} holds no adapter: one is {_SETTINGS} and {_WEIGHTS}, as PEFT and `robopref train` write them."
            + (" A .bin file is a pickle: convert it to safetensors." if any(directory.glob("adapter*.bin")) else "")
        )
    try:
        config = peft.PeftConfig.from_pretrained(str(directory))
        tensors = load_file(str(directory / _WEIGHTS))
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise RoboprefError(f"the adapter in {directory} cannot be read ({error}).") from error
    if not isinstance(config, peft.LoraConfig):
        raise RoboprefError(f"the adapter in {directory} is a {config.peft_type}, not a LoRA: only LoRA is supported.")
    trained_for = config.base_model_name_or_path or "a base that it does not name"
    weights = {key.removeprefix(_PREFIX): value for key, value in tensors.items()}
    try:
        _inject(model, config, name)
    except ValueError as error:  # PEFT found none of the layers
        raise RoboprefError(_other_base(directory, trained_for, base, str(error))) from error
    _check_fits(model, weights, name, lambda why: _other_base(directory, trained_for, base, why))
    peft.set_peft_model_state_dict(model, weights, adapter_name=name)
    _activate(model, name)


@contextmanager
def answering_as(model: Any, name: str) -> Iterator[None]:
    """Inside it the model runs with that adapter, frozen; what is active, and what is trained, is restored after."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    before = [list(layer.active_adapters) for layer in layers]
    try:
        for layer in layers:
            layer.set_adapter(name, inference_mode=True)
        yield
    finally:
        for layer, names in zip(layers, before, strict=True):
            layer.set_adapter(names)
        for parameter, requires_grad in trainable:  # PEFT's switches set it for whole adapters
            parameter.requires_grad_(requires_grad)


def _inject(model: Any, config: Any, name: str) -> None:
    peft = require("peft")
    from peft.tuners.tuners_utils import cast_adapter_dtype

    with warnings.catch_warnings():
        # A second adapter beside the first is the reference, and wanted.
        warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
        peft.inject_adapter_in_model(config, model, adapter_name=name)
    # Else it takes the type of the base, and steps smaller than bfloat16's 8 bits would be rounded away.
    cast_adapter_dtype(model, name)
    _activate(model, TRAINED if has_adapter(model, TRAINED) else name)


def _weights(model: Any, name: str) -> dict[str, Tensor]:
    """An adapter's tensors by PEFT's names."""
    # By default PEFT asks the hub whether the base had a smaller vocabulary, and would save the embeddings then.
    weights: dict[str, Tensor] = require("peft").get_peft_model_state_dict(
        model, adapter_name=name, save_embedding_layers=False
    )
    return weights


def _activate(model: Any, name: str) -> None:
    """Run with, and train, this adapter; everything else is frozen."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    model.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.set_adapter(name)


def freeze_unused(model: Any, unused: Sequence[str]) -> None:
    """What an adapter from elsewhere has on modules that nothing depends on is not trained."""
    for module in unused:
        for name, parameter in model.named_parameters():
            if _is_inside(name, module):
                parameter.requires_grad_(False)


def _linear_layers(model: Any, unused: Sequence[str]) -> list[str]:
    """Names of the linear layers, the output embedding and those in unused modules excepted."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    output = model.get_output_embeddings()
    inside = [name for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)] + list(unused)
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and not isinstance(module, NonDynamicallyQuantizableLinear)
        and module is not output
        and not any(_is_inside(name, n) for n in inside)
    ]


def _is_inside(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def _check_fits(model: Any, weights: Mapping[str, Tensor], name: str, message: Any) -> None:
    expected = _weights(model, name)
    absent, unknown = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    if absent or unknown:
        raise RoboprefError(
            message(f"it has no {absent[0]}" if absent else f"it adapts {unknown[0]}, which the model does not have")
        )
    for key, value in expected.items():
        if weights[key].shape != value.shape:
            raise RoboprefError(
                message(f"{key} has shape {tuple(weights[key].shape)}, the model's layer takes {tuple(value.shape)}")
            )


def _other_base(directory: Path, trained_for: str, base: str, why: str) -> str:
    return (
        f"the adapter in {directory} was trained for {trained_for} and does not fit {base}: {why}. "
        f"Give the base that it was trained for as --policy."
    )
