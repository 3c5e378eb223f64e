"""The frozen reference's side of a step: actions sampled from it, and its log-probabilities, cached or computed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor

from robopref.errors import RoboprefError
from robopref.objectives.base import Objective
from robopref.sampling import BalancedSampler
from robopref.training.composition import Composer, Part
from robopref.training.config import TrainerConfig
from robopref.training.forward import PolicyOutputs, TrainingForward, reference_mode
from robopref.training.passes import concatenated, forward_arguments
from robopref.training.randomness import SampleRandomness
from robopref.training.reference_cache import ReferenceCache


@dataclass(frozen=True)
class ReferenceScores:
    """Log-probabilities [B, L] under the reference of the labelled and (where there is one) the second action."""

    logps: Tensor
    second_logps: Tensor | None


class ReferencePasses:
    """Scores parts of batches under the reference.

    Args:
        bare: the module without a data-parallel wrapper: nothing here has gradients to synchronise.
        objective: says which second action is scored.
        randomness: what actions are sampled by.
        micro_batch_size: samples per forward pass, or ``None``.
        cache: where scores are kept, or ``None``.
    """

    def __init__(
        self,
        bare: TrainingForward,
        objective: Objective,
        accelerator: Accelerator,
        randomness: SampleRandomness,
        micro_batch_size: int | None,
        cache: ReferenceCache | None,
    ) -> None:
        self.bare, self.objective, self.accelerator = bare, objective, accelerator
        self.randomness, self.micro_batch_size, self.cache = randomness, micro_batch_size, cache

    def score(self, part: Part) -> tuple[Part, ReferenceScores]:
        """The part with its second actions all known, and the reference's scores.

        With a cache only what it lacks is computed, and kept.
        """
        if self.cache is None:
            return self._computed(part)
        rows, there = self.cache.read(part.indices, part.variants)
        missing = ~there
        if self.accelerator.distributed_type == DistributedType.FSDP:
            # Each pass gathers the weights from all processes, so they make equally many, of the same sizes.
            anywhere = self.accelerator.reduce(torch.tensor(float(missing.any()), device=self.accelerator.device))
            missing[:] = bool(anywhere > 0)
        if missing.any():
            lacking, scores = self._computed(part.take(np.flatnonzero(missing)))
            rows[missing] = self._rows(lacking, scores)
            self.cache.write(lacking.indices, lacking.variants, rows[missing])
        return self._from_rows(part, rows)

    def _computed(self, part: Part) -> tuple[Part, ReferenceScores]:
        device, outputs, tokens = self.accelerator.device, [], []
        with reference_mode(self.bare.policy), self.accelerator.autocast():
            for piece in part.pieces(self.micro_batch_size):
                completed = self._with_second_tokens(piece)
                tokens.append(completed.second_tokens)
                outputs.append(self.bare(*forward_arguments(completed, self.objective, device)))
        scores: PolicyOutputs = concatenated(outputs)
        known = [piece for piece in tokens if piece is not None]
        part = replace(part, second_tokens=torch.cat(known) if known else None)
        return part, ReferenceScores(scores.logps, scores.kl_logps)

    def _with_second_tokens(self, piece: Part) -> Part:
        """With sampled actions where there is no pair; called inside ``reference_mode``."""
        sharded = self.accelerator.distributed_type == DistributedType.FSDP
        rejecting = self.objective.contrast in ("rejected", "sampled")
        # With sharded weights even if nothing is to be sampled here: others may have to.
        if piece.second_tokens is None or not rejecting or not (piece.sampled.any() or sharded):
            return piece
        size = piece.second_tokens.shape[1]
        uniforms = self.randomness.uniforms(piece.step, piece.positions, piece.indices, piece.variants, size)
        drawn = self.bare(
            piece.samples.observations, piece.samples.instructions, None, uniforms=torch.as_tensor(uniforms)
        )
        return replace(
            piece, second_tokens=torch.where(torch.as_tensor(piece.sampled)[:, None], drawn, piece.second_tokens)
        )

    def _rows(self, part: Part, scores: ReferenceScores) -> np.ndarray[Any, np.dtype[np.float32]]:
        columns = [scores.logps]
        if scores.second_logps is not None:
            columns.append(scores.second_logps)
        if self.objective.contrast in ("rejected", "sampled") and part.second_tokens is not None:
            columns.append(part.second_tokens.to(scores.logps.device))
        return torch.cat([column.float() for column in columns], dim=1).cpu().numpy()

    def _from_rows(self, part: Part, rows: np.ndarray[Any, Any]) -> tuple[Part, ReferenceScores]:
        actions = part.samples.tokens.shape[1]
        table = torch.as_tensor(rows)
        if self.objective.contrast in ("rejected", "sampled"):
            part = replace(part, second_tokens=table[:, -actions:].round().long())
            table = table[:, :-actions]
        table = table.to(self.accelerator.device)
        if part.second_tokens is None:
            return part, ReferenceScores(table, None)
        logps, second = table.chunk(2, dim=1)
        return part, ReferenceScores(logps, second)


def open_reference_cache(
    directory: Path, composer: Composer, config: TrainerConfig, accelerator: Accelerator, *, data: str, policy: str
) -> ReferenceCache:
    """The cache in ``directory`` for a run's reference, or a new one; all processes call this.

    Args:
        directory: of the cache.
        composer: of the run's batches.
        config: of the run.
        accelerator: of the run.
        data: content hash of the episodes.
        policy: content hash of the reference's weights.

    Raises:
        RoboprefError: the cache is of something else, the objective has nothing to cache, or augmentation is unlimited.
    """
    objective, dataset = composer.objective, composer.dataset
    if not objective.needs_reference:
        raise RoboprefError(f"{objective.name} has no reference, so there is nothing to cache: leave the cache out.")
    if objective.own_prefix_kl:
        raise RoboprefError(
            f"this variant of {objective.name} scores the action of the next row of the batch, which differs at each "
            f"step and cannot be cached: leave the cache out, or use the default variant."
        )
    if config.augmentation_variants is None:
        raise RoboprefError("a reference cache needs a number of augmentation_variants: set one, such as 4.")
    samples, actions = dataset.tokens.shape
    second, _ = composer.second_tokens(composer.sampler.drawable())
    columns = (actions + 1) * (1 if second is None else 2) + (actions if composer.rejecting else 0)
    key = {
        "data": data,
        "policy": policy,
        "seed": config.seed,
        "image_shift": config.image_shift,
        **({"action_smoothing": config.action_smoothing} if config.action_smoothing else {}),
        "augmentation_variants": config.augmentation_variants,
        "precision": accelerator.mixed_precision,
        "contrast": objective.contrast,
        "tokens": _digest(dataset.tokens),
        # What the labels, the mixture and the seed make of them.
        "second_actions": _digest(_second_actions(composer)),
    }
    shape = (samples, config.augmentation_variants, columns)
    cache = ReferenceCache(directory, key, shape) if accelerator.is_main_process else None
    accelerator.wait_for_everyone()
    return cache or ReferenceCache(directory, key, shape, create=False)


def _second_actions(composer: Composer) -> np.ndarray[Any, Any]:
    if composer.objective.contrast == "rejected":
        return composer.dataset.rejected_tokens
    if composer.objective.contrast == "mismatched" and isinstance(composer.sampler, BalancedSampler):
        return composer.sampler.partners
    return np.empty(0)


def _digest(values: np.ndarray[Any, Any]) -> str:
    return hashlib.blake2b(np.ascontiguousarray(values).tobytes(), digest_size=12).hexdigest()
