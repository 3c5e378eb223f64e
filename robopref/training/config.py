"""How long, how fast and in which pieces to train."""

from __future__ import annotations

import math
from dataclasses import dataclass

from robopref.errors import RoboprefError


@dataclass(frozen=True)
class TrainerConfig:
    """How long and how fast to train.

    Attributes:
        batch_size: samples per optimiser step, of all processes together.
        image_shift: the largest random shift in pixels.
        action_smoothing: standard deviation of the normal distribution around a recorded action that is learned in its
            place, in normalised units (an action's range is 2), each step drawing from it anew (with
            ``augmentation_variants``, that many fixed draws); 0: the action itself.
            Over steps that is cross-entropy with a target smoothed over neighbouring bins (Imani and White 2018,
            "Improving Regression Performance with Distributional Losses", arXiv 1806.04613), and tokens are predicted
            after such ones before them, too.
        precision: ``"auto"`` (bfloat16 autocast on GPUs that have it), ``"fp32"`` or ``"bf16"``.
        micro_batch_size: samples per forward pass of a process; ``None``: its whole part of the batch at once. The
            gradient is the same, in less memory, for one more forward pass of the policy.
        augmentation_variants: how many fixed shifts (and smoothed actions) a sample has, one of which is drawn at each
            step; ``None``: a fresh one at each step. A reference cache needs a number.
        compile: compile the forward passes (``torch.compile``).
        activation_checkpointing: recompute activations in the backward pass, for policies that can.

    Raises:
        RoboprefError: a number that is not positive, or an unknown precision.
    """

    steps: int = 1000
    batch_size: int = 128
    learning_rate: float = 1e-3
    warmup_steps: int = 10
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    image_shift: int = 4
    action_smoothing: float = 0.0
    seed: int = 0
    log_every: int = 20
    checkpoint_every: int = 250
    precision: str = "auto"
    micro_batch_size: int | None = None
    augmentation_variants: int | None = None
    compile: bool = False
    activation_checkpointing: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1 or self.learning_rate <= 0 or self.checkpoint_every < 1 or self.log_every < 1:
            raise RoboprefError("steps, learning rate, log_every and checkpoint_every must be positive.")
        if not 0 <= self.action_smoothing < 1:
            raise RoboprefError(
                f"action_smoothing lies in [0, 1), in units of half an action's range: {self.action_smoothing}."
            )
        if self.precision not in ("auto", "fp32", "bf16"):
            raise RoboprefError(f"precision is auto, fp32 or bf16, not {self.precision!r}.")
        for name in ("micro_batch_size", "augmentation_variants"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RoboprefError(f"{name} is at least 1, or unset, got {value}.")


IMMATERIAL = ("micro_batch_size", "compile", "activation_checkpointing")
"""Settings that change memory and speed, and results by rounding alone: a run may go on with others."""


def learning_rate_factor(step: int, config: TrainerConfig) -> float:
    """Linear warm-up to 1, then cosine to 0 at the last step."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
