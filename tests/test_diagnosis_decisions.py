import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from robopref.diagnosis import action_gaps, boundary_distances, greedy_actions
from robopref.diagnosis.competence import Indifferent, judge_competence, mean_score
from robopref.diagnosis.decisions import bootstrap_median, value_scale
from robopref.errors import RoboprefError


class Linear(nn.Module):
    def __init__(self, weights):
        super().__init__()
        self.weights = nn.Parameter(torch.as_tensor(weights, dtype=torch.float32))

    def q_values(self, pixels):
        return pixels.flatten(1) @ self.weights.T


def test_gaps_and_scale_by_hand():
    q = np.array([[1.0, 4, 2], [5, 5, -1], [-3, -2, -1]])
    np.testing.assert_array_equal(action_gaps(q), [2, 0, 1])
    assert value_scale(q) == 3  # of 3, 6 and 2
    with pytest.raises(RoboprefError, match="at least 2 actions"):
        action_gaps(np.ones((3, 1)))


def test_a_linear_policys_distance_is_exact():
    # the boundary between two linear values is a plane: gap / |w_1 - w_2| is the true distance
    rng = np.random.default_rng(0)
    weights, states = rng.normal(size=(4, 18)), rng.random((11, 2, 3, 3))
    found = boundary_distances(Linear(weights), states, dtype=torch.float64, batch_size=4)
    for state, distance in zip(states.reshape(11, -1), found, strict=True):
        best, second = np.argsort(weights @ state)[::-1][:2]
        normal = weights[best] - weights[second]
        assert distance == pytest.approx(normal @ state / np.linalg.norm(normal), rel=1e-5)
        onto = state - distance * normal / np.linalg.norm(normal)
        assert (weights[best] - weights[second]) @ onto == pytest.approx(0, abs=1e-6)


def test_a_gap_that_does_not_move_is_infinitely_far():
    assert np.isinf(boundary_distances(Linear(np.ones((2, 18))), np.ones((1, 2, 3, 3), np.uint8))).all()


def test_greedy_actions_of_either_kind_of_pixels():
    weights = np.random.default_rng(0).normal(size=(4, 18))
    states = np.random.default_rng(1).integers(0, 256, (9, 2, 3, 3), dtype=np.uint8)
    expected = (states.reshape(9, -1) / 255 @ weights.T).argmax(1)
    np.testing.assert_array_equal(greedy_actions(Linear(weights), states, batch_size=2), expected)
    np.testing.assert_array_equal(greedy_actions(Linear(weights), states / 255), expected)


@given(st.lists(st.lists(st.floats(-50, 50), min_size=1, max_size=6), min_size=1, max_size=5), st.integers(0, 2**31))
@settings(max_examples=60)
def test_the_median_is_that_of_the_pooled_values(episodes, seed):
    found = bootstrap_median([np.array(e) for e in episodes], n_resamples=50, seed=seed)
    assert found.value == np.median(np.concatenate([np.array(e) for e in episodes]))
    counts = np.random.default_rng(seed).multinomial(len(episodes), [1 / len(episodes)] * len(episodes), 50)
    medians = [np.median(np.concatenate([e * int(c) for e, c in zip(episodes, row, strict=True)])) for row in counts]
    low, high = np.quantile(medians, [0.025, 0.975])
    assert found.low == pytest.approx(min(low, found.value))
    assert found.high == pytest.approx(max(high, found.value))


def test_a_median_needs_values():
    for values in ([], [np.zeros(0)], [np.array([np.nan])]):
        with pytest.raises(RoboprefError, match="needs values"):
            bootstrap_median(values)
    with pytest.raises(RoboprefError, match="infinite"):
        bootstrap_median([np.array([np.inf, np.inf, 1])])


def test_competence_by_enumeration():
    # 3 against 3, all of the first above all of the second: 1 of the 20 ways to split them
    found = judge_competence(np.array([5.0, 6, 7]), np.array([1.0, 2, 3]))
    assert found.p_value == pytest.approx(1 / 20, abs=0.01)
    assert found.difference.value == 4
    assert found.difference.low > 0
    clear = judge_competence(np.full(10, 20.0), np.full(10, -20.0))
    assert (clear.untrained, clear.random_score.value) == (False, -20)
    assert clear.p_value < 1e-3


def test_a_policy_that_plays_at_chance_is_untrained():
    rng = np.random.default_rng(0)
    verdicts = [judge_competence(rng.normal(size=10), rng.normal(size=10), seed=i).untrained for i in range(60)]
    assert np.mean(verdicts) > 0.85
    same = judge_competence(np.full(10, -21.0), np.full(10, -21.0))
    assert same.untrained
    assert same.p_value == 1
    assert judge_competence(np.array([-25.0] * 10), np.array([-20.0] * 10)).untrained  # worse is not better
    assert judge_competence(np.array([50.0]), np.arange(10.0)).untrained  # one episode proves nothing


def test_too_few_episodes_are_told_from_a_policy_at_chance():
    # one against ten cannot come below 1 of 11, however good it is; three against ten reach 1 of 286
    one, chance = np.array([50.0]), np.arange(10.0)
    found = judge_competence(one, chance)
    assert (found.untrained, found.undecided) == (True, True)
    among = judge_competence(np.array([8.5]), chance)
    assert (among.untrained, among.undecided) == (True, False)
    enough = judge_competence(np.array([50.0, 51, 52]), chance)
    assert (enough.untrained, enough.undecided) == (False, False)


def test_scores_are_checked():
    assert mean_score(np.array([1.0, 3.0])).value == 2
    for scores in ([], [np.nan]):
        with pytest.raises(RoboprefError, match="at least one episode"):
            mean_score(np.array(scores))


def test_the_random_player_values_all_actions_alike():
    np.testing.assert_array_equal(Indifferent(3).q_values(torch.rand(2, 4, 8, 8)), np.zeros((2, 3)))
