"""APO's loss: by hand, against plain Python, its gradients and its anchor."""

from __future__ import annotations

import math

import pytest
import torch
from apo_variants import VARIANT
from hypothesis import given, settings
from hypothesis import strategies as st
from preference_batches import Batch, batches, plain_apo, random_batch
from torch import Tensor

from robopref.objectives import ObjectiveInputs, apo_loss, get_objective

# --- numbers worked out by hand


def hand_batch() -> Batch:
    """Four samples of three tokens; the reference gives every token log-probability -2, so that the log ratios are:

    sample          tokens             sum    sum without the last    error
    0 desirable      .5   .5   1.      2.                              .2
    1 undesirable  -1.    0.   -.5    -1.5    -1.                      .3
    2 desirable      0.   0.  -1.     -1.                              .6
    3 undesirable    .5   .5   0.      1.      1.                      .1
    KL tokens: sums 1., 1., .8, .6 (mean .85), without the last .5, .4, .3, .2 (mean .35).
    """
    reference = torch.full((4, 3), -2.0, dtype=torch.float64)
    ratios = torch.tensor([[0.5, 0.5, 1.0], [-1.0, 0.0, -0.5], [0.0, 0.0, -1.0], [0.5, 0.5, 0.0]]).double()
    kl = torch.tensor([[0.3, 0.2, 0.5], [0.4, 0.0, 0.6], [0.1, 0.2, 0.5], [0.0, 0.2, 0.4]], dtype=torch.float64)
    error = torch.tensor([0.2, 0.3, 0.6, 0.1], dtype=torch.float64)
    return Batch(
        reference + ratios, reference, reference + kl, reference, torch.tensor([True, False, True, False]), error
    )


def test_default_by_hand() -> None:
    # z0 = .85. Class means of the error: desirable (.2 + .6) / 2 = .4, undesirable (.3 + .1) / 2 = .2.
    # weights:  0: 1 - exp(-.2001 / .4001) = .393545   1: exp(-.3001 / .2001) = .223186
    #           2: 1 - exp(-.6001 / .4001) = .776842   3: exp(-.1001 / .2001) = .606379
    # losses:   0: .393545 (1 - sigmoid(.1 ( 2. - .85))) = .185471   1: .223186 (1 - sigmoid(.1 (.85 + 1.5))) = .098541
    #           2: .776842 (1 - sigmoid(.1 (-1. - .85))) = .424248   3: .606379 (1 - sigmoid(.1 (.85 - 1.))) = .305463
    out = apo_loss(*hand_batch().args())
    assert out.weights.tolist() == pytest.approx(
        [0.393545132935, 0.223185921777, 0.776841953811, 0.606379121759], abs=1e-10
    )
    assert out.per_sample.tolist() == pytest.approx(
        [0.185470596863, 0.098540799902, 0.424247794438, 0.305463439950], abs=1e-10
    )
    assert out.loss.item() == pytest.approx(0.253430657788, abs=1e-10)  # the mean
    assert out.metrics["kl"] == pytest.approx(0.85)
    assert out.metrics["rewards/chosen"] == pytest.approx(0.1 * (2.0 - 1.0) / 2)
    assert out.metrics["rewards/rejected"] == pytest.approx(0.1 * (-1.5 + 1.0) / 2)
    assert out.metrics["rewards/margins"] == pytest.approx(0.05 + 0.025)
    assert out.metrics["logps/chosen"] == pytest.approx((-4.0 - 7.0) / 2)
    assert out.metrics["logps/rejected"] == pytest.approx((-7.5 - 5.0) / 2)
    assert out.metrics["shares/desirable"] == 0.5


def test_reference_by_hand() -> None:
    # z0 = .35 (no last column). Class sums of the error: desirable .8, undesirable .4.
    # weights:  0: 1 - exp(-.2001 / .8001) = .221272   1: exp(-.3001 / .4001) = .472337
    #           2: 1 - exp(-.6001 / .8001) = .527648   3: exp(-.1001 / .4001) = .778655
    # losses:   0: .221272 (1 - sigmoid(.1 ( 2. - .35))) = .101529   1: .472337 (1 - sigmoid(.1 (.35 + 1.))) = .220251
    #           2: .527648 (1 - sigmoid(.1 (-1. - .35))) = .281605   3: .778655 (1 - sigmoid(.1 (.35 - 1.))) = .401976
    out = apo_loss(*hand_batch().args(), variant="reference")
    assert out.weights.tolist() == pytest.approx(
        [0.221272216955, 0.472337038132, 0.527648206639, 0.778654808104], abs=1e-10
    )
    assert out.per_sample.tolist() == pytest.approx(
        [0.101529281273, 0.220251310949, 0.281605233401, 0.401976091605], abs=1e-10
    )
    assert out.loss.item() == pytest.approx(1.005361917228, abs=1e-10)  # the sum
    assert out.metrics["kl"] == pytest.approx(0.35)
    assert out.metrics["rewards/rejected"] == pytest.approx(0.1 * (-1.0 + 1.0) / 2)
    assert out.metrics["logps/rejected"] == pytest.approx((-5.0 - 3.0) / 2)


@VARIANT
@pytest.mark.parametrize(("kl", "clamped"), [(7.0, 5.0), (-9.0, -5.0), (4.0, 4.0)])
def test_z0_is_clamped(variant: str, kl: float, clamped: float) -> None:
    reference = torch.full((1, 2), -20.0)
    policy_kl = reference + torch.tensor([[kl, 0.0]])
    out = apo_loss(
        reference, reference, policy_kl, reference, torch.tensor([True]), torch.zeros(1), beta=1.0, variant=variant
    )
    assert out.metrics["kl"] == pytest.approx(clamped)
    # r = 0, the weight is 1 - 1 / e: l = (1 - 1 / e) sigmoid(z0).
    assert out.loss.item() == pytest.approx((1 - math.exp(-1)) / (1 + math.exp(-clamped)), rel=1e-5)


# --- against an independent implementation


@VARIANT
@given(
    batch=batches(),
    beta=st.floats(0.01, 2),
    beta_d=st.floats(0.1, 3),
    beta_u=st.floats(0, 3),
    low=st.floats(-5, 0),
    high=st.floats(0, 5),
    anchor=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_equals_plain_python(
    variant: str, batch: Batch, beta: float, beta_d: float, beta_u: float, low: float, high: float, anchor: float
) -> None:
    out = apo_loss(
        *batch.args(), beta=beta, beta_desirable=beta_d, beta_undesirable=beta_u, kl_min=low, kl_max=high,
        anchor_weight=anchor, variant=variant,
    )  # fmt: skip
    loss, per_sample, weights, z0 = plain_apo(
        batch, variant, beta=beta, beta_d=beta_d, beta_u=beta_u, low=low, high=high, anchor_weight=anchor
    )
    assert out.loss.dtype == torch.float64
    assert out.loss.shape == ()
    assert out.loss.item() == pytest.approx(loss, rel=1e-10, abs=1e-12)
    assert out.per_sample.tolist() == pytest.approx(per_sample, rel=1e-10, abs=1e-12)
    assert out.weights.tolist() == pytest.approx(weights, rel=1e-10, abs=1e-12)
    assert out.metrics["kl"] == pytest.approx(z0, rel=1e-10, abs=1e-12)


@VARIANT
@pytest.mark.parametrize("desirable", [[True, False, True, True], [False, False], [True]])
def test_gradcheck(variant: str, desirable: list[bool]) -> None:
    batch = random_batch(desirable, 3, seed=5)

    def loss(policy: Tensor) -> Tensor:
        args = batch.with_(policy=policy).args()
        return apo_loss(*args, beta=0.7, anchor_weight=0.4, variant=variant).loss

    assert torch.autograd.gradcheck(loss, (batch.policy.clone().requires_grad_(),))


@VARIANT
@settings(max_examples=40)
@given(batch=batches(), data=st.data())
def test_the_order_of_samples_is_kept_and_does_not_matter(variant: str, batch: Batch, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(batch))))
    straight = apo_loss(*batch.args(), variant=variant, anchor_weight=1.0)
    permuted = apo_loss(*batch[list(order)].args(), variant=variant, anchor_weight=1.0)
    torch.testing.assert_close(permuted.per_sample, straight.per_sample[list(order)])
    torch.testing.assert_close(permuted.weights, straight.weights[list(order)])
    torch.testing.assert_close(permuted.loss, straight.loss)


# --- gradients


@VARIANT
def test_gradients_raise_desirable_and_lower_undesirable_and_go_nowhere_else(variant: str) -> None:
    batch = random_batch([True, False, True, False, False], 4, seed=3)
    inputs = [a.clone().requires_grad_() for a in (batch.policy, batch.reference, batch.policy_kl, batch.reference_kl)]
    error = batch.error.clone().requires_grad_()
    out = apo_loss(*inputs, batch.desirable, error, variant=variant)
    assert not out.weights.requires_grad
    out.loss.backward()
    policy_grad = inputs[0].grad
    assert policy_grad is not None
    assert (policy_grad[batch.desirable] < 0).all()
    counted = policy_grad[~batch.desirable] if variant == "default" else policy_grad[~batch.desirable][:, :-1]
    assert (counted > 0).all()
    assert [x.grad for x in (*inputs[1:], error)] == [None] * 4
    # d l / d r = -+ beta lambda s (1 - s), with the weight and z0 held constant.
    sigmoid = out.per_sample.detach() / out.weights
    slope = 0.1 * out.weights * sigmoid * (1 - sigmoid) * torch.where(batch.desirable, -1.0, 1.0)
    slope = slope / (5 if variant == "default" else 1)
    torch.testing.assert_close(policy_grad[:, 0], slope)


# --- the anchor


@VARIANT
def test_the_anchor_is_the_mean_token_nll_of_the_desirable_samples(variant: str) -> None:
    batch = random_batch([True, False, True], 3, seed=4)
    batch.policy[0] = torch.tensor([-1.0, -2.0, 0.0])
    batch.reference[0, 2] = 0.0  # masked: zero in both
    batch.policy[2] = torch.tensor([-0.75, -0.25, 0.0])  # the last token: certain, but not for the reference
    plain = apo_loss(*batch.args(), variant=variant)
    anchored = apo_loss(*batch.args(), variant=variant, anchor_weight=2.0)
    # (1 + 2 + .75 + .25 + 0) / 5 tokens = .8
    assert plain.metrics["loss/anchor"] == pytest.approx(0.8)
    assert (anchored.loss - plain.loss).item() == pytest.approx(1.6)
    torch.testing.assert_close(anchored.per_sample, plain.per_sample)


def test_without_desirable_samples_the_anchor_is_zero() -> None:
    batch = random_batch([False, False], 3)
    plain, anchored = (apo_loss(*batch.args(), anchor_weight=w) for w in (0.0, 1.0))
    assert anchored.loss.item() == plain.loss.item()


# --- the registered objective


@VARIANT
def test_the_objective_is_the_function_with_its_settings(variant: str) -> None:
    batch = random_batch([True, False, True], 3)
    chosen = {"beta": 0.3, "beta_desirable": 2.0, "beta_undesirable": 0.5, "kl_min": -0.1, "kl_max": 0.1,
              "anchor_weight": 0.2, "variant": variant}  # fmt: skip
    objective = get_objective("apo", **chosen)
    inputs = ObjectiveInputs(
        policy_logps=batch.policy,
        desirable=batch.desirable,
        action_error=batch.error,
        reference_logps=batch.reference,
        policy_kl_logps=batch.policy_kl,
        reference_kl_logps=batch.reference_kl,
    )
    assert objective(inputs).loss.item() == apo_loss(*batch.args(), **chosen).loss.item()
    assert objective.needs_reference
    assert objective.own_prefix_kl == (variant == "reference")
