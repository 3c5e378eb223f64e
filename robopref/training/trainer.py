"""The trainer: one loop for every objective, resumable to the identical loss curve."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from robopref.errors import RoboprefError
from robopref.objectives.base import Objective, ObjectiveInputs
from robopref.sampling import BalancedSampler
from robopref.training.augmentation import shift_images
from robopref.training.dataset import Samples, StepDataset
from robopref.training.forward import TrainingForward, sample_action_tokens
from robopref.training.state import load_state, save_state
from robopref.training.window_pairs import WindowPairSampler
from robopref.trajectory import Label


class RefinablePolicy(Protocol):
    """What the trainer needs beyond ``TokenPolicy``: parameters, and a reference that it can freeze."""

    tokenizer: Any
    norm_stats: Any

    def freeze_reference(self) -> None:
        """Make the present weights the reference."""


@dataclass(frozen=True)
class TrainerConfig:
    """How long and how fast to train.

    ``batch_size`` is per process. ``precision`` is ``"auto"`` (bfloat16 autocast on GPUs that have it), ``"fp32"`` or
    ``"bf16"``. ``image_shift`` is the largest random shift in pixels.
    """

    steps: int = 1000
    batch_size: int = 128
    learning_rate: float = 1e-3
    warmup_steps: int = 10
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    image_shift: int = 4
    seed: int = 0
    log_every: int = 20
    checkpoint_every: int = 250
    precision: str = "auto"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.learning_rate <= 0 or self.checkpoint_every < 1 or self.log_every < 1:
            raise RoboprefError("steps, learning rate, log_every and checkpoint_every must be positive.")
        if self.precision not in ("auto", "fp32", "bf16"):
            raise RoboprefError(f"precision is auto, fp32 or bf16, not {self.precision!r}.")


def learning_rate_factor(step: int, config: TrainerConfig) -> float:
    """Linear warm-up to 1, then cosine to 0 at the last step."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


class Trainer:
    """Fits a policy to labelled steps with one objective.

    Args:
        policy: an ``nn.Module`` that is a ``TokenPolicy``; trained in place.
        dataset: the labelled steps.
        sampler: composes each global batch; must be built for this process's rank and world size.
        objective: the loss.
        state_path: where the resumable training state is kept (weights, optimiser, step).
        fingerprint: identifies data and settings; a state with another one is refused.
        log: receives the metrics of a step, on the main process only.
        should_stop: asked after each step; True saves the state and returns early (Ctrl-C).
        progress: told (steps done, steps in all).

    Raises:
        RoboprefError: the loss stopped being finite, a state of another run is resumed, or the sampler composes other
            batches than the objective judges.
    """

    def __init__(
        self,
        policy: Any,
        dataset: StepDataset,
        sampler: BalancedSampler | WindowPairSampler,
        objective: Objective,
        config: TrainerConfig,
        *,
        accelerator: Accelerator,
        state_path: Path | None = None,
        fingerprint: str = "",
        log: Callable[[Mapping[str, float], int], None] | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        if objective.window != (sampler.window if isinstance(sampler, WindowPairSampler) else 0):
            raise RoboprefError(f"{objective.name} judges windows of {objective.window} steps: sample such batches.")
        self.policy, self.dataset, self.sampler, self.objective, self.config = (
            policy, dataset, sampler, objective, config,
        )  # fmt: skip
        self.accelerator, self.state_path, self.fingerprint = accelerator, state_path, fingerprint
        self.log, self._should_stop, self._progress = log, should_stop, progress
        policy.to(accelerator.device)
        if objective.needs_reference:
            policy.freeze_reference()
        parameters = [p for p in policy.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            parameters, lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.999)
        )
        self.forward, self.optimizer = accelerator.prepare(TrainingForward(policy), self.optimizer)
        self.step = 0

    def resume(self) -> bool:
        """Continue from ``state_path`` when it exists; returns whether it did. Call before ``run``."""
        if self.state_path is None or not self.state_path.exists():
            return False
        self.step = load_state(self.state_path, self.fingerprint, self.policy, self.optimizer)
        return True

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
            self._progress(self.step, config.steps)
            stopping = self._on_any_rank(self._should_stop()) and self.step < config.steps
            if stopping or self.step % config.checkpoint_every == 0 or self.step == config.steps:
                self.save()
            if stopping:
                return False
        self.policy.eval()
        return True

    def save(self) -> None:
        """Write the resumable state."""
        if self.state_path is not None and self.accelerator.is_main_process:
            save_state(self.state_path, self.fingerprint, self.step, self.policy, self.optimizer)

    def _train_step(self) -> dict[str, float]:
        inputs, labels = self._forward_passes()
        output = self.objective(inputs)
        if self._on_any_rank(not bool(torch.isfinite(output.loss))):
            raise RoboprefError(
                f"the loss is {output.loss.item()} at step {self.step}: lower the learning rate "
                f"(now {self.config.learning_rate:g}) or the objective's weights."
            )
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(output.loss)
        norm = self.accelerator.clip_grad_norm_(self.forward.parameters(), self.config.max_grad_norm)
        if not math.isfinite(float(norm)):  # the same on every rank: the gradients were averaged
            raise RoboprefError(f"the gradient is not finite at step {self.step}: lower the learning rate.")
        self.optimizer.step()
        metrics = {"loss": output.loss.item(), **output.metrics, "grad_norm": float(norm)}
        metrics["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        error = inputs.action_error.detach().cpu().numpy()
        for label in (Label.EXPERT, Label.HUMAN, Label.UNDESIRABLE, Label.POLICY):
            chosen = labels == label
            if chosen.any():
                metrics[f"shares/{label.name.lower()}"] = float(chosen.mean())
                metrics[f"action_l1/{label.name.lower()}"] = float(error[chosen].mean())
        return metrics

    def _forward_passes(self) -> tuple[ObjectiveInputs, np.ndarray[Any, np.dtype[np.int64]]]:
        """Policy and reference on this step's batch; a function of (seed, step, weights) alone."""
        indices = self.sampler.batch(self.step)
        samples = self._augmented(self.dataset.gather(indices))
        device = self.accelerator.device
        tokens = torch.as_tensor(samples.tokens, device=device)
        partner = None
        rejecting = self.objective.contrast in ("rejected", "sampled")
        if rejecting:
            partner = self._rejected(indices, samples).to(device)
        elif (
            self.objective.needs_reference
            and self.objective.contrast == "mismatched"
            and isinstance(self.sampler, BalancedSampler)
        ):
            # The public trainer's a' is the next row of the batch; ours does not depend on the batch (methods of APO).
            partners = np.roll(indices, -1) if self.objective.own_prefix_kl else self.sampler.partner(indices)
            partner = torch.as_tensor(self.dataset.tokens[partners], device=device)
        arguments = (
            samples.observations,
            samples.instructions,
            tokens,
            partner,
            self.objective.own_prefix_kl,
            rejecting,
        )
        with self.accelerator.autocast():
            outputs = self.forward(*arguments)
            reference = None
            if self.objective.needs_reference:
                with self.policy.reference():
                    # The bare module: nothing here has gradients for a data-parallel wrapper to synchronise.
                    reference = self.accelerator.unwrap_model(self.forward)(*arguments)
        labels = self.dataset.labels[indices]
        desirable = torch.as_tensor(labels != Label.UNDESIRABLE, device=device)
        return ObjectiveInputs(
            policy_logps=outputs.logps,
            reference_logps=None if reference is None else reference.logps,
            **_second_action(outputs.kl_logps, None if reference is None else reference.kl_logps, rejecting),
            desirable=desirable,
            action_error=self._action_error(outputs.greedy_tokens, indices),
            reduce=self._reduce if self.accelerator.num_processes > 1 else None,
        ), labels

    def _rejected(self, indices: np.ndarray[Any, Any], samples: Samples) -> Tensor:
        """Rejected action tokens [B, A]: the recorded proposal where the objective takes it, else a sample."""
        rejected = torch.as_tensor(self.dataset.rejected_tokens[indices])
        paired = torch.as_tensor(self.dataset.has_pair[indices]) & (self.objective.contrast == "rejected")
        if paired.all():
            return rejected
        seed = np.random.SeedSequence((self.config.seed, 2, self.step, self.accelerator.process_index))
        generator = torch.Generator().manual_seed(int(seed.generate_state(1)[0]))
        with self.policy.reference():
            sampled = sample_action_tokens(
                self.policy, samples.observations, samples.instructions, rejected.shape[1], generator
            )
        return torch.where(paired[:, None], rejected, sampled)

    def _augmented(self, samples: Samples) -> Samples:
        generator = np.random.default_rng((self.config.seed, 1, self.step, self.accelerator.process_index))
        observations = shift_images(samples.observations, self.config.image_shift, generator)
        return Samples(observations, samples.instructions, samples.tokens)

    def _action_error(self, greedy_tokens: Tensor, indices: np.ndarray[Any, Any]) -> Tensor:
        """L1 distance [B] of the decoded greedy action or chunk to the labelled one, mean, normalised units."""
        error = self.dataset.action_error(greedy_tokens.cpu().numpy(), indices)
        return torch.as_tensor(error, dtype=torch.float32, device=greedy_tokens.device)

    def _on_any_rank(self, flag: bool) -> bool:
        """Whether any process says so: all of them must stop at the same step, or the others wait for ever."""
        if self.accelerator.num_processes == 1:
            return flag
        return bool(self._reduce(torch.tensor(float(flag), device=self.accelerator.device)) > 0)

    def _reduce(self, value: Tensor) -> Tensor:
        reduced: Tensor = self.accelerator.reduce(value, reduction="mean")
        return reduced

    def _set_learning_rate(self, factor: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * factor


def _second_action(policy: Tensor | None, reference: Tensor | None, rejecting: bool) -> dict[str, Tensor | None]:
    kind = "rejected" if rejecting else "kl"
    return {f"policy_{kind}_logps": policy, f"reference_{kind}_logps": reference}


def make_accelerator(precision: str = "auto", device: str = "auto") -> Accelerator:
    """An accelerator for this machine: bfloat16 autocast on GPUs that have it unless told otherwise."""
    cpu = device == "cpu"
    if precision == "auto":
        precision = "bf16" if not cpu and torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "fp32"
    return Accelerator(mixed_precision="bf16" if precision == "bf16" else "no", cpu=cpu)
