"""How a full-size vision-language-action model is loaded; nothing of this concerns other policies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from robopref.errors import RoboprefError


@dataclass(frozen=True)
class VLAOptions:
    """Options of policies that are vision-language-action models (a hub id, a Hugging Face directory, an adapter)."""

    adapter: str | None = None
    """A LoRA adapter on top of --policy: a directory that `robopref train` or PEFT wrote, or a hub id."""
    norm_key: str | None = None
    """The data set whose action statistics to use, where the model brings several."""
    weights: Literal["auto", "fp32", "bf16", "4bit"] = "auto"
    """How the base weights are held: auto is bf16 on a GPU and fp32 on a CPU; 4bit (NF4) needs bitsandbytes."""


PLAIN = VLAOptions()
"""The model as it is."""


@dataclass(frozen=True)
class LoraOptions:
    """The LoRA adapter that is trained on a vision-language-action model; others train all their weights.

    By default that of OpenVLA's fine-tuning: rank 32, alpha 16, no dropout.
    """

    lora_rank: int = 32
    lora_alpha: float = 16
    lora_dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.lora_rank < 1 or self.lora_alpha <= 0 or not 0 <= self.lora_dropout < 1:
            raise RoboprefError(
                f"LoRA needs a rank of at least 1, a positive alpha and a dropout in [0, 1), got {self.lora_rank}, "
                f"{self.lora_alpha:g} and {self.lora_dropout:g}."
            )


DEFAULT_LORA = LoraOptions()
"""As OpenVLA's fine-tuning has it."""
