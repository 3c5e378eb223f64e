"""What APO is given: dtypes, batches of one class, values far out; bad tensors and settings are refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from apo_variants import VARIANT
from preference_batches import Batch, random_batch
from torch import Tensor

from robopref.errors import RoboprefError
from robopref.objectives import ObjectiveInputs, apo_loss, get_objective


@VARIANT
@pytest.mark.parametrize(
    ("given_dtype", "dtype"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    ],
)
def test_precision(variant: str, given_dtype: torch.dtype, dtype: torch.dtype) -> None:
    batch = random_batch([True, False, True], 3)
    tables = [t.to(given_dtype) for t in batch.args()[:4]]
    tables[0].requires_grad_()
    out = apo_loss(*tables, batch.desirable, batch.error.to(given_dtype), variant=variant, anchor_weight=1.0)
    assert (out.loss.dtype, out.per_sample.dtype, out.weights.dtype) == (dtype,) * 3
    out.loss.backward()
    assert tables[0].grad is not None
    assert tables[0].grad.dtype == given_dtype
    # Only the inputs were rounded, not the sums.
    rounded = Batch(*(t.detach().double() for t in tables), batch.desirable, batch.error.to(given_dtype).double())
    exact = apo_loss(*rounded.args(), variant=variant, anchor_weight=1.0)
    assert out.loss.item() == pytest.approx(exact.loss.item(), rel=1e-5)


@VARIANT
@pytest.mark.parametrize(
    ("desirable", "present", "absent"), [(True, "chosen", "rejected"), (False, "rejected", "chosen")]
)
def test_a_batch_of_one_class(variant: str, desirable: bool, present: str, absent: str) -> None:
    batch = random_batch([desirable] * 3, 4)
    policy = batch.policy.clone().requires_grad_()
    out = apo_loss(*batch.with_(policy=policy).args(), variant=variant, anchor_weight=1.0)
    out.loss.backward()
    assert out.loss.isfinite()
    assert policy.grad is not None
    assert policy.grad.isfinite().all()
    assert {f"rewards/{present}", f"logps/{present}"} <= out.metrics.keys()
    assert not {f"rewards/{absent}", f"logps/{absent}", "rewards/margins"} & out.metrics.keys()
    assert out.metrics["shares/desirable"] == float(desirable)
    assert all(math.isfinite(v) for v in out.metrics.values())


@VARIANT
def test_far_from_the_reference_the_loss_stays_finite(variant: str) -> None:
    batch = random_batch([True, False, True, False], 3)
    policy = (batch.policy - 1e4).requires_grad_()
    out = apo_loss(*batch.with_(policy=policy).args(), variant=variant)
    out.loss.backward()
    assert out.loss.isfinite()
    assert policy.grad is not None
    assert policy.grad.isfinite().all()


def _with(table: Tensor, value: float) -> Tensor:
    changed = table.clone()
    changed.view(-1)[0] = value
    return changed


GOOD = random_batch([True, False], 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy": GOOD.policy[0]}, "B, L"),
        ({"policy": GOOD.policy[:, :0]}, "B, L"),
        ({"reference": GOOD.reference[:, :2]}, "reference_logps has shape"),
        ({"policy_kl": GOOD.policy_kl[:1]}, "policy_kl_logps has shape"),
        ({"reference_kl": GOOD.reference_kl[None]}, "reference_kl_logps has shape"),
        ({"policy": _with(GOOD.policy, math.nan)}, "policy_logps holds NaN"),
        ({"reference": _with(GOOD.reference, -math.inf)}, "reference_logps holds NaN or infinity"),
        ({"policy_kl": _with(GOOD.policy_kl, math.nan)}, "policy_kl_logps holds NaN"),
        ({"reference_kl": _with(GOOD.reference_kl, math.inf)}, "reference_kl_logps holds NaN"),
        ({"desirable": torch.tensor([1, 0])}, "desirable is bool"),
        ({"desirable": torch.tensor([True])}, "desirable is bool"),
        ({"error": torch.zeros(2, 1)}, "action_error is"),
        ({"error": torch.tensor([-0.1, 0.2])}, "not negative"),
        ({"error": torch.tensor([math.nan, 0.2])}, "finite"),
    ],
)
def test_bad_tensors(changes: dict[str, Tensor], message: str) -> None:
    with pytest.raises(RoboprefError, match=message):
        apo_loss(*GOOD.with_(**changes).args())


def test_an_empty_batch() -> None:
    with pytest.raises(RoboprefError, match="B, L >= 1"):
        apo_loss(*GOOD[:0].args())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"beta": 0.0}, "beta must be positive"),
        ({"beta": math.nan}, "beta must be positive"),
        ({"beta_desirable": 0.0}, "beta_desirable must be positive"),
        ({"beta_undesirable": -1.0}, "beta_undesirable not negative"),
        ({"kl_min": 1.0, "kl_max": 0.0}, "kl_min"),
        ({"anchor_weight": -0.5}, "anchor_weight"),
        ({"variant": "faithful"}, "'default' and 'reference', not 'faithful'"),
    ],
)
def test_impossible_settings(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(RoboprefError, match=message):
        apo_loss(*GOOD.args(), **setting)
    with pytest.raises(RoboprefError, match=message):  # before any training, too
        get_objective("apo", **setting)


@pytest.mark.parametrize("name", ["apo", "kto"])
def test_a_preference_objective_without_a_reference(name: str) -> None:
    inputs = ObjectiveInputs(GOOD.policy, GOOD.desirable, GOOD.error)
    with pytest.raises(RoboprefError, match="compares with a reference"):
        get_objective(name)(inputs)


def test_unknown_objectives_and_settings() -> None:
    with pytest.raises(RoboprefError, match="no objective 'apoo': try apo"):
        get_objective("apoo")
    with pytest.raises(RoboprefError, match=r"objective kto: .*variant"):
        get_objective("kto", variant="default")
