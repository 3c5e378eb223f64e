"""The Prismatic network of OpenVLA, out of transformers' own DINOv2, SigLIP and Llama."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    LlamaConfig,
    LlamaForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from robopref.errors import RoboprefError
from robopref.policies.vla.images import normalize_images
from robopref.policies.vla.openvla.configuration import PATCH_SIZE, OpenVLAConfiguration, VisionTower

# Of the published preprocessor_config.json: what each tower was pretrained with.
_DINO_MEAN, _DINO_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SIGLIP_MEAN, _SIGLIP_STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
_LAYER_NORM_EPS = 1e-6  # timm's default for its VisionTransformer


class PrismaticNetwork(nn.Module):
    """Vision towers, projector and language model, under the names of the published checkpoints."""

    def __init__(self, configuration: OpenVLAConfiguration) -> None:
        super().__init__()
        width = configuration.language_model.hidden_size
        self.vision_backbone = FusedVision(configuration)
        self.projector = Projector(configuration.dino.width + configuration.siglip.width, width)
        self.language_model = LlamaForCausalLM(_llama_config(configuration))

    def get_output_embeddings(self) -> nn.Module:
        """The language model's output embedding, under the name by which ``transformers`` and PEFT ask for it."""
        head: nn.Module = self.language_model.lm_head
        return head

    def patches(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, S, S] in [0, 1] -> one input embedding of the language model per patch, [B, patches, D]."""
        projected: Tensor = self.projector(self.vision_backbone(pixels))
        return projected


class FusedVision(nn.Module):
    """Features of DINOv2 and SigLIP side by side, taken after the second-to-last block and before any norm.

    The towers are therefore built without their last block and final norm. ``unused`` carries what the published
    checkpoints hold of those, frozen: nothing trains them, yet a checkpoint that was read can be written whole.
    """

    def __init__(self, configuration: OpenVLAConfiguration) -> None:
        super().__init__()
        dino, siglip = configuration.dino, configuration.siglip
        self.featurizer = Dinov2WithRegistersModel(
            Dinov2WithRegistersConfig(
                hidden_size=dino.width,
                num_hidden_layers=dino.depth - 1,
                num_attention_heads=dino.heads,
                mlp_ratio=_whole_ratio(dino),
                num_register_tokens=dino.registers,
                hidden_act=configuration.activations[0],
                image_size=configuration.image_size,
                patch_size=PATCH_SIZE,
                layer_norm_eps=_LAYER_NORM_EPS,
                layerscale_value=1e-5,
            )
        )
        self.featurizer.register_module("layernorm", nn.Identity())
        self.featurizer.embeddings.register_parameter("mask_token", None)  # no patch is ever masked
        self.fused_featurizer = SiglipVisionModel(
            SiglipVisionConfig(
                hidden_size=siglip.width,
                intermediate_size=siglip.mlp_width,
                num_hidden_layers=siglip.depth - 1,
                num_attention_heads=siglip.heads,
                hidden_act=configuration.activations[1],
                image_size=configuration.image_size,
                patch_size=PATCH_SIZE,
                layer_norm_eps=_LAYER_NORM_EPS,
                vision_use_head=False,
            )
        )
        self.fused_featurizer.register_module("post_layernorm", nn.Identity())
        self.unused = UnusedTensors(configuration)
        self._prefix_tokens = 1 + dino.registers

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, S, S] in [0, 1] -> features [B, patches, widths of both towers]."""
        dino = self.featurizer(normalize_images(pixels, _DINO_MEAN, _DINO_STD)).last_hidden_state
        siglip = self.fused_featurizer(normalize_images(pixels, _SIGLIP_MEAN, _SIGLIP_STD)).last_hidden_state
        return torch.cat([dino[:, self._prefix_tokens :], siglip], dim=-1)


class Projector(nn.Module):
    """Fused vision features -> input embeddings of the language model."""

    def __init__(self, vision_width: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(vision_width, 4 * vision_width)
        self.fc2 = nn.Linear(4 * vision_width, width)
        self.fc3 = nn.Linear(width, width)

    def forward(self, features: Tensor) -> Tensor:
        """Features [B, patches, vision width] -> [B, patches, width]."""
        projected: Tensor = self.fc3(F.gelu(self.fc2(F.gelu(self.fc1(features)))))
        return projected


class UnusedTensors(nn.Module):
    """Published tensors of the vision towers that no output depends on, under their published names."""

    def __init__(self, configuration: OpenVLAConfiguration) -> None:
        super().__init__()
        for name, shape in unused_shapes(configuration).items():
            self.register_parameter(name.replace(".", "/"), nn.Parameter(torch.zeros(shape), requires_grad=False))


def unused_shapes(configuration: OpenVLAConfiguration) -> dict[str, tuple[int, ...]]:
    """Name below ``vision_backbone.`` -> shape of every published tensor that no output depends on."""
    shapes: dict[str, tuple[int, ...]] = {}
    for tower, size in (("featurizer", configuration.dino), ("fused_featurizer", configuration.siglip)):
        width, block = size.width, f"{tower}.blocks.{size.depth - 1}"
        shapes |= _norm_shapes(f"{block}.norm1", width) | _norm_shapes(f"{block}.norm2", width)
        shapes |= _linear_shapes(f"{block}.attn.qkv", width, 3 * width)
        shapes |= _linear_shapes(f"{block}.attn.proj", width, width)
        shapes |= _mlp_shapes(f"{block}.mlp", size) | _norm_shapes(f"{tower}.norm", width)
        if tower == "featurizer":
            shapes |= {f"{block}.ls1.scale_factor": (width,), f"{block}.ls2.scale_factor": (width,)}
        else:
            pool = f"{tower}.attn_pool"
            shapes |= {f"{pool}.latent": (1, 1, width)} | _norm_shapes(f"{pool}.norm", width)
            shapes |= _linear_shapes(f"{pool}.q", width, width) | _linear_shapes(f"{pool}.kv", width, 2 * width)
            shapes |= _linear_shapes(f"{pool}.proj", width, width) | _mlp_shapes(f"{pool}.mlp", size)
    return shapes


def _linear_shapes(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm_shapes(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _mlp_shapes(name: str, size: VisionTower) -> dict[str, tuple[int, ...]]:
    hidden = size.mlp_width
    return _linear_shapes(f"{name}.fc1", size.width, hidden) | _linear_shapes(f"{name}.fc2", hidden, size.width)


def _whole_ratio(tower: VisionTower) -> int:
    if tower.mlp_width % tower.width:
        raise RoboprefError(f"DINOv2's MLP is a multiple of its width {tower.width}, got {tower.mlp_width}.")
    return tower.mlp_width // tower.width


def _llama_config(configuration: OpenVLAConfiguration) -> Any:
    model = configuration.language_model
    return LlamaConfig(
        vocab_size=model.vocab_size,
        hidden_size=model.hidden_size,
        intermediate_size=model.intermediate_size,
        num_hidden_layers=model.num_hidden_layers,
        num_attention_heads=model.num_attention_heads,
        num_key_value_heads=model.num_key_value_heads,
        max_position_embeddings=model.max_position_embeddings,
        rms_norm_eps=model.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": model.rope_theta},
        pad_token_id=model.pad_token_id,
        hidden_act="silu",
        tie_word_embeddings=False,
        attention_bias=False,
        mlp_bias=False,
    )
