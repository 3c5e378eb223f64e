"""``robopref train``: behaviour-clone a base policy from demonstrations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from robopref.cli.console import console
from robopref.cli.run_directory import start_run, write_json
from robopref.errors import RoboprefError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from robopref.protocols import ChunkTokenizer
    from robopref.trajectory import Episode

INPUTS = {"image": ("image", "proprio"), "state": ("state",)}
"""Observation keys of the two compact policies."""


@dataclass(frozen=True)
class Train:
    """Behaviour-clone a compact policy from demonstrations (token cross-entropy)."""

    demos: tuple[Path, ...]
    """Data directories of demonstrations."""
    out: Path
    """Where the policy, its training curve and its state go."""
    inputs: Literal["image", "state"] = "image"
    """What the policy sees: camera image and proprioception, or the privileged state."""
    steps: int = 1000
    batch_size: int = 128
    learning_rate: float = 1e-3
    image_shift: int = 4
    """Largest random shift of the training images, pixels."""
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
    device: Literal["auto", "cpu"] = "auto"
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    seed: int = 0
    resume: bool = False
    """Go on with an interrupted run."""


def run_train(config: Train) -> bool:
    """Train; returns False when Ctrl-C stopped it (``--resume`` goes on).

    Raises:
        RoboprefError: data that cannot be learned from, or a chunk that the tokens cannot be made of.
    """
    import numpy as np

    from robopref.cli.fitting import fit, label_counts, load_episodes
    from robopref.labeling import LabelingRule
    from robopref.mixture import Mixture
    from robopref.objectives import get_objective
    from robopref.policies.compact import build_compact_policy
    from robopref.training.dataset import check_same_kind
    from robopref.training.trainer import TrainerConfig

    data = load_episodes(config.demos)
    keys = INPUTS[config.inputs]
    check_same_kind(data.episodes, keys)
    labels = [LabelingRule(window=0).apply(episode) for episode in data.episodes]
    policy = build_compact_policy(
        keys,
        {
            # Images are only asked for their size; the statistics are over proprioception and state.
            key: np.concatenate([e.observation[key][: 1 if key == "image" else None] for e in data.episodes])
            for key in keys
        },
        np.concatenate([episode.action for episode in data.episodes]),
        {episode.info.task: episode.info.instruction for episode in reversed(data.episodes)},
        config.seed,
        config.width,
        _action_tokenizer(config, data.episodes, labels),
    )
    trainer = TrainerConfig(
        steps=config.steps,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        image_shift=config.image_shift,
        seed=config.seed,
    )

    def claim() -> None:
        start_run(config.out, "train", config, resume=config.resume, identity={"data": data.fingerprint})
        write_json(config.out / "data.json", {"episodes": len(data.episodes), "labels": label_counts(labels)})

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
        recipe={"objective": "bc"},
        device=config.device,
        wandb=None if config.wandb == "auto" else config.wandb,
    )
    parameters = sum(p.numel() for p in policy.parameters())
    console.print(
        f"policy ({parameters / 1e6:.1f} M parameters) in {config.out / 'policy'}"
        if finished
        else "stopped; --resume goes on"
    )
    return finished


def _action_tokenizer(config: Train, episodes: Sequence[Episode], labels: Sequence[NDArray[Any]]) -> ChunkTokenizer:
    """As asked for; FAST is fitted to the chunks that will be learned, normalised as the policy normalises them."""
    import numpy as np

    from robopref.policies.chunked_tokenizer import ChunkedActionTokenizer
    from robopref.policies.fast_tokenizer import FastTokenizer
    from robopref.policies.normalization import NormStats
    from robopref.policies.tokenizer import ActionTokenizer
    from robopref.training.chunks import chunk_lengths, chunk_steps

    if config.chunk < 1:
        raise RoboprefError(f"a chunk has at least one action, got --chunk {config.chunk}.")
    actions = np.concatenate([episode.action for episode in episodes])
    if config.tokens == "binned":
        return ActionTokenizer() if config.chunk == 1 else ChunkedActionTokenizer(config.chunk, actions.shape[1])
    if config.chunk == 1:
        raise RoboprefError("fast tokens compress actions over time: give --chunk, say 8.")
    lengths = chunk_lengths(episodes, np.concatenate(labels), config.chunk)
    chunks = NormStats.from_actions(actions).normalize(actions)[
        chunk_steps(np.arange(len(actions)), lengths, config.chunk)
    ]
    return FastTokenizer.fit(chunks, vocabulary_size=config.fast_vocabulary, scale=config.fast_scale)
