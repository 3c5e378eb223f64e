from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from preference_batches import Batch, batches, on_ranks, plain_apo, random_batch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from robopref.errors import RoboprefError
from robopref.objectives import ObjectiveInputs, apo_loss, get_objective

VARIANTS = ("default", "reference")
VARIANT = pytest.mark.parametrize("variant", VARIANTS)


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


# --- the published loss's weaknesses, and the default without them


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


# --- across ranks


def two_halves() -> tuple[Batch, list[Batch]]:
    """Ten samples whose halves hold other numbers of each class: 4 + 1 and 2 + 3."""
    batch = random_batch([True, True, True, False, True, False, False, True, False, True], 4, seed=11)
    for table in (batch.policy, batch.reference):
        table[:, -1] = 0.0  # a masked column, so that the anchor must count tokens
        table[2, 1:] = 0.0  # and another number of tokens on each rank
    return batch, [batch[:5], batch[5:]]


def test_default_on_two_ranks_is_the_whole_batch() -> None:
    whole, halves = two_halves()
    policy = whole.policy.clone().requires_grad_()
    expected = apo_loss(*whole.with_(policy=policy).args(), anchor_weight=0.7)
    expected.loss.backward()
    policies = [half.policy.clone().requires_grad_() for half in halves]

    def work(rank: int, reduce: Any) -> Any:
        args = halves[rank].with_(policy=policies[rank]).args()
        return apo_loss(*args, anchor_weight=0.7, reduce=reduce)

    outs = on_ranks(2, work)
    torch.testing.assert_close(torch.cat([o.per_sample for o in outs]), expected.per_sample)
    torch.testing.assert_close(torch.cat([o.weights for o in outs]), expected.weights)
    assert [o.metrics["kl"] for o in outs] == pytest.approx([expected.metrics["kl"]] * 2)
    mean_loss = torch.stack([o.loss for o in outs]).mean()
    torch.testing.assert_close(mean_loss, expected.loss)
    mean_loss.backward()
    torch.testing.assert_close(torch.cat([torch.as_tensor(p.grad) for p in policies]), policy.grad)


def test_a_class_on_one_rank_only() -> None:
    whole = random_batch([True] + [False] * 7, 3, seed=2)
    whole.policy[0, 1:] = whole.reference[0, 1:] = 0.0  # a single token on four ranks: a quarter of one on average
    expected = apo_loss(*whole.args(), anchor_weight=1.0)
    outs = on_ranks(4, lambda rank, reduce: apo_loss(*whole[2 * rank : 2 * rank + 2].args(), anchor_weight=1.0,
                                                    reduce=reduce))  # fmt: skip
    torch.testing.assert_close(torch.cat([o.weights for o in outs]), expected.weights)
    torch.testing.assert_close(torch.stack([o.loss for o in outs]).mean(), expected.loss)


def test_reference_statistics_are_per_rank() -> None:
    _, halves = two_halves()
    outs = on_ranks(2, lambda rank, reduce: apo_loss(*halves[rank].args(), variant="reference", reduce=reduce))
    for half, out in zip(halves, outs, strict=True):
        alone = apo_loss(*half.args(), variant="reference")
        torch.testing.assert_close(out.per_sample, alone.per_sample)
        assert out.metrics["kl"] == alone.metrics["kl"]


class TokenScores(nn.Module):
    """Features [B, L, 6] -> log-probabilities [B, L]."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 1).double()

    def forward(self, features: Tensor) -> Tensor:
        return nn.functional.logsigmoid(self.linear(features)).squeeze(-1)


def scored_loss(model: nn.Module, features: Tensor, batch: Batch, reduce: Any) -> Tensor:
    args = batch.with_(policy=model(features), policy_kl=model(features.flip(1))).args()
    return apo_loss(*args, anchor_weight=0.5, reduce=reduce).loss


def train_on_a_rank(rank: int, directory: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{directory}/rendezvous", rank=rank, world_size=2)

    def reduce(value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total / 2

    state, features = torch.load(f"{directory}/start.pt")
    model = TokenScores()
    model.load_state_dict(state)
    half = slice(5 * rank, 5 * rank + 5)
    parallel = DistributedDataParallel(model)  # averages the gradients, as long as it is alive
    loss = scored_loss(parallel, features[half], two_halves()[0][half], reduce)
    loss.backward()
    mean_loss = reduce(loss.detach())
    if rank == 0:
        torch.save((mean_loss, [p.grad for p in model.parameters()]), f"{directory}/result.pt")
    dist.barrier()
    # The result is on disk. Leaving without clean-up spares gloo's threads, which sometimes abort at exit.
    os._exit(0)


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(10, 4, 6, generator=generator, dtype=torch.float64)
    model = TokenScores()
    torch.save((model.state_dict(), features), tmp_path / "start.pt")
    expected = scored_loss(model, features, two_halves()[0], None)
    expected.backward()
    mp.spawn(train_on_a_rank, args=(str(tmp_path),), nprocs=2)
    loss, gradients = torch.load(tmp_path / "result.pt")
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(gradients, [p.grad for p in model.parameters()])


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


# --- dtypes, odd batches, bad input


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


@pytest.mark.parametrize("name", ["apo", "kto", "bc"])
def test_objectives_average_over_the_ranks(name: str) -> None:
    whole, halves = two_halves()

    def loss(batch: Batch, reduce: Any = None) -> Tensor:
        inputs = ObjectiveInputs(
            policy_logps=batch.policy,
            desirable=batch.desirable,
            action_error=batch.error,
            reference_logps=batch.reference,
            policy_kl_logps=batch.policy_kl + 0.5,
            reference_kl_logps=batch.reference_kl,
            reduce=reduce,
        )
        return get_objective(name)(inputs).loss

    parts = on_ranks(2, lambda rank, reduce: loss(halves[rank], reduce))
    torch.testing.assert_close(torch.stack(parts).mean(), loss(whole))
    alone = torch.stack([loss(half) for half in halves]).mean()
    assert alone.item() != pytest.approx(loss(whole).item(), abs=1e-6)


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
