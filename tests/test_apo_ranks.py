"""APO across ranks: parts of a batch are the whole, by default; the reference's statistics are per rank."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from preference_batches import Batch, on_ranks, random_batch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from robopref.objectives import ObjectiveInputs, apo_loss, get_objective


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
