"""The policy's forward and backward passes over one batch in pieces, with the gradient of the whole.

An objective may tie the samples of a batch together (a mean KL, weights relative to a class), so its gradient is not
the sum of those of its pieces. Hence the order of Gao et al. 2021 (arXiv 2101.06983, "GradCache"): score all pieces
without a graph, differentiate the objective with respect to the scores, then score each piece again and send its part
of that gradient back through it. One piece needs no second pass.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor

from robopref.objectives.base import Objective
from robopref.training.composition import Part
from robopref.training.forward import PolicyOutputs, TrainingForward
from robopref.training.randomness import SampleRandomness


def forward_arguments(part: Part, objective: Objective, device: torch.device) -> tuple[Any, ...]:
    """What ``TrainingForward`` takes to score the samples and, where there is one, their second actions."""
    return (
        part.samples.observations,
        part.samples.instructions,
        torch.as_tensor(part.samples.tokens, device=device),
        None if part.second_tokens is None else part.second_tokens.to(device),
        objective.own_prefix_kl,
        objective.contrast in ("rejected", "sampled"),
    )


class PolicyPasses:
    """Scores a process's part of the batch and later sends a gradient of the scores back.

    Args:
        wrapped: the prepared module, which synchronises gradients between processes.
        bare: the same module without a data-parallel wrapper, for passes without gradients.
        objective: says which second action is scored and whether it gets gradients.
        randomness: makes the second pass of a piece draw the dropout of its first.
        micro_batch_size: samples in a piece, or ``None``.
    """

    def __init__(
        self,
        wrapped: torch.nn.Module,
        bare: TrainingForward,
        objective: Objective,
        accelerator: Accelerator,
        randomness: SampleRandomness,
        micro_batch_size: int | None,
    ) -> None:
        self.wrapped, self.bare, self.objective, self.accelerator = wrapped, bare, objective, accelerator
        self.randomness, self.micro_batch_size = randomness, micro_batch_size
        self._part: Part | None = None
        self._outputs: PolicyOutputs | None = None

    def score(self, part: Part) -> PolicyOutputs:
        """The scores of all samples; ``backward`` then belongs to them."""
        pieces = list(part.pieces(self.micro_batch_size))
        self._part = part
        if len(pieces) == 1:
            self._outputs = self._forward(self.wrapped, part)
            return self._outputs
        self._outputs = None
        with torch.no_grad():
            return concatenated([self._forward(self.bare, piece) for piece in pieces])

    def backward(self, logps_gradient: Tensor, kl_logps_gradient: Tensor | None) -> None:
        """Add to the parameters' gradients those of this process's scores [B, L], averaged over the processes."""
        assert self._part is not None
        if self._outputs is not None:
            outputs, self._outputs = self._outputs, None
            self._send_back(outputs, logps_gradient, kl_logps_gradient)
            return
        pieces = list(self._part.pieces(self.micro_batch_size))
        start = 0
        for number, piece in enumerate(pieces):
            rows = slice(start, start + len(piece))
            start += len(piece)
            with self._unsynchronised() if number < len(pieces) - 1 else nullcontext():
                outputs = self._forward(self.wrapped, piece)
                second = None if kl_logps_gradient is None else kl_logps_gradient[rows]
                self._send_back(outputs, logps_gradient[rows], second)

    def _forward(self, module: torch.nn.Module, piece: Part) -> PolicyOutputs:
        device = self.accelerator.device
        with self.accelerator.autocast(), self.randomness.dropout(piece.step, int(piece.positions[0]), device):
            outputs: PolicyOutputs = module(*forward_arguments(piece, self.objective, device))
        return outputs

    def _send_back(self, outputs: PolicyOutputs, logps_gradient: Tensor, kl_logps_gradient: Tensor | None) -> None:
        # A sum whose gradient is the given one, since accelerate takes a loss.
        loss = (outputs.logps * logps_gradient.to(outputs.logps)).sum()
        if kl_logps_gradient is not None and outputs.kl_logps is not None:
            loss = loss + (outputs.kl_logps * kl_logps_gradient.to(outputs.kl_logps)).sum()
        self.accelerator.backward(loss)

    def _unsynchronised(self) -> Any:
        # Sharded gradients add up as well, and keeping them whole until the last piece would take the memory back.
        if self.accelerator.distributed_type == DistributedType.FSDP:
            return nullcontext()
        return self.accelerator.no_sync(self.wrapped)


def concatenated(outputs: list[PolicyOutputs]) -> PolicyOutputs:
    """The outputs of pieces as those of the whole."""
    second = [piece.kl_logps for piece in outputs if piece.kl_logps is not None]
    return PolicyOutputs(
        torch.cat([piece.logps for piece in outputs]),
        torch.cat(second) if second else None,
        torch.cat([piece.greedy_tokens for piece in outputs]),
    )
