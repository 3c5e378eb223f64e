from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from preference_batches import Batch, batches, on_ranks, random_batch
from torch import Tensor

from robopref.errors import RoboprefError
from robopref.objectives import ObjectiveInputs, get_objective, kto_loss


def kto_args(batch: Batch) -> tuple[Tensor, ...]:
    return batch.args()[:-1]


def trl_kto(batch: Batch, beta: float) -> tuple[float, list[float], float]:
    """TRL's KTO with unit weights, one sample at a time -> (loss, losses in input order, kl)."""
    policy, reference = batch.policy.sum(1).tolist(), batch.reference.sum(1).tolist()
    kl = sum(batch.policy_kl.sum(1).tolist()) / len(batch) - sum(batch.reference_kl.sum(1).tolist()) / len(batch)
    kl = max(kl, 0.0)
    losses = []
    for chosen, log_pi, log_ref in zip(batch.desirable.tolist(), policy, reference, strict=True):
        log_ratio = log_pi - log_ref
        argument = beta * (log_ratio - kl) if chosen else beta * (kl - log_ratio)
        losses.append(1 - 1 / (1 + math.exp(-argument)))
    return sum(losses) / len(losses), losses, kl


@given(batch=batches(), beta=st.floats(0.01, 2))
def test_equals_trl(batch: Batch, beta: float) -> None:
    out = kto_loss(*kto_args(batch), beta=beta)
    loss, losses, kl = trl_kto(batch, beta)
    assert out.loss.item() == pytest.approx(loss, abs=1e-6)
    assert out.per_sample.tolist() == pytest.approx(losses, abs=1e-6)
    assert out.weights.tolist() == [1.0] * len(batch)
    assert out.metrics["kl"] == pytest.approx(kl, abs=1e-6)


def test_by_hand() -> None:
    # r = (1, -1), z0 = (.5 + .1) / 2 = .3, beta = 1:
    # desirable 1 - sigmoid(1 - .3) = .331812, undesirable 1 - sigmoid(.3 + 1) = .214165, mean .272989
    zero = torch.zeros(2, 1, dtype=torch.float64)
    policy = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    policy_kl = torch.tensor([[0.5], [0.1]], dtype=torch.float64)
    out = kto_loss(policy, zero, policy_kl, zero, torch.tensor([True, False]), beta=1.0)
    assert out.per_sample.tolist() == pytest.approx([0.331812, 0.214165], abs=1e-6)
    assert out.loss.item() == pytest.approx(0.272989, abs=1e-6)
    assert out.metrics["rewards/margins"] == pytest.approx(2.0)


@pytest.mark.parametrize(("kl", "expected"), [(-3.0, 0.0), (3.0, 3.0), (40.0, 40.0)])
def test_z0_is_clamped_at_zero_and_only_there(kl: float, expected: float) -> None:
    zero = torch.zeros(1, 2, dtype=torch.float64)
    out = kto_loss(zero, zero, zero + kl / 2, zero, torch.tensor([True]))
    assert out.metrics["kl"] == expected
    assert out.loss.item() == pytest.approx(1 / (1 + math.exp(-0.1 * expected)))  # r = 0


def test_z0_is_clamped_after_the_ranks_are_averaged() -> None:
    # Ranks at +2 and -1 average to .5; clamped before, they would average to 1.
    zero = torch.zeros(1, 1, dtype=torch.float64)
    kl = [2.0, -1.0]
    outs = on_ranks(2, lambda rank, reduce: kto_loss(zero, zero, zero + kl[rank], zero, torch.tensor([True]),
                                                    reduce=reduce))  # fmt: skip
    assert [out.metrics["kl"] for out in outs] == [0.5, 0.5]


def test_two_ranks_are_the_whole_batch() -> None:
    whole = random_batch([True, True, False, True, False, False], 4, seed=3)
    expected = kto_loss(*kto_args(whole), anchor_weight=0.5)
    halves = [whole[:3], whole[3:]]

    def work(rank: int, reduce: Any) -> Any:
        return kto_loss(*kto_args(halves[rank]), anchor_weight=0.5, reduce=reduce)

    outs = on_ranks(2, work)
    torch.testing.assert_close(torch.cat([o.per_sample for o in outs]), expected.per_sample)
    torch.testing.assert_close(torch.stack([o.loss for o in outs]).mean(), expected.loss)


def test_gradients() -> None:
    batch = random_batch([True, False, True], 3, seed=6)
    tables = [t.clone().requires_grad_() for t in batch.args()[:4]]
    kto_loss(*tables, batch.desirable).loss.backward()
    grad = tables[0].grad
    assert grad is not None
    assert (grad[batch.desirable] < 0).all()
    assert (grad[~batch.desirable] > 0).all()
    assert [t.grad for t in tables[1:]] == [None] * 3

    def loss(policy: Tensor) -> Tensor:
        return kto_loss(policy, *kto_args(batch)[1:], beta=0.5, anchor_weight=0.3).loss

    assert torch.autograd.gradcheck(loss, (batch.policy.clone().requires_grad_(),))


def test_the_anchor_adds_the_mean_token_nll() -> None:
    batch = random_batch([True, False, True], 3, seed=7)
    plain, anchored = (kto_loss(*kto_args(batch), anchor_weight=w) for w in (0.0, 2.0))
    nll = -batch.policy[batch.desirable].mean()
    assert (anchored.loss - plain.loss).item() == pytest.approx(2 * nll.item())


@pytest.mark.parametrize(("given_dtype", "dtype"), [(torch.float64, torch.float64), (torch.bfloat16, torch.float32)])
def test_precision(given_dtype: torch.dtype, dtype: torch.dtype) -> None:
    batch = random_batch([True, False], 3)
    out = kto_loss(*(t.to(given_dtype) for t in batch.args()[:4]), batch.desirable)
    assert (out.loss.dtype, out.per_sample.dtype, out.weights.dtype) == (dtype,) * 3


@pytest.mark.parametrize(("desirable", "absent"), [(True, "rejected"), (False, "chosen")])
def test_a_batch_of_one_class(desirable: bool, absent: str) -> None:
    out = kto_loss(*kto_args(random_batch([desirable] * 2, 3)), anchor_weight=1.0)
    assert all(math.isfinite(v) for v in (out.loss.item(), *out.metrics.values()))
    assert not {f"rewards/{absent}", f"logps/{absent}", "rewards/margins"} & out.metrics.keys()


def test_bad_input() -> None:
    good = random_batch([True, False], 3)
    with pytest.raises(RoboprefError, match="reference_logps has shape"):
        kto_loss(*kto_args(good.with_(reference=good.reference[:, :1])))
    with pytest.raises(RoboprefError, match="policy_kl_logps holds NaN"):
        kto_loss(*kto_args(good.with_(policy_kl=good.policy_kl * math.nan)))
    with pytest.raises(RoboprefError, match="desirable is bool"):
        kto_loss(*kto_args(good.with_(desirable=torch.ones(2))))
    for setting, message in (({"beta": -1.0}, "beta"), ({"anchor_weight": -1.0}, "anchor_weight")):
        with pytest.raises(RoboprefError, match=message):
            kto_loss(*kto_args(good), **setting)
        with pytest.raises(RoboprefError, match=message):
            get_objective("kto", **setting)


def test_the_objective_is_the_function_with_its_settings() -> None:
    batch = random_batch([True, False, True], 3)
    objective = get_objective("kto", beta=0.3, anchor_weight=0.2)
    inputs = ObjectiveInputs(
        policy_logps=batch.policy,
        desirable=batch.desirable,
        action_error=batch.error,
        reference_logps=batch.reference,
        policy_kl_logps=batch.policy_kl,
        reference_kl_logps=batch.reference_kl,
    )
    assert objective(inputs).loss.item() == kto_loss(*kto_args(batch), beta=0.3, anchor_weight=0.2).loss.item()
    assert objective.needs_reference
    assert not objective.own_prefix_kl
