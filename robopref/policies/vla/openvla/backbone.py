"""OpenVLA as a ``Backbone``: its sequence, its language model, its checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from robopref.errors import RoboprefError
from robopref.policies.vla.backbone import Backbone, Prefix
from robopref.policies.vla.images import resize_images
from robopref.policies.vla.json_files import read_object
from robopref.policies.vla.openvla.configuration import BOS_ID, STOP_ID, OpenVLAConfiguration
from robopref.policies.vla.openvla.files import (
    CONFIG,
    check_directory,
    read_tensors,
    weight_files,
    write_directory,
)
from robopref.policies.vla.openvla.layout import published_layout, published_name
from robopref.policies.vla.openvla.network import PrismaticNetwork
from robopref.policies.vla.packing import additive_mask
from robopref.policies.vla.prompt import LLAMA_EMPTY_TOKEN, prompt_for
from robopref.policies.vla.text import TextTokenizer

_SHARD_BYTES = 5_000_000_000
_NAMED = 5  # keys that an error message lists


class OpenVLABackbone(Backbone):
    """BOS, the patches of the picture, then the prompt; every position sees itself and the earlier ones.

    Args:
        configuration: the model's sizes.
        tokenizer: text -> ids without special tokens.

    Raises:
        RoboprefError: see ``OpenVLAConfiguration``.
    """

    family = "openvla"
    stop_id = STOP_ID

    def __init__(self, configuration: OpenVLAConfiguration, tokenizer: Callable[[str], list[int]]) -> None:
        super().__init__()
        self.configuration = configuration
        self.tokenizer = tokenizer
        self.usable_vocabulary = configuration.usable_vocabulary
        self.image_size = configuration.image_size
        self.model: PrismaticNetwork = PrismaticNetwork(configuration)

    def prefix(self, images: Any, instructions: Sequence[str]) -> Prefix:
        """Pictures [B, H, W, 3] and B instructions -> the embedded sequence up to the first action token.

        Raises:
            RoboprefError: as many pictures as instructions are needed; see also ``resize_images``.
        """
        pixels = resize_images(images, self.image_size).to(self.output_weight.device)
        if len(pixels) != len(instructions):
            raise RoboprefError(f"{len(pixels)} images do not go with {len(instructions)} instructions.")
        prompts = [torch.tensor(self.prompt_ids(text), device=pixels.device) for text in instructions]
        ids = pad_sequence(prompts, batch_first=True)
        real = pad_sequence([torch.ones_like(prompt, dtype=torch.bool) for prompt in prompts], batch_first=True)
        text = self.embed(ids)
        patches = self.model.patches(pixels)
        embeddings = torch.cat([text[:, :1], patches, text[:, 1:]], dim=1)
        mask = torch.cat([real[:, :1], real.new_ones(patches.shape[:2]), real[:, 1:]], dim=1)
        return Prefix(embeddings, mask)

    def prompt_ids(self, instruction: str) -> list[int]:
        """The ids of the prompt that OpenVLA was trained with, BOS first; the patches belong right after it."""
        ids = self.tokenizer(prompt_for(instruction))
        # Training prompts went on with a space before the first action token; the published model adds it as well.
        return [BOS_ID, *ids] if ids[-1:] == [LLAMA_EMPTY_TOKEN] else [BOS_ID, *ids, LLAMA_EMPTY_TOKEN]

    def embed(self, ids: Tensor) -> Tensor:
        """Vocabulary ids [...] -> input embeddings [..., D]."""
        embedded: Tensor = self.model.language_model.get_input_embeddings()(ids)
        return embedded

    def hidden(self, embeddings: Tensor, visible: Tensor, positions: Tensor, cache: Any | None = None) -> Tensor:
        """The language model's last hidden states [B, Q, D]; see ``Backbone.hidden``."""
        hidden: Tensor = self.model.language_model.model(
            inputs_embeds=embeddings,
            attention_mask=additive_mask(visible, embeddings.dtype),
            position_ids=positions,
            cache=cache,
            use_cache=cache is not None,
        ).last_hidden_state
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., D] -> logits [..., V]."""
        logits: Tensor = self.model.language_model.lm_head(hidden)
        return logits

    @property
    def output_weight(self) -> Tensor:
        """The output embedding [V, D]."""
        weight: Tensor = self.model.language_model.lm_head.weight
        return weight

    def to_json(self) -> dict[str, Any]:
        """The fields of a published ``config.json``; ``OpenVLAConfiguration.from_json`` reads them."""
        return self.configuration.to_json()

    def to_published_state_dict(self) -> dict[str, Tensor]:
        """The weights under the names and in the shapes of the published checkpoints.

        Raises:
            RoboprefError: the network has other modules than its own, such as adapters that were not merged.
        """
        state = self.model.state_dict()
        try:
            return {name: entry.write(state) for name, entry in published_layout(self.configuration, state).items()}
        except KeyError as error:
            raise RoboprefError(
                f"the network has no {error} of its own: merge adapters into the weights before saving."
            ) from error

    @classmethod
    def from_directory(cls, directory: Path, dtype: torch.dtype = torch.float32) -> OpenVLABackbone:
        """Read a checkpoint in the published layout, file by file, so that the weights are never held twice.

        The backbone is in evaluation mode. The action statistics are read by ``base_models.read_statistics``.

        Raises:
            RoboprefError: no checkpoint, an unsupported architecture or older layout, pickled weights, tensors that
                are missing, unexpected or of a wrong shape, or no ``tokenizer.json``.
        """
        directory = Path(directory)
        check_directory(directory)
        described = read_object(directory / CONFIG, absent=f"{directory} has no {CONFIG}.")
        configuration = OpenVLAConfiguration.from_json(described)
        tokenizer = TextTokenizer.from_directory(directory)
        files = weight_files(directory)
        with init_empty_weights(include_buffers=False):
            backbone = cls(configuration, tokenizer)
        backbone._read_weights(files, dtype)
        return backbone.eval()

    def save_directory(
        self, directory: Path, norm_stats: Mapping[str, Any], max_shard_bytes: int = _SHARD_BYTES
    ) -> None:
        """Write a checkpoint in the published layout, with the action statistics ``norm_stats``.

        Raises:
            RoboprefError: see ``to_published_state_dict``.
        """
        directory = Path(directory)
        described = {**self.to_json(), "norm_stats": dict(norm_stats)}
        write_directory(directory, self.to_published_state_dict(), {CONFIG: described}, max_shard_bytes)
        if isinstance(self.tokenizer, TextTokenizer):
            self.tokenizer.save(directory)

    def _read_weights(self, files: Sequence[Path], dtype: torch.dtype) -> None:
        layout = published_layout(self.configuration, self.model.state_dict())
        shapes = {name: tuple(tensor.shape) for name, tensor in self.to_published_state_dict().items()}
        seen: set[str] = set()
        for path in files:
            ours: dict[str, Tensor] = {}
            for their_name, tensor in read_tensors(path):
                name = published_name(their_name)
                if name not in layout:
                    raise RoboprefError(
                        f"{path} holds the unexpected tensor {their_name!r}: not an OpenVLA checkpoint."
                    )
                if tuple(tensor.shape) != shapes[name]:
                    raise RoboprefError(
                        f"{their_name!r} in {path} has shape {tuple(tensor.shape)}, not {shapes[name]} as its "
                        f"config.json says."
                    )
                # A copy: what safetensors returns is mapped from the file, and would change or crash with it.
                ours |= layout[name].read(tensor.to(dtype, copy=True))
                seen.add(name)
            self.model.load_state_dict(ours, strict=False, assign=True)
        missing = sorted(layout.keys() - seen)
        if missing:
            more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
            raise RoboprefError(
                f"{files[0].parent} lacks the tensors {', '.join(missing[:_NAMED])}{more}: the checkpoint is "
                f"incomplete, download it again."
            )
