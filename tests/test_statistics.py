from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from robopref.errors import RoboprefError
from robopref.evaluation import statistics
from robopref.evaluation.statistics import (
    Rate,
    bootstrap_ratio,
    interquartile_mean,
    paired_bootstrap_difference,
    paired_interquartile_difference,
    paired_mean_difference,
    probability_of_improvement,
    stratified_interquartile_mean,
    stratified_mean,
    wilson_interval,
)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.9, 0.95]))
def test_wilson_agrees_with_scipy(counts, confidence):
    successes, n = counts
    expected = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    np.testing.assert_allclose(wilson_interval(successes, n, confidence), (expected.low, expected.high), atol=1e-12)


def test_wilson_is_right_on_newcombes_published_example():
    # Newcombe 1998 (Statistics in Medicine 17), method 3: 81 of 263 -> .2553 to .3662
    np.testing.assert_allclose(wilson_interval(81, 263), (0.2553, 0.3662), atol=5e-5)


def test_a_rate_is_printed_with_interval_and_n():
    assert str(Rate.of(31, 50)) == "62.0 % [48.2, 74.1] (n=50)"


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_impossible_rates_are_refused(successes, n):
    with pytest.raises(RoboprefError, match="0 <= successes <= n"):
        Rate.of(successes, n)


def test_the_paired_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        easy = rng.random(60)  # the same layout is easy or hard for both, which is what pairing is for
        before = (rng.random(60) < 0.3 + 0.3 * easy).astype(float)
        after = (rng.random(60) < 0.5 + 0.3 * easy).astype(float)
        estimate = paired_bootstrap_difference(before, after, n_resamples=1000, seed=trial)
        covered += estimate.low <= 0.2 <= estimate.high
    assert 0.90 <= covered / 300 <= 0.985


@pytest.mark.parametrize(("n", "discordant"), [(20, 0.1), (50, 0.04), (50, 0.1), (100, 0.3)])
def test_without_an_effect_a_gain_is_rarely_claimed(n, discordant):
    # Rare discordant pairs are where a percentile bootstrap could be too bold: its level is checked there.
    rng, claimed, trials = np.random.default_rng(n), 0, 600
    for trial in range(trials):
        won, lost, _ = rng.multinomial(n, [discordant / 2, discordant / 2, 1 - discordant])
        before, after = np.zeros(n), np.zeros(n)
        after[:won] = before[won : won + lost] = 1
        claimed += paired_bootstrap_difference(before, after, n_resamples=1000, seed=trial).low > 0
    assert claimed / trials <= 0.025 + 3 * np.sqrt(0.025 * 0.975 / trials)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 13, 19])
def test_few_pairs_never_claim_more_than_the_exact_test(n):
    for won in range(n + 1):
        for lost in range(n + 1 - won):
            before, after = np.zeros(n), np.zeros(n)
            after[:won] = before[won : won + lost] = 1
            estimate = paired_bootstrap_difference(before, after, n_resamples=500)
            assert estimate.low <= estimate.value <= estimate.high
            if estimate.low > 0 or estimate.high < 0:
                assert stats.binomtest(won, won + lost).pvalue <= 0.05


def test_few_pairs_can_claim_something():
    # six wins in six pairs: two-sided p = 2 / 64; five in five: 2 / 32
    assert paired_bootstrap_difference([0] * 6, [1] * 6).low > 0
    assert paired_bootstrap_difference([0] * 5, [1] * 5).low < 0
    assert paired_bootstrap_difference([0] * 6 + [1] * 3, [1] * 9).low > 0
    assert paired_bootstrap_difference([0] * 5 + [1] * 3, [1] * 8).low == 0


def test_a_bootstrap_in_parts_is_a_bootstrap(monkeypatch):
    rng = np.random.default_rng(2)
    before, after = rng.normal(size=30), rng.normal(0.5, size=30)
    whole = paired_bootstrap_difference(before, after)
    monkeypatch.setattr(statistics, "_DRAWS_AT_ONCE", 1000)  # 33 resamples at a time, the last part shorter
    parts = paired_bootstrap_difference(before, after)
    spread = np.std(after - before, ddof=0) / np.sqrt(30)  # of a resampled mean, in closed form
    assert (parts.low, parts.high) == pytest.approx((whole.low, whole.high), abs=0.1 * spread)
    assert (whole.high - whole.low) / (2 * 1.96 * spread) == pytest.approx(1, abs=0.05)


def test_pairing_by_seed_narrows_the_interval():
    rng = np.random.default_rng(1)
    layout = rng.normal(size=80)
    before, after = layout, layout + 0.5 + 0.1 * rng.normal(size=80)
    paired = paired_bootstrap_difference(before, after)
    shuffled = paired_bootstrap_difference(before, rng.permutation(after))
    assert paired.high - paired.low < 0.2 * (shuffled.high - shuffled.low)
    assert paired.value == pytest.approx(np.mean(after - before))


def test_without_discordant_pairs_the_interval_is_not_a_point():
    same = paired_bootstrap_difference([1] * 20, [1] * 20)
    assert same.value == 0
    # 1 - .025^(1/20): the largest chance of a discordant pair that 20 concordant ones cannot rule out
    assert (same.low, same.high) == pytest.approx((-0.16843, 0.16843), abs=1e-5)
    flipped = paired_bootstrap_difference([0] * 20, [1] * 20)
    assert (flipped.value, flipped.high) == (1, 1)
    assert flipped.low == pytest.approx(1 - 2 * 0.16843, abs=2e-5)  # the other pairs could all be lost
    assert paired_bootstrap_difference([1] * 20, [0] * 20).high == pytest.approx(-flipped.low)


def test_unpaired_lengths_are_refused():
    with pytest.raises(RoboprefError, match="as many"):
        paired_bootstrap_difference([1, 0], [1])
    with pytest.raises(RoboprefError, match="finite"):
        paired_bootstrap_difference([1.0], [np.nan])


def test_a_ratio_over_episodes_weighs_long_episodes_more():
    estimate = bootstrap_ratio([10, 0, 0], [100, 10, 10])
    assert estimate.value == pytest.approx(10 / 120)
    assert estimate.low == 0
    assert estimate.high == pytest.approx(0.1)


def test_a_share_that_never_varied_is_not_certain():
    nobody = bootstrap_ratio([0] * 10, [50] * 10)
    clopper_pearson = stats.binomtest(0, 10).proportion_ci(method="exact")
    assert (nobody.low, nobody.high) == pytest.approx((0, clopper_pearson.high))
    once = bootstrap_ratio([20], [50])
    assert once.low == pytest.approx(0.4 * 0.025)
    assert once.high == pytest.approx(1 - 0.6 * 0.025)
    for wrong in (([1.0], [0.0]), ([np.nan], [1.0]), ([1.0, 2.0], [1.0]), ([], [])):
        with pytest.raises(RoboprefError, match="as many"):
            bootstrap_ratio(*wrong)
    counts = bootstrap_ratio([3, 3], [1, 1])  # takeovers in an episode: no share, nothing bounds the others
    assert (counts.low, counts.high) == (3, 3)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=60))
def test_the_interquartile_mean_is_scipys_trimmed_mean(values):
    assert interquartile_mean(values) == pytest.approx(stats.trim_mean(values, 0.25), abs=1e-9)


def test_the_stratified_bootstrap_keeps_to_its_tasks():
    scores = np.stack([np.full(5, 0.2), np.full(5, 0.8)], axis=1)  # no variation within a task
    estimate = stratified_interquartile_mean(scores)
    assert estimate.low == estimate.high == pytest.approx(estimate.value)
    noisy = scores + np.random.default_rng(0).normal(scale=0.1, size=scores.shape)
    estimate = stratified_interquartile_mean(noisy)
    assert estimate.low < estimate.value < estimate.high


def test_probability_of_improvement_by_hand():
    # task 1: 2 beats 1 and ties 2 -> (1 + 1/2 + 1 + 1) / 4; task 2: always worse -> 0
    estimate = probability_of_improvement([[2, 0], [3, 0]], [[1, 5], [2, 5]])
    assert estimate.value == pytest.approx((3.5 / 4 + 0) / 2)
    assert estimate.low <= estimate.value <= estimate.high


def test_a_paired_interquartile_difference_by_hand():
    # Sorted, ours is 1 2 3 4 5 6 7 20 and theirs 0 0 2 2 4 4 6 6; a quarter of eight off each end leaves
    # 3 4 5 6 (mean 4.5) and 2 2 4 4 (mean 3). The mean of the differences is another number: (48 - 24) / 8.
    ours, theirs = [[1, 5], [2, 6], [3, 7], [4, 20]], [[0, 4], [0, 4], [2, 6], [2, 6]]
    estimate = paired_interquartile_difference(ours, theirs)
    assert (estimate.value, estimate.n) == (1.5, 8)
    assert estimate.low <= 1.5 <= estimate.high
    mean = paired_mean_difference(ours, theirs)
    assert (mean.value, mean.n) == (3, 8)
    assert stratified_mean(ours).value == 6


def test_a_paired_interval_is_that_of_all_resamples():
    # Two runs of two tasks have 16 equally likely resamples, and four scores an interquartile mean that leaves out the
    # extremes; both done here without numpy.
    ours, theirs = [[0.9, 0.5], [0.4, 0.2]], [[0.6, 0.5], [0.3, 0.4]]

    def middle(table, first, second):
        return sum(sorted([table[i][0] for i in first] + [table[i][1] for i in second])[1:3]) / 2

    draws = list(product((0, 1), repeat=2))
    exact = [middle(ours, a, b) - middle(theirs, a, b) for a in draws for b in draws]
    estimate = paired_interquartile_difference(ours, theirs, n_resamples=20_000, confidence=0.8)
    assert estimate.value == pytest.approx(middle(ours, (0, 1), (0, 1)) - middle(theirs, (0, 1), (0, 1)))
    expected = np.quantile(exact, [0.1, 0.9], method="inverted_cdf")
    assert (estimate.low, estimate.high) == pytest.approx(tuple(expected))


_tables = st.tuples(st.integers(1, 5), st.integers(1, 4)).flatmap(
    lambda shape: st.tuples(*[arrays(np.float64, shape, elements=st.floats(0, 1)) for _ in range(2)])
)


@settings(max_examples=40)
@given(_tables, st.floats(-1, 1), st.sampled_from([paired_interquartile_difference, paired_mean_difference]))
def test_a_paired_difference_behaves_as_a_difference(tables, shift, difference):
    ours, theirs = tables
    itself = difference(ours, ours, n_resamples=50)
    assert (itself.value, itself.low, itself.high) == (0, 0, 0)
    shifted = difference(ours + shift, ours, n_resamples=50)
    assert (shifted.value, shifted.low, shifted.high) == pytest.approx((shift,) * 3, abs=1e-12)
    one, other = difference(ours, theirs, n_resamples=50), difference(theirs, ours, n_resamples=50)
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low), abs=1e-12)


def test_pairing_runs_narrows_the_interval():
    rng = np.random.default_rng(3)
    run = rng.normal(size=(10, 4))
    ours = run + 0.3 + 0.05 * rng.normal(size=run.shape)
    paired, shuffled = (paired_interquartile_difference(ours, x) for x in (run, rng.permuted(run, axis=0)))
    assert paired.high - paired.low < 0.4 * (shuffled.high - shuffled.low)


def test_one_run_has_no_spread_to_resample():
    estimate = paired_interquartile_difference([[0.5, 0.7]], [[0.4, 0.4]])
    assert estimate.low == estimate.high == estimate.value == pytest.approx(0.2)


def test_tables_of_other_runs_cannot_be_paired():
    for difference in (paired_interquartile_difference, paired_mean_difference):
        with pytest.raises(RoboprefError, match=r"shapes \(2, 1\) and \(1, 2\)"):
            difference([[1], [0]], [[1, 0]])
        with pytest.raises(RoboprefError, match="finite"):
            difference([[1.0]], [[np.nan]])
