"""Checkpoints of ``QNetwork``: a policy checkpoint of kind ``q-network`` that says where and how it was trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from robopref.errors import RoboprefError
from robopref.policies.checkpoint import PolicyDescription, read_checkpoint, write_checkpoint
from robopref.policies.q_network import QArchitecture, QNetwork

KIND = "q-network"


def save_q_network(directory: Path, network: QNetwork, about: Mapping[str, Any], *, half: bool = False) -> None:
    """Write the checkpoint directory.

    Args:
        directory: replaced as a whole if it exists.
        network: what is saved.
        about: JSON values; ``game`` and ``environment`` (fields of ``AtariSpec``) say what it was trained on, and
            anything else (training settings, scores) is kept as it is.
        half: keep the weights in float16, half the size; they are float32 again when loaded.
    """
    tensors = network.state_dict()
    if half:
        tensors = {name: tensor.to(torch.float16) for name, tensor in tensors.items()}
    description = PolicyDescription(
        kind=KIND, architecture=asdict(network.architecture), normalization={}, tokenizer={}, about=dict(about)
    )
    write_checkpoint(Path(directory), description, tensors)


def load_q_network(directory: Path) -> tuple[QNetwork, dict[str, Any]]:
    """The network of a checkpoint, in float32, ready to act, and what the checkpoint says about it.

    Raises:
        RoboprefError: no such checkpoint, one of another kind, or weights that do not fit or are not finite.
    """
    description, tensors = read_checkpoint(Path(directory))
    if description.kind != KIND:
        raise RoboprefError(f"{directory} holds a policy of kind {description.kind!r}, not {KIND!r}.")
    try:
        network = QNetwork(QArchitecture(**description.architecture))
        network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except (TypeError, RuntimeError) as error:
        raise RoboprefError(f"the weights in {directory} do not fit its policy.json: {error}") from error
    for name, tensor in network.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise RoboprefError(f"the weights in {directory} are not finite ({name}): the training diverged.")
    return network.eval(), description.about
