"""What every objective takes and gives, and the registry of those that there are."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor

from robopref.errors import RoboprefError
from robopref.mixture import Mixture

Reduce = Callable[[Tensor], Tensor]
"""The mean of a tensor over all ranks, each of which calls it as often and in the same order."""


@dataclass(frozen=True)
class ObjectiveInputs:
    """One batch of B samples as an objective sees it.

    Log-probabilities are per token, [B, L], zeros where masked; the last column is the stop token's. The ``kl`` pair
    scores the mismatched action a' that estimates the KL term, the ``rejected`` pair the action that the labelled one
    is preferred to. The reference's and the pairs' are ``None`` for objectives that do not ask for them.
    ``sample_weights`` [B] are those of the samples' steps; ``None``: 1 each. ``preferred`` [B] says which pairs are
    preferences; ``None``: all.
    """

    policy_logps: Tensor
    desirable: Tensor
    action_error: Tensor
    reference_logps: Tensor | None = None
    policy_kl_logps: Tensor | None = None
    reference_kl_logps: Tensor | None = None
    policy_rejected_logps: Tensor | None = None
    reference_rejected_logps: Tensor | None = None
    sample_weights: Tensor | None = None
    preferred: Tensor | None = None
    reduce: Reduce | None = None


@dataclass(frozen=True)
class ObjectiveOutput:
    """The scalar ``loss`` to minimise, the loss ``per_sample`` [B] and its ``weights`` [B] in input order, metrics."""

    loss: Tensor
    per_sample: Tensor
    weights: Tensor
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Objective:
    """A loss with its settings, as the trainer calls it.

    Attributes:
        needs_reference: whether it compares with a frozen reference.
        own_prefix_kl: whether a' is to be scored on the labelled action's own prefix (as the public APO trainer does)
            rather than in a pass of its own.
        mixture: labels [N] -> what its batches are made of, for objectives that are a way of sampling; else the
            caller's choice.
        contrast: the second action that is scored at each observation when there is a reference: a mismatched one for
            the KL estimate; the rejected one of a pair, recorded, or a sample of the reference where there is none; one
            that is always sampled; or none. Those of pairs get gradients.
        min_pair_distance: how far apart, in normalised action units, a person's action and the policy's recorded
            proposal have to be for their pair to be a preference (``StepDataset.pair_distance``); 0: any distance.
        window: how many steps in a row are judged together, for objectives whose batches are pairs of windows; 0: none.
        credit: whose critic judges the recorded steps before training (``robopref.training.credit``); ``None``: none.
        condition_dropout: the share of samples that are read without what the critic says of them.
        deployed_suffix: text that the trained policy reads behind every instruction; ``None``: as before training.
    """

    name: str
    compute: Callable[[ObjectiveInputs], ObjectiveOutput]
    needs_reference: bool = True
    own_prefix_kl: bool = False
    mixture: Callable[[NDArray[Any]], Mixture] | None = None
    contrast: Literal["mismatched", "rejected", "sampled", "none"] = "mismatched"
    min_pair_distance: float = 0.0
    window: int = 0
    credit: Literal["habc", "recap"] | None = None
    condition_dropout: float = 0.0
    deployed_suffix: str | None = None

    def __call__(self, inputs: ObjectiveInputs) -> ObjectiveOutput:
        """The loss of a batch."""
        return self.compute(inputs)


_FACTORIES: dict[str, Callable[..., Objective]] = {}


def register_objective(name: str) -> Callable[[Callable[..., Objective]], Callable[..., Objective]]:
    """Decorator: make the factory known under ``name``; its keywords are the objective's settings."""

    def register(factory: Callable[..., Objective]) -> Callable[..., Objective]:
        _FACTORIES[name] = factory
        return factory

    return register


def objective_names() -> tuple[str, ...]:
    """The registered names."""
    return tuple(sorted(_FACTORIES))


def get_objective(name: str, **settings: Any) -> Objective:
    """The objective of that name with the given settings.

    Raises:
        RoboprefError: no such objective, or it has no such setting.
    """
    if name not in _FACTORIES:
        near = difflib.get_close_matches(name, _FACTORIES, n=2) or objective_names()
        raise RoboprefError(f"there is no objective {name!r}: try {' or '.join(near)}.")
    try:
        return _FACTORIES[name](**settings)
    except TypeError as error:
        raise RoboprefError(f"objective {name}: {error}.") from error


def promoted(tensor: Tensor) -> Tensor:
    """Half precision as float32: sums of log-probabilities lose their differences in bfloat16; others unchanged."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def check_settings(beta: float, anchor_weight: float) -> None:
    """The settings that every preference loss has.

    Raises:
        RoboprefError: a beta that is not positive, or a negative anchor weight.
    """
    if not 0 < beta < math.inf:
        raise RoboprefError(f"beta must be positive, got {beta}.")
    if not 0 <= anchor_weight < math.inf:
        raise RoboprefError(f"anchor_weight must be zero or positive, got {anchor_weight}.")


def check_batch(logps: Mapping[str, Tensor], desirable: Tensor, action_error: Tensor | None = None) -> None:
    """The one border check of the losses.

    Raises:
        RoboprefError: shapes differ, the batch is empty, ``desirable`` is not bool, or a value is not finite.
    """
    shape = next(iter(logps.values())).shape
    if len(shape) != 2 or 0 in shape:
        raise RoboprefError(f"log-probabilities are [B, L] with B, L >= 1, got shape {tuple(shape)}.")
    for name, tensor in logps.items():
        if tensor.shape != shape:
            raise RoboprefError(f"{name} has shape {tuple(tensor.shape)}, expected {tuple(shape)}.")
        if not torch.isfinite(tensor).all():
            raise RoboprefError(f"{name} holds NaN or infinity: the model has diverged, or its masking is broken.")
    if desirable.dtype != torch.bool or desirable.shape != shape[:1]:
        raise RoboprefError(f"desirable is bool [{shape[0]}], got {desirable.dtype} {tuple(desirable.shape)}.")
    if action_error is not None:
        if action_error.shape != shape[:1]:
            raise RoboprefError(f"action_error is [{shape[0]}], got shape {tuple(action_error.shape)}.")
        if not (torch.isfinite(action_error).all() and (action_error >= 0).all()):
            raise RoboprefError("action_error is a distance: finite and not negative.")
