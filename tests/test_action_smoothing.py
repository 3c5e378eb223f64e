"""Learning the neighbourhood of recorded actions: its size, that it repeats itself, and where it is refused."""

import numpy as np
import pytest
from small_runs import Run, demonstrations, interactions, tiny_policy

from robopref.errors import RoboprefError
from robopref.labeling import LabelingRule
from robopref.policies.chunked_tokenizer import ChunkedActionTokenizer
from robopref.policies.normalization import NormStats
from robopref.policies.tokenizer import ActionTokenizer
from robopref.training.config import TrainerConfig
from robopref.training.dataset import StepDataset
from robopref.training.randomness import SampleRandomness


def dataset(policy=None):
    policy = policy or tiny_policy()
    episodes = demonstrations(2)
    labels = [LabelingRule(window=0).apply(episode) for episode in episodes]
    return StepDataset(episodes, labels, policy, policy.observation_keys), policy


def test_tokens_scatter_around_the_recorded_action_as_far_as_asked():
    data, policy = dataset()
    index = int(np.abs(data.normalized_actions).max(axis=1).argmin())  # far from the ends of the range
    draws = np.random.default_rng(0).normal(size=(4000, data.chunk_values))
    tokens = data.noisy_tokens(np.full(4000, index), 0.05 * draws)
    decoded = policy.tokenizer.decode(tokens).reshape(4000, -1)
    np.testing.assert_allclose(decoded.mean(axis=0), data.normalized_actions[index], atol=0.005)
    np.testing.assert_allclose(decoded.std(axis=0), 0.05, rtol=0.1)


def test_without_noise_the_tokens_are_the_recorded_ones():
    data, _ = dataset()
    everything = np.arange(len(data))
    nothing = np.zeros((len(data), data.chunk_values))
    np.testing.assert_array_equal(data.noisy_tokens(everything, nothing), data.tokens)


def test_a_rejected_proposal_moves_with_the_action_that_it_is_rejected_for():
    """Where both are the same there is nothing to prefer, with noise as without it."""
    policy = tiny_policy()
    episodes = interactions(2)
    for recorded in episodes:  # the policy proposed what was done, but for the first dimension
        recorded.policy_action[:] = recorded.action
        recorded.policy_action[:, 0] *= -1
    labels = [LabelingRule(window=2).apply(recorded) for recorded in episodes]
    data = StepDataset(episodes, labels, policy, policy.observation_keys)
    rows = np.flatnonzero(data.has_pair)
    noise = 0.1 * np.random.default_rng(0).normal(size=(len(rows), data.chunk_values))
    chosen, rejected = data.noisy_tokens(rows, noise), data.noisy_rejected_tokens(rows, noise)
    assert len(rows) > 5
    np.testing.assert_array_equal(chosen[:, 1:], rejected[:, 1:])
    assert (chosen[:, 0] != rejected[:, 0]).any()
    assert (rejected != data.rejected_tokens[rows]).any()
    nothing = np.zeros_like(noise)
    np.testing.assert_array_equal(data.noisy_rejected_tokens(rows, nothing), data.rejected_tokens[rows])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("horizon", [1, 2])
def test_what_a_policy_wrote_and_was_executed_is_that_token_again(horizon, smoothing):
    """The last two bins decode to the same: a gripper's 1.0 is learned as the last, and comes back as its centre."""
    policy = tiny_policy()
    policy.tokenizer = ActionTokenizer() if horizon == 1 else ChunkedActionTokenizer(horizon, 4)
    policy.norm_stats = NormStats([-1.0] * 4, [1.0] * 4, [True, True, True, False])
    demonstration, executed = demonstrations(2)
    demonstration.action[:] = [1.0, 0.5, 2.0, 1.0]  # clipped, inside, clipped, the gripper's
    labels = [LabelingRule(window=0).apply(episode) for episode in (demonstration, executed)]
    written = StepDataset([demonstration], labels[:1], policy, policy.observation_keys)
    decoded = policy.tokenizer.decode(written.tokens[0]).reshape(horizon, 4)[0]
    executed.action[:] = policy.norm_stats.unnormalize(decoded)
    data = StepDataset([demonstration, executed], labels, policy, policy.observation_keys)
    np.testing.assert_array_equal(data.tokens[0], data.tokens[len(demonstration)])
    assert data.tokens[0, 3] == 256
    noise = smoothing * np.random.default_rng(0).normal(size=(500, data.chunk_values))
    noisy = data.noisy_tokens(np.zeros(500, dtype=int), noise).reshape(500, horizon, 4)
    assert set(np.unique(noisy[..., 3])) & {255, 256} == {256}
    assert 256 not in noisy[..., :3]


def test_batches_of_pairs_are_made_so():
    run = Run("dpo", action_smoothing=0.1)
    part = run.trainer.composer.part(0)
    paired = run.trainer.dataset.has_pair[part.indices]
    assert paired.any()
    recorded = run.trainer.dataset.rejected_tokens[part.indices]
    second = part.second_tokens.numpy()
    assert (second[paired] != recorded[paired]).any()
    assert (second[~paired] == 0).all()  # sampled later
    assert (part.samples.tokens != run.trainer.dataset.tokens[part.indices]).any()


@pytest.mark.parametrize("objective", ["apo", "dpo", "tpo"])
def test_a_cached_reference_answers_for_the_same_draws(tmp_path, objective):
    runs = [
        Run(objective, action_smoothing=0.1, augmentation_variants=2, cache=cache)
        for cache in (None, tmp_path / "cache", tmp_path / "cache")
    ]
    for run in runs:
        run.trainer.run()
    plain, cached, again = ([run.curve[step]["loss"] for step in sorted(run.curve)] for run in runs)
    np.testing.assert_allclose(cached, plain, rtol=1e-5)
    np.testing.assert_allclose(again, plain, rtol=1e-5)


def test_an_interrupted_training_goes_on_with_the_draws_it_would_have_had(tmp_path):
    whole = Run("bc", steps=6, action_smoothing=0.1)
    whole.trainer.run()
    assert not Run("bc", steps=6, action_smoothing=0.1, state=tmp_path / "state.pt", stop_after=3).trainer.run()
    rest = Run("bc", steps=6, action_smoothing=0.1, state=tmp_path / "state.pt")
    assert rest.trainer.resume()
    rest.trainer.run()
    assert {step: m["loss"] for step, m in rest.curve.items()} == {
        step: m["loss"] for step, m in whole.curve.items() if step in rest.curve
    }
    assert len(rest.curve) == 3


@pytest.mark.parametrize("variants", [None, 2])
def test_noise_is_of_the_sample_and_the_step_not_of_the_process(variants):
    randomness = SampleRandomness(3, 8, variants)
    positions, indices = np.arange(8), np.arange(8) * 5
    drawn = [randomness.variants(4, positions), randomness.variants(5, positions)]
    whole = randomness.noise(4, positions, indices, drawn[0], 3)
    part = randomness.noise(4, positions[5:], indices[5:], drawn[0][5:], 3)
    np.testing.assert_array_equal(whole[5:], part)
    other = randomness.noise(5, positions, indices, drawn[1], 3)
    if variants is None:
        assert not np.array_equal(whole, other)
    else:  # a sample has as many draws as it has variants
        same = drawn[0] == drawn[1]
        np.testing.assert_array_equal(whole[same], other[same])
        assert same.any()


@pytest.mark.parametrize("objective", ["bc", "apo"])
def test_it_changes_what_is_learned_and_training_repeats_itself(objective):
    plain, noisy, again = (Run(objective, action_smoothing=noise) for noise in (0.0, 0.1, 0.1))
    pieces = Run(objective, action_smoothing=0.1, micro_batch_size=5)
    for run in (plain, noisy, again, pieces):
        run.trainer.run()
    losses = [[run.curve[step]["loss"] for step in sorted(run.curve)] for run in (plain, noisy, again, pieces)]
    assert losses[1] == losses[2]
    np.testing.assert_allclose(losses[1], losses[3], rtol=1e-4)
    assert max(abs(a - b) for a, b in zip(losses[0], losses[1], strict=True)) > 1e-3


@pytest.mark.parametrize("noise", [-0.1, 1.0, float("nan")])
def test_noise_out_of_range_is_refused(noise):
    with pytest.raises(RoboprefError, match="action_smoothing lies"):
        TrainerConfig(action_smoothing=noise)


def test_a_cache_of_other_noise_is_refused(tmp_path):
    Run("apo", cache=tmp_path / "cache", action_smoothing=0.1, augmentation_variants=2)
    with pytest.raises(RoboprefError, match="action_smoothing"):
        Run("apo", cache=tmp_path / "cache", action_smoothing=0.2, augmentation_variants=2)
