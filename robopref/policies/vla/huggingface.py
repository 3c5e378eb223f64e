"""Backbones around ``transformers`` models: LLaVA, PaliGemma and SmolVLM.

The vision tower, the projector and the language model are the library's own modules; only the way from picture and
prompt to input embeddings, and the mask over them, are ours, since action tokens are packed behind the prefix.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from robopref.errors import RoboprefError
from robopref.policies.vla.backbone import Backbone, Prefix
from robopref.policies.vla.image_settings import ImageSettings
from robopref.policies.vla.packing import additive_mask
from robopref.policies.vla.prompt import LLAMA_EMPTY_TOKEN, prompt_for
from robopref.policies.vla.text import TextTokenizer


class HuggingFaceBackbone(Backbone):
    """What the three families have in common.

    Args:
        model: a ``transformers`` model for conditional generation.
        tokenizer: of its text.
        images: how its pictures are resized and normalised.
    """

    def __init__(self, model: Any, tokenizer: TextTokenizer, images: ImageSettings) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.images = images
        self.image_size = images.size
        self.usable_vocabulary = self._usable_vocabulary()
        self.stop_id = self._stop_id()
        self._text_config = model.config.get_text_config()
        self._image_id = int(model.config.image_token_id)

    def prefix(self, images: Any, instructions: Sequence[str]) -> Prefix:
        """See ``Backbone.prefix``.

        Raises:
            RoboprefError: as many pictures as instructions are needed; see also ``resize_images``.
        """
        weight = self.model.get_input_embeddings().weight
        pixels = self.images.prepare(images).to(weight.device, self._vision_dtype())
        if len(pixels) != len(instructions):
            raise RoboprefError(f"{len(pixels)} images do not go with {len(instructions)} instructions.")
        features = self._image_features(pixels)
        rows = [self._prompt_ids(prompt_for(text), features.shape[1]) for text in instructions]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [-1] * (longest - len(row)) for row in rows], device=weight.device)
        mask, pictures = ids >= 0, ids == self._image_id
        # An image id may lie outside the embedding table, and padding always does; both are never looked at.
        embeddings = self.embed(ids.masked_fill(pictures | ~mask, 0))
        embeddings = embeddings.masked_scatter(pictures[..., None], features.to(embeddings.dtype))
        return Prefix(embeddings, mask)

    def embed(self, ids: Tensor) -> Tensor:
        """See ``Backbone.embed``."""
        embeddings: Tensor = self.model.get_input_embeddings()(ids)
        return embeddings

    def hidden(self, embeddings: Tensor, visible: Tensor, positions: Tensor, cache: Any | None = None) -> Tensor:
        """See ``Backbone.hidden``.

        Raises:
            RoboprefError: the sequence is longer than the model's sliding window.
        """
        mask: Any = additive_mask(visible, embeddings.dtype)
        window = getattr(self._text_config, "sliding_window", None)
        if window is not None and "sliding_attention" in getattr(self._text_config, "layer_types", ()):
            if visible.shape[-1] > window:
                raise RoboprefError(
                    f"picture, prompt and actions take {visible.shape[-1]} places, more than the {window} that the "
                    f"model's sliding attention sees: use a shorter instruction or fewer action tokens."
                )
            mask = {"full_attention": mask, "sliding_attention": mask}
        output = self._language_model()(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions,
            cache=cache,
            use_cache=cache is not None,
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """See ``Backbone.logits``."""
        return self._capped(self.model.get_output_embeddings()(hidden))

    def logits_of(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """See ``Backbone.logits_of``."""
        return self._capped(super().logits_of(hidden, ids))

    @property
    def masks_exactly(self) -> bool:
        """Flash attention knows causal masks only; see ``Backbone.masks_exactly``."""
        return self._text_config._attn_implementation in ("eager", "sdpa")

    def _capped(self, logits: Tensor) -> Tensor:
        """Soft capping as Gemma 2 does it; the identity for the others."""
        cap = getattr(self._text_config, "final_logit_softcapping", None)
        return logits if cap is None else cap * torch.tanh(logits / cap)

    @property
    def output_weight(self) -> Tensor:
        """See ``Backbone.output_weight``."""
        weight: Tensor = self.model.get_output_embeddings().weight
        return weight

    def _language_model(self) -> nn.Module:
        language_model: nn.Module = self.model.model.language_model
        return language_model

    def _vision_dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    def _usable_vocabulary(self) -> int:
        """Action tokens go below everything that was added to the tokenizer: the last ids that mean text."""
        return self.tokenizer.base_size

    def _stop_id(self) -> int:
        stop = self.model.config.get_text_config().eos_token_id
        return int(stop[0] if isinstance(stop, list | tuple) else stop)

    def _image_features(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, S, S] -> features [B, patches, D] as the language model takes them."""
        features = self.model.get_image_features(pixels).pooler_output
        return torch.stack(list(features)) if isinstance(features, list | tuple) else features

    @abstractmethod
    def _prompt_ids(self, prompt: str, patches: int) -> list[int]:
        """The prefix as ids, with the image id at the places of the picture's features."""


class LlavaBackbone(HuggingFaceBackbone):
    """LLaVA: a SigLIP or CLIP tower, a two-layer projector, a Llama; the picture right after the first token."""

    family = "llava"

    @property
    def unused_modules(self) -> tuple[str, ...]:
        """The pooling head, and the layers behind the one whose features are taken; see ``Backbone``."""
        chosen = self.model.config.vision_feature_layer
        layers = self.model.config.vision_config.num_hidden_layers
        # Counted over hidden states, of which there is one before the first layer.
        last = max(i % (layers + 1) for i in ([chosen] if isinstance(chosen, int) else chosen))
        behind = (f"model.vision_tower.encoder.layers.{i}" for i in range(last, layers))
        return ("model.vision_tower.head", *behind)

    def _prompt_ids(self, prompt: str, patches: int) -> list[int]:
        begin = self._text_config.bos_token_id
        ids = [] if begin is None else [int(begin)]
        ids += [self._image_id] * patches + self.tokenizer(prompt)
        if self._text_config.model_type == "llama" and self.usable_vocabulary > LLAMA_EMPTY_TOKEN:
            ids += [LLAMA_EMPTY_TOKEN] if ids[-1] != LLAMA_EMPTY_TOKEN else []
        return ids


class PaliGemmaBackbone(HuggingFaceBackbone):
    """PaliGemma 1 and 2: a SigLIP tower and a Gemma whose prefix is bidirectional and whose positions begin at 1.

    Its vocabulary ends in 1024 location tokens and 128 segmentation tokens; the actions take the last locations.
    """

    family = "paligemma"
    bidirectional_prefix = True
    first_position = 1

    @property
    def unused_modules(self) -> tuple[str, ...]:
        """SigLIP's pooling head; see ``Backbone``."""
        return ("model.vision_tower.head",)

    def _usable_vocabulary(self) -> int:
        first_segmentation = self.tokenizer.id_of("<seg000>")
        return super()._usable_vocabulary() if first_segmentation is None else first_segmentation

    def _prompt_ids(self, prompt: str, patches: int) -> list[int]:
        begin = int(self._text_config.bos_token_id)
        # The processor's layout: pictures, beginning of sequence, prompt, and a line end as separator.
        return [self._image_id] * patches + [begin] + self.tokenizer(prompt + "\n")


class SmolVLMBackbone(HuggingFaceBackbone):
    """SmolVLM: a SigLIP tower, pixel shuffle, a SmolLM2; the picture whole, not split into tiles."""

    family = "smolvlm"

    def _language_model(self) -> nn.Module:
        language_model: nn.Module = self.model.model.text_model
        return language_model

    def _image_features(self, pixels: Tensor) -> Tensor:
        return super()._image_features(pixels[:, None])  # one picture a sample

    def _stop_id(self) -> int:
        end = self.tokenizer.id_of("<end_of_utterance>")
        return super()._stop_id() if end is None else end

    def _prompt_ids(self, prompt: str, patches: int) -> list[int]:
        # The chat template's layout for one user turn with one picture.
        around = self.tokenizer.require("<fake_token_around_image>")
        head = [*self.tokenizer("<|im_start|>User:"), around, self.tokenizer.require("<global-img>")]
        return [
            *head,
            *[self._image_id] * patches,
            around,
            *self.tokenizer(prompt + "<end_of_utterance>\nAssistant:"),
        ]


FAMILIES: dict[str, type[HuggingFaceBackbone]] = {
    "llava": LlavaBackbone,
    "paligemma": PaliGemmaBackbone,
    "smolvlm": SmolVLMBackbone,
}
"""By the ``model_type`` of a checkpoint's ``config.json``."""
