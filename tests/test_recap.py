"""RECAP: returns, advantages, thresholds and indicators by hand; the policy that reads them."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from synthetic import demonstrations, episode, interactions, right_action
from test_policies import tiny_policy

from robopref.errors import RoboprefError
from robopref.labeling import LabelingRule
from robopref.objectives import get_objective, improvement_indicators
from robopref.objectives.recap import (
    NEGATIVE,
    POSITIVE,
    VALUES,
    advantage_thresholds,
    attempt_advantages,
    attempt_returns,
    attempt_rewards,
    value_bins,
)
from robopref.policies.compact import CompactPolicy
from robopref.policies.registry import policy_id
from robopref.sampling import BalancedSampler
from robopref.training.attempts import Attempt, attempts
from robopref.training.credit import judge_steps
from robopref.training.credit_settings import CreditSettings
from robopref.training.dataset import StepDataset
from robopref.training.randomness import SampleRandomness
from robopref.training.recap_credit import episode_advantages, episode_returns, fit_recap_values
from robopref.training.step_credit import StepCredit
from robopref.training.trainer import Trainer, TrainerConfig, make_accelerator
from robopref.training.value_fit import ObservationTable
from robopref.trajectory import Actor, Outcome

P, H, N, E = Actor.POLICY, Actor.HUMAN, Actor.HOLD, Actor.EXPERT


# --- formulas


def test_rewards_and_returns():
    # The task's longest episode has 4 steps: a quarter each.
    np.testing.assert_allclose(attempt_rewards(3, 4, failed=False), [-0.25, -0.25, 0])
    np.testing.assert_allclose(attempt_returns(attempt_rewards(3, 4, failed=False)), [-0.5, -0.25, 0])
    np.testing.assert_allclose(attempt_rewards(2, 4, failed=True), [-0.25, -1])
    np.testing.assert_allclose(attempt_returns(attempt_rewards(2, 4, failed=True)), [-1, -1])  # -1.25, clipped
    np.testing.assert_allclose(attempt_rewards(2, 4, failed=None), [-0.25, -0.25])


def test_advantages():
    rewards, values = np.array([-0.25, -0.25, 0]), np.array([-0.6, -0.4, -0.1, 0])
    # -.25 - .4 + .6, -.25 - .1 + .4, 0 + 0 + .1
    np.testing.assert_allclose(attempt_advantages(rewards, values, 1), [-0.05, 0.05, 0.1])
    # -.5 - .1 + .6, -.25 + 0 + .4, .1
    np.testing.assert_allclose(attempt_advantages(rewards, values, 2), [0, 0.15, 0.1])
    # A failure: -.25 - 1 is clipped to -1.
    np.testing.assert_allclose(attempt_advantages(np.array([-0.25, -1]), np.array([-0.7, -0.9, 0]), 5), [-0.3, -0.1])


@given(st.integers(1, 30), st.integers(0, 10), st.integers(1, 40))
def test_nothing_is_better_than_expected_where_the_value_is_exact(steps, shorter, horizon):
    rewards = attempt_rewards(steps, steps + shorter, failed=False)
    values = np.append(attempt_returns(rewards), 0)
    np.testing.assert_allclose(attempt_advantages(rewards, values, horizon), 0, atol=1e-12)


@given(st.integers(1, 30), st.sampled_from([True, False, None]), st.integers(1, 40), st.integers(0, 10**6))
def test_advantages_lie_in_the_range_of_the_value(steps, failed, horizon, seed):
    values = np.append(np.random.default_rng(seed).uniform(-1, 0, steps), 0)
    found = attempt_advantages(attempt_rewards(steps, 30, failed), values, horizon)
    assert (found >= -1 - values[:-1] - 1e-12).all()
    assert (found <= -values[:-1] + 1e-12).all()


def test_bins():
    assert len(VALUES) == 201
    assert value_bins(np.array([-1, -0.5, -0.4976, -0.4974, 0])).tolist() == [0, 100, 100, 101, 200]


def test_thresholds_and_indicators():
    advantages = np.append(np.arange(10) / 10, [-5.0, -6.0, 9.0])
    tasks = np.array(["a"] * 11 + ["b"] * 2, dtype=object)
    autonomous = np.arange(13) != 10
    taught = ~autonomous
    thresholds = advantage_thresholds(advantages, tasks, autonomous, 0.3)
    # Between the seventh and the eighth of 0, .1, ..., .9; of -6 and 9 three tenths from the upper.
    assert thresholds == pytest.approx({"a": 0.63, "b": 9 - 0.3 * 15})
    found = improvement_indicators(advantages, tasks, taught, thresholds)
    assert found.tolist() == [False] * 7 + [True] * 3 + [True] + [False, True]
    with pytest.raises(RoboprefError, match="between 0 and 1"):
        advantage_thresholds(advantages, tasks, autonomous, 1.0)


@given(st.integers(1, 60), st.floats(0.01, 0.99), st.integers(0, 10**6))
def test_the_share_of_positive_policy_steps(count, share, seed):
    rng = np.random.default_rng(seed)
    advantages = rng.permutation(count) * 0.1
    tasks, everything = np.full(count, "a", dtype=object), np.ones(count, dtype=bool)
    thresholds = advantage_thresholds(advantages, tasks, everything, share)
    positive = improvement_indicators(advantages, tasks, ~everything, thresholds)
    assert abs(positive.sum() - share * count) <= 1
    assert improvement_indicators(advantages, tasks, everything, thresholds).all()


# --- episodes


@pytest.mark.parametrize(
    ("actors", "outcome", "expected"),
    [
        ([P, P, P], Outcome.SUCCESS, [(0, 3, False)]),
        ([P, P, P], "failure", [(0, 3, True)]),
        ([P, P, P], Outcome.ABORTED, [(0, 3, None)]),
        ([E, E], Outcome.SUCCESS, [(0, 2, False)]),
        # A rescue is not the policy's success.
        ([P, P, H, H], Outcome.SUCCESS, [(0, 2, True), (2, 4, False)]),
        ([P, H, P, P, H, P], Outcome.ABORTED, [(0, 1, True), (1, 4, True), (4, 6, None)]),
        # A pause inside a takeover begins no other; one before it belongs to what it ended.
        ([P, N, H, N, H, P], Outcome.FAILURE, [(0, 2, True), (2, 6, True)]),
        ([H, P], Outcome.SUCCESS, [(0, 2, False)]),
        ([N, H], Outcome.SUCCESS, [(0, 2, False)]),
    ],
)
def test_attempts(actors, outcome, expected):
    assert attempts(np.array(actors), outcome) == [Attempt(*part) for part in expected]


@given(st.lists(st.sampled_from([P, H, N]), min_size=1, max_size=30), st.sampled_from(list(Outcome)))
def test_attempts_cover_an_episode_in_order(actors, outcome):
    parts = attempts(np.array(actors), outcome)
    assert [part.start for part in parts] == [0, *[part.stop for part in parts[:-1]]]
    assert parts[-1].stop == len(actors)
    assert all(part.failed for part in parts[:-1])
    assert all(part.stop > part.start for part in parts)


def test_returns_and_advantages_of_an_episode_with_a_rescue():
    one = episode([P, P, H, H])  # a success, after a takeover at its third step
    np.testing.assert_allclose(episode_returns(one, 4), [-1, -1, -0.25, 0])
    values = np.array([-0.5, -0.75, -0.5, -0.25])
    np.testing.assert_allclose(episode_advantages(one, 4, values, -0.1, 1), [-0.5, -0.25, 0, 0.25])
    unjudged = episode([P, P], outcome=Outcome.ABORTED)
    assert np.isnan(episode_returns(unjudged, 4)).all()
    # -.25 - .75 + .5, and the value of what was seen after the last step: -.25 - .1 + .75
    np.testing.assert_allclose(episode_advantages(unjudged, 4, values[:2], -0.1, 1), [-0.5, 0.4])


# --- the critic


def two_kinds(count, outcome, mark, seed, **keywords):
    """Policy episodes in which the state's last coordinate tells how they end."""
    found = []
    for i in range(count):
        one = episode([P] * 20, seed=seed + i, outcome=outcome, **keywords)
        one.observation["state"][:, 4] = mark
        one.final_observation["state"][4] = mark
        found.append(one)
    return found


def test_the_value_separates_success_from_failure():
    episodes = two_kinds(4, Outcome.SUCCESS, 0.8, 0) + two_kinds(4, Outcome.FAILURE, -0.8, 50)
    table = ObservationTable(episodes, ["state"])
    returns = np.concatenate([episode_returns(e, 20) for e in episodes])
    settings = CreditSettings(value_steps=150)
    values, curve = fit_recap_values(table, returns, np.ones(160, dtype=bool), settings, seed=0)
    assert curve[-1] < curve[0]
    found = values[table.of_steps]
    assert found[80:].max() < -0.9
    assert found[:80].mean() == pytest.approx(-9.5 / 20, abs=0.1)
    again, _ = fit_recap_values(table, returns, np.ones(160, dtype=bool), settings, seed=0)
    np.testing.assert_array_equal(again, values)


@pytest.mark.parametrize("keys", [("state",), ("image", "proprio")])
def test_indicators_of_recorded_steps(keys):
    episodes = demonstrations(2, image=True) + interactions(3, image=True)
    episodes[-1] = dataclasses.replace(episodes[-1], final_observation={})  # lost
    labels = [LabelingRule(window=5).apply(e) for e in episodes]
    settings = CreditSettings(value_steps=20, positive_share=0.4)
    credit = judge_steps("recap", episodes, labels, keys, settings, seed=1)
    actors = np.concatenate([e.actor for e in episodes])
    assert set(credit.conditions) == {POSITIVE, NEGATIVE}
    assert (credit.conditions[actors != P] == POSITIVE).all()
    assert (credit.conditions[actors == P] == POSITIVE).mean() == pytest.approx(0.4, abs=0.02)
    assert (credit.weights == 1).all()
    assert credit.summary["policy_steps"] == 90
    assert credit.summary["positive_policy_steps"] == 36


def test_nothing_to_fit_to_and_bad_settings():
    unjudged = [episode([P] * 5, outcome=Outcome.ABORTED)]
    labels = [LabelingRule().apply(e) for e in unjudged]
    with pytest.raises(RoboprefError, match="none has a known outcome"):
        judge_steps("recap", unjudged, labels, ["state"], CreditSettings(), seed=0)
    for wrong in ({"value_steps": 0}, {"value_weight_decay": -1.0}, {"positive_share": 1.0}):
        with pytest.raises(RoboprefError, match=next(iter(wrong))):
            CreditSettings(**wrong)
    with pytest.raises(RoboprefError, match=r"in \[0, 1\)"):
        get_objective("recap", indicator_dropout=1.0)


# --- what the policy reads


@given(st.integers(0, 10**6), st.integers(0, 1000))
def test_the_same_samples_lose_their_indicator_on_any_process(seed, step):
    randomness = SampleRandomness(seed, 16)
    whole = randomness.dropped(step, np.arange(16), 0.3)
    np.testing.assert_array_equal(randomness.dropped(step, np.arange(1, 16, 2), 0.3), whole[1::2])
    assert not randomness.dropped(step, np.arange(16), 0.0).any()


def test_three_tenths_of_the_samples_lose_their_indicator():
    dropped = [SampleRandomness(3, 50).dropped(step, np.arange(50), 0.3) for step in range(400)]
    assert np.mean(dropped) == pytest.approx(0.3, abs=0.01)


def trained_on_indicators(path):
    """A policy told that people act well and the policy does not, saved."""
    policy = tiny_policy()
    policy.instruction_suffix = " forgotten"
    episodes = demonstrations() + interactions()
    labels = [LabelingRule(window=5).apply(e) for e in episodes]
    actors = np.concatenate([e.actor for e in episodes])
    conditions = np.where(actors == P, NEGATIVE, POSITIVE).astype(object)
    dataset = StepDataset(
        episodes, labels, policy, policy.observation_keys, StepCredit(np.ones(len(actors)), conditions)
    )
    objective = get_objective("recap")
    mixture = objective.mixture(dataset.labels)
    trainer = Trainer(
        policy,
        dataset,
        BalancedSampler(dataset.labels, 32, shares=mixture.shares, buckets=mixture.buckets),
        objective,
        TrainerConfig(steps=400, batch_size=32, learning_rate=5e-3, precision="fp32"),
        accelerator=make_accelerator("fp32", "cpu"),
    )
    texts = [text for step in range(20) for text in trainer.composer.part(step).samples.instructions]
    assert {t.removeprefix("reach the goal") for t in texts} == {"", POSITIVE, NEGATIVE}
    assert trainer.run()
    trainer.save_policy(path)


def test_the_saved_policy_is_conditioned_on_positive(tmp_path):
    trained_on_indicators(tmp_path / "policy")
    policy = CompactPolicy.load(tmp_path / "policy")
    assert policy.instruction_suffix == POSITIVE
    state = np.concatenate([e.observation["state"] for e in interactions()])

    def error(suffix):
        policy.instruction_suffix = suffix
        return np.abs(policy.act({"state": state}, ["reach the goal"] * len(state)) - right_action(state)).mean()

    # A coin's is .5; the policy's own actions are all wrong.
    assert error(POSITIVE) < 0.3
    assert error(NEGATIVE) > 0.6
    logits = []
    for suffix, text in ((POSITIVE, "reach the goal"), ("", "reach the goal" + POSITIVE)):
        policy.instruction_suffix = suffix
        with torch.no_grad():
            logits.append(policy({"state": state}, [text] * len(state), torch.ones(len(state), 4, dtype=torch.long)))
    torch.testing.assert_close(*logits)
    named = policy_id(tmp_path / "policy")
    policy.save(tmp_path / "bare")
    assert policy_id(tmp_path / "bare") != named  # the same weights, and another policy


def test_a_policy_that_cannot_be_conditioned():
    policy = tiny_policy()
    episodes = demonstrations(1)
    dataset = StepDataset(episodes, [LabelingRule().apply(e) for e in episodes], policy, policy.observation_keys)
    del policy.instruction_suffix
    with pytest.raises(RoboprefError, match="has no instruction_suffix"):
        Trainer(
            policy, dataset, BalancedSampler(dataset.labels, 4, shares=(1.0, 0.0, 0.0)), get_objective("recap"),
            TrainerConfig(steps=1, batch_size=4), accelerator=make_accelerator("fp32", "cpu"),
        )  # fmt: skip


def test_credit_goes_with_the_steps():
    policy = tiny_policy()
    episodes = demonstrations(1)
    with pytest.raises(RoboprefError, match="credit for 3 steps; there are 40"):
        StepDataset(
            episodes, [LabelingRule().apply(e) for e in episodes], policy, policy.observation_keys, StepCredit.alike(3)
        )
