"""The published loss's weaknesses, and the default without them: class balance, size of the batch, last column."""

from __future__ import annotations

import math

import pytest
import torch
from apo_variants import VARIANTS
from hypothesis import given, settings
from preference_batches import Batch, batches, random_batch
from torch import Tensor

from robopref.objectives import apo_loss


def balanced(size: int, error: float = 0.3) -> Batch:
    """3 of 4 samples desirable, as in batches of 50 % expert, 25 % human and 25 % undesirable steps."""
    return random_batch([i % 4 != 3 for i in range(size)], 4, seed=size, errors=[error] * size)


def weight_ratio(batch: Batch, variant: str) -> float:
    """Weight of an undesirable sample over that of a desirable one."""
    weights = apo_loss(*batch.args(), variant=variant).weights
    return (weights[~batch.desirable].mean() / weights[batch.desirable].mean()).item()


@pytest.mark.parametrize(("size", "published"), [(8, 3.95), (32, 21.6), (64, 45.6)])
def test_the_class_balance_depends_on_the_batch_size_in_the_reference_only(size: int, published: float) -> None:
    # 3 n / 4 desirable with w = 4 / (3 n), n / 4 undesirable with w = 4 / n.
    by_hand = math.exp(-4 / size) / (1 - math.exp(-4 / (3 * size)))
    assert by_hand == pytest.approx(published, rel=2e-3)
    assert weight_ratio(balanced(size), "reference") == pytest.approx(by_hand, rel=2e-3)
    # Every w is 1: exp(-1) / (1 - exp(-1)) = 1 / (e - 1), at every size.
    assert weight_ratio(balanced(size), "default") == pytest.approx(1 / (math.e - 1), rel=1e-12)


@pytest.mark.parametrize("size", [4, 8, 64])
def test_without_any_error_the_default_keeps_the_class_balance(size: int) -> None:
    imperfect, perfect = balanced(size), balanced(size, error=0.0)
    assert weight_ratio(perfect, "default") == pytest.approx(weight_ratio(imperfect, "default"), rel=1e-12)
    # The reference's w jumps from 1 / n to 1 within each class: its balance flips to the desirable side.
    assert weight_ratio(perfect, "reference") == pytest.approx(1 / (math.e - 1), rel=1e-12)
    assert weight_ratio(imperfect, "reference") > 1
    for variant in VARIANTS:
        out = apo_loss(*perfect.args(), variant=variant)
        assert ((out.weights > 0) & (out.weights < 1)).all()


@settings(max_examples=40)
@given(batch=batches())
def test_duplicating_the_batch_leaves_the_default_unchanged(batch: Batch) -> None:
    twice = batch[list(range(len(batch))) * 2]
    once_out, twice_out = (apo_loss(*b.args(), anchor_weight=0.5) for b in (batch, twice))
    torch.testing.assert_close(twice_out.loss, once_out.loss)
    torch.testing.assert_close(twice_out.weights, once_out.weights.repeat(2))


def test_duplicating_the_batch_changes_the_reference() -> None:
    batch = balanced(8)
    once_out, twice_out = (apo_loss(*b.args(), variant="reference") for b in (batch, batch[list(range(8)) * 2]))
    desirable = batch.desirable
    # Twice the samples share the same sum: w halves, so desirable weights fall and undesirable ones rise.
    assert (twice_out.weights[:8][desirable] < 0.6 * once_out.weights[desirable]).all()
    assert (twice_out.weights[:8][~desirable] > once_out.weights[~desirable]).all()
    assert twice_out.loss.item() > 1.5 * once_out.loss.item()  # a sum, not a mean


def test_the_reference_leaves_out_the_last_column_where_the_public_trainer_does() -> None:
    batch = random_batch([True, False, True, False], 5, seed=8)

    def per_sample(variant: str, **changes: Tensor) -> Tensor:
        return apo_loss(*batch.with_(**changes).args(), variant=variant).per_sample

    def other_last(table: Tensor) -> Tensor:
        return torch.cat([table[:, :-1], table[:, -1:] - 2.0], dim=1)

    changed = per_sample("reference", policy=other_last(batch.policy)) != per_sample("reference")
    assert changed.tolist() == batch.desirable.tolist()
    torch.testing.assert_close(per_sample("reference", policy_kl=other_last(batch.policy_kl)), per_sample("reference"))
    assert (per_sample("default", policy=other_last(batch.policy)) != per_sample("default")).all()
    assert (per_sample("default", policy_kl=other_last(batch.policy_kl)) != per_sample("default")).all()

    policy = batch.policy.clone().requires_grad_()
    apo_loss(*batch.with_(policy=policy).args(), variant="reference").loss.backward()
    assert policy.grad is not None
    assert (policy.grad[:, -1] != 0).tolist() == batch.desirable.tolist()


def test_the_last_column_is_the_last_padded_one() -> None:
    # A row whose stop token comes one column early keeps it: only the padded column is left out.
    policy, reference = torch.tensor([[-1.0, -2.0, 0.0]]), torch.tensor([[-1.0, -3.0, 0.0]])
    out = apo_loss(
        policy, reference, policy, reference, torch.tensor([False]), torch.zeros(1), beta=1.0, variant="reference"
    )
    assert out.metrics["rewards/rejected"] == pytest.approx(1.0)
    assert out.metrics["kl"] == pytest.approx(1.0)
