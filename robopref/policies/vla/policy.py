"""A vision-language model that writes actions as tokens: the ``TokenPolicy`` around any ``Backbone``."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robopref.errors import RoboprefError
from robopref.policies.action_plan import ActsInChunks
from robopref.policies.normalization import NormStats
from robopref.policies.tokenizer import ActionTokenizer
from robopref.policies.vla import adapters
from robopref.policies.vla.backbone import Backbone, Prefix
from robopref.policies.vla.description import BaseModel, Normalization, VLADescription, write_vla_checkpoint
from robopref.policies.vla.options import DEFAULT_LORA, LoraOptions
from robopref.policies.vla.packing import pack
from robopref.protocols import ChunkTokenizer, Scores
from robopref.token_logps import token_logps, tokens_of_classes


class HFVLAPolicy(ActsInChunks, nn.Module):
    """Picture and instruction -> action tokens, in the last usable ids of a language model's vocabulary.

    Args:
        backbone: the vision-language model.
        norm_stats: of the actions.
        tokenizer: of actions or chunks of H; token t has the id ``backbone.usable_vocabulary - t``.
        base: which model the backbone's weights are, for the checkpoint of an adapter.
        tasks: instruction of each task that the policy was trained on.
        execute_steps: how many actions of each chunk are executed before the next inference; default: all H.
        normalize_over: what the log-probabilities sum to one over: the action bins, which is what ``act`` chooses from,
            or the whole vocabulary with the stop token in the last column, as the public trainers have it.
        instruction_suffix: text that is read behind every instruction.
        recorded_image_size: pixels a side of the pictures that it learned from, before they were resized; where it is
            known, tasks are rendered at that size for it.

    Raises:
        RoboprefError: the vocabulary is too small for the tokens, the tokenizer is of actions of another size, or
            ``execute_steps`` exceeds the chunk.
    """

    action_ids: Tensor
    choice_ids: Tensor

    def __init__(
        self,
        backbone: Backbone,
        norm_stats: NormStats,
        base: BaseModel,
        tokenizer: ChunkTokenizer | None = None,
        tasks: Mapping[str, str] | None = None,
        execute_steps: int | None = None,
        normalize_over: Normalization = "actions",
        instruction_suffix: str = "",
        recorded_image_size: int | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.norm_stats = norm_stats
        self.tokenizer: ChunkTokenizer = tokenizer or ActionTokenizer()
        self.base = base
        self.tasks = dict(tasks or {})
        self.normalize_over = normalize_over
        self.instruction_suffix = instruction_suffix
        self.recorded_image_size = recorded_image_size
        check_vocabulary(backbone, self.tokenizer.bins)
        self._plan_to_execute(execute_steps)
        self.action_tokens = self.tokenizer.action_tokens(len(norm_stats))
        ids = backbone.usable_vocabulary - torch.arange(1, self.tokenizer.bins + 1)
        self.register_buffer("action_ids", ids, persistent=False)
        stop = ids.new_tensor([backbone.stop_id] if self.tokenizer.variable_length else [])
        self.register_buffer("choice_ids", torch.cat([ids, stop]), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.backbone.output_weight.device

    @property
    def image_size(self) -> int:
        """Pixels a side of the pictures that the model reads; others are resized to it."""
        return self.backbone.image_size

    @property
    def observation_keys(self) -> tuple[str, ...]:
        """The observation keys that the policy reads."""
        return ("image",)

    def forward(self, observations: Mapping[str, Any], instructions: Sequence[str], tokens: Tensor) -> Tensor:
        """Teacher-forced logits, as ``action_logits``."""
        return self.action_logits(self.encode(observations, instructions), tokens)

    def encode(self, observations: Mapping[str, Any], instructions: Sequence[str]) -> Prefix:
        """Stacked observations [B, ...] and B instructions -> input embeddings of pictures and prompts.

        Raises:
            RoboprefError: there is no image among the observations.
        """
        if "image" not in observations:
            raise RoboprefError(
                f"the policy reads the observation 'image', which is not among {sorted(observations)}: run the task "
                f"with it, or use a policy that reads what there is."
            )
        return self.backbone.prefix(observations["image"], [text + self.instruction_suffix for text in instructions])

    def action_logits(self, batch: Prefix, action_tokens: Tensor) -> Tensor:
        """Teacher-forced logits [B, T, bins] for tokens [B, T] in 0..bins.

        With a tokenizer of variable length [B, T, bins + 1]: the last class stops.
        """
        return self.score(batch, action_tokens, None).logits

    def action_logps(self, batch: Prefix, action_tokens: Tensor) -> Tensor:
        """Log-probabilities [B, T + 1] of the tokens [B, T], 0 where a token is 0.

        The last column is the stop token's: where the number of tokens varies, or where the log-probabilities are over
        the whole vocabulary and no action of the chunk is missing. Else it is zero: there is nothing to stop.
        """
        return self.score(batch, action_tokens, None).logps

    def score(self, batch: Prefix, action_tokens: Tensor, second_tokens: Tensor | None) -> Scores:
        """Both actions after one prefix, packed, where the attention honours the mask; else in two passes."""
        actions = [action_tokens] if second_tokens is None else [action_tokens, second_tokens]
        tokens = torch.stack([action.to(self.device) for action in actions], dim=1)
        if len(actions) == 1 or self.backbone.masks_exactly:
            hidden = self._teacher_forced(batch, tokens)
        else:
            warnings.warn(
                f"the attention of this {self.backbone.family} model cannot keep two actions apart, so each gets a "
                f"forward pass of its own: load it with sdpa or eager attention to save one.",
                stacklevel=2,
            )
            hidden = torch.cat([self._teacher_forced(batch, tokens[:, i : i + 1]) for i in range(len(actions))], dim=1)
        logps, logits = self._log_probabilities(hidden, tokens)
        return Scores(logps[:, 0], None if second_tokens is None else logps[:, 1], logits[:, 0])

    def _greedy_tokens(self, observations: Mapping[str, Any], instructions: Sequence[str]) -> Tensor:
        return self.greedy_tokens(self.encode(observations, instructions))

    @torch.no_grad()
    def greedy_tokens(self, batch: Prefix) -> Tensor:
        """The greedy action tokens [B, T], 0 from a stop on: one pass over the prefix, then a token at a time."""
        from transformers import DynamicCache

        backbone = self.backbone
        cache = DynamicCache()
        layout = self._pack(batch, 1, 0)
        hidden = backbone.hidden(batch.embeddings, layout.visible, layout.positions, cache)
        rows = torch.arange(len(batch), device=hidden.device)
        hidden = hidden[rows, layout.predictors[:, 0, 0]]
        seen = batch.mask
        position = layout.positions[rows, layout.predictors[:, 0, 0]]
        tokens = torch.zeros(len(batch), self.action_tokens, dtype=torch.int64, device=hidden.device)
        going = torch.ones(len(batch), dtype=torch.bool, device=hidden.device)
        for place in range(self.action_tokens):
            classes = backbone.logits_of(hidden, self.choice_ids).argmax(dim=-1)
            tokens[:, place] = torch.where(going, tokens_of_classes(classes, self.tokenizer.bins), 0)
            going = tokens[:, place] > 0
            if place == self.action_tokens - 1 or not bool(going.any()):
                break
            seen = torch.cat([seen, seen.new_ones(len(seen), 1)], dim=1)
            position = position + 1
            step = backbone.embed(self._ids(tokens[:, place]))[:, None]
            hidden = backbone.hidden(step, seen[:, None], position[:, None], cache)[:, 0]
        return tokens

    def add_adapter(self, settings: LoraOptions) -> None:
        """Train a LoRA adapter on every linear layer from now on, and nothing else; keeps one that is there.

        Raises:
            RoboprefError: one is there, and other settings than the usual ones are asked for.
        """
        self.check_adapter(settings)
        if not adapters.has_adapter(self.backbone.model):
            adapters.add_adapter(self.backbone.model, settings, self.backbone.unused_modules)

    def check_adapter(self, settings: LoraOptions) -> None:
        """See that ``add_adapter`` can be had with these settings.

        Raises:
            RoboprefError: as there.
        """
        if not adapters.has_adapter(self.backbone.model):
            return
        own = adapters.settings_of(self.backbone.model)
        if settings not in (own, DEFAULT_LORA):
            raise RoboprefError(
                f"the policy brings an adapter of rank {own.lora_rank}, alpha {own.lora_alpha:g} and dropout "
                f"{own.lora_dropout:g}, which training goes on with: leave the settings of a new one (--lora-*) out."
            )

    def freeze_reference(self) -> None:
        """Make the present weights the reference: a frozen copy of the adapter, or the base where none was trained.

        Raises:
            RoboprefError: there is no adapter, so training would change the base weights, the reference's own.
        """
        model = self.backbone.model
        if not adapters.has_adapter(model):
            raise RoboprefError("the policy has no adapter to train: call add_adapter() before refining.")
        adapters.copy_adapter(model, adapters.TRAINED, adapters.REFERENCE)
        adapters.freeze_unused(model, self.backbone.unused_modules)

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Inside it the policy answers as the frozen reference does: without gradients, without dropout.

        Raises:
            RoboprefError: no reference was frozen.
        """
        if not adapters.has_adapter(self.backbone.model, adapters.REFERENCE):
            raise RoboprefError("the policy has no reference yet: call freeze_reference() before refining.")
        training = [(module, module.training) for module in self.modules()]
        try:
            self.eval()
            with adapters.answering_as(self.backbone.model, adapters.REFERENCE), torch.no_grad():
                yield
        finally:
            for module, flag in training:
                module.training = flag

    def enable_activation_checkpointing(self) -> None:
        """Recompute activations in the backward pass instead of keeping them: less memory, a third more time."""
        self.backbone.enable_activation_checkpointing()

    def save(self, directory: Path) -> None:
        """Write the adapter with what belongs to it; the base is named, not copied.

        Raises:
            RoboprefError: there is no adapter: nothing was trained.
        """
        if not adapters.has_adapter(self.backbone.model):
            raise RoboprefError("the policy has no adapter, so there is nothing to save: its base has not changed.")
        write_vla_checkpoint(
            Path(directory),
            VLADescription(self.base, self.backbone.family, self.normalize_over, self.recorded_image_size),
            self.norm_stats.to_json(),
            self.tokenizer.to_json(),
            self.tasks,
            lambda staging: adapters.save_adapter(self.backbone.model, staging, self.base.name),
            self.instruction_suffix,
        )

    def _pack(self, batch: Prefix, suffixes: int, length: int) -> Any:
        return pack(
            batch.mask,
            suffixes,
            length,
            bidirectional_prefix=self.backbone.bidirectional_prefix,
            first_position=self.backbone.first_position,
        )

    def _ids(self, tokens: Tensor) -> Tensor:
        """Vocabulary ids of tokens, the stop token's where there is none."""
        return torch.where(tokens > 0, self.backbone.usable_vocabulary - tokens, self.backbone.stop_id)

    def _teacher_forced(self, batch: Prefix, tokens: Tensor) -> Tensor:
        """Tokens [B, k, T] -> the hidden states that predict them [B, k, T, D], and what follows them [B, k, T + 1, D].

        What follows matters over the whole vocabulary only; else the last token need not be read, only predicted.
        """
        inputs = tokens if self.normalize_over == "vocabulary" else tokens[..., :-1]
        size, suffixes, length = inputs.shape
        layout = self._pack(batch, suffixes, length)
        suffix = self.backbone.embed(self._ids(inputs.reshape(size, -1)))
        hidden = self.backbone.hidden(
            torch.cat([batch.embeddings, suffix.to(batch.embeddings.dtype)], dim=1), layout.visible, layout.positions
        )
        rows = torch.arange(size, device=hidden.device)[:, None, None]
        return hidden[rows, layout.predictors]

    def _log_probabilities(self, hidden: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Of tokens [B, k, T]: log-probabilities [B, k, T + 1], and the logits [B, k, T, classes] to choose by."""
        if self.normalize_over == "actions":
            logits = self.backbone.logits_of(hidden, self.choice_ids).float()
            logps = token_logps(logits.flatten(0, 1), tokens.flatten(0, 1), self.tokenizer.bins)
            return logps.unflatten(0, tokens.shape[:2]), logits
        logits = self.backbone.logits(hidden).float()
        total = logits.logsumexp(dim=-1)
        present = tokens > 0
        own = logits[..., :-1, :].gather(-1, self._ids(tokens).unsqueeze(-1)).squeeze(-1) - total[..., :-1]
        count = present.sum(dim=-1, keepdim=True)
        stop = (logits[..., self.backbone.stop_id] - total).gather(-1, count)
        if not self.tokenizer.variable_length:  # a chunk that was cut short did not end there by itself
            stop = torch.where(count == tokens.shape[-1], stop, 0.0)
        return torch.cat([torch.where(present, own, 0.0), stop], dim=-1), logits[..., :-1, :][..., self.choice_ids]


def check_vocabulary(backbone: Backbone, bins: int) -> None:
    """See that the usable vocabulary holds the action tokens and leaves some text.

    Raises:
        RoboprefError: it does not.
    """
    if bins >= backbone.usable_vocabulary:
        raise RoboprefError(
            f"the {backbone.family} model has {backbone.usable_vocabulary} usable vocabulary entries, too few for "
            f"{bins} action bins beside its text: use fewer bins or a model with a larger vocabulary."
        )
