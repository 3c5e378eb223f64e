"""Base weights in 4 bits (NF4 with double quantisation, as QLoRA, Dettmers et al. 2023), by bitsandbytes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from robopref.policies.vla.requirements import require


def quantize_linear_layers(model: Any, compute_dtype: torch.dtype) -> int:
    """Replace every linear layer but the output embedding by a 4-bit one; returns how many.

    The weights are quantised when the model is next moved to a device with ``.to(device)``.
    """
    bitsandbytes = require("bitsandbytes")
    output = model.get_output_embeddings()
    # Not the subclass that torch's attention holds: it uses the weight itself, and would meet packed bytes.
    layers = [(n, m) for n, m in model.named_modules() if type(m) is nn.Linear and m is not output]
    for name, module in layers:
        parent_name, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent_name), child, _quantized(bitsandbytes, module, compute_dtype))
    return len(layers)


def _quantized(bitsandbytes: Any, layer: nn.Linear, compute_dtype: torch.dtype) -> Any:
    quantized: Any = bitsandbytes.nn.Linear4bit(
        layer.in_features,
        layer.out_features,
        bias=layer.bias is not None,
        compute_dtype=compute_dtype,
        compress_statistics=True,
        quant_type="nf4",
    )
    # On such CPUs a layer that ran once in evaluation is repacked for good, and no gradient passes it any more: the
    # reference's pass would end training (bitsandbytes 0.50).
    quantized.support_avx512bf16_for_cpu = False
    quantized.weight = bitsandbytes.nn.Params4bit(
        layer.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4"
    )
    if layer.bias is not None:
        quantized.bias = layer.bias
    return quantized
