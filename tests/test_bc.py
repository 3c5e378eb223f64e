from __future__ import annotations

import math

import pytest
import torch
from preference_batches import on_ranks, random_batch

from robopref.errors import RoboprefError
from robopref.objectives import ObjectiveInputs, bc_loss, get_objective


def test_by_hand() -> None:
    # Desirable tokens: 1, 2 and .5, .25, .25 nats, the zero being masked: (3 + 1) / 5 = .8
    policy = torch.tensor([[-1.0, -2.0, 0.0], [-9.0, -9.0, -9.0], [-0.5, -0.25, -0.25]], requires_grad=True)
    out = bc_loss(policy, torch.tensor([True, False, True]))
    assert out.loss.item() == pytest.approx(0.8)
    assert out.per_sample.tolist() == pytest.approx([3.0, 0.0, 1.0])
    assert out.weights.tolist() == [1.0, 0.0, 1.0]
    assert out.metrics == {"loss/nll": pytest.approx(0.8)}
    out.loss.backward()
    # The undesirable sample is not learned from, in either direction.
    assert policy.grad is not None
    torch.testing.assert_close(policy.grad[[0, 2]], torch.full((2, 3), -0.2))
    assert (policy.grad[1] == 0).all()


def test_two_ranks_are_the_whole_batch() -> None:
    whole = random_batch([True, True, False, False, False, True], 4, seed=3)
    parts = on_ranks(2, lambda rank, reduce: bc_loss(whole.policy[3 * rank :][:3], whole.desirable[3 * rank :][:3],
                                                    reduce=reduce))  # fmt: skip
    expected = bc_loss(whole.policy, whole.desirable)
    torch.testing.assert_close(torch.stack([p.loss for p in parts]).mean(), expected.loss)


def test_no_desirable_sample() -> None:
    assert bc_loss(torch.full((2, 3), -1.0), torch.tensor([False, False])).loss.item() == 0


def test_bad_input() -> None:
    with pytest.raises(RoboprefError, match="policy_logps holds NaN"):
        bc_loss(torch.tensor([[math.nan]]), torch.tensor([True]))
    with pytest.raises(RoboprefError, match="desirable is bool"):
        bc_loss(torch.tensor([[-1.0]]), torch.tensor([1]))


def test_the_objective_needs_no_reference() -> None:
    batch = random_batch([True, False], 3)
    objective = get_objective("bc")
    assert not objective.needs_reference
    out = objective(ObjectiveInputs(batch.policy, batch.desirable, batch.error))
    assert out.loss.item() == bc_loss(batch.policy, batch.desirable).loss.item()
    with pytest.raises(RoboprefError, match="objective bc"):
        get_objective("bc", beta=1.0)
