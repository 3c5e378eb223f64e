"""OpenVLA written down a second time: its published tensors by name and shape, and a forward pass in plain torch."""

import json

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn import functional as F

DINO = {"width": 32, "depth": 3, "heads": 4, "mlp_width": 128, "registers": 4}
SIGLIP = {"width": 48, "depth": 4, "heads": 4, "mlp_width": 180, "registers": 0}
LLAMA = {"hidden": 32, "mlp": 88, "layers": 2, "heads": 4, "vocabulary": 32064}
CONFIG = {
    "model_type": "openvla",
    "arch_specifier": "no-align+fused-gelu-mlp",
    "vision_backbone_id": "dinosiglip-vit-so-224px",
    "llm_backbone_id": "llama2-7b-pure",
    "use_fused_vision_backbone": True,
    "timm_model_ids": ["vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"],
    "timm_override_act_layers": [None, None],
    "image_sizes": [224, 224],
    "image_resize_strategy": "resize-naive",
    "n_action_bins": 256,
    "pad_to_multiple_of": 64,
    "pad_token_id": 32000,
    "text_config": {"model_type": "llama", "pad_token_id": 32000, "torch_dtype": "bfloat16", "vocab_size": 32064},
    "norm_stats": {"bridge_orig": {"action": {"q01": [-0.5] * 7, "q99": [0.5] * 7, "mask": [True] * 6 + [False]}}},
}
TINY_CONFIG = CONFIG | {
    "image_sizes": [28, 28],
    "vision_towers": {"dino": DINO, "siglip": SIGLIP},
    "text_config": CONFIG["text_config"]
    | {"hidden_size": 32, "intermediate_size": 88, "num_hidden_layers": 2, "num_attention_heads": 4},
}
PROMPT_WORDS = ["In", ":", "What", "action", "should", "the", "robot", "take", "to", "lift", "cup", "red", "?", "Out"]


def published_shapes(dino, siglip, llama, patches):
    """Name -> shape of every tensor in a published checkpoint."""
    shapes = {}
    for tower, size in (("featurizer", dino), ("fused_featurizer", siglip)):
        width, hidden, root = size["width"], size["mlp_width"], f"vision_backbone.{tower}"
        shapes[f"{root}.pos_embed"] = (1, patches, width)
        shapes[f"{root}.patch_embed.proj.weight"] = (width, 3, 14, 14)
        shapes[f"{root}.patch_embed.proj.bias"] = (width,)
        shapes[f"{root}.norm.weight"] = shapes[f"{root}.norm.bias"] = (width,)
        for i in range(size["depth"]):
            block = f"{root}.blocks.{i}"
            for norm in ("norm1", "norm2"):
                shapes[f"{block}.{norm}.weight"] = shapes[f"{block}.{norm}.bias"] = (width,)
            shapes[f"{block}.attn.qkv.weight"] = (3 * width, width)
            shapes[f"{block}.attn.qkv.bias"] = (3 * width,)
            shapes[f"{block}.attn.proj.weight"] = (width, width)
            shapes[f"{block}.attn.proj.bias"] = (width,)
            shapes[f"{block}.mlp.fc1.weight"] = (hidden, width)
            shapes[f"{block}.mlp.fc1.bias"] = (hidden,)
            shapes[f"{block}.mlp.fc2.weight"] = (width, hidden)
            shapes[f"{block}.mlp.fc2.bias"] = (width,)
            if tower == "featurizer":
                shapes[f"{block}.ls1.scale_factor"] = shapes[f"{block}.ls2.scale_factor"] = (width,)
    shapes["vision_backbone.featurizer.cls_token"] = (1, 1, dino["width"])
    shapes["vision_backbone.featurizer.reg_token"] = (1, 4, dino["width"])
    pool, width, hidden = "vision_backbone.fused_featurizer.attn_pool", siglip["width"], siglip["mlp_width"]
    shapes[f"{pool}.latent"] = (1, 1, width)
    shapes[f"{pool}.q.weight"], shapes[f"{pool}.q.bias"] = (width, width), (width,)
    shapes[f"{pool}.kv.weight"], shapes[f"{pool}.kv.bias"] = (2 * width, width), (2 * width,)
    shapes[f"{pool}.proj.weight"], shapes[f"{pool}.proj.bias"] = (width, width), (width,)
    shapes[f"{pool}.norm.weight"] = shapes[f"{pool}.norm.bias"] = (width,)
    shapes[f"{pool}.mlp.fc1.weight"], shapes[f"{pool}.mlp.fc1.bias"] = (hidden, width), (hidden,)
    shapes[f"{pool}.mlp.fc2.weight"], shapes[f"{pool}.mlp.fc2.bias"] = (width, hidden), (width,)
    vision, model = dino["width"] + siglip["width"], llama["hidden"]
    shapes["projector.fc1.weight"], shapes["projector.fc1.bias"] = (4 * vision, vision), (4 * vision,)
    shapes["projector.fc2.weight"], shapes["projector.fc2.bias"] = (model, 4 * vision), (model,)
    shapes["projector.fc3.weight"], shapes["projector.fc3.bias"] = (model, model), (model,)
    shapes["language_model.model.embed_tokens.weight"] = (llama["vocabulary"], model)
    shapes["language_model.model.norm.weight"] = (model,)
    shapes["language_model.lm_head.weight"] = (llama["vocabulary"], model)
    for i in range(llama["layers"]):
        layer = f"language_model.model.layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            shapes[f"{layer}.self_attn.{name}.weight"] = (model, model)
        shapes[f"{layer}.mlp.gate_proj.weight"] = shapes[f"{layer}.mlp.up_proj.weight"] = (llama["mlp"], model)
        shapes[f"{layer}.mlp.down_proj.weight"] = (model, llama["mlp"])
        shapes[f"{layer}.input_layernorm.weight"] = shapes[f"{layer}.post_attention_layernorm.weight"] = (model,)
    return shapes


def random_tensors(seed=0):
    """A tiny published checkpoint with weights large enough that every part of it shows in the logits."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in published_shapes(DINO, SIGLIP, LLAMA, patches=4).items():
        noise = torch.randn(shape, generator=generator)
        scale = "norm" in name and name.endswith("weight")
        tensors[name] = 1 + 0.2 * noise if scale else noise * (0.5 if len(shape) == 1 else shape[-1] ** -0.5)
    return tensors


def write_checkpoint(directory, tensors, config=TINY_CONFIG):
    """A published checkpoint's files: configuration, weights and tokenizer."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    save_file(tensors, str(directory / "model.safetensors"))
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {word: 100 + i for i, word in enumerate(PROMPT_WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(directory / "tokenizer.json"))


def reference_logits(tensors, pictures, ids):
    """Logits [P + T, V] for one sequence: BOS, patches, ids [T]; pictures uint8 [1, 28, 28, 3]."""
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).double().float() / 255
    imagenet_mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    imagenet_std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    vision = {k.removeprefix("vision_backbone."): v for k, v in tensors.items() if k.startswith("vision_backbone.")}
    dino = _tower(vision, "featurizer", DINO, (pixels - imagenet_mean) / imagenet_std)[:, 5:]
    features = torch.cat([dino, _tower(vision, "fused_featurizer", SIGLIP, pixels * 2 - 1)], dim=2)
    for name in ("fc1", "fc2", "fc3"):
        features = _linear(tensors, f"projector.{name}", features)
        features = F.gelu(features) if name != "fc3" else features
    table = tensors["language_model.model.embed_tokens.weight"]
    x = torch.cat([table[1][None], features[0], table[ids]])
    for i in range(LLAMA["layers"]):
        x = _llama_layer(tensors, f"language_model.model.layers.{i}", x)
    return _rms(x, tensors["language_model.model.norm.weight"]) @ tensors["language_model.lm_head.weight"].T


def _linear(tensors, name, x):
    return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]


def _norm(tensors, name, x):
    return F.layer_norm(x, x.shape[-1:], tensors[f"{name}.weight"], tensors[f"{name}.bias"], eps=1e-6)


def _tower(tensors, tower, size, pixels):
    """The second-to-last block's output, of a vision transformer as timm writes it."""
    x = F.conv2d(pixels, tensors[f"{tower}.patch_embed.proj.weight"], tensors[f"{tower}.patch_embed.proj.bias"], 14)
    x = x.flatten(2).transpose(1, 2) + tensors[f"{tower}.pos_embed"]
    if f"{tower}.cls_token" in tensors:
        x = torch.cat([tensors[f"{tower}.cls_token"], tensors[f"{tower}.reg_token"], x], dim=1)
    for i in range(size["depth"] - 1):
        block = f"{tower}.blocks.{i}"
        qkv = _linear(tensors, f"{block}.attn.qkv", _norm(tensors, f"{block}.norm1", x))
        q, k, v = qkv.reshape(1, x.shape[1], 3, size["heads"], -1).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        attended = _linear(tensors, f"{block}.attn.proj", (weights @ v).transpose(1, 2).flatten(2))
        x = x + attended * tensors.get(f"{block}.ls1.scale_factor", 1)
        hidden = F.gelu(_linear(tensors, f"{block}.mlp.fc1", _norm(tensors, f"{block}.norm2", x)))
        x = x + _linear(tensors, f"{block}.mlp.fc2", hidden) * tensors.get(f"{block}.ls2.scale_factor", 1)
    return x


def _rms(x, weight):
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def _llama_layer(tensors, layer, x):
    length, heads = len(x), LLAMA["heads"]
    normed = _rms(x, tensors[f"{layer}.input_layernorm.weight"])
    q, k, v = (
        (normed @ tensors[f"{layer}.self_attn.{name}_proj.weight"].T).view(length, heads, -1).transpose(0, 1)
        for name in "qkv"
    )
    scores = _rotate(q) @ _rotate(k).transpose(-1, -2) / q.shape[-1] ** 0.5
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    attended = (scores.masked_fill(~causal, -torch.inf).softmax(-1) @ v).transpose(0, 1).flatten(1)
    x = x + attended @ tensors[f"{layer}.self_attn.o_proj.weight"].T
    normed = _rms(x, tensors[f"{layer}.post_attention_layernorm.weight"])
    gate = F.silu(normed @ tensors[f"{layer}.mlp.gate_proj.weight"].T)
    return x + (gate * (normed @ tensors[f"{layer}.mlp.up_proj.weight"].T)) @ tensors[f"{layer}.mlp.down_proj.weight"].T


def _rotate(x):
    """Rotary embedding [H, T, d]: dimension i turns together with dimension i + d / 2, as complex numbers."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[1])[:, None] * 10000.0 ** (-torch.arange(half) / half)
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([turned.real, turned.imag], dim=-1)
