from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robopref.diagnosis import feature_correlation_quotient, principal_directions
from robopref.diagnosis.quotient import bootstrap_quotient, quotient_difference, quotient_estimate
from robopref.diagnosis.subspace import (
    episode_grams,
    episode_leakage,
    leading_subspace,
    leading_vectors,
    reduction_errors,
    resample_counts,
)
from robopref.errors import RoboprefError


def dense(gradients):
    """The definition: sum of g g^T, its largest eigenvalue and that one's eigenvector."""
    matrix = sum(np.outer(g, g) for g in np.asarray(gradients, np.float64))
    values, vectors = np.linalg.eigh(matrix)
    return matrix, values[-1], vectors[:, -1]


def test_by_hand():
    gradients = np.array([[3.0, 0], [0, 4.0]])  # L = diag(9, 16)
    assert feature_correlation_quotient(gradients, np.array([1.0, 0])) == pytest.approx(9 / 16)
    assert feature_correlation_quotient(gradients, np.array([0, -2.0])) == pytest.approx(1)
    assert feature_correlation_quotient(gradients, np.array([1.0, 1.0])) == pytest.approx((9 + 16) / 2 / 16)
    assert feature_correlation_quotient(np.array([[5.0, 0, 0]]), np.array([0, 0, 1.0])) == 0


@given(st.integers(1, 10), st.integers(1, 10), st.floats(0.01, 100), st.booleans(), st.integers(0, 2**31))
@settings(max_examples=150)
def test_it_is_the_definition(n, d, scale, single, seed):
    rng = np.random.default_rng(seed)
    base, shifted = rng.normal(size=(n + 1, d)), scale * rng.normal(size=(n, d))
    if single:
        shifted = shifted.astype(np.float32)
    direction = dense(base)[2]
    matrix, largest, _ = dense(shifted)
    expected = direction @ matrix @ direction / largest
    found = feature_correlation_quotient(shifted, direction)
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert 0 <= found <= 1
    assert feature_correlation_quotient(shifted, -3 * direction) == pytest.approx(found, rel=1e-6)
    assert feature_correlation_quotient(base, direction) == pytest.approx(1)


@pytest.mark.parametrize(
    ("gradients", "direction", "message"),
    [
        (np.zeros((4, 3)), np.ones(3), "all gradients of the shifted set vanish"),
        (np.zeros((0, 3)), np.ones(3), "at least one gradient"),
        (np.ones((4, 3)), np.zeros(3), "direction is zero"),
        (np.ones((4, 3)), np.full(3, np.nan), "direction is zero or not finite"),
        (np.ones((4, 3)), np.ones(4), r"direction \[d\]"),
        (np.ones(3), np.ones(3), r"must be \[N, d\]"),
        (np.array([[np.nan, 1, 1]]), np.ones(3), "must be finite"),
    ],
)
def test_bad_input_is_refused(gradients, direction, message):
    with pytest.raises(RoboprefError, match=message):
        feature_correlation_quotient(gradients, direction)


def episodes(n_episodes, d, seed, spread=0.6, states=25):
    """Gradients whose strength along each of a few directions differs from episode to episode, as rows [N, d]."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(np.random.default_rng(7).normal(size=(d, d)))[0]
    scales = 0.7 ** np.arange(d)
    strengths = scales * np.exp(spread * rng.normal(size=(n_episodes, d)))
    rows = rng.normal(size=(n_episodes, states, d)) * strengths[:, None] @ basis.T
    return rows.reshape(-1, d), np.repeat(np.arange(n_episodes), states)


def subspace(gradients, episode_of, rank, base=None):
    n_episodes = episode_of.max() + 1
    found = principal_directions(gradients, rank)
    leakage = episode_leakage([gradients], episode_of, n_episodes, found.directions)
    own = leading_subspace(found, *episode_grams([gradients], episode_of, n_episodes, found.directions), leakage)
    if base is None:
        return own
    return own, episode_grams([gradients], episode_of, n_episodes, base.basis)[0]


def direct(gradients, episode_of, counts):
    """The resampled gradients themselves, episode by episode."""
    return np.concatenate([gradients[episode_of == e] for e, count in enumerate(counts) for _ in range(count)])


@pytest.mark.parametrize(("rank", "tolerance"), [(40, 1e-6), (12, 0.01)])
def test_resampling_in_the_subspace_is_resampling_the_gradients(rank, tolerance):
    (base, base_of), (shifted, shifted_of) = episodes(6, 40, 1), episodes(5, 40, 2)
    ours = subspace(base, base_of, rank)
    theirs, cross = subspace(shifted, shifted_of, rank, ours)
    sample = bootstrap_quotient(ours, theirs, cross, n_resamples=30, seed=4)
    base_counts, counts = resample_counts(6, 30, [4, 0]), resample_counts(5, 30, [4, 1])
    assert len(np.unique(counts, axis=0)) > 20
    expected = [
        feature_correlation_quotient(direct(shifted, shifted_of, c), dense(direct(base, base_of, b))[2])
        for b, c in zip(base_counts, counts, strict=True)
    ]
    np.testing.assert_allclose(sample.resamples, expected, atol=tolerance)
    assert sample.value == pytest.approx(feature_correlation_quotient(shifted, dense(base)[2]), abs=tolerance)
    assert np.ptp(expected) > 0.05  # or there would be nothing to get right


@given(st.integers(2, 6), st.integers(2, 8), st.floats(0, 1.5), st.integers(0, 2**31))
@settings(max_examples=60)
def test_the_reduction_keeps_its_bound(n_episodes, rank, spread, seed):
    gradients, episode_of = episodes(n_episodes, 20, seed, spread, states=4)
    own = subspace(gradients, episode_of, rank)
    counts = resample_counts(n_episodes, 5, seed)
    reduced = leading_vectors(counts, own.grams)[0][:, 0]
    rough = reduction_errors(counts, replace(own, leakage=None), reduced)
    errors = reduction_errors(counts, own, reduced)
    for row, found, error in zip(counts, reduced, errors, strict=True):
        largest = dense(direct(gradients, episode_of, row))[1]
        slack = 1e-5 * largest  # the basis is kept in float32
        assert found <= largest + slack
        assert largest <= found * (1 + error) + slack
    assert (errors <= rough * (1 + 1e-6) + 1e-6).all()


def test_leakage_makes_the_bound_tight():
    gradients, episode_of = episodes(6, 60, 0, 0.3)
    own = subspace(gradients, episode_of, 8)
    counts = resample_counts(6, 50, 0)
    reduced = leading_vectors(counts, own.grams)[0][:, 0]
    assert reduction_errors(counts, own, reduced).max() < 0.2 * reduction_errors(
        counts, replace(own, leakage=None), reduced
    ).max()  # fmt: skip
    pieces = [gradients[i : i + 7] for i in range(0, len(gradients), 7)]
    found = principal_directions(gradients, 8).directions
    np.testing.assert_allclose(
        episode_leakage(pieces, episode_of, 6, found), own.leakage, atol=1e-5 * np.abs(own.leakage).max()
    )


def test_batches_need_not_end_where_episodes_do():
    gradients, episode_of = episodes(4, 10, 0)
    whole = episode_grams([gradients], episode_of, 5, np.eye(10)[:6])
    pieces = episode_grams([gradients[i : i + 17] for i in range(0, 100, 17)], episode_of, 5, np.eye(10)[:6])
    np.testing.assert_allclose(pieces[0], whole[0])
    np.testing.assert_allclose(pieces[1], whole[1])
    assert not whole[0][4].any()
    rows = gradients[episode_of == 2]
    np.testing.assert_allclose(whole[0][2], (rows.T @ rows)[:6, :6])
    assert whole[1][2] == pytest.approx((rows**2).sum())
    for wrong in ([gradients[:-1]], [gradients, gradients]):
        with pytest.raises(RoboprefError, match="another number of gradients"):
            episode_grams(wrong, episode_of, 4, np.eye(10))


def test_what_vanishes_has_no_quotient():
    gradients, episode_of = episodes(3, 10, 0)
    ours = subspace(gradients, episode_of, 5)
    nothing, cross = subspace(np.zeros((9, 10)), np.repeat(np.arange(3), 3), 5, ours)
    for base, shifted in ((ours, nothing), (nothing, ours)):
        with pytest.raises(RoboprefError, match="set vanish, so the quotient is undefined"):
            bootstrap_quotient(base, shifted, cross)


def test_a_resample_of_saturated_episodes_only_is_left_out():
    gradients, episode_of = episodes(2, 10, 0)
    ours = subspace(gradients, episode_of, 5)
    gradients[episode_of == 1] = 0
    sample = bootstrap_quotient(ours, *subspace(gradients, episode_of, 5, ours), n_resamples=200)
    missing = np.isnan(sample.resamples)
    assert missing.mean() == pytest.approx(0.25, abs=0.1)  # both draws were of the second episode
    estimate = quotient_estimate(sample, 2)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


def test_a_set_against_itself_and_a_turned_one_against_the_null():
    (base, base_of), (null, null_of) = episodes(8, 15, 1, 0.2), episodes(8, 15, 2, 0.2)
    turned = null @ np.linalg.qr(np.random.default_rng(0).normal(size=(15, 15)))[0]
    ours = subspace(base, base_of, 15)
    null_sample = bootstrap_quotient(ours, *subspace(null, null_of, 15, ours))
    shift_sample = bootstrap_quotient(ours, *subspace(turned, null_of, 15, ours))
    assert bootstrap_quotient(ours, ours, ours.grams).value == pytest.approx(1)
    assert quotient_estimate(null_sample, 8).low > 0.7 > 0.5 > quotient_estimate(shift_sample, 8).high
    below = quotient_difference(null_sample, shift_sample, 8)
    assert below.value == pytest.approx(null_sample.value - shift_sample.value)
    assert 0.2 < below.low < below.value < below.high < 1
    same = quotient_difference(null_sample, null_sample, 8)
    assert (same.low, same.high) == (0, 0)  # the base episodes are drawn alike


@pytest.mark.parametrize("turn", [0.0, 0.3])
def test_the_interval_holds_what_such_sets_give_on_average(turn):
    rotation = np.linalg.qr(np.eye(12) + turn * np.random.default_rng(5).normal(size=(12, 12)))[0]

    def draw(seed):
        (base, base_of), (shifted, shifted_of) = episodes(10, 12, seed), episodes(10, 12, seed + 10**6)
        return base, base_of, shifted @ rotation, shifted_of

    def quotient(base, base_of, shifted, shifted_of):
        return feature_correlation_quotient(shifted, principal_directions(base, 2).directions[0])

    average = np.mean([quotient(*draw(seed)) for seed in range(300)])
    held = 0
    for seed in range(1000, 1080):
        base, base_of, shifted, shifted_of = draw(seed)
        ours = subspace(base, base_of, 12)
        sample = bootstrap_quotient(ours, *subspace(shifted, shifted_of, 12, ours), n_resamples=400, seed=seed)
        interval = quotient_estimate(sample, 10)
        held += interval.low <= average <= interval.high
    assert held >= 72  # 90 %; fewer than 70 of 80 would have a probability of .3 % at 95 %
