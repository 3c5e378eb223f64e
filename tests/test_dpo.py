from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from preference_batches import Batch, batches, on_ranks, random_batch
from synthetic import demonstrations, episode, interactions
from test_policies import tiny_policy
from torch import Tensor

from robopref.errors import RoboprefError
from robopref.labeling import LabelingRule
from robopref.objectives import ObjectiveInputs, dpo_loss, get_objective
from robopref.sampling import BalancedSampler
from robopref.training.dataset import StepDataset
from robopref.training.forward import sample_action_tokens
from robopref.training.trainer import Trainer, TrainerConfig, make_accelerator
from robopref.trajectory import Actor, Label


def pairs(batch: Batch) -> tuple[Tensor, ...]:
    return batch.policy, batch.reference, batch.policy_kl, batch.reference_kl


def test_by_hand() -> None:
    # Ratios chosen (1, -1), rejected (.5, 1): h = .5 and -2; beta = 1:
    # log(1 + e^-.5) = .474077, log(1 + e^2) = 2.126928, mean 1.300503
    zero = torch.zeros(2, 1, dtype=torch.float64)
    chosen = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    rejected = torch.tensor([[0.5], [1.0]], dtype=torch.float64)
    out = dpo_loss(chosen, zero, rejected, zero, beta=1.0)
    assert out.per_sample.tolist() == pytest.approx([0.474077, 2.126928], abs=1e-6)
    assert out.loss.item() == pytest.approx(1.300503, abs=1e-6)
    assert out.metrics["rewards/margins"] == pytest.approx(-0.75)
    assert out.metrics["rewards/accuracies"] == 0.5
    assert out.metrics["logps/rejected"] == 0.75


@settings(max_examples=30)
@given(batch=batches())
def test_equals_the_formula(batch: Batch) -> None:
    out = dpo_loss(*pairs(batch), beta=0.3)
    chosen, reference, rejected, reference_rejected = (t.sum(1).tolist() for t in pairs(batch))
    losses = [
        math.log1p(math.exp(-0.3 * ((w - wr) - (r - rr))))
        for w, wr, r, rr in zip(chosen, reference, rejected, reference_rejected, strict=True)
    ]
    assert out.per_sample.tolist() == pytest.approx(losses, abs=1e-6)
    assert out.loss.item() == pytest.approx(sum(losses) / len(losses), abs=1e-6)


def test_gradients_raise_the_chosen_and_lower_the_rejected() -> None:
    batch = random_batch([True, False, True], 3, seed=6)
    tables = [t.clone().requires_grad_() for t in pairs(batch)]
    dpo_loss(*tables).loss.backward()
    chosen, reference, rejected, reference_rejected = (t.grad for t in tables)
    assert chosen is not None
    assert rejected is not None
    assert (chosen < 0).all()
    torch.testing.assert_close(rejected, -chosen)
    assert reference is None
    assert reference_rejected is None


def test_two_ranks_are_the_whole_batch_and_the_anchor_is_the_chosen_nll() -> None:
    whole = random_batch([True] * 6, 4, seed=3)
    expected = dpo_loss(*pairs(whole), anchor_weight=0.5)
    plain = dpo_loss(*pairs(whole)).loss
    assert (expected.loss - plain).item() == pytest.approx(-0.5 * whole.policy.mean().item())
    halves = [whole[:3], whole[3:]]

    def work(rank: int, reduce: Any) -> Any:
        return dpo_loss(*pairs(halves[rank]), anchor_weight=0.5, reduce=reduce)

    torch.testing.assert_close(torch.stack([o.loss for o in on_ranks(2, work)]).mean(), expected.loss)


def test_bad_input() -> None:
    good = pairs(random_batch([True, False], 3))
    with pytest.raises(RoboprefError, match="policy_rejected_logps has shape"):
        dpo_loss(good[0], good[1], good[2][:, :1], good[3])
    with pytest.raises(RoboprefError, match="beta"):
        get_objective("dpo", beta=0.0)
    with pytest.raises(RoboprefError, match="missing"):
        get_objective("dpo")(ObjectiveInputs(good[0], torch.tensor([True, False]), torch.zeros(2)))


# --- pairs


def make_dataset() -> tuple[Any, StepDataset]:
    policy = tiny_policy()
    episodes = demonstrations() + interactions()
    labels = [LabelingRule(window=5).apply(e) for e in episodes]
    return policy, StepDataset(episodes, labels, policy, policy.observation_keys)


def test_pairs_are_the_human_steps_with_the_policys_proposal() -> None:
    policy, dataset = make_dataset()
    np.testing.assert_array_equal(dataset.has_pair, dataset.labels == Label.HUMAN)
    # The synthetic policy proposes the opposite of what the human does.
    proposed = policy.tokenizer.decode(dataset.rejected_tokens[dataset.has_pair])
    done = dataset.normalized_actions[dataset.has_pair]
    np.testing.assert_allclose(proposed[:, :3], -done[:, :3], atol=1 / 100)
    assert (dataset.rejected_tokens[~dataset.has_pair] == 0).all()


def test_distances_of_pairs_by_hand() -> None:
    policy = tiny_policy()
    one = episode([Actor.POLICY, Actor.HUMAN, Actor.HUMAN, Actor.HUMAN, Actor.EXPERT])
    action, proposed = one.action.copy(), one.policy_action.copy()
    action[1:4] = [[0.5, 0, 0, 1], [0.5, 0, 0, 1], [5, 0, 0, 1]]
    proposed[1] = [0.1, 0, 0.2, 1]  # (.4 + 0 + .2 + 0) / 4
    proposed[2] = np.nan  # nobody proposed anything
    proposed[3] = [0.6, 0, 0, -7]  # both outside the tokens' range: (1 - .6 + 0 + 0 + 2) / 4
    one = replace(one, action=action, policy_action=proposed)
    dataset = StepDataset([one], [LabelingRule().apply(one)], policy, policy.observation_keys)
    np.testing.assert_allclose(policy.norm_stats.normalize(action[:1]), action[:1], atol=1e-6)  # -1 to 1 as they are
    assert dataset.pair_distance.tolist() == pytest.approx([math.inf, 0.15, math.inf, 0.6, math.inf], abs=1e-6)


def test_pairs_that_agree_are_no_preference() -> None:
    # As by hand above, and the second pair is none: .474077 / 2; the anchor is still the mean of -1 and 1
    zero = torch.zeros(2, 1, dtype=torch.float64)
    chosen = torch.tensor([[1.0], [-1.0]], dtype=torch.float64, requires_grad=True)
    rejected = torch.tensor([[0.5], [1.0]], dtype=torch.float64, requires_grad=True)
    first = torch.tensor([True, False])
    out = dpo_loss(chosen, zero, rejected, zero, beta=1.0, anchor_weight=2.0, preferred=first)
    assert out.per_sample.tolist() == pytest.approx([0.474077, 0], abs=1e-6)
    assert out.weights.tolist() == [1, 0]
    assert out.metrics["loss/preference"] == pytest.approx(0.237038, abs=1e-6)
    assert out.metrics["loss/anchor"] == 0
    assert out.metrics["rewards/margins"] == 0.5  # of the preferences alone
    assert out.metrics["shares/preferred"] == 0.5
    out.loss.backward()
    assert rejected.grad is not None
    assert chosen.grad is not None
    assert rejected.grad[1].item() == 0
    assert chosen.grad[1].item() == -1  # the anchor's alone: 2 / 2 tokens
    nobody = dpo_loss(chosen, zero, rejected, zero, anchor_weight=2.0, preferred=~first & first)
    assert nobody.loss.item() == 0
    assert "rewards/margins" not in nobody.metrics


@settings(max_examples=20)
@given(batch=batches(), seed=st.integers(0, 9))
def test_the_other_pairs_weigh_what_they_did(batch: Batch, seed: int) -> None:
    preferred = torch.rand(len(batch.policy), generator=torch.Generator().manual_seed(seed)) > 0.5
    whole, some = dpo_loss(*pairs(batch)), dpo_loss(*pairs(batch), preferred=preferred)
    torch.testing.assert_close(some.per_sample, whole.per_sample * preferred)
    torch.testing.assert_close(some.loss, some.per_sample.mean())
    all_of_them = dpo_loss(*pairs(batch), anchor_weight=0.5, preferred=torch.ones_like(preferred))
    assert torch.equal(all_of_them.loss, dpo_loss(*pairs(batch), anchor_weight=0.5).loss)


def test_what_is_no_distance_and_no_mask() -> None:
    for name in ("dpo", "paired-takeover"):
        for distance in (-0.1, 2.1, math.nan):
            with pytest.raises(RoboprefError, match="min_pair_distance"):
                get_objective(name, min_pair_distance=distance)
    batch = random_batch([True, False], 3)
    for mask in (torch.ones(2), torch.ones(3, dtype=torch.bool)):
        with pytest.raises(RoboprefError, match=r"preferred is bool \[2\]"):
            dpo_loss(*pairs(batch), preferred=mask)


@pytest.mark.parametrize("name", ["dpo", "paired-takeover"])
def test_the_trainer_tells_which_pairs_are_preferences(name: str) -> None:
    # A person who nearly repeats the policy in every other step of the takeovers.
    policy, episodes = tiny_policy(), demonstrations(2) + interactions(2)
    for place, one in enumerate(episodes):
        near = (one.actor == Actor.HUMAN) & (np.arange(len(one)) % 2 == 0)
        proposed = np.where(near[:, None], one.action + 0.1, one.policy_action).astype(np.float32)
        episodes[place] = replace(one, policy_action=proposed)
    dataset = StepDataset(episodes, [LabelingRule().apply(e) for e in episodes], policy, policy.observation_keys)
    objective = get_objective(name, min_pair_distance=0.2)
    seen: list[ObjectiveInputs] = []

    def compute(inputs: ObjectiveInputs) -> Any:
        seen.append(inputs)
        return objective.compute(inputs)

    trainer = Trainer(
        policy,
        dataset,
        BalancedSampler(dataset.labels, 24, shares=objective.mixture(dataset.labels).shares),  # type: ignore[misc]
        replace(objective, compute=compute),
        TrainerConfig(steps=1, batch_size=24, precision="fp32"),
        accelerator=make_accelerator("fp32", "cpu"),
    )
    drawn = trainer.sampler.global_batch(0)
    part, _ = trainer.reference.score(trainer.composer.part(0))
    assert trainer.run()
    agree = (dataset.labels[drawn] == Label.HUMAN) & (dataset.step[drawn] % 2 == 0)
    assert 0 < agree.sum() < (dataset.labels[drawn] == Label.HUMAN).sum()
    assert seen[0].preferred is not None
    np.testing.assert_array_equal(seen[0].preferred.numpy(), ~agree)
    if name == "dpo":  # and no negative takes the place of a proposal that was too near
        assert part.second_tokens is not None
        np.testing.assert_array_equal(part.second_tokens[agree], dataset.rejected_tokens[drawn[agree]])


def test_negatives_are_sampled_from_the_policys_own_distribution() -> None:
    policy = tiny_policy()
    with torch.no_grad():  # all mass on two neighbouring bins, three to one
        policy.network.head_bias[:, 40] += 60 + math.log(3)
        policy.network.head_bias[:, 41] += 60
    observations = {"state": np.zeros((2000, 5), dtype=np.float32)}
    uniforms = torch.rand(2000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tokens = sample_action_tokens(policy, observations, ["reach"] * 2000, uniforms)
    assert set(tokens.unique().tolist()) == {41, 42}
    assert (tokens[:, 1] == 41).float().mean().item() == pytest.approx(0.75, abs=0.15)
    some = {"state": observations["state"][700:703]}  # whatever else is in the batch
    assert torch.equal(sample_action_tokens(policy, some, ["reach"] * 3, uniforms[700:703]), tokens[700:703])


def test_through_the_trainer() -> None:
    policy, dataset = make_dataset()
    objective = get_objective("dpo", beta=0.5)
    assert objective.mixture is not None
    mixture = objective.mixture(dataset.labels)
    curve: dict[int, Any] = {}
    trainer = Trainer(
        policy,
        dataset,
        BalancedSampler(dataset.labels, 24, shares=mixture.shares, buckets=mixture.buckets),
        objective,
        TrainerConfig(steps=60, batch_size=24, learning_rate=3e-3, log_every=1, precision="fp32"),
        accelerator=make_accelerator("fp32", "cpu"),
        log=lambda metrics, step: curve.__setitem__(step, metrics),
    )
    assert trainer.run()
    assert len(curve) == 60
    assert curve[1]["loss"] == pytest.approx(math.log(2), abs=1e-6)  # policy and reference start alike
    assert curve[60]["rewards/margins"] > 0.5
    assert curve[60]["shares/human"] == pytest.approx(1 / 3)
