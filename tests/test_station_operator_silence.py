"""Nobody at the device, or nothing heard of it: the robot holds still, and nothing moves again by itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_bench import TICK, Bench

from robopref.human_io.handover import State
from robopref.protocols import Mode


@pytest.mark.parametrize("hold_to_run", [False, True])
def test_who_looks_elsewhere_does_not_drive_and_is_not_waited_for(hold_to_run):
    bench = Bench(hold_to_run=hold_to_run, abort_after=1)
    bench.tick()
    bench.tick("Space", "KeyD")
    assert bench.tick("Space", "KeyD").mode is Mode.TAKE_OVER
    for _ in range(40):  # twice as long as an episode would wait for a device that is gone
        assert bench.tick(away="this tab is hidden").mode is Mode.HOLD
    assert "this tab is hidden" in bench.shown.reason
    assert bench.tick("KeyD").mode is Mode.HOLD  # back, and it takes a word to drive
    assert "take over" in bench.shown.reason
    assert bench.tick("Space").mode is Mode.TAKE_OVER
    assert bench.tick("KeyH").mode is Mode.FOLLOW


@pytest.mark.parametrize("hold_to_run", [False, True])
def test_the_policy_does_not_drive_on_while_nobody_sees_it(hold_to_run):
    bench = Bench(hold_to_run=hold_to_run)
    assert bench.tick().mode is Mode.FOLLOW
    for _ in range(3):
        assert bench.tick(away="a dialog is open").mode is Mode.HOLD
    assert "a dialog is open" in bench.shown.reason
    assert not any(bench.shown.executed_action)
    assert bench.tick().mode is Mode.HOLD  # back, and it takes a word to go on
    assert "hand back" in bench.shown.reason
    assert bench.tick("KeyH").mode is Mode.FOLLOW
    bench.tick("KeyP")
    assert bench.poll(away="a dialog is open") is State.PAUSED  # time stands still anyway
    bench.reset(away="a dialog is open")
    assert bench.operator.state is State.PAUSED  # nobody watches: the next episode waits
    assert bench.poll("KeyH") is State.AUTONOMOUS


def test_stop_works_while_a_dialog_is_open():
    bench = Bench()
    bench.tick()
    bench.tick(away="a dialog is open")
    assert bench.tick(away="a dialog is open", clicked=("stop",)).mode is Mode.STOP
    assert bench.operator.stop_requested


def test_a_quarter_of_a_second_of_silence_is_hold():
    bench = Bench()
    bench.tick("Space")
    heard = bench.now
    for _ in range(5):  # up to 250 ms the last reading counts
        assert bench.tick("KeyD", received_ns=heard).mode is Mode.TAKE_OVER
    command = bench.tick("KeyD", received_ns=heard)
    assert command.mode is Mode.HOLD
    assert bench.shown.mode == "HOLD"
    assert bench.shown.reason == "no heartbeat for 0.30 s"
    assert not any(bench.shown.executed_action)


@pytest.mark.parametrize("before", [(), ("Space",)])
def test_a_device_that_comes_back_does_not_move_anything_by_itself(before):
    bench = Bench()
    bench.tick(*before)
    assert bench.tick(connected=False, detail="the gamepad was unplugged").mode is Mode.HOLD
    assert bench.shown.reason == "the gamepad was unplugged"
    for _ in range(3):
        assert bench.tick("Space", "KeyD").mode is Mode.HOLD  # held since before it came back: not just pressed
    assert "is back" in bench.shown.reason
    bench.tick()
    assert bench.tick("Space").mode is Mode.TAKE_OVER


def test_hold_to_run_asks_for_a_fresh_grip_after_silence():
    bench = Bench(hold_to_run=True)
    bench.tick()
    assert bench.tick("Space").mode is Mode.TAKE_OVER
    assert bench.tick("Space", connected=False).mode is Mode.HOLD
    assert bench.tick("Space").mode is Mode.HOLD
    assert bench.tick().mode is Mode.HOLD
    assert bench.tick("Space").mode is Mode.TAKE_OVER


def test_long_silence_ends_the_episode_unjudged_but_not_the_session():
    bench = Bench(abort_after=1.0)
    bench.tick()
    alive = bench.now
    modes = [bench.tick(received_ns=alive).mode for _ in range(40)]
    ended = modes.index(Mode.STOP)
    # The device counted as present until 250 ms after its last sign of life, and is waited for for a second from then.
    assert ended * TICK / 1e9 == pytest.approx(1.2, abs=0.051)
    assert bench.tick(received_ns=alive).event is None
    assert not bench.operator.stop_requested
    bench.reset(received_ns=alive)
    assert bench.operator.state is State.PAUSED  # nobody watches: the next episode waits
    assert bench.poll(received_ns=alive) is State.PAUSED
    for _ in range(100):
        assert bench.poll(received_ns=alive) is State.PAUSED
    assert bench.poll() is State.PAUSED
    assert bench.poll("KeyH") is State.AUTONOMOUS


keys = st.frozensets(st.sampled_from(["Space", "KeyH", "KeyP", "KeyD", "KeyW", "Enter", "KeyY"]), max_size=3)
ages = st.sampled_from([0, 0, 0, 40, 200, 300, 2000])


@settings(max_examples=200)
@given(st.booleans(), st.lists(st.tuples(keys, ages, st.booleans()), max_size=40))
def test_whatever_happens_silence_never_moves_anything_and_a_person_drives_only_with_fresh_readings(hold, sequence):
    bench = Bench(hold_to_run=hold)
    for held, age, connected in sequence:
        command = bench.tick(*held, received_ns=bench.now + TICK - age * 1_000_000, connected=connected)
        if age > 250 or not connected:
            assert command.mode in (Mode.HOLD, Mode.STOP)
        if command.mode is Mode.TAKE_OVER:
            assert np.isfinite(command.action).all()
            assert np.abs(command.action).max() <= 1 + 1e-6
            if hold:
                assert "Space" in held
        if command.mode is Mode.STOP:
            bench.reset()
