"""Takeovers without a jump, and stops without delay."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robopref.errors import RoboprefError
from robopref.human_io.smoothing import RateLimiter

command = st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3).map(lambda v: np.array(v, np.float32))


@given(command, st.lists(command, min_size=1, max_size=20))
def test_no_component_jumps_unless_it_is_let_go(start, targets):
    limiter = RateLimiter(2.0, 20.0)
    limiter.start(start)
    before, asked = start.astype(np.float64), np.zeros(3)
    for target in targets:
        now = limiter(target)
        released = (asked != 0) & (target == 0)
        assert (now[released] == 0).all()
        assert (np.abs(now - before)[~released] <= 0.1 + 1e-6).all()
        assert (np.abs(target - now) <= np.abs(target - before) + 1e-6).all()  # always nearer
        before, asked = now.astype(np.float64), target


def test_a_takeover_without_a_touch_leads_the_robot_to_rest():
    limiter = RateLimiter(2.0, 20.0)
    limiter.start(np.array([0.25, -0.15]))
    np.testing.assert_allclose(limiter(np.zeros(2)), [0.15, -0.05], atol=1e-6)
    np.testing.assert_allclose(limiter(np.zeros(2)), [0.05, 0.0], atol=1e-6)
    np.testing.assert_allclose(limiter(np.zeros(2)), [0.0, 0.0], atol=1e-6)


def test_a_released_key_is_zero_at_once():
    limiter = RateLimiter(2.0, 20.0)
    limiter.start(np.zeros(1))
    for _ in range(20):
        limiter(np.ones(1))
    assert limiter(np.zeros(1)) == 0.0


@pytest.mark.parametrize(("rate", "hz"), [(0.0, 20.0), (1.0, 0.0), (-1.0, 20.0), (float("nan"), 20.0)])
def test_impossible_rates_are_refused(rate, hz):
    with pytest.raises(RoboprefError, match="positive"):
        RateLimiter(rate, hz)
