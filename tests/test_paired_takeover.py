from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from preference_batches import on_ranks, random_batch
from test_dpo import make_dataset, pairs

from robopref.errors import RoboprefError
from robopref.objectives import dpo_loss, get_objective, paired_takeover_loss
from robopref.sampling import BalancedSampler
from robopref.training.trainer import Trainer, TrainerConfig, make_accelerator


def test_by_hand() -> None:
    # Rewards 1 and -.5, beta = 1: log(1 + e^-1.5) = .201413; p(1) = (1.313262 + .313262) / 2 - .693147 = .120115;
    # p(.5) = (.974077 + .474077) / 2 - .693147 = .030930; rho = 2: .201413 + .120115 + .030930 = .352458
    zero = torch.zeros(1, 1, dtype=torch.float64)
    out = paired_takeover_loss(zero + 1, zero, zero - 0.5, zero, beta=1.0, proximal_weight=2.0)
    assert out.loss.item() == pytest.approx(0.352458, abs=1e-6)
    assert out.per_sample.tolist() == pytest.approx([0.352458], abs=1e-6)
    assert out.metrics["loss/proximal"] == pytest.approx(0.151045, abs=1e-6)


def test_where_the_two_agree_there_is_no_preference_and_no_proximal_term() -> None:
    # Half of .352458 above: the mean is over both samples.
    zero = torch.zeros(2, 1, dtype=torch.float64)
    first = torch.tensor([True, False])
    out = paired_takeover_loss(zero + 1, zero, zero - 0.5, zero, beta=1.0, proximal_weight=2.0, preferred=first)
    assert out.per_sample.tolist() == pytest.approx([0.352458, 0], abs=1e-6)
    assert out.loss.item() == pytest.approx(0.176229, abs=1e-6)


def test_without_the_proximal_term_it_is_dpo() -> None:
    batch = random_batch([True] * 4, 3, seed=1)
    expected = dpo_loss(*pairs(batch), anchor_weight=0.4)
    assert paired_takeover_loss(*pairs(batch), anchor_weight=0.4, proximal_weight=0.0).loss == expected.loss


def test_the_proximal_term_pulls_actions_that_lost_probability_together_back_up() -> None:
    # Both rewards at -4: DPO sees no difference to mend, and pushes the rejected one down as hard as the chosen up.
    low = torch.full((1, 1), -4.0, dtype=torch.float64)
    zero = torch.zeros_like(low)
    chosen, rejected = low.clone().requires_grad_(), low.clone().requires_grad_()
    paired_takeover_loss(chosen, zero, rejected, zero, beta=1.0, proximal_weight=4.0).loss.backward()
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert chosen.grad.item() < 0
    assert rejected.grad.item() < 0


def test_two_ranks_are_the_whole_batch() -> None:
    whole = random_batch([True] * 6, 4, seed=3)
    expected = paired_takeover_loss(*pairs(whole), anchor_weight=0.5)
    halves = [whole[:3], whole[3:]]

    def work(rank: int, reduce: Any) -> Any:
        return paired_takeover_loss(*pairs(halves[rank]), anchor_weight=0.5, reduce=reduce)

    torch.testing.assert_close(torch.stack([o.loss for o in on_ranks(2, work)]).mean(), expected.loss)


def test_bad_settings() -> None:
    with pytest.raises(RoboprefError, match="proximal_weight"):
        get_objective("paired-takeover", proximal_weight=-1.0)


def test_through_the_trainer() -> None:
    policy, dataset = make_dataset()
    objective = get_objective("paired-takeover", beta=0.5, anchor_weight=0.5)
    assert objective.mixture is not None
    curve: dict[int, Any] = {}
    trainer = Trainer(
        policy,
        dataset,
        BalancedSampler(dataset.labels, 24, shares=objective.mixture(dataset.labels).shares),
        objective,
        TrainerConfig(steps=60, batch_size=24, learning_rate=3e-3, log_every=1, precision="fp32"),
        accelerator=make_accelerator("fp32", "cpu"),
        log=lambda metrics, step: curve.__setitem__(step, metrics),
    )
    # Even where a proposal was recorded, the rejected action is a sample: with 256 bins the two differ.
    part, _ = trainer.reference.score(trainer.composer.part(0))
    indices = part.indices[dataset.has_pair[part.indices]]
    assert part.second_tokens is not None
    rejected = part.second_tokens[torch.as_tensor(dataset.has_pair[part.indices])].numpy()
    assert (rejected != dataset.rejected_tokens[indices]).any(axis=1).mean() > 0.9
    assert trainer.run()
    assert len(curve) == 60
    assert curve[1]["loss/preference"] == pytest.approx(math.log(2), abs=1e-6)
    assert curve[60]["rewards/margins"] > 0.3
