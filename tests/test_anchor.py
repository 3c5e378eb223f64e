"""The anchor that APO and KTO share: over which tokens it is a mean."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from robopref.objectives import ObjectiveOutput, apo_loss, kto_loss

Loss = Callable[[Tensor, Tensor, Tensor], ObjectiveOutput]


def apo(policy: Tensor, reference: Tensor, desirable: Tensor) -> ObjectiveOutput:
    return apo_loss(policy, reference, policy, reference, desirable, torch.ones(len(policy)), anchor_weight=2.0)


def kto(policy: Tensor, reference: Tensor, desirable: Tensor) -> ObjectiveOutput:
    return kto_loss(policy, reference, policy, reference, desirable, anchor_weight=2.0)


LOSS = pytest.mark.parametrize("loss", [apo, kto])


@LOSS
def test_it_counts_the_tokens_that_are_there(loss: Loss) -> None:
    # A stop column that no policy has, a shorter row, a token of which only the policy is certain: 6 nats, 4 tokens.
    policy = torch.tensor([[-1.0, -2.0, 0.0, 0.0], [-9.0, -9.0, -9.0, 0.0], [-3.0, 0.0, 0.0, 0.0]])
    reference = torch.tensor([[-1.0, -1.0, -0.5, 0.0], [-9.0, -9.0, -9.0, 0.0], [-1.0, 0.0, 0.0, 0.0]])
    out = loss(policy, reference, torch.tensor([True, False, True]))
    assert out.metrics["loss/anchor"] == pytest.approx(6 / 4)
    assert out.loss.item() == pytest.approx(out.per_sample.mean().item() + 2 * 6 / 4)


@LOSS
def test_becoming_certain_of_a_token_does_not_move_the_pull_on_the_others(loss: Loss) -> None:
    reference = torch.full((1, 3), -2.0, dtype=torch.float64)
    gradients = []
    for last in (-1e-12, 0.0):
        policy = torch.tensor([[-1.0, -2.0, last]], dtype=torch.float64, requires_grad=True)
        loss(policy, reference, torch.tensor([True])).loss.backward()
        assert policy.grad is not None
        gradients.append(policy.grad)
    torch.testing.assert_close(gradients[0], gradients[1])
