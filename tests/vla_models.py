"""Tiny random vision-language models of the real architectures, written to disk as their publishers write them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from tests import openvla_reference

IMAGE = 28
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": IMAGE,
    "patch_size": 14,
}
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
BASE = 700
"""Vocabulary entries before what is added."""
SPECIALS = {
    "llava": ["<image>", "<pad>"],
    "paligemma": [*(f"<loc{i:04d}>" for i in range(300)), *(f"<seg{i:03d}>" for i in range(128)), "<image>"],
    "smolvlm": ["<fake_token_around_image>", "<global-img>", "<image>", "<end_of_utterance>"],
}


def text_tokenizer(family: str) -> Tokenizer:
    """Byte-level, with filler up to ``BASE`` entries and the family's special tokens behind them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<unk>", "<s>", "</s>", "<|im_start|>", *alphabet]
    names += [f"filler{i}" for i in range(BASE - len(names))]
    tokenizer = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(name) for name in ("<s>", "</s>", "<|im_start|>", *SPECIALS[family.rstrip("2")])]
    )
    return tokenizer


def build(family: str, seed: int = 0, width: int = 32) -> torch.nn.Module:
    """A random model for conditional generation with weights large enough that everything matters."""
    import transformers

    tokenizer = text_tokenizer(family)
    size = tokenizer.get_vocab_size() + 4
    ids = {name: tokenizer.token_to_id(name) for name in ("<image>", "<s>", "</s>")}
    text = {
        **TEXT,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "vocab_size": size,
        "bos_token_id": ids["<s>"],
        "eos_token_id": ids["</s>"],
        "pad_token_id": 0,
    }
    vision = {**VISION, "hidden_size": width, "intermediate_size": 2 * width}
    torch.manual_seed(seed)
    if family == "llava":
        config = transformers.LlavaConfig(
            vision_config=transformers.SiglipVisionConfig(**vision),
            text_config=transformers.LlamaConfig(**text),
            image_token_index=ids["<image>"],
            vision_feature_select_strategy="full",
            vision_feature_layer=-2,
        )
        model = transformers.LlavaForConditionalGeneration(config)
    elif family == "paligemma":
        config = transformers.PaliGemmaConfig(
            vision_config={**vision, "model_type": "siglip_vision_model", "projection_dim": width},
            text_config={**text, "model_type": "gemma", "head_dim": 8},
            image_token_index=ids["<image>"],
            projection_dim=width,
        )
        model = transformers.PaliGemmaForConditionalGeneration(config)
    elif family == "paligemma2":
        config = transformers.PaliGemmaConfig(
            vision_config={**vision, "model_type": "siglip_vision_model", "projection_dim": width},
            text_config={**text, "model_type": "gemma2", "head_dim": 8, "sliding_window": 200},
            image_token_index=ids["<image>"],
            projection_dim=width,
        )
        model = transformers.PaliGemmaForConditionalGeneration(config)
    else:
        config = transformers.SmolVLMConfig(
            vision_config={**vision, "image_size": 56},
            text_config={**text, "model_type": "llama"},
            image_token_id=ids["<image>"],
            scale_factor=2,
        )
        model = transformers.SmolVLMForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15)
    return model.eval()


def write(family: str, directory: Path, seed: int = 0, width: int = 32) -> torch.nn.Module | None:
    """The checkpoint directory of ``build``: config, weights, tokenizer, image settings; or of a tiny OpenVLA."""
    if family == "openvla":
        openvla_reference.write_checkpoint(directory, openvla_reference.random_tensors(seed))
        return None
    model = build(family, seed, width)
    model.save_pretrained(directory)
    text_tokenizer(family).save(str(directory / "tokenizer.json"))
    settings = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "resample": 3, "do_normalize": True}
    (directory / "preprocessor_config.json").write_text(json.dumps(settings))
    return model
