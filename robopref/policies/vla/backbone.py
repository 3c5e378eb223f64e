"""What the VLA policy asks of a vision-language model, whatever its family.

A backbone turns pictures and prompts into one sequence of input embeddings (the prefix), runs its language model over
given embeddings with a given mask, and turns hidden states into logits. Everything else (action tokens, packing, the
reference, decoding) is written once, in terms of these.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from robopref.errors import RoboprefError


@dataclass(frozen=True)
class Prefix:
    """Input embeddings [B, P, D] of pictures and prompts, padded on the right; ``mask`` [B, P] bool marks the real."""

    embeddings: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return len(self.embeddings)


class Backbone(nn.Module, ABC):
    """A vision-language model of one family, reduced to what action tokens need.

    Attributes:
        family: the family's name, as ``policy.json`` and error messages call it.
        bidirectional_prefix: prefix positions see one another, not only the earlier ones (PaliGemma).
        first_position: the position id of the first token (PaliGemma counts from 1).
        usable_vocabulary: how many ids, from 0, may be used: action token t has the id ``usable_vocabulary - t``.
        stop_id: the id of the token that ends an action.
        image_size: pixels a side of the pictures that the model reads; what it gets is resized to it.
        model: the wrapped ``nn.Module``; its parameters are what LoRA adapts.
    """

    family: str
    bidirectional_prefix: bool = False
    first_position: int = 0
    usable_vocabulary: int
    stop_id: int
    image_size: int
    model: Any

    @abstractmethod
    def prefix(self, images: Any, instructions: Sequence[str]) -> Prefix:
        """Images uint8 [B, H, W, 3] (numpy or tensor), or float tensors in [0, 1] through which gradients flow."""

    @abstractmethod
    def embed(self, ids: Tensor) -> Tensor:
        """Vocabulary ids [...] -> input embeddings [..., D], scaled as the family scales them."""

    @abstractmethod
    def hidden(self, embeddings: Tensor, visible: Tensor, positions: Tensor, cache: Any | None = None) -> Tensor:
        """The language model's last hidden states [B, Q, D], after its final norm.

        Args:
            embeddings: [B, Q, D], input embeddings of the new positions.
            visible: bool [B, Q, K], which of the K positions (cached ones first) each query sees.
            positions: [B, Q] position ids.
            cache: a ``transformers`` cache to read and extend, or ``None``.
        """

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., D] -> logits [..., V] over the model's whole vocabulary."""

    def logits_of(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """Hidden states [..., D] -> logits [..., len(ids)] of these vocabulary ids alone."""
        return functional.linear(hidden, self.output_weight[ids])

    @property
    def unused_modules(self) -> tuple[str, ...]:
        """Names of modules of ``model`` whose output nothing depends on; an adapter on them would learn nothing.

        Data-parallel training fails on parameters that never get a gradient.
        """
        return ()

    @property
    def masks_exactly(self) -> bool:
        """Whether attention honours any mask that it is given, which packed suffixes need."""
        return True

    @property
    @abstractmethod
    def output_weight(self) -> Tensor:
        """The output embedding [V, D]: a slice of it gives the logits of the action bins alone."""

    def enable_activation_checkpointing(self) -> None:
        """Recompute activations in the backward pass, in every ``transformers`` model inside.

        Raises:
            RoboprefError: there is none that can.
        """
        models = [m for m in self.model.modules() if getattr(m, "supports_gradient_checkpointing", False)]
        if not models:
            raise RoboprefError(f"the {self.family} model has nothing that could recompute its activations.")
        for model in models:
            model.activation_checkpointing_enable()
