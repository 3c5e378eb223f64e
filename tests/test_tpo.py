from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from preference_batches import on_ranks, random_batch
from synthetic import demonstrations, interactions
from test_policies import tiny_policy

from robopref.errors import RoboprefError
from robopref.labeling import LabelingRule
from robopref.objectives import get_objective, tpo_loss
from robopref.sampling import BalancedSampler
from robopref.training.dataset import StepDataset
from robopref.training.trainer import Trainer, TrainerConfig, make_accelerator
from robopref.training.window_pairs import WindowPairSampler, window_starts
from robopref.trajectory import Label


def make_dataset(episodes: Any = None, window: int = 10) -> StepDataset:
    policy = tiny_policy()
    episodes = episodes or demonstrations() + interactions()
    labels = [LabelingRule(window=window).apply(e) for e in episodes]
    return StepDataset(episodes, labels, policy, policy.observation_keys)


# --- the loss


def test_by_hand() -> None:
    # Two pairs of windows of two steps. Summed ratios: 1 + .5 against -.5 + 0, and -1 - 1 against 2 + 1:
    # h = 2 and -5; beta = .5: log(1 + e^-1) = .313262, log(1 + e^2.5) = 2.578890, mean 1.446076
    ratios = torch.tensor([1.0, 0.5, -0.5, 0.0, -1.0, -1.0, 2.0, 1.0], dtype=torch.float64)[:, None]
    out = tpo_loss(ratios, torch.zeros_like(ratios), window=2, beta=0.5)
    assert out.loss.item() == pytest.approx(1.446076, abs=1e-6)
    assert out.per_sample.tolist() == pytest.approx([0.313262] * 4 + [2.578890] * 4, abs=1e-6)
    assert out.metrics["rewards/accuracies"] == 0.5
    assert out.metrics["rewards/chosen"] == pytest.approx(0.5 * (1.5 - 2) / 2)


def test_gradients_and_anchor() -> None:
    batch = random_batch([True] * 8, 3, seed=1)
    policy = batch.policy.clone().requires_grad_()
    tpo_loss(policy, batch.reference, window=2).loss.backward()
    preferred = torch.tensor([True, True, False, False] * 2)
    assert policy.grad is not None
    assert (policy.grad[preferred] < 0).all()
    assert (policy.grad[~preferred] > 0).all()
    plain, anchored = (tpo_loss(batch.policy, batch.reference, window=2, anchor_weight=w).loss for w in (0.0, 2.0))
    assert (anchored - plain).item() == pytest.approx(-2 * batch.policy[preferred].mean().item())


def test_a_window_of_one_step_is_dpo_across_observations() -> None:
    batch = random_batch([True] * 4, 3, seed=2)
    ratio = (batch.policy - batch.reference).sum(1).tolist()
    losses = [math.log1p(math.exp(-0.1 * (ratio[i] - ratio[i + 1]))) for i in (0, 2)]
    assert tpo_loss(batch.policy, batch.reference, window=1).loss.item() == pytest.approx(sum(losses) / 2)


def test_two_ranks_are_the_whole_batch() -> None:
    whole = random_batch([True] * 8, 4, seed=3)
    expected = tpo_loss(whole.policy, whole.reference, window=2, anchor_weight=0.5)
    parts = on_ranks(2, lambda rank, reduce: tpo_loss(whole.policy[4 * rank :][:4], whole.reference[4 * rank :][:4],
                                                     window=2, anchor_weight=0.5, reduce=reduce))  # fmt: skip
    torch.testing.assert_close(torch.stack([p.loss for p in parts]).mean(), expected.loss)


def test_bad_input() -> None:
    batch = random_batch([True] * 6, 3)
    with pytest.raises(RoboprefError, match="no whole number of pairs"):
        tpo_loss(batch.policy, batch.reference, window=2)
    with pytest.raises(RoboprefError, match="beta"):
        get_objective("tpo", beta=-1.0)


# --- the windows


def test_window_starts_by_hand() -> None:
    labels = np.array([3, 3, 3, 0, 0, 0, 0, 0, 2])
    episode = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1])
    assert window_starts(episode, labels, Label.UNDESIRABLE, 2).tolist() == [3, 4, 6]  # not 5: it crosses episodes
    assert window_starts(episode, labels, Label.EXPERT, 3).tolist() == [0]
    assert window_starts(episode, labels, Label.HUMAN, 2).tolist() == []
    assert window_starts(episode, labels, Label.HUMAN, 20).tolist() == []


@settings(max_examples=15)
@given(st.integers(0, 50), st.integers(0, 2**33), st.integers(2, 8))
def test_a_pair_is_two_windows_of_one_task_each_within_an_episode(step: int, seed: int, window: int) -> None:
    episodes = demonstrations(2) + interactions(2) + demonstrations(2, task="push") + interactions(2, task="push")
    dataset = make_dataset(episodes)
    batch = WindowPairSampler(dataset, 5 * window, window, seed=seed).batch(step).reshape(-1, 2, window)
    assert len(batch) == 2  # what remains of five windows is no pair
    assert (np.diff(batch, axis=2) == 1).all()
    assert (dataset.episode[batch] == dataset.episode[batch[:, :, :1]]).all()
    assert np.isin(dataset.labels[batch[:, 0]], [Label.EXPERT, Label.HUMAN]).all()
    assert (dataset.labels[batch[:, 1]] == Label.UNDESIRABLE).all()
    assert (dataset.tasks[batch[:, 0]] == dataset.tasks[batch[:, 1]]).all()


def test_two_of_three_preferred_windows_are_demonstrations() -> None:
    dataset = make_dataset()
    sampler = WindowPairSampler(dataset, 16 * 8, 8)
    first = np.concatenate([sampler.batch(step).reshape(-1, 2, 8)[:, 0, 0] for step in range(150)])
    assert (dataset.labels[first] == Label.EXPERT).mean() == pytest.approx(2 / 3, abs=0.06)


def test_the_ranks_together_see_what_one_process_sees() -> None:
    dataset = make_dataset()
    alone = WindowPairSampler(dataset, 4 * 16, 8, seed=3).batch(7).reshape(-1, 16)
    parts = [WindowPairSampler(dataset, 4 * 16, 8, seed=3, rank=r, world_size=2).batch(7) for r in range(2)]
    together = np.concatenate([part.reshape(-1, 16) for part in parts])
    assert sorted(together.tolist()) == sorted(alone.tolist())


def test_data_without_windows_and_batches_without_room() -> None:
    with pytest.raises(RoboprefError, match="at least 8 steps before each takeover"):
        WindowPairSampler(make_dataset(window=7), 64, 8)
    with pytest.raises(RoboprefError, match="batch size of at least 16"):
        WindowPairSampler(make_dataset(), 15, 8)
    with pytest.raises(RoboprefError, match="at least 48"):
        WindowPairSampler(make_dataset(), 32, 8, world_size=3)


def test_what_may_be_drawn_is_what_is_drawn() -> None:
    dataset = make_dataset()
    sampler = WindowPairSampler(dataset, 16 * 8, 8)
    drawn = np.unique(np.concatenate([sampler.batch(step) for step in range(150)]))
    assert set(drawn) <= set(sampler.drawable())
    assert len(drawn) > 0.9 * len(sampler.drawable())


# --- the trainer


def make_trainer(objective: Any, sampler: Any, dataset: StepDataset, curve: dict[int, Any]) -> Trainer:
    return Trainer(
        tiny_policy(),
        dataset,
        sampler,
        objective,
        TrainerConfig(steps=60, batch_size=64, learning_rate=3e-3, log_every=1, precision="fp32"),
        accelerator=make_accelerator("fp32", "cpu"),
        log=lambda metrics, step: curve.__setitem__(step, metrics),
    )


def test_through_the_trainer() -> None:
    dataset, curve = make_dataset(), {}
    objective = get_objective("tpo", anchor_weight=1.0)
    assert make_trainer(objective, WindowPairSampler(dataset, 64, objective.window), dataset, curve).run()
    assert len(curve) == 60
    assert curve[1]["loss/preference"] == pytest.approx(math.log(2), abs=1e-6)  # policy and reference start alike
    assert curve[60]["rewards/margins"] > 0.5
    assert curve[60]["rewards/accuracies"] > 0.7
    assert curve[60]["shares/undesirable"] == 0.5


def test_an_objective_on_windows_refuses_batches_of_single_steps() -> None:
    dataset = make_dataset()
    with pytest.raises(RoboprefError, match="tpo judges windows of 8 steps"):
        make_trainer(get_objective("tpo"), BalancedSampler(dataset.labels, 64), dataset, {})
