"""HABC: weights and loss by hand, and the heads that the weights come from."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from preference_batches import random_batch
from synthetic import demonstrations, episode, interactions
from test_policies import tiny_policy
from test_recap import two_kinds

from robopref.errors import RoboprefError
from robopref.labeling import LabelingRule, autonomous_suffix
from robopref.objectives import ObjectiveInputs, bc_loss, get_objective, habc_loss, habc_weights
from robopref.sampling import BalancedSampler
from robopref.training.credit import judge_steps
from robopref.training.credit_settings import CreditSettings
from robopref.training.dataset import StepDataset
from robopref.training.habc_credit import efficiency_targets, fit_habc_heads, last_driven_steps, outcome_labels
from robopref.training.step_credit import StepCredit
from robopref.training.trainer import Trainer, TrainerConfig, make_accelerator
from robopref.training.value_fit import ObservationTable
from robopref.trajectory import Actor, Outcome

P, H, N, E = Actor.POLICY, Actor.HUMAN, Actor.HOLD, Actor.EXPERT


# --- formulas


def test_weights():
    # As likely as not to succeed, a logit won, a step nearer: .5 * 1 + .5 * 0. Then ln 3, of odds 3 to 1: a logit lost
    # and two steps farther: .25 * -1 + .75 * -3. Then an autonomous failure, a person, and a step that nobody draws.
    z = np.array([0, math.log(3), 0, 0, 0])
    gained = np.array([1, -1, 5, 5, 5])
    moved = np.array([1, -2, 9, 9, 9])
    found = habc_weights(
        z, z + gained, np.full(5, -10.0), -10.0 + moved,
        failed=np.array([False, False, True, False, False]),
        taught=np.array([False, False, False, True, False]),
        drawn=np.array([True, True, True, True, False]),
    )  # fmt: skip
    raw = np.array([1 + math.tanh(0.5), 1 + math.tanh(-2.5), 0, 1, 0])
    np.testing.assert_allclose(found, raw / (raw.sum() / 4))


@given(st.integers(1, 40), st.integers(0, 10**6))
def test_weights_are_of_mean_1_and_bounded(count, seed):
    rng = np.random.default_rng(seed)
    masks = rng.random((3, count)) < 0.5
    masks[1, 0] = masks[2, 0] = True  # a person's step, drawn
    weights = habc_weights(
        *rng.normal(0, 30, (4, count)), failed=masks[0], taught=masks[1], drawn=masks[2]
    )  # fmt: skip
    assert weights[masks[2]].mean() == pytest.approx(1)
    assert (weights >= 0).all()
    assert (weights[~masks[2]] == 0).all()
    assert (weights <= 2 * weights[0] + 1e-9).all()  # twice a person's at most
    assert (weights[masks[0] & ~masks[1]] == 0).all()
    np.testing.assert_allclose(weights[masks[1] & masks[2]], weights[0])


def test_nothing_to_clone():
    zeros, yes, no = np.zeros(2), np.ones(2, dtype=bool), np.zeros(2, dtype=bool)
    with pytest.raises(RoboprefError, match="nothing to clone"):
        habc_weights(zeros, zeros, zeros, zeros, failed=yes, taught=no, drawn=yes)


def test_loss():
    logps = torch.tensor([[-1.0, -2.0, 0.0], [-3.0, -4.0, 0.0]])
    out = habc_loss(logps, torch.tensor([2.0, 0.5]))
    assert out.loss.item() == pytest.approx((2 * 3 + 0.5 * 7) / 4)  # four tokens
    assert out.per_sample.tolist() == [6.0, 3.5]
    assert out.metrics["weights/mean"] == 1.25


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 10**6))
def test_equal_weights_are_cloning(rows, length, seed):
    batch = random_batch([True] * rows, length, seed)
    expected = bc_loss(batch.policy, batch.desirable).loss
    torch.testing.assert_close(habc_loss(batch.policy, torch.ones(rows)).loss, expected)
    inputs = ObjectiveInputs(batch.policy, batch.desirable, batch.error)
    torch.testing.assert_close(get_objective("habc")(inputs).loss, expected)


def test_bad_weights():
    logps = -torch.ones(2, 3)
    with pytest.raises(RoboprefError, match="sample_weights is"):
        habc_loss(logps, torch.ones(3))
    for wrong in (-1.0, math.nan):
        with pytest.raises(RoboprefError, match="finite and not negative"):
            habc_loss(logps, torch.tensor([1.0, wrong]))


# --- labels


@pytest.mark.parametrize(
    ("actors", "outcome", "expected", "left"),
    [
        ([P, P], Outcome.SUCCESS, [1, 1], [-2, -1]),
        ([P, P], Outcome.FAILURE, [0, 0], [np.nan] * 2),
        ([P, P], Outcome.ABORTED, [np.nan] * 2, [np.nan] * 2),
        # Neither the rescue nor what led to it; the policy's own way after it.
        ([P, H, H], Outcome.SUCCESS, [np.nan] * 3, [np.nan] * 3),
        ([P, H, P, N, P], Outcome.SUCCESS, [np.nan, np.nan, 1, np.nan, 1], [np.nan, np.nan, -3, np.nan, -1]),
        ([P, H, P], Outcome.FAILURE, [np.nan, np.nan, 0], [np.nan] * 3),
        ([E, E], Outcome.SUCCESS, [np.nan] * 2, [-2, -1]),
    ],
)
def test_labels_of_an_episode(actors, outcome, expected, left):
    one = episode(actors, outcome=outcome)
    np.testing.assert_array_equal(outcome_labels(one), expected)
    np.testing.assert_array_equal(efficiency_targets(one), left)


def test_the_policys_own_way():
    assert autonomous_suffix(np.array([P, H, N, P])).tolist() == [False, False, False, True]


# --- the critic


def test_the_heads_learn_who_succeeds_and_how_soon():
    episodes = two_kinds(4, Outcome.SUCCESS, 0.8, 0) + two_kinds(4, Outcome.FAILURE, -0.8, 50)
    for one in episodes:  # how far along it is, can be seen
        one.observation["state"][:, 0] = np.linspace(-1, 0.95, 20)
        one.final_observation["state"][0] = 1
    table = ObservationTable(episodes, ["state"])
    outcomes = np.concatenate([outcome_labels(e) for e in episodes])
    left = np.concatenate([efficiency_targets(e) for e in episodes]) / 20
    heads, curve = fit_habc_heads(table, outcomes, left, np.arange(19, 160, 20), CreditSettings(value_steps=250), 0)
    assert curve[-1] < curve[0]
    viable, speed = heads[table.of_steps].T
    assert viable[:80].min() > 2
    assert viable[80:].max() < -2
    np.testing.assert_allclose(speed[:80], np.tile(np.arange(-20, 0) / 20, 4), atol=0.1)
    assert abs(heads[table.after_steps[19], 1]) < 0.1


def test_a_robot_that_is_held_at_the_end_was_seen_to_arrive_before():
    episodes = [episode([P, P, N, N]), episode([P, H, P]), episode([N, N])]
    assert last_driven_steps(episodes).tolist() == [1, 6, 8]


def test_weights_of_recorded_steps():
    failure = two_kinds(1, Outcome.FAILURE, -0.8, 50)
    episodes = demonstrations(2) + interactions(2) + failure
    labels = [LabelingRule(window=5).apply(e) for e in episodes]
    labels[0][:3] = 4  # excluded
    credit = judge_steps("habc", episodes, labels, ["state"], CreditSettings(value_steps=20), seed=1)
    actors = np.concatenate([e.actor for e in episodes])
    people = credit.weights[actors != P]
    assert (people[:3] == 0).all()
    assert len(set(people[3:])) == 1
    assert (credit.weights[-20:] == 0).all()
    assert (credit.weights[:-20][actors[:-20] == P] > 0).all()
    assert credit.weights[3:].mean() == pytest.approx(1)
    assert set(credit.conditions) == {""}
    assert credit.summary["outcomes"] == {"success": 6, "failure": 20}
    again = judge_steps("habc", episodes, labels, ["state"], CreditSettings(value_steps=20), seed=1)
    np.testing.assert_array_equal(again.weights, credit.weights)


def test_no_outcome_of_the_policys_own():
    episodes = [*demonstrations(1), episode([P, P, H])]
    with pytest.raises(RoboprefError, match="how the policy fares by itself"):
        judge_steps("habc", episodes, [LabelingRule().apply(e) for e in episodes], ["state"], CreditSettings(), 0)


def test_the_trainer_hands_each_sample_its_weight():
    policy = tiny_policy()
    episodes = demonstrations(1) + interactions(1)
    labels = [LabelingRule(window=5).apply(e) for e in episodes]
    steps = sum(map(len, episodes))
    credit = StepCredit(np.arange(steps) / steps, StepCredit.alike(steps).conditions)
    dataset = StepDataset(episodes, labels, policy, policy.observation_keys, credit)
    objective = get_objective("habc")
    mixture, curve = objective.mixture(dataset.labels), {}
    sampler = BalancedSampler(dataset.labels, 16, shares=mixture.shares, buckets=mixture.buckets)
    trainer = Trainer(
        policy, dataset, sampler, objective, TrainerConfig(steps=2, batch_size=16, log_every=1, precision="fp32"),
        accelerator=make_accelerator("fp32", "cpu"), log=lambda metrics, step: curve.__setitem__(step, metrics),
    )  # fmt: skip
    assert trainer.run()
    for step in range(2):
        expected = credit.weights[sampler.global_batch(step)].mean()
        assert curve[step + 1]["weights/mean"] == pytest.approx(expected)
