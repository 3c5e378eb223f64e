"""Doubting undesirable labels: ``label_noise="em"`` of APO and KTO."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from preference_batches import Batch, batches, on_ranks, random_batch
from small_runs import Run

from robopref.errors import RoboprefError
from robopref.objectives import apo_loss, get_objective, kto_loss


def test_by_hand() -> None:
    # beta = 1, z0 = 0. Undesirable r = 2: s = sigmoid(-2) = .119203, w = .107283 / (.107283 + .088080) = .549147,
    # l = .549147 * .880797 + .450853 * .119203 = .537430. Undesirable r = -1: s = .731059,
    # w = .657953 / (.657953 + .026894) = .960730, l = .960730 * .268941 + .039270 * .731059 = .287089.
    # Desirable r = 2: trusted, 1 - sigmoid(2) = .119203.
    zero = torch.zeros(3, 1, dtype=torch.float64)
    policy = torch.tensor([[2.0], [-1.0], [2.0]], dtype=torch.float64, requires_grad=True)
    desirable = torch.tensor([False, False, True])
    out = kto_loss(policy, zero, zero, zero, desirable, beta=1.0, label_noise="em")
    assert out.per_sample.tolist() == pytest.approx([0.537430, 0.287089, 0.119203], abs=1e-6)
    assert out.loss.item() == pytest.approx(0.314574, abs=1e-6)
    assert out.metrics["label_trust/undesirable"] == pytest.approx(0.754939, abs=1e-6)
    # The gradient holds w: (2 w - 1) s (1 - s) for undesirable samples, over three samples.
    out.loss.backward()
    assert policy.grad is not None
    expected = [0.098294 * 0.104994 / 3, 0.921460 * 0.196612 / 3, -0.104994 / 3]
    assert policy.grad[:, 0].tolist() == pytest.approx(expected, abs=1e-6)


def test_a_label_is_turned_round_where_it_is_likelier_wrong() -> None:
    # w = 1/2 at r - z0 = log(9) / beta.
    zero = torch.zeros(2, 1, dtype=torch.float64)
    turn = math.log(9) / 0.5
    policy = torch.tensor([[turn - 0.1], [turn + 0.1]], dtype=torch.float64, requires_grad=True)
    kto_loss(policy, zero, zero, zero, torch.tensor([False, False]), beta=0.5, label_noise="em").loss.backward()
    assert policy.grad is not None
    assert policy.grad[0].item() > 0 > policy.grad[1].item()


@settings(max_examples=40)
@given(batch=batches(), beta=st.floats(0.01, 2))
def test_equals_the_formula(batch: Batch, beta: float) -> None:
    for loss, arguments in ((apo_loss, batch.args()), (kto_loss, batch.args()[:-1])):
        plain = loss(*arguments, beta=beta)
        doubted = loss(*arguments, beta=beta, label_noise="em")
        rows = zip(
            batch.desirable.tolist(), plain.weights.tolist(), plain.per_sample.tolist(), doubted.per_sample.tolist(),
            strict=True,
        )  # fmt: skip
        for desirable, weight, one, other in rows:
            satisfied = 1 - one / weight
            trust = satisfied * 0.9 / (satisfied * 0.9 + (1 - satisfied) * 0.1)
            expected = weight * (trust * (1 - satisfied) + (1 - trust) * satisfied)
            assert other == pytest.approx(one if desirable else expected, rel=1e-5, abs=1e-6)
        assert torch.equal(doubted.weights, plain.weights)
        assert ("label_trust/undesirable" in doubted.metrics) == (not batch.desirable.all())


def test_far_from_the_reference_it_stays_finite() -> None:
    zero = torch.zeros(2, 1)
    policy = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    out = kto_loss(policy, zero, zero, zero, torch.tensor([False, False]), beta=1.0, label_noise="em")
    out.loss.backward()
    assert out.per_sample.tolist() == pytest.approx([0, 0], abs=1e-6)
    assert policy.grad is not None
    assert torch.isfinite(policy.grad).all()


def test_two_ranks_are_the_whole_batch() -> None:
    whole = random_batch([True, False, False, True, False, True], 4, seed=3)
    expected = apo_loss(*whole.args(), anchor_weight=0.5, label_noise="em")
    halves = [whole[:3], whole[3:]]

    def work(rank: int, reduce: Any) -> Any:
        return apo_loss(*halves[rank].args(), anchor_weight=0.5, label_noise="em", reduce=reduce)

    torch.testing.assert_close(torch.stack([o.loss for o in on_ranks(2, work)]).mean(), expected.loss)


@pytest.mark.parametrize("name", ["apo", "kto"])
def test_mistakes(name: str) -> None:
    with pytest.raises(RoboprefError, match="label_noise is 'none' or 'em'"):
        get_objective(name, label_noise="on")
    with pytest.raises(RoboprefError, match="label_noise"):
        kto_loss(*random_batch([True, False], 2).args()[:-1], label_noise="on")  # type: ignore[arg-type]
    with pytest.raises(RoboprefError, match="public trainer's arithmetic"):
        get_objective("apo", variant="reference", label_noise="em")


@pytest.mark.parametrize("name", ["apo", "kto"])
def test_through_the_trainer(name: str) -> None:
    run = Run(name, objective_settings={"label_noise": "em"})
    assert run.trainer.run()
    # The first step starts at the reference: r = 0; z0 = 0.
    assert run.curve[1]["label_trust/undesirable"] == pytest.approx(0.9, abs=1e-5)
