"""What an OpenVLA checkpoint's ``config.json`` says, reduced to what changes the computation, and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from robopref.errors import RoboprefError
from robopref.policies.vla.prompt import LLAMA_EMPTY_TOKEN

BOS_ID, STOP_ID = 1, 2  # of the Llama 2 vocabulary: <s> and </s>
PATCH_SIZE = 14  # pixels a side, in both towers

_SUPPORTED = {  # what openvla/openvla-7b and the models fine-tuned from it say
    "model_type": "openvla",
    "arch_specifier": "no-align+fused-gelu-mlp",
    "llm_backbone_id": "llama2-7b-pure",
    "image_resize_strategy": "resize-naive",
}
_DINO_ID = "vit_large_patch14_reg4_dinov2.lvd142m"
_SIGLIP_ID = "vit_so400m_patch14_siglip_224"
_LANGUAGE_MODEL_FIXED = {
    "model_type": "llama",
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "rope_scaling": None,
    "tie_word_embeddings": False,
}
_ACTIVATIONS = {None: "gelu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "quick_gelu": "quick_gelu"}


@dataclass(frozen=True)
class VisionTower:
    """The size of one vision transformer; ``registers`` and the class token are DINOv2's, SigLIP has neither."""

    width: int
    depth: int
    heads: int
    mlp_width: int
    registers: int = 0


DINO_LARGE = VisionTower(width=1024, depth=24, heads=16, mlp_width=4096, registers=4)
SIGLIP_SO400M = VisionTower(width=1152, depth=27, heads=16, mlp_width=4304)


@dataclass(frozen=True)
class LanguageModel:
    """The size of the Llama; the defaults are those of transformers 4.40, which published checkpoints leave out.

    ``rms_norm_eps`` is 1e-5 in Llama 2's own configuration, yet 1e-6 is what published OpenVLA checkpoints run with.
    """

    vocab_size: int = 32064
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    pad_token_id: int = 32000


@dataclass(frozen=True)
class OpenVLAConfiguration:
    """Sizes and settings of an OpenVLA model; the defaults are openvla/openvla-7b.

    ``activations`` are those of the two towers as transformers names them. timm 0.9.10, which OpenVLA pins, builds
    both towers with the exact GELU (``nn.GELU`` is its VisionTransformer's default, and neither entry point overrides
    it), whereas transformers' SigLIP defaults to the tanh approximation.
    """

    dino: VisionTower = DINO_LARGE
    siglip: VisionTower = SIGLIP_SO400M
    language_model: LanguageModel = field(default_factory=LanguageModel)
    image_size: int = 224
    activations: tuple[str, str] = ("gelu", "gelu")
    n_action_bins: int = 256
    pad_to_multiple_of: int = 64

    def __post_init__(self) -> None:
        if self.image_size % PATCH_SIZE:
            raise RoboprefError(f"pictures of {self.image_size} pixels do not divide into patches of {PATCH_SIZE}.")
        if min(self.dino.depth, self.siglip.depth) < 2:
            raise RoboprefError("the features are those of the second-to-last block: a tower has at least two.")
        if self.usable_vocabulary <= max(LLAMA_EMPTY_TOKEN, self.n_action_bins):
            raise RoboprefError(
                f"a vocabulary of {self.language_model.vocab_size} tokens, {self.pad_to_multiple_of} of them padding, "
                f"is not Llama 2's: OpenVLA needs its 32000."
            )

    @property
    def usable_vocabulary(self) -> int:
        """How many ids, from 0, mean something; the rest pads the embedding to a multiple of 64."""
        return self.language_model.vocab_size - self.pad_to_multiple_of

    @property
    def patches(self) -> int:
        """How many patches a picture has, each one position of the sequence."""
        return (self.image_size // PATCH_SIZE) ** 2

    @classmethod
    def from_json(cls, fields_: Mapping[str, Any]) -> OpenVLAConfiguration:
        """Read the fields of a published ``config.json``; ``to_json`` writes them.

        Raises:
            RoboprefError: an architecture that is not supported, or fields that are missing or make no sense.
        """
        _check_supported(fields_)
        sizes = fields_.get("image_sizes")
        if not isinstance(sizes, list) or len(set(sizes)) != 1:
            raise RoboprefError(f"both vision towers read pictures of one size, got image_sizes {sizes!r}.")
        towers = fields_.get("vision_towers", {})  # only in checkpoints of other sizes than the published
        overrides = fields_.get("timm_override_act_layers") or [None, None]
        if len(overrides) != 2 or any(name not in _ACTIVATIONS for name in overrides):
            raise RoboprefError(
                f"timm_override_act_layers {overrides!r} is not among {sorted(map(str, _ACTIVATIONS))}."
            )
        try:
            return cls(
                dino=VisionTower(**towers["dino"]) if towers else DINO_LARGE,
                siglip=VisionTower(**towers["siglip"]) if towers else SIGLIP_SO400M,
                language_model=_language_model(fields_.get("text_config") or {}),
                image_size=int(sizes[0]),
                activations=(_ACTIVATIONS[overrides[0]], _ACTIVATIONS[overrides[1]]),
                n_action_bins=int(fields_.get("n_action_bins", 256)),
                pad_to_multiple_of=int(fields_.get("pad_to_multiple_of", 64)),
            )
        except (KeyError, TypeError) as error:
            raise RoboprefError(f"the OpenVLA configuration cannot be read ({error!r}).") from error

    def to_json(self) -> dict[str, Any]:
        """The fields of a published ``config.json``, without the action statistics."""
        names = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}
        described: dict[str, Any] = {
            **_SUPPORTED,
            "architectures": ["OpenVLAForActionPrediction"],
            "vision_backbone_id": "dinosiglip-vit-so-224px",
            "hf_llm_id": "meta-llama/Llama-2-7b-hf",
            "use_fused_vision_backbone": True,
            "timm_model_ids": [_DINO_ID, _SIGLIP_ID],
            "timm_override_act_layers": [None if name == "gelu" else names[name] for name in self.activations],
            "image_sizes": [self.image_size, self.image_size],
            "llm_max_length": self.language_model.max_position_embeddings,
            "pad_token_id": self.language_model.pad_token_id,
            "pad_to_multiple_of": self.pad_to_multiple_of,
            "n_action_bins": self.n_action_bins,
            "text_config": {"model_type": "llama", **asdict(self.language_model)},
        }
        if (self.dino, self.siglip) != (DINO_LARGE, SIGLIP_SO400M):
            described["vision_towers"] = {"dino": asdict(self.dino), "siglip": asdict(self.siglip)}
        return described


def _check_supported(fields_: Mapping[str, Any]) -> None:
    if fields_.get("model_type") is None and {"model", "vla"} & set(fields_):
        raise RoboprefError(
            "this config.json belongs to a Prismatic training run, an older layout: convert the run to the published "
            "one with vla-scripts/extern/convert_openvla_weights_to_hf.py of the OpenVLA repository."
        )
    for name, supported in _SUPPORTED.items():
        if fields_.get(name) != supported:
            raise RoboprefError(
                f"OpenVLA checkpoints with {name} {supported!r} are supported, this one has {fields_.get(name)!r}: "
                f"start from openvla/openvla-7b or a model fine-tuned from it."
            )
    if fields_.get("timm_model_ids") != [_DINO_ID, _SIGLIP_ID]:
        raise RoboprefError(
            f"OpenVLA checkpoints with the vision towers {_DINO_ID} and {_SIGLIP_ID} are supported, this one has "
            f"{fields_.get('timm_model_ids')!r}: start from openvla/openvla-7b or a model fine-tuned from it."
        )


def _language_model(text_config: Mapping[str, Any]) -> LanguageModel:
    for name, supported in _LANGUAGE_MODEL_FIXED.items():
        if text_config.get(name, supported) != supported:
            raise RoboprefError(f"text_config has {name} {text_config[name]!r}; OpenVLA's Llama has {supported!r}.")
    known = {entry.name for entry in fields(LanguageModel)}
    return LanguageModel(**{name: value for name, value in text_config.items() if name in known})
