"""The control loop's clock, on a clock that the test moves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robopref.errors import RoboprefError
from robopref.human_io.pacing import Pacer

pytestmark = pytest.mark.alone


class Clock:
    """Time that passes only when somebody sleeps, with a scheduler that wakes up late by ``oversleep`` ns."""

    def __init__(self):
        self.now, self.oversleep = 1_000_000_007, 0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        assert seconds > 0
        self.now += round(seconds * 1e9) + self.oversleep


def paced(hz):
    clock = Clock()
    return Pacer(hz, clock=clock, sleep=clock.sleep), clock


@pytest.mark.parametrize("hz", [20.0, 15.0, 60.0, 1 / 3])
def test_ticks_do_not_drift(hz):
    pacer, clock = paced(hz)
    began, ticks = clock.now, []
    clock.oversleep = 1500
    for _ in range(10_000):
        pacer.wait()
        ticks.append(clock.now - began)
        clock.now += round(0.3e9 / hz)  # work
    late = np.array(ticks) - np.arange(10_000) * 1e9 / hz
    assert late.min() >= -1  # never early, but for rounding
    assert late.max() <= 1502


def test_lateness_is_measured_and_does_not_move_the_next_deadline():
    pacer, clock = paced(100.0)
    pacer.wait()
    clock.now += 4_000_000
    clock.oversleep = 2_000_000
    pacer.wait()  # 12 ms after the start instead of 10
    clock.oversleep = 0
    pacer.wait()
    assert clock.now - 1_000_000_007 == 20_000_000
    jitter = pacer.jitter()
    assert (jitter.ticks, jitter.max_ms, jitter.p50_ms, jitter.missed) == (3, 2.0, 0.0, 0)
    assert jitter.p99_ms == pytest.approx(1.96)


def test_deadlines_that_passed_are_missed_not_caught_up_with():
    pacer, clock = paced(100.0)
    pacer.wait()
    clock.now += 37_000_000  # deadlines at 10 and 20 are gone, the one at 30 is 7 ms late
    pacer.wait()
    assert clock.now - 1_000_000_007 == 37_000_000
    assert pacer.jitter().missed == 2
    assert pacer.jitter().max_ms == 7.0
    pacer.wait()
    assert clock.now - 1_000_000_007 == 40_000_000


def test_a_new_start_forgets():
    pacer, clock = paced(100.0)
    pacer.wait()
    clock.now += 5_000_000_000
    pacer.start()
    pacer.wait()
    assert pacer.jitter().ticks == 1
    assert pacer.jitter().missed == 0
    assert pacer.jitter().max_ms == 0.0


@given(st.lists(st.integers(0, 80_000_000), max_size=60))
def test_every_deadline_is_kept_or_counted(works):
    pacer, clock = paced(50.0)
    for work in works:
        pacer.wait()
        clock.now += work
    elapsed = pacer.jitter()
    assert elapsed.ticks == len(works)
    done = sum(works[:-1]) if works else 0
    assert elapsed.ticks + elapsed.missed >= done // 20_000_000  # one deadline each 20 ms, none forgotten
    assert elapsed.max_ms <= 20.0  # what is later than a period is missed


@pytest.mark.parametrize("hz", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_rates_are_refused(hz):
    with pytest.raises(RoboprefError, match="positive"):
        Pacer(hz)
