"""Learning the neighbourhood of recorded actions: its size, that it repeats itself, and where it is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_runs import Run, demonstrations, tiny_policy

from robopref.errors import RoboprefError
from robopref.labeling import LabelingRule
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


@given(st.integers(0, 2**31), st.floats(-50, 50))
def test_tokens_stay_in_their_range_whatever_the_noise(seed, size):
    data, policy = dataset()
    noise = np.random.default_rng(seed).normal(size=(len(data), data.chunk_values)) * size
    tokens = data.noisy_tokens(np.arange(len(data)), noise)
    assert tokens.min() >= 1
    assert tokens.max() <= policy.tokenizer.bins


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
