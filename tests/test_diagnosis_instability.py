import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robopref.diagnosis import find_peaks, norm_moments
from robopref.diagnosis.instability import STATISTICS, moment_estimate
from robopref.errors import RoboprefError


def of(name, *series):
    return float(STATISTICS[name](sum(norm_moments(np.array(s, float)) for s in series)))


def test_by_hand():
    series = [1, 3, 2, 2]
    assert of("mean", series) == 2
    assert of("variance", series) == 0.5
    assert of("variation", series) == pytest.approx(np.sqrt(0.5) / 2)
    assert of("oscillation", series) == pytest.approx((2 + 1 + 0) / 3 / 2)
    assert of("oscillation", [0, 4, 0, 4, 0]) == pytest.approx(4 / 1.6)
    assert of("oscillation", [5, 5, 5]) == 0


def test_two_episodes_count_by_their_states_and_not_across_their_border():
    assert of("mean", [1, 1, 1], [5]) == 2
    assert of("oscillation", [1, 1, 1], [5, 5, 5]) == 0
    assert of("variance", [1, 1], [3, 3]) == 1


def test_the_high_frequency_share_tells_jumps_from_drift():
    steps = np.arange(400)
    assert of("high_frequency", 2 + np.sin(2 * np.pi * steps / 50)) < 1e-3
    assert of("high_frequency", 2 + np.sin(2 * np.pi * steps / 2.5)) > 0.999
    assert of("high_frequency", 2 + (-1.0) ** steps) == pytest.approx(1)
    noise = [np.random.default_rng(i).random(101 + i % 2) for i in range(300)]
    assert of("high_frequency", *noise) == pytest.approx(0.5, abs=0.02)


@given(st.lists(st.lists(st.floats(0, 100), min_size=1, max_size=30), min_size=1, max_size=4))
def test_the_sums_give_the_pooled_statistics(episodes):
    pooled = np.concatenate([np.array(e) for e in episodes])
    assert of("mean", *episodes) == pytest.approx(pooled.mean())
    assert of("variance", *episodes) == pytest.approx(pooled.var(), abs=1e-8 * (1 + pooled.max() ** 2))
    share = of("high_frequency", *episodes)
    assert np.isnan(share) or 0 <= share <= 1 + 1e-12


def test_undefined_is_nan_and_then_none():
    zeros = norm_moments(np.zeros(20))
    assert np.isnan(STATISTICS["variation"](zeros))
    assert np.isnan(STATISTICS["oscillation"](zeros))
    assert np.isnan(STATISTICS["high_frequency"](norm_moments(np.ones(3))))  # too short for a periodogram
    for name in ("variation", "oscillation", "high_frequency"):
        assert moment_estimate(STATISTICS[name], np.stack([zeros, zeros])) is None


def test_the_interval_is_over_episodes():
    rng = np.random.default_rng(0)
    alike = np.stack([norm_moments(1 + 0.1 * rng.random(50)) for _ in range(8)])
    unlike = np.stack([norm_moments((1 + i) * (1 + 0.1 * rng.random(50))) for i in range(8)])
    widths = []
    for moments in (alike, unlike):
        found = moment_estimate(STATISTICS["mean"], moments)
        assert found.low <= found.value <= found.high
        assert found.n == 8
        widths.append((found.high - found.low) / found.value)
    assert widths[0] < 0.02 < 0.3 < widths[1]


@pytest.mark.parametrize("norms", [[], [1, -1], [1, np.nan], [[1.0]]])
def test_bad_norms_are_refused(norms):
    with pytest.raises(RoboprefError, match="gradient norms"):
        norm_moments(np.array(norms, float))


def test_peaks_keep_their_distance():
    first = np.zeros(100)
    first[[10, 12, 40, 41]] = [5, 9, 7, 6]
    second = np.full(5, 8.0)
    assert find_peaks([first, second], 4, separation=10) == [(0, 12), (1, 0), (0, 40)]
    assert find_peaks([first, second], 2, separation=10) == [(0, 12), (1, 0)]
    assert find_peaks([first], 9, separation=1) == [(0, 12), (0, 40), (0, 41), (0, 10)]
    assert find_peaks([np.zeros(5)], 3) == []
    assert find_peaks([], 3) == []
    with pytest.raises(RoboprefError, match="separation"):
        find_peaks([first], 1, separation=0)
