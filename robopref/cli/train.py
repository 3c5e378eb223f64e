"""``robopref train``: behaviour-clone a base policy, or an adapter on one, from demonstrations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from robopref.cli.console import console
from robopref.cli.episodes import recorded_image_size
from robopref.cli.run_directory import start_run, write_json
from robopref.cli.smoothing import check_smoothing, default_smoothing
from robopref.errors import RoboprefError
from robopref.policies.vla.options import DEFAULT_LORA, PLAIN, LoraOptions, VLAOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from robopref.cli.fitting import LoadedData
    from robopref.policies.compact import CompactPolicy
    from robopref.policies.normalization import NormStats
    from robopref.policies.vla.policy import HFVLAPolicy
    from robopref.protocols import ChunkTokenizer

INPUTS = {"image": ("image", "proprio"), "state": ("state",)}
"""Observation keys of the two compact policies."""


@dataclass(frozen=True)
class Train:
    """Behaviour-clone a compact policy, or a LoRA adapter on a vision-language-action model (token cross-entropy)."""

    demos: tuple[Path, ...]
    """Data directories of demonstrations."""
    out: Path
    """Where the policy, its training curve and its state go."""
    inputs: Literal["image", "state"] = "image"
    """What the compact policy sees: camera image and proprioception, or the privileged state."""
    steps: int = 1000
    batch_size: int = 128
    """Samples per optimiser step, of all processes together."""
    micro_batch_size: int | None = None
    """Samples per forward pass of a process; unset takes its whole part of the batch. The gradient is the same."""
    learning_rate: float = 1e-3
    image_shift: int = 4
    """Largest random shift of the training images, pixels."""
    action_smoothing: float | None = None
    """Standard deviation of the normal distribution around each recorded action that is learned in its place, in
    normalised units (an action's range is 2); 0: the recorded action's own bin. Unset takes 0.03 for a compact policy
    without images, 0 for every other."""
    width: int = 256
    """Width of the policy's layers."""
    chunk: int = 1
    """Actions per inference, executed one after the other before the policy looks again (docs/action_chunks.md)."""
    tokens: Literal["binned", "fast"] = "binned"
    """One token per action and dimension; or chunks compressed by DCT and byte-pair encoding (FAST), fitted to the
    demonstrations."""
    fast_vocabulary: int = 1024
    """Of fast: the most tokens that there may be."""
    fast_scale: float = 10.0
    """Of fast: steps per unit of a coefficient; larger is finer, and takes more tokens."""
    compile: bool = False
    """Compile the forward passes (torch.compile)."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass, for policies that can: less memory, more time."""
    device: Literal["auto", "cpu"] = "auto"
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    seed: int = 0
    resume: bool = False
    """Go on with an interrupted run."""
    policy: str | None = None
    """A vision-language-action model (hub id, directory, or an adapter's checkpoint to go on from, with its statistics
    and action tokens) to train an adapter on, instead of a compact policy."""
    vla: Annotated[VLAOptions, tyro.conf.arg(name="")] = PLAIN
    lora: Annotated[LoraOptions, tyro.conf.arg(name="")] = DEFAULT_LORA


def run_train(config: Train) -> bool:
    """Train; returns False when Ctrl-C stopped it (``--resume`` goes on).

    Raises:
        RoboprefError: demonstrations that do not go with the policy, options of another kind of policy, a chunk that
            the tokens cannot be made of, or other tokens than those of the adapter that training goes on with.
    """
    from robopref.cli.fitting import clipped_values, fit, label_counts, load_episodes
    from robopref.labeling import LabelingRule
    from robopref.mixture import Mixture
    from robopref.objectives import get_objective
    from robopref.policies.registry import policy_id
    from robopref.training.config import IMMATERIAL, TrainerConfig
    from robopref.training.dataset import StepDataset, check_same_kind

    if config.policy is None and (config.vla, config.lora) != (PLAIN, DEFAULT_LORA):
        raise RoboprefError(
            "--adapter, --norm-key, --weights and --lora-* are for vision-language-action models: name one as --policy."
        )
    data = load_episodes(config.demos)
    keys = INPUTS[config.inputs] if config.policy is None else ("image",)
    check_same_kind(data.episodes, keys)
    labels = [LabelingRule(window=0).apply(episode) for episode in data.episodes]
    policy: Any = _compact(config, keys, data, labels) if config.policy is None else _adapted(config, data, labels)
    if config.action_smoothing is None:
        config = replace(config, action_smoothing=default_smoothing(policy))
    assert config.action_smoothing is not None
    check_smoothing(config.action_smoothing, policy)
    trainer = TrainerConfig(
        steps=config.steps,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        image_shift=config.image_shift,
        action_smoothing=config.action_smoothing,
        seed=config.seed,
        micro_batch_size=config.micro_batch_size,
        compile=config.compile,
        activation_checkpointing=config.activation_checkpointing,
    )

    def claim(dataset: StepDataset) -> None:
        identity = {"data": data.fingerprint}
        if config.policy is not None:
            identity["policy_id"] = policy_id(config.policy, config.vla)
        start_run(
            config.out, "train", config, resume=config.resume, identity=identity, changeable=(*IMMATERIAL, "demos")
        )
        write_json(
            config.out / "data.json",
            {"episodes": len(data.episodes), "labels": label_counts(labels), "action_values": clipped_values(dataset)},
        )

    finished = fit(
        policy,
        keys,
        data,
        labels,
        get_objective("bc"),
        Mixture((1.0, 0.0, 0.0)),
        trainer,
        config.out,
        title="train",
        claim=claim,
        recipe={"objective": "bc"} if config.policy is None else {"objective": "bc", "lora": config.lora},
        device=config.device,
        wandb=None if config.wandb == "auto" else config.wandb,
    )
    parameters = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    console.print(
        f"policy ({parameters / 1e6:.2f} M trained parameters) in {config.out / 'policy'}"
        if finished
        else "stopped; --resume goes on"
    )
    return finished


def _compact(config: Train, keys: Sequence[str], data: LoadedData, labels: Sequence[NDArray[Any]]) -> CompactPolicy:
    """A fresh compact policy, sized and normalised by the demonstrations."""
    import numpy as np

    from robopref.policies.compact import build_compact_policy
    from robopref.policies.normalization import NormStats

    actions = np.concatenate([episode.action for episode in data.episodes])
    return build_compact_policy(
        keys,
        {
            # Images are only asked for their size; the statistics are over proprioception and state.
            key: np.concatenate([e.observation[key][: 1 if key == "image" else None] for e in data.episodes])
            for key in keys
        },
        actions,
        _instructions(data),
        config.seed,
        config.width,
        _action_tokenizer(config, data, labels, NormStats.from_actions(actions)),
    )


def _adapted(config: Train, data: LoadedData, labels: Sequence[NDArray[Any]]) -> HFVLAPolicy:
    """A vision-language-action model with the adapter to train.

    Its actions are normalised by the demonstrations, unless statistics were chosen or an adapter brings its own (an
    adapter of ours is also what ``--policy`` names when it is a checkpoint). Its tokens are those asked for, unless an
    adapter of ours brings its own.
    """
    import numpy as np
    import torch

    from robopref.policies.normalization import NormStats
    from robopref.policies.vla.loading import described_actions, is_vla, load_vla

    name = str(config.policy)
    fresh = config.vla.norm_key is None and config.vla.adapter is None and is_vla(name)
    brought: ChunkTokenizer | None = None
    if fresh:
        stats = NormStats.from_actions(np.concatenate([episode.action for episode in data.episodes]))
    else:
        stats, brought = described_actions(name, config.vla)
    if brought is not None:
        _check_tokens(config, brought)
    tokenizer = brought or _action_tokenizer(config, data, labels, stats)
    torch.manual_seed(config.seed)
    policy = load_vla(name, config.vla, norm_stats=stats, tokenizer=tokenizer, device=config.device)
    policy.add_adapter(config.lora)
    policy.normalize_over = "actions"
    policy.recorded_image_size = recorded_image_size(data.episodes)
    policy.tasks.update(_instructions(data))
    return policy


def _instructions(data: LoadedData) -> dict[str, str]:
    """The instruction of each task; the first one's where demonstrations of a task have several."""
    return {episode.info.task: episode.info.instruction for episode in reversed(data.episodes)}


def _check_tokens(config: Train, own: ChunkTokenizer) -> None:
    """See that no other action tokens are asked for than those that an adapter brings.

    Raises:
        RoboprefError: there are.
    """
    same = {
        "chunk": own.horizon,
        "tokens": "fast" if own.variable_length else "binned",
        "fast_vocabulary": None,  # what it was fitted with is not known
        "fast_scale": getattr(own, "scale", None),
    }
    defaults = {field.name: field.default for field in fields(Train)}
    others = [name for name in same if getattr(config, name) not in (defaults[name], same[name])]
    if others:
        raise RoboprefError(
            f"{', '.join('--' + name.replace('_', '-') for name in others)}: the adapter brings its own action tokens "
            f"({same['tokens']}, chunks of {own.horizon}), which training goes on with: leave the settings of new ones "
            f"out, or train a new adapter on the base."
        )


def _action_tokenizer(
    config: Train, data: LoadedData, labels: Sequence[NDArray[Any]], stats: NormStats
) -> ChunkTokenizer:
    """As asked for; FAST is fitted to the chunks that will be learned, normalised by ``stats`` as the policy will."""
    import numpy as np

    from robopref.policies.chunked_tokenizer import ChunkedActionTokenizer
    from robopref.policies.fast_tokenizer import FastTokenizer
    from robopref.policies.tokenizer import ActionTokenizer
    from robopref.training.chunks import chunk_lengths, chunk_steps

    if config.chunk < 1:
        raise RoboprefError(f"a chunk has at least one action, got --chunk {config.chunk}.")
    if config.tokens == "binned":
        return ActionTokenizer() if config.chunk == 1 else ChunkedActionTokenizer(config.chunk, len(stats))
    if config.chunk == 1:
        raise RoboprefError("fast tokens compress actions over time: give --chunk, say 8.")
    lengths = chunk_lengths(data.episodes, np.concatenate(labels), config.chunk)
    actions = stats.normalize(np.concatenate([episode.action for episode in data.episodes]))
    chunks = actions[chunk_steps(np.arange(len(actions)), lengths, config.chunk)]
    return FastTokenizer.fit(chunks, vocabulary_size=config.fast_vocabulary, scale=config.fast_scale)
