"""The compact VLA: a few million parameters, trains on two CPU cores, speaks the ``TokenPolicy`` protocol."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robopref.errors import RoboprefError
from robopref.policies.action_plan import ActsInChunks
from robopref.policies.checkpoint import PolicyDescription, read_checkpoint, write_checkpoint
from robopref.policies.compact_network import CompactArchitecture, CompactNetwork
from robopref.policies.instruction import hashed_words
from robopref.policies.normalization import NormStats
from robopref.policies.tokenizer import ActionTokenizer
from robopref.policies.tokenizer_loading import tokenizer_from_json
from robopref.protocols import ChunkTokenizer
from robopref.token_logps import token_logps

KIND = "compact"
_BRIGHTEST = 10.0  # pixels in [0, 1] with any sensible noise stay below, pixels in 0..255 do not


@dataclass(frozen=True)
class EncodedBatch:
    """Fused features [B, width] of observations and instructions."""

    features: Tensor


class CompactPolicy(ActsInChunks, nn.Module):
    """Observation (image and proprioception, or state) and instruction -> action tokens of one action or a chunk.

    Args:
        architecture: sizes of the network.
        norm_stats: normalisation of the actions.
        tokenizer: of actions or chunks of H; default: one token per action dimension.
        tasks: task names and instructions, for those who read the checkpoint.
        execute_steps: how many actions of each chunk are executed before the next inference; default: all H.
        instruction_suffix: text that is read behind every instruction.

    Raises:
        RoboprefError: the tokenizer or the normalisation do not fit the architecture, or ``execute_steps`` the chunk.
    """

    def __init__(
        self,
        architecture: CompactArchitecture,
        norm_stats: NormStats,
        tokenizer: ChunkTokenizer | None = None,
        tasks: Mapping[str, str] | None = None,
        execute_steps: int | None = None,
        instruction_suffix: str = "",
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.norm_stats = norm_stats
        self.tokenizer: ChunkTokenizer = tokenizer or ActionTokenizer(bins=architecture.bins)
        self.tasks = dict(tasks or {})
        self.instruction_suffix = instruction_suffix
        if len(norm_stats) != architecture.action_size or self.tokenizer.bins != architecture.bins:
            raise RoboprefError(
                f"normalisation over {len(norm_stats)} action dimensions and {self.tokenizer.bins} bins do not fit a "
                f"policy of {architecture.action_size} dimensions and {architecture.bins} bins."
            )
        self._plan_to_execute(execute_steps)
        self.network = CompactNetwork(
            architecture, self.tokenizer.action_tokens(architecture.action_size), self.tokenizer.variable_length
        )
        # Kept out of the module tree: a reference is neither trained, nor saved, nor moved to other ranks.
        self.__dict__["_reference"] = None
        self.__dict__["_in_reference"] = False

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.head_bias.device

    @property
    def _active(self) -> CompactNetwork:
        network: CompactNetwork = self.__dict__["_reference"] if self.__dict__["_in_reference"] else self.network
        return network

    @property
    def observation_keys(self) -> tuple[str, ...]:
        """The observation keys that the policy reads."""
        return self.architecture.inputs

    def forward(self, observations: Mapping[str, Any], instructions: Sequence[str], tokens: Tensor) -> Tensor:
        """Teacher-forced logits [B, T, bins], as ``action_logits``."""
        return self.action_logits(self.encode(observations, instructions), tokens)

    def encode(self, observations: Mapping[str, Any], instructions: Sequence[str]) -> EncodedBatch:
        """Stacked observations [B, ...] and B instructions -> features; gradients flow outside ``reference()``.

        Images are uint8, or float tensors in [0, 1] for whoever wants the gradient with respect to their pixels.

        Raises:
            RoboprefError: an observation is missing, of the wrong shape or not finite.
        """
        arch = self.architecture
        tensors = {name: self._checked(name, observations, len(instructions)) for name in arch.inputs}
        texts = [text + self.instruction_suffix for text in instructions]
        words = torch.tensor(
            [hashed_words(text, arch.word_buckets, arch.max_words) for text in texts], device=self.device
        )
        return EncodedBatch(self._active.encode(tensors, words))

    def action_logits(self, batch: EncodedBatch, action_tokens: Tensor) -> Tensor:
        """Teacher-forced logits [B, T, bins] for tokens [B, T] in 0..bins, or for the first of them [B, t].

        With a tokenizer of variable length [B, T, bins + 1]: the last class stops.
        """
        return self._active.logits(batch.features, action_tokens.to(self.device))

    def action_logps(self, batch: EncodedBatch, action_tokens: Tensor) -> Tensor:
        """Log-probabilities [B, T + 1] of the tokens [B, T], 0 where a token is 0.

        The last column is the stop's where the number of tokens varies, else it is zero: there is no stop token.
        """
        return token_logps(self.action_logits(batch, action_tokens), action_tokens.to(self.device), self.tokenizer.bins)

    def _greedy_tokens(self, observations: Mapping[str, Any], instructions: Sequence[str]) -> Tensor:
        return self._active.greedy(self.encode(observations, instructions).features)

    def freeze_reference(self) -> None:
        """Make the present weights the reference."""
        self.__dict__["_reference"] = copy.deepcopy(self.network).eval().requires_grad_(False)

    def begin_anew(self, observations: Mapping[str, NDArray[Any]], seed: int) -> None:
        """Make the present weights the reference, and go on from fresh ones, normalised by observations [N, ...].

        Actions keep their normalisation and tokens, so that both policies speak of the same actions.
        """
        self.freeze_reference()
        torch.manual_seed(seed)
        tokens = self.tokenizer.action_tokens(self.architecture.action_size)
        self.network = CompactNetwork(self.architecture, tokens, self.tokenizer.variable_length).to(self.device)
        _fit_statistics(self.network, observations)

    def drop_reference(self) -> None:
        """Free the frozen reference: for trainers that have all of its answers."""
        self.__dict__["_reference"] = None

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Inside it the policy answers as the frozen reference does, without gradients.

        Raises:
            RoboprefError: no reference was frozen.
        """
        if self.__dict__["_reference"] is None:
            raise RoboprefError("the policy has no reference yet: call freeze_reference() before refining.")
        self.__dict__["_reference"].to(self.device)
        self.__dict__["_in_reference"] = True
        try:
            with torch.no_grad():
                yield
        finally:
            self.__dict__["_in_reference"] = False

    def save(self, directory: Path) -> None:
        """Write the checkpoint directory: ``policy.json`` and ``policy.safetensors``."""
        description = PolicyDescription(
            kind=KIND,
            architecture=asdict(self.architecture),
            normalization=self.norm_stats.to_json(),
            tokenizer=self.tokenizer.to_json(),
            tasks=self.tasks,
            instruction_suffix=self.instruction_suffix,
        )
        write_checkpoint(Path(directory), description, self.network.state_dict())

    @classmethod
    def load(cls, directory: Path) -> CompactPolicy:
        """Read a checkpoint that ``save`` wrote; executes no code from it.

        Raises:
            RoboprefError: the directory is no such checkpoint, its description is damaged or of another version, or
                its tensors do not fit.
        """
        description, tensors = read_checkpoint(Path(directory))
        if description.kind != KIND:
            raise RoboprefError(f"{directory} holds a policy of kind {description.kind!r}, not {KIND!r}.")
        try:
            policy = cls(
                CompactArchitecture(**description.architecture),
                NormStats.from_json(description.normalization),
                tokenizer_from_json(description.tokenizer),
                description.tasks,
                instruction_suffix=description.instruction_suffix,
            )
        except Exception as error:  # other things than ours in the file may fail anywhere in building the network
            reason = error if isinstance(error, RoboprefError) else repr(error)
            raise RoboprefError(
                f"{Path(directory) / 'policy.json'} is damaged or of another version ({reason}): copy the checkpoint "
                f"again, or use the robopref that wrote it."
            ) from error
        try:
            policy.network.load_state_dict(tensors)
        except RuntimeError as error:
            raise RoboprefError(f"the weights in {directory} do not fit its policy.json: {error}") from error
        return policy.eval()

    def _checked(self, name: str, observations: Mapping[str, Any], batch: int) -> Tensor:
        arch = self.architecture
        if name not in observations:
            raise RoboprefError(
                f"the policy reads the observation {name!r}, which is not among {sorted(observations)}: "
                f"run the task with it, or use a policy that reads what there is."
            )
        values = torch.as_tensor(observations[name])
        expected = {
            "image": (arch.image_size, arch.image_size, 3),
            "proprio": (arch.proprio_size,),
            "state": (arch.state_size,),
        }[name]
        if tuple(values.shape) != (batch, *expected):
            raise RoboprefError(
                f"observation {name!r} has shape {tuple(values.shape)}; the policy expects {(batch, *expected)}"
                + (" (pixels uint8, channels last)." if name == "image" else ".")
            )
        if name == "image" and values.dtype != torch.uint8:
            _check_float_image(observations[name])
        if name != "image" and not torch.isfinite(values).all():
            raise RoboprefError(f"observation {name!r} holds NaN or infinity.")
        return values.to(self.device)


def _check_float_image(image: Any) -> None:
    """Recorded images are uint8; a float tensor is what somebody differentiates through, noise on it included."""
    if not (isinstance(image, Tensor) and image.is_floating_point()):
        kind = image.dtype if hasattr(image, "dtype") else type(image).__name__
        raise RoboprefError(f"images are uint8 in 0..255 (or float tensors in [0, 1]), got an array of {kind}.")
    if not bool((image.abs() < _BRIGHTEST).all()):
        raise RoboprefError("float images lie in [0, 1]; these hold larger values or NaN: divide by 255.")


def build_compact_policy(
    inputs: Sequence[str],
    observations: Mapping[str, NDArray[Any]],
    actions: NDArray[Any],
    tasks: Mapping[str, str],
    seed: int,
    width: int = 256,
    tokenizer: ChunkTokenizer | None = None,
) -> CompactPolicy:
    """A fresh policy sized and normalised by data: observations [N, ...] under the keys ``inputs``, actions [N, A].

    ``tokenizer`` is of actions normalised by ``NormStats.from_actions(actions)``; default: 256 bins per dimension.

    Raises:
        RoboprefError: images that are not square.
    """
    sizes: dict[str, Any] = {}
    if "image" in inputs:
        height, width_pixels = observations["image"].shape[1:3]
        if height != width_pixels:
            raise RoboprefError(f"the compact policy reads square images, got {height} x {width_pixels}.")
        sizes["image_size"] = int(height)
    for name in ("proprio", "state"):
        if name in inputs:
            sizes[f"{name}_size"] = int(observations[name].shape[1])
    torch.manual_seed(seed)
    tokenizer = tokenizer or ActionTokenizer()
    architecture = CompactArchitecture(
        inputs=tuple(inputs), action_size=actions.shape[1], bins=tokenizer.bins, width=width, **sizes
    )
    policy = CompactPolicy(architecture, NormStats.from_actions(actions), tokenizer, tasks)
    _fit_statistics(policy.network, observations)
    return policy


def untrained_copy(
    policy: CompactPolicy, observations: Mapping[str, NDArray[Any]], actions: NDArray[Any], seed: int
) -> CompactPolicy:
    """A policy of the same architecture with fresh weights, normalised by observations [N, ...] and actions [N, A].

    Which action dimensions are normalised stays as it was.
    """
    torch.manual_seed(seed)
    fresh = CompactPolicy(
        policy.architecture, NormStats.from_actions(actions, policy.norm_stats.mask), policy.tokenizer, policy.tasks
    )
    _fit_statistics(fresh.network, observations)
    return fresh


def _fit_statistics(network: CompactNetwork, observations: Mapping[str, NDArray[Any]]) -> None:
    """Standardise by the observations [N, ...] what the network reads as vectors."""
    vectors = [torch.as_tensor(observations[name]) for name in network.vector_inputs]
    if vectors:
        network.fit_vector_statistics(vectors)
