"""The published state dict of OpenVLA, key for key, and where each of its tensors lives in ``PrismaticNetwork``.

Published are timm's names for the vision towers (its LayerScale parameter renamed from ``gamma`` to ``scale_factor``)
and transformers' names for the language model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from robopref.policies.vla.openvla.configuration import OpenVLAConfiguration
from robopref.policies.vla.openvla.network import unused_shapes

_DINO_BLOCK = {
    "norm1": "norm1",
    "attn.proj": "attention.o_proj",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_SIGLIP_BLOCK = {
    "norm1": "layer_norm1",
    "attn.proj": "self_attn.out_proj",
    "norm2": "layer_norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


@dataclass(frozen=True)
class PublishedTensor:
    """One published tensor: ``read`` turns it into ours, name -> tensor; ``write`` makes it from our state dict."""

    read: Callable[[Tensor], dict[str, Tensor]]
    write: Callable[[Mapping[str, Tensor]], Tensor]


def published_layout(configuration: OpenVLAConfiguration, own_names: Iterable[str]) -> dict[str, PublishedTensor]:
    """Published name -> tensor, for a network whose own state dict has ``own_names``."""
    layout = {**_dino(configuration.dino.depth - 1), **_siglip(configuration.siglip.depth - 1)}
    for name in unused_shapes(configuration):
        layout[f"vision_backbone.{name}"] = _same(f"vision_backbone.unused.{name.replace('.', '/')}")
    # Projector and language model are published under the names that they have here.
    layout |= {name: _same(name) for name in own_names if not name.startswith("vision_backbone.")}
    return layout


def published_name(name: str) -> str:
    """The published name of a tensor that timm's own names may have been left on."""
    for scale in ("ls1", "ls2"):
        name = name.replace(f".{scale}.gamma", f".{scale}.scale_factor")
    return name


def _dino(blocks: int) -> dict[str, PublishedTensor]:
    tower = "vision_backbone.featurizer"
    class_token, positions = f"{tower}.embeddings.cls_token", f"{tower}.embeddings.position_embeddings"
    layout = {
        # timm gives the class token no position, transformers does: zero when read, part of the token when written.
        f"{tower}.cls_token": PublishedTensor(
            lambda tensor: {class_token: tensor}, lambda state: state[class_token] + state[positions][:, :1]
        ),
        f"{tower}.pos_embed": PublishedTensor(
            lambda tensor: {positions: torch.cat([torch.zeros_like(tensor[:, :1]), tensor], dim=1)},
            lambda state: state[positions][:, 1:],
        ),
        f"{tower}.reg_token": _same(f"{tower}.embeddings.register_tokens"),
        **_affine(f"{tower}.patch_embed.proj", f"{tower}.embeddings.patch_embeddings.projection"),
    }
    for index in range(blocks):
        block, layer = f"{tower}.blocks.{index}", f"{tower}.encoder.layer.{index}"
        layout |= _block(block, layer, "attention", _DINO_BLOCK)
        layout[f"{block}.ls1.scale_factor"] = _same(f"{layer}.layer_scale1.lambda1")
        layout[f"{block}.ls2.scale_factor"] = _same(f"{layer}.layer_scale2.lambda1")
    return layout


def _siglip(blocks: int) -> dict[str, PublishedTensor]:
    tower = "vision_backbone.fused_featurizer"
    positions = f"{tower}.embeddings.position_embedding.weight"
    layout = {
        f"{tower}.pos_embed": PublishedTensor(
            lambda tensor: {positions: tensor.flatten(0, 1)}, lambda state: state[positions].unsqueeze(0)
        ),
        **_affine(f"{tower}.patch_embed.proj", f"{tower}.embeddings.patch_embedding"),
    }
    for index in range(blocks):
        layout |= _block(f"{tower}.blocks.{index}", f"{tower}.encoder.layers.{index}", "self_attn", _SIGLIP_BLOCK)
    return layout


def _block(theirs: str, ours: str, attention: str, names: Mapping[str, str]) -> dict[str, PublishedTensor]:
    layout: dict[str, PublishedTensor] = {}
    for part in ("weight", "bias"):
        layout[f"{theirs}.attn.qkv.{part}"] = _stacked([f"{ours}.{attention}.{name}_proj.{part}" for name in "qkv"])
    for their_name, our_name in names.items():
        layout |= _affine(f"{theirs}.{their_name}", f"{ours}.{our_name}")
    return layout


def _affine(theirs: str, ours: str) -> dict[str, PublishedTensor]:
    return {f"{theirs}.{part}": _same(f"{ours}.{part}") for part in ("weight", "bias")}


def _same(name: str) -> PublishedTensor:
    return PublishedTensor(lambda tensor: {name: tensor}, lambda state: state[name])


def _stacked(names: list[str]) -> PublishedTensor:
    """Several of our tensors, published as one, stacked along the first dimension."""
    return PublishedTensor(
        # Copies: views of one storage could neither be saved nor moved on their own.
        lambda tensor: {name: part.clone() for name, part in zip(names, tensor.chunk(len(names)), strict=True)},
        lambda state: torch.cat([state[name] for name in names]),
    )
