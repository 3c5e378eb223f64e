"""The trainer: one loop for every objective, resumable to the identical loss curve, on any number of processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor

from robopref.errors import RoboprefError
from robopref.objectives.base import Objective, ObjectiveInputs
from robopref.training.composition import Composer, Sampler
from robopref.training.config import TrainerConfig, learning_rate_factor
from robopref.training.dataset import StepDataset
from robopref.training.devices import denormals_as_zero, make_accelerator
from robopref.training.forward import TrainingForward
from robopref.training.gathering import BatchGatherer
from robopref.training.passes import PolicyPasses
from robopref.training.randomness import SampleRandomness
from robopref.training.reference import ReferencePasses
from robopref.training.reference_cache import ReferenceCache
from robopref.training.sharding import whole_parameters
from robopref.training.state import load_state, save_state
from robopref.training.window_pairs import WindowPairSampler
from robopref.trajectory import Label

__all__ = ["RefinablePolicy", "Trainer", "TrainerConfig", "learning_rate_factor", "make_accelerator", "make_composer"]


class RefinablePolicy(Protocol):
    """What the trainer needs beyond ``TokenPolicy``: parameters, and a reference that it can freeze."""

    tokenizer: Any
    norm_stats: Any

    def freeze_reference(self) -> None:
        """Make the present weights the reference."""


def make_composer(dataset: StepDataset, sampler: Sampler, objective: Objective, config: TrainerConfig) -> Composer:
    """What composes the trainer's batches of these; also for ``open_reference_cache``."""
    randomness = SampleRandomness(config.seed, len(sampler.global_batch(0)), config.augmentation_variants)
    return Composer(dataset, sampler, objective, config.image_shift, randomness, config.action_smoothing)


class Trainer:
    """Fits a policy to labelled steps with one objective.

    Args:
        policy: an ``nn.Module`` that is a ``TokenPolicy``; trained in place.
        dataset: the labelled steps.
        sampler: composes each global batch; must be built for this process's rank and world size.
        objective: the loss. It sees the global batch on every process.
        state_path: where the resumable training state is kept (weights, optimiser, step).
        fingerprint: identifies data and settings; a state with another one is refused.
        log: receives the metrics of a step, on the main process only.
        should_stop: asked after each step; True saves the state and returns early (Ctrl-C).
        progress: told (steps done, steps in all).
        reference_cache: where the reference's log-probabilities are kept (``open_reference_cache``). When it holds all
            of them, no reference is kept in memory.
        keep_reference: the policy brings its frozen reference, the weights it had before it began anew; else the
            reference are the weights it has now.

    Raises:
        RoboprefError: the loss stopped being finite, a state of another run is resumed, the sampler composes other
            batches than the objective judges or deals them to other processes, or the policy cannot recompute
            activations or read text behind its instructions.
    """

    def __init__(
        self,
        policy: Any,
        dataset: StepDataset,
        sampler: Sampler,
        objective: Objective,
        config: TrainerConfig,
        *,
        accelerator: Accelerator,
        state_path: Path | None = None,
        fingerprint: str = "",
        log: Callable[[Mapping[str, float], int], None] | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        progress: Callable[[int, int], None] = lambda done, total: None,
        reference_cache: ReferenceCache | None = None,
        keep_reference: bool = False,
    ) -> None:
        if objective.window != (sampler.window if isinstance(sampler, WindowPairSampler) else 0):
            raise RoboprefError(f"{objective.name} judges windows of {objective.window} steps: sample such batches.")
        if (sampler.rank, sampler.world_size) != (accelerator.process_index, accelerator.num_processes):
            raise RoboprefError(
                f"the sampler deals to process {sampler.rank} of {sampler.world_size}, this is process "
                f"{accelerator.process_index} of {accelerator.num_processes}: build it for this one."
            )
        self.policy, self.dataset, self.sampler, self.objective, self.config = (
            policy, dataset, sampler, objective, config,
        )  # fmt: skip
        self.accelerator, self.state_path, self.fingerprint = accelerator, state_path, fingerprint
        self.log, self._should_stop, self.progress = log, should_stop, progress
        self.reference_cache = reference_cache
        if config.activation_checkpointing:
            if not hasattr(policy, "enable_activation_checkpointing"):
                raise RoboprefError(f"{type(policy).__name__} cannot recompute activations: train without that option.")
            policy.enable_activation_checkpointing()
        if objective.deployed_suffix is not None:
            if not hasattr(policy, "instruction_suffix"):
                raise RoboprefError(
                    f"{objective.name} needs a policy that reads text behind its instructions when it is deployed; a "
                    f"{type(policy).__name__} has no instruction_suffix."
                )
            policy.instruction_suffix = ""  # in training each sample brings its own
        if not self._sharded:  # else each piece goes there as it is cut: the whole may be too large
            policy.to(accelerator.device)
        needed = objective.needs_reference and (reference_cache is None or len(self._uncached()))
        if needed and not keep_reference:
            policy.freeze_reference()
        bare = TrainingForward(policy)
        if config.compile:
            bare.compile()
        parameters = [p for p in policy.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            parameters, lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.999)
        )
        self.forward, self.optimizer = accelerator.prepare(bare, optimizer)
        self.composer = make_composer(dataset, sampler, objective, config)
        randomness, micro = self.composer.randomness, config.micro_batch_size
        self.passes = PolicyPasses(self.forward, bare, objective, accelerator, randomness, micro)
        self.reference = ReferencePasses(bare, objective, accelerator, randomness, micro, reference_cache)
        self.gatherer = BatchGatherer(accelerator, sampler)
        self.step = 0

    def resume(self) -> bool:
        """Continue from ``state_path`` when it exists; returns whether it did. Call before ``run``."""
        if self.state_path is None or not self.state_path.exists():
            return False
        self.step = load_state(self.state_path, self.fingerprint, self.policy, self._bare_optimizer)
        return True

    @denormals_as_zero()
    def run(self) -> bool:
        """Train to the last step; returns False when it was stopped early (the state is saved then)."""
        config = self.config
        self.policy.train()
        while self.step < config.steps:
            self._set_learning_rate(learning_rate_factor(self.step, config))
            metrics = self._train_step()
            self.step += 1
            due = self.step % config.log_every == 0 or self.step in (1, config.steps)
            if due and self.log and self.accelerator.is_main_process:
                self.log(metrics, self.step)
            self.progress(self.step, config.steps)
            stopping = self._on_any_rank(self._should_stop()) and self.step < config.steps
            if stopping or self.step % config.checkpoint_every == 0 or self.step == config.steps:
                self.save()
            if stopping:
                return False
        self.policy.eval()
        return True

    def save(self) -> None:
        """Write the resumable state; all processes call this, the main one writes."""
        if self.reference_cache is not None:
            self.reference_cache.flush()
        writes = self.accelerator.is_main_process
        if self.state_path is not None and (writes or self._sharded):
            save_state(self.state_path, self.fingerprint, self.step, self.policy, self._bare_optimizer, writes=writes)

    def save_policy(self, directory: Path) -> None:
        """Write the policy's checkpoint; all processes call this, the main one writes whole weights.

        From here on the policy reads the objective's ``deployed_suffix``, where there is one: it is trained.
        """
        if self.objective.deployed_suffix is not None:
            self.policy.instruction_suffix = self.objective.deployed_suffix
        with whole_parameters(self.policy, keep=self.accelerator.is_main_process):
            if self.accelerator.is_main_process:
                self.policy.save(directory)
        self.accelerator.wait_for_everyone()

    @denormals_as_zero()
    def precompute_reference(self) -> bool:
        """Fill the reference cache, and free the reference of a policy that has ``drop_reference()``.

        All processes call this before ``run`` and share the work. Returns False when it was stopped early; what was
        computed is kept.

        Raises:
            RoboprefError: there is no cache.
        """
        if self.reference_cache is None:
            raise RoboprefError("there is no reference cache to fill: give one.")
        pairs, ranks = self._uncached(), self.accelerator.num_processes
        self.accelerator.wait_for_everyone()  # all have looked before anybody writes
        # As many for each, some twice: sharded weights need equally many passes.
        turns = np.arange(self.accelerator.process_index, -(-len(pairs) // ranks) * ranks, ranks)
        own = pairs[turns % max(1, len(pairs))]
        size = self.config.micro_batch_size or max(1, len(self.sampler.global_batch(0)) // ranks)
        for start in range(0, len(own), size):
            self.reference.score(self.composer.fixed(*own[start : start + size].T))
            self.progress(min(start + size, len(own)), len(own))
            if self._on_any_rank(self._should_stop()):
                self.reference_cache.flush()
                return False
        self.reference_cache.flush()
        self.accelerator.wait_for_everyone()
        if hasattr(self.policy, "drop_reference"):
            self.policy.drop_reference()
        return True

    def _train_step(self) -> dict[str, float]:
        part, reference = self.composer.part(self.step), None
        if self.objective.needs_reference:
            part, reference = self.reference.score(part)
        outputs = self.passes.score(part)
        columns = self.gatherer.gather(
            self.step,
            {
                "logps": outputs.logps,
                "second": outputs.kl_logps,
                "reference": None if reference is None else reference.logps,
                "second_reference": None if reference is None else reference.second_logps,
                "action_error": self._action_error(outputs.greedy_tokens, part.indices),
            },
        )
        indices = self.sampler.global_batch(self.step)
        labels = self.dataset.labels[indices]
        # A mismatched action only estimates a statistic; the second of a pair is learned from.
        leaves = {name: columns[name] for name in (("logps", "second") if self.composer.rejecting else ("logps",))}
        for leaf in leaves.values():
            leaf.requires_grad_()
        weights = self.dataset.credit.weights[indices]
        distance = self.objective.min_pair_distance
        # Where no proposal was recorded nobody can say that the two agree, and the pair counts.
        preferred = self.dataset.pair_distance[indices] >= distance if distance else None
        output = self.objective(self._inputs(columns, labels, weights, preferred))
        if not bool(torch.isfinite(output.loss)):  # the same on every rank: each saw the global batch
            raise RoboprefError(
                f"the loss is {output.loss.item()} at step {self.step}: lower the learning rate "
                f"(now {self.config.learning_rate:g}) or the objective's weights."
            )
        found = torch.autograd.grad(output.loss, list(leaves.values()), materialize_grads=True)
        gradients = {
            name: self.gatherer.own_gradient(self.step, part.positions, gradient)
            for name, gradient in zip(leaves, found, strict=True)
        }
        self.optimizer.zero_grad(set_to_none=True)
        self.passes.backward(gradients["logps"], gradients.get("second"))
        norm = self.accelerator.clip_grad_norm_(self.forward.parameters(), self.config.max_grad_norm)
        if not math.isfinite(float(norm)):  # the same on every rank: the gradients were averaged
            raise RoboprefError(f"the gradient is not finite at step {self.step}: lower the learning rate.")
        self.optimizer.step()
        metrics = {"loss": output.loss.item(), **output.metrics, "grad_norm": float(norm)}
        metrics["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        error = columns["action_error"].cpu().numpy()
        for label in (Label.EXPERT, Label.HUMAN, Label.UNDESIRABLE, Label.POLICY):
            chosen = labels == label
            if chosen.any():
                metrics[f"shares/{label.name.lower()}"] = float(chosen.mean())
                metrics[f"action_l1/{label.name.lower()}"] = float(error[chosen].mean())
        return metrics

    def _inputs(
        self,
        columns: Mapping[str, Any],
        labels: np.ndarray[Any, np.dtype[np.int64]],
        weights: np.ndarray[Any, Any] | None = None,
        preferred: np.ndarray[Any, Any] | None = None,
    ) -> ObjectiveInputs:
        kind = "rejected" if self.composer.rejecting else "kl"
        second: dict[str, Any] = {
            f"policy_{kind}_logps": columns["second"],
            f"reference_{kind}_logps": columns["second_reference"],
        }
        return ObjectiveInputs(
            policy_logps=columns["logps"],
            reference_logps=columns["reference"],
            desirable=torch.as_tensor(labels != Label.UNDESIRABLE, device=self.accelerator.device),
            action_error=columns["action_error"],
            sample_weights=None
            if weights is None
            else torch.as_tensor(weights, device=self.accelerator.device).float(),
            preferred=None if preferred is None else torch.as_tensor(preferred, device=self.accelerator.device),
            **second,
        )

    def _action_error(self, greedy_tokens: Tensor, indices: np.ndarray[Any, Any]) -> Tensor:
        """L1 distance [B] of the decoded greedy action or chunk to the labelled one, mean, normalised units."""
        error = self.dataset.action_error(greedy_tokens.cpu().numpy(), indices)
        return torch.as_tensor(error, dtype=torch.float32, device=greedy_tokens.device)

    def _uncached(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        assert self.reference_cache is not None
        return self.reference_cache.missing(self.sampler.drawable())

    @property
    def _sharded(self) -> bool:
        return bool(self.accelerator.distributed_type == DistributedType.FSDP)

    @property
    def _bare_optimizer(self) -> Any:
        return self.optimizer.optimizer  # beneath accelerate's wrapper

    def _on_any_rank(self, flag: bool) -> bool:
        """Whether any process says so: all of them must stop at the same step, or the others wait for ever."""
        if self.accelerator.num_processes == 1:
            return flag
        flags: Tensor = self.accelerator.reduce(torch.tensor(float(flag), device=self.accelerator.device))
        return bool(flags > 0)

    def _set_learning_rate(self, factor: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * factor
