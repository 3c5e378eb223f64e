"""Several actions per inference: which steps a chunk has, and what of them a data set holds."""

from dataclasses import replace

import numpy as np
import pytest
from chunk_policies import BINNED, FAST, A, H, chunk_policy, make_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import demonstrations, episode, interactions
from test_policies import UNIT, tiny_policy

from robopref.errors import RoboprefError
from robopref.labeling import LabelingRule
from robopref.policies.tokenizer import ActionTokenizer
from robopref.training.chunks import chunk_lengths, chunk_steps
from robopref.trajectory import Actor, Label


def test_chunks_end_with_the_episode_the_driver_and_the_class():
    policy, human, hold = Actor.POLICY, Actor.HUMAN, Actor.HOLD
    episodes = [
        episode([Actor.EXPERT] * 3),
        episode([policy] * 4 + [human] * 5 + [hold] + [human] * 2 + [policy] * 2),
        episode([Actor.EXPERT]),
    ]
    labels = np.concatenate([LabelingRule(window=2).apply(e) for e in episodes])
    # policy steps: two that are nothing, two undesirable; the human's five, HOLD, the human's two, the policy's two
    runs = [3, 2, 1], [2, 1, 2, 1], [4, 4, 3, 2, 1], [1], [2, 1], [2, 1], [1]
    assert chunk_lengths(episodes, labels, 4).tolist() == np.concatenate(runs).tolist()
    assert chunk_lengths(episodes, labels, 1).tolist() == [1] * len(labels)
    steps = chunk_steps(np.array([7, 1]), np.array([4, 2]), 4)
    assert steps.tolist() == [[7, 8, 9, 10], [1, 2, 2, 2]]


def test_two_takeovers_without_a_step_between_them_are_two_chunks():
    one = episode([Actor.HUMAN] * 4)
    two = replace(one, segment_id=np.array([0, 0, 1, 1], dtype=np.int32))
    assert chunk_lengths([two], np.full(4, Label.HUMAN), 4).tolist() == [2, 1, 2, 1]


def test_credited_policy_steps_do_not_run_into_the_humans():
    one = episode([Actor.HUMAN] * 2 + [Actor.POLICY] * 3)
    labels = LabelingRule(window=0, include_policy_steps="autonomous_success").apply(one)
    assert chunk_lengths([one], labels, 4).tolist() == [2, 1, 3, 2, 1]


@settings(max_examples=60)
@given(st.lists(st.lists(st.sampled_from(list(Actor)), min_size=1, max_size=12), min_size=1, max_size=3),
       st.integers(1, 5), st.integers(0, 4))  # fmt: skip
def test_chunk_lengths_are_those_found_step_by_step(actors, horizon, window):
    episodes = [episode(a, seed=i) for i, a in enumerate(actors)]
    labels = [LabelingRule(window=window).apply(e) for e in episodes]
    expected = []
    for one, marks in zip(episodes, labels, strict=True):
        kind = [{Label.EXPERT: "good", Label.HUMAN: "good", Label.UNDESIRABLE: "bad"}.get(m, "none") for m in marks]
        keys = list(zip(one.actor.tolist(), one.segment_id.tolist(), kind, strict=True))
        for t in range(len(one)):
            length = 1
            while length < horizon and t + length < len(one) and keys[t + length] == keys[t]:
                length += 1
            expected.append(length)
    assert chunk_lengths(episodes, np.concatenate(labels), horizon).tolist() == expected


@pytest.mark.parametrize("tokenizer", [BINNED, FAST], ids=["binned", "fast"])
def test_samples_hold_the_actions_from_their_step_on(tokenizer):
    policy = chunk_policy(tokenizer)
    one = episode([Actor.POLICY] * 6 + [Actor.HUMAN] * 3 + [Actor.POLICY])
    dataset = make_dataset(policy, [one], window=5)
    normalized = UNIT.normalize(one.action)
    plain = ActionTokenizer(bins=32)
    for step, length in ((1, 4), (4, 2), (7, 2), (9, 1)):
        tokens = dataset.gather(np.array([step])).tokens[0]
        if tokenizer is BINNED:
            expected = np.zeros(H * A, dtype=np.int64)
            expected[: length * A] = plain.encode(normalized[step : step + length]).reshape(-1)
        else:
            last = step + length - 1
            held = np.concatenate([normalized[step : last + 1], np.repeat(normalized[last : last + 1], H - length, 0)])
            expected = FAST.encode(held)
        np.testing.assert_array_equal(tokens, expected)


def test_rejected_chunks_are_the_proposals_at_the_humans_steps_as_far_as_they_are_known():
    policy = chunk_policy(BINNED)
    one = episode([Actor.POLICY] * 2 + [Actor.HUMAN] * 5 + [Actor.POLICY] * 2)
    proposals = one.policy_action.copy()
    proposals[5] = np.nan
    dataset = make_dataset(policy, [replace(one, policy_action=proposals)])
    assert dataset.has_pair.tolist() == [False] * 2 + [True] * 3 + [False] + [True] + [False] * 2
    plain, normalized = ActionTokenizer(bins=32), UNIT.normalize(np.nan_to_num(proposals))
    for step, length in ((2, 3), (3, 2), (4, 1), (6, 1)):
        expected = np.zeros(H * A, dtype=np.int64)
        expected[: length * A] = plain.encode(normalized[step : step + length]).reshape(-1)
        np.testing.assert_array_equal(dataset.rejected_tokens[step], expected)
    assert (dataset.rejected_tokens[~dataset.has_pair] == 0).all()
    held = make_dataset(chunk_policy(FAST), [replace(one, policy_action=proposals)])
    filled = np.concatenate([normalized[3:5], normalized[[4, 4]]])
    np.testing.assert_array_equal(held.rejected_tokens[3], FAST.encode(filled))


@pytest.mark.parametrize("tokenizer", [BINNED, FAST], ids=["binned", "fast"])
def test_the_action_error_is_over_the_steps_that_there_are(tokenizer):
    policy = chunk_policy(tokenizer)
    dataset = make_dataset(policy)
    indices = np.arange(0, len(dataset), 3)
    wrong = np.random.default_rng(0).permuted(dataset.tokens[indices], axis=0)
    if tokenizer is BINNED:
        wrong = np.where(dataset.tokens[indices] == 0, 0, np.maximum(wrong, 1))
    error = dataset.action_error(wrong, indices)
    decoded = tokenizer.decode(wrong)
    for row, i in enumerate(indices):
        n = dataset.chunk_lengths[i]
        expected = np.abs(decoded[row, :n] - dataset.normalized_actions[i : i + n]).mean()
        assert error[row] == pytest.approx(expected, abs=1e-9)
    rounding = 1 / 31 if tokenizer is BINNED else 0.5 / tokenizer.scale
    assert dataset.action_error(dataset.tokens[indices], indices).max() <= rounding + 1e-6


def test_one_action_at_a_time_is_as_it_was():
    policy = tiny_policy()
    dataset = make_dataset(policy)
    actions = np.concatenate([e.action for e in demonstrations() + interactions()])
    np.testing.assert_array_equal(dataset.tokens, policy.tokenizer.encode(UNIT.normalize(actions)))
    tokens = policy.tokenizer.encode(-UNIT.normalize(actions)[:9])
    expected = np.abs(policy.tokenizer.decode(tokens) - np.clip(UNIT.normalize(actions), -1, 1)[:9]).mean(axis=1)
    np.testing.assert_allclose(dataset.action_error(tokens, np.arange(9)), expected)


def test_a_tokenizer_that_knows_no_chunks_is_refused():
    class Bare:
        norm_stats, tokenizer, observation_keys = UNIT, object(), ("state",)

    with pytest.raises(RoboprefError, match="ChunkTokenizer"):
        make_dataset(Bare(), demonstrations(1))


def test_a_hundred_thousand_steps_become_chunks_within_seconds():
    one = episode([Actor.EXPERT] * 100_000)
    dataset = make_dataset(chunk_policy(BINNED), [one], window=0)
    assert dataset.tokens.shape == (100_000, H * A)
    assert dataset.chunk_lengths.sum() == 4 * 100_000 - 6


def test_noise_on_the_actions_of_chunks():
    data = make_dataset(chunk_policy(BINNED))
    everything = np.arange(len(data))
    nothing = np.zeros((len(data), H * A))
    np.testing.assert_array_equal(data.noisy_tokens(everything, nothing), data.tokens)
    noise = np.random.default_rng(0).normal(size=nothing.shape)
    noisy = data.noisy_tokens(everything, 0.2 * noise)
    np.testing.assert_array_equal(noisy > 0, data.tokens > 0)  # no action where the chunk has none
    assert (noisy != data.tokens).any()
    with pytest.raises(RoboprefError, match="variable number of tokens"):
        make_dataset(chunk_policy(FAST)).noisy_tokens(everything, nothing)
