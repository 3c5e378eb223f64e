"""From names on a command line to a vision-language-action policy: base, adapter, statistics, where and how held."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from robopref.errors import RoboprefError
from robopref.policies.checkpoint import PolicyDescription, read_description
from robopref.policies.normalization import NormStats
from robopref.policies.tokenizer_loading import tokenizer_from_json
from robopref.policies.vla.base_models import (
    STATISTICS,
    BaseFiles,
    base_directory,
    choose_statistics,
    find_base,
    is_model_directory,
    load_backbone,
    looks_like_hub_id,
    read_statistics,
)
from robopref.policies.vla.description import KIND, VLADescription
from robopref.policies.vla.options import PLAIN, VLAOptions

if TYPE_CHECKING:
    import torch

    from robopref.policies.vla.policy import HFVLAPolicy
    from robopref.protocols import ChunkTokenizer

_OURS = "policy.json"
_T = TypeVar("_T")


@dataclass(frozen=True)
class _Names:
    """What to load: the base, and the adapter directory with our description of it where it has one."""

    base: str
    adapter: Path | None
    description: PolicyDescription | None


def is_vla(name: str | Path) -> bool:
    """Whether ``name`` is a base model (directory or hub id), rather than a checkpoint of ours."""
    return looks_like_hub_id(name) or is_model_directory(Path(name))


def described_actions(name: str | Path, options: VLAOptions = PLAIN) -> tuple[NormStats, ChunkTokenizer | None]:
    """The action statistics that ``load_vla`` would take, and an adapter's own tokenizer, before weights are read.

    The tokenizer is ``None`` where no adapter of ours brings one.

    Raises:
        RoboprefError: no such model, adapter or statistics, or a description that is damaged.
    """
    names = _resolve(name, options)
    return _statistics(names, options, _find_base(names)), _own_tokenizer(names)


def load_vla(
    name: str | Path,
    options: VLAOptions = PLAIN,
    *,
    norm_stats: NormStats | None = None,
    tokenizer: ChunkTokenizer | None = None,
    device: str = "auto",
) -> HFVLAPolicy:
    """The policy of a base model or of one of our checkpoints, with the adapter of ``options`` on top.

    Args:
        name: hub id or directory of a base model, or a checkpoint directory of kind ``vla``.
        norm_stats: action statistics to use instead of those that the model or the adapter brings.
        tokenizer: of actions or chunks, instead of the adapter's own or of 256 bins a dimension.
        device: ``"auto"`` takes a GPU when there is one; ``"cpu"`` does not.

    Raises:
        RoboprefError: base, adapter and statistics do not fit one another, or files are missing; what to do is said.
    """
    import torch

    from robopref.policies.vla.adapters import freeze_unused, load_adapter
    from robopref.policies.vla.policy import HFVLAPolicy

    names = _resolve(name, options)
    files = _find_base(names)  # what does not fit is said before gigabytes are read
    description = names.description
    described = None if description is None else VLADescription.from_json(description.architecture)
    if described is not None and described.base.fingerprint != files.base.fingerprint:
        raise RoboprefError(
            f"the adapter in {names.adapter} was trained for {described.base.name} (weights "
            f"{described.base.fingerprint}), and {names.base} has other weights, or another config.json "
            f"({files.base.fingerprint}). Give the base that it was trained for as --policy, and the adapter as "
            f"--adapter."
        )
    stats = norm_stats or _statistics(names, options, files)
    if tokenizer is None:
        tokenizer = _own_tokenizer(names)
    on_gpu = device != "cpu" and torch.cuda.is_available()
    dtype = _dtype(options, on_gpu)
    backbone = load_backbone(files, dtype)
    if options.weights == "4bit":
        from robopref.policies.vla.quantization import quantize_linear_layers

        quantize_linear_layers(backbone.model, dtype)
    if names.adapter is not None:
        load_adapter(backbone.model, names.adapter, names.base)
        freeze_unused(backbone.model, backbone.unused_modules)
    policy = HFVLAPolicy(
        backbone,
        stats,
        files.base,
        tokenizer=tokenizer,
        tasks=None if description is None else description.tasks,
        normalize_over="actions" if described is None else described.normalize_over,
        instruction_suffix="" if description is None else description.instruction_suffix,
        recorded_image_size=None if described is None else described.recorded_image_size,
    )
    return policy.to("cuda" if on_gpu else "cpu").eval()


def vla_id(name: str | Path, options: VLAOptions = PLAIN) -> str:
    """A short name for exactly these weights and statistics."""
    names = _resolve(name, options)
    files = _find_base(names)
    digest = hashlib.blake2b(files.base.fingerprint.encode(), digest_size=6)
    digest.update(json.dumps([options.norm_key, options.weights == "4bit"]).encode())
    if names.description is not None:
        digest.update(json.dumps([names.description.normalization, names.description.tokenizer]).encode())
    for directory in (files.directory, names.adapter):
        beside = None if directory is None else directory / STATISTICS
        digest.update(beside.read_bytes() if beside is not None and beside.is_file() else b"none")
    if names.adapter is not None:
        for path in sorted([*names.adapter.glob("*.safetensors"), names.adapter / "adapter_config.json"]):
            digest.update(path.read_bytes() if path.is_file() else b"")
    if names.description is not None:
        digest.update(names.description.instruction_suffix.encode())
    return f"{KIND}-{digest.hexdigest()}"


def _find_base(names: _Names) -> BaseFiles:
    gone = not Path(names.base).exists() and not looks_like_hub_id(names.base)
    if names.description is not None and names.adapter is not None and gone:
        raise RoboprefError(
            f"the adapter in {names.adapter} belongs to {names.base}, which does not exist: give its base as --policy, "
            f"and {names.adapter} as --adapter."
        )
    return find_base(names.base)


def _resolve(name: str | Path, options: VLAOptions) -> _Names:
    directory = Path(name)
    if (directory / "policy" / _OURS).is_file():  # a training run's directory
        directory = directory / "policy"
    if (directory / _OURS).is_file():
        if options.adapter is not None:
            raise RoboprefError(f"{name} is an adapter on its own base already, so --adapter cannot be put on it too.")
        description = _read_own(directory)
        return _Names(VLADescription.from_json(description.architecture).base.name, directory, description)
    if options.adapter is None:
        return _Names(str(name), None, None)
    adapter = _adapter_directory(options.adapter)
    return _Names(str(name), adapter, _read_own(adapter) if (adapter / _OURS).is_file() else None)


def _adapter_directory(name: str) -> Path:
    directory = Path(name)
    if directory.is_dir():
        inner = directory / "policy"
        return inner if (inner / _OURS).is_file() else directory
    if not looks_like_hub_id(name):
        raise RoboprefError(f"no adapter at {name}: give a directory with an adapter_config.json, or a hub id.")
    return base_directory(name)


def _read_own(directory: Path) -> PolicyDescription:
    description = read_description(directory)
    if description.kind != KIND:
        raise RoboprefError(f"{directory} holds a policy of kind {description.kind!r}, not an adapter ({KIND!r}).")
    return description


def _described(names: _Names, field: str, read: Callable[[PolicyDescription], _T]) -> _T:
    """A field of the adapter's ``policy.json``, which somebody may have edited."""
    assert names.description is not None
    assert names.adapter is not None
    try:
        return read(names.description)
    except (KeyError, TypeError, ValueError) as error:
        raise RoboprefError(f"{names.adapter / _OURS} is damaged: {field} cannot be read ({error!r}).") from error


def _own_tokenizer(names: _Names) -> ChunkTokenizer | None:
    if names.description is None:
        return None
    return _described(names, "tokenizer", lambda found: tokenizer_from_json(found.tokenizer))


def _statistics(names: _Names, options: VLAOptions, files: BaseFiles) -> NormStats:
    """The adapter's own statistics, else those beside the adapter, else the base's; chosen by ``--norm-key``."""
    if names.description is not None and options.norm_key is None:
        return _described(names, "normalization", lambda found: NormStats.from_json(found.normalization))
    beside = {} if names.adapter is None else read_statistics(names.adapter, {})
    found = beside or files.statistics
    stats = choose_statistics(found, options.norm_key, names.base)
    if stats is None:
        raise RoboprefError(
            f"{names.base} has no action statistics, so its action tokens mean nothing yet: train an adapter on "
            f"demonstrations first (robopref train --policy {names.base} --demos ... --out ...), and give it as "
            f"--adapter."
        )
    return stats


def _dtype(options: VLAOptions, on_gpu: bool) -> torch.dtype:
    import torch

    if options.weights == "fp32":
        return torch.float32
    if options.weights == "auto":
        return torch.bfloat16 if on_gpu and torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16
