"""A person at a device, on a clock that the test moves: handovers, smoothness, scales, and what is told."""

import numpy as np
import pytest
from operator_bench import LABELS, PROPOSED, Bench

from robopref.errors import RoboprefError
from robopref.human_io.handover import State
from robopref.human_io.station_operator import ActionLayout, Session
from robopref.protocols import Mode, OperatorEvent


def test_toggle_take_over_drive_and_hand_back():
    bench = Bench()
    assert bench.tick().mode is Mode.FOLLOW
    taken = bench.tick("Space")
    assert taken.mode is Mode.TAKE_OVER
    for _ in range(30):
        driven = bench.tick("KeyD")
    np.testing.assert_allclose(driven.action[:3], [1, 0, 0], atol=1e-6)
    assert bench.tick("KeyH").mode is Mode.FOLLOW
    assert bench.tick("KeyD").mode is Mode.FOLLOW  # a driving key means nothing while the policy drives


def test_a_takeover_begins_at_the_current_command_and_never_jumps():
    bench = Bench(ramp=0.5)  # 0.1 a tick
    bench.tick()
    first = bench.tick("Space").action
    np.testing.assert_allclose(first[:3], [0.3, -0.3, 0.1], atol=1e-6)
    before = first
    for _ in range(12):
        now = bench.tick("KeyA").action
        assert np.abs(now - before).max() <= 0.1 + 1e-6
        before = now
    np.testing.assert_allclose(before[:3], [-0.9, 0.0, 0.0], atol=1e-5)


def test_a_gripper_that_is_not_touched_keeps_what_it_holds():
    bench = Bench()
    bench.tick()
    assert bench.tick("Space").action[3] == 1.0
    for _ in range(5):
        assert bench.tick("KeyD").action[3] == 1.0


def test_a_released_key_is_zero_at_the_next_tick():
    bench = Bench()
    bench.tick("Space")
    for _ in range(20):
        bench.tick("KeyD")
    assert bench.tick().action[0] == 0.0


def test_hold_to_run_drives_only_while_held_and_never_hands_back_by_itself():
    bench = Bench(hold_to_run=True)
    assert bench.tick().mode is Mode.FOLLOW
    assert bench.tick("Space", "KeyD").mode is Mode.TAKE_OVER
    assert bench.tick("Space", "KeyD").mode is Mode.TAKE_OVER
    assert bench.tick("KeyD").mode is Mode.HOLD
    assert "hand back" in bench.shown.reason
    assert bench.tick().mode is Mode.HOLD
    assert bench.tick("Space").mode is Mode.TAKE_OVER
    assert bench.tick("Space", "KeyH").mode is Mode.FOLLOW  # while it is still held: that counts once it is released
    assert bench.tick("Space").mode is Mode.FOLLOW
    assert bench.tick().mode is Mode.FOLLOW
    assert bench.tick("Space").mode is Mode.TAKE_OVER
    assert bench.shown.hold_to_run


def test_hold_to_run_on_the_screen_stops_the_policy():
    bench = Bench(hold_to_run=True)
    assert bench.tick(clicked=("take_over",)).mode is Mode.HOLD


def test_pausing_and_going_on():
    bench = Bench()
    bench.tick()
    paused = bench.tick("KeyP")
    assert (paused.mode, paused.event) == (Mode.HOLD, OperatorEvent.PAUSE)
    assert bench.poll("KeyP") is State.PAUSED  # the same press
    assert bench.poll() is State.PAUSED
    assert bench.poll("KeyP") is State.AUTONOMOUS
    bench.tick("KeyP")
    bench.tick()
    bench.tick("KeyP")
    assert bench.poll("Space") is State.TAKEOVER


def test_discrete_actions():
    names = ("NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE")
    bench = Bench(ActionLayout(names))
    assert bench.tick().mode is Mode.FOLLOW
    bench.tick("Space")
    driven = bench.tick("ArrowRight")
    assert (driven.mode, int(driven.action), driven.action.shape) == (Mode.TAKE_OVER, 2, ())
    assert int(bench.tick("ArrowLeft", "KeyF").action) == 5
    assert int(bench.tick().action) == 0
    assert bench.tick(connected=False).mode is Mode.HOLD
    assert bench.shown.discrete
    assert bench.shown.executed_action == (0.0,)


def test_a_device_is_scaled_to_the_action_space_and_zero_stays_zero():
    layout = ActionLayout(("x", "y"), np.array([-2.0, 0.0]), np.array([0.5, 3.0]))
    np.testing.assert_allclose(layout.scaled(np.array([-0.5, 0.5])), [-1.0, 1.5])
    np.testing.assert_allclose(layout.scaled(np.zeros(2)), [0, 0])
    np.testing.assert_allclose(layout.unscaled(layout.scaled(np.array([0.3, 0.2]))), [0.3, 0.2], atol=1e-6)
    bench = Bench(layout)
    bench.tick("Space", proposed=np.zeros(2, np.float32))
    for _ in range(20):
        driven = bench.tick("KeyA", "KeyW", proposed=np.zeros(2, np.float32)).action
    np.testing.assert_allclose(driven, [-2.0, 3.0], atol=1e-6)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (-np.ones(3), np.ones(3), "labels"),
        (np.full(4, -np.inf), np.ones(4), "bounds"),
        (np.full(4, 0.5), np.ones(4), "zero"),
    ],
)
def test_action_spaces_that_no_device_can_drive_are_refused(low, high, said):
    with pytest.raises(RoboprefError, match=said):
        ActionLayout(LABELS, low, high)


@pytest.mark.parametrize("times", [{"abort_after": 0.1}, {"heartbeat_timeout": 0.0}, {"ramp": 0.0}, {"hz": 0.0}])
def test_times_that_make_no_sense_are_refused(times):
    with pytest.raises(RoboprefError):
        Bench(**times)


def test_what_the_operator_is_told():
    bench = Bench()
    bench.operator.session = Session(2, 5, (("success", 1),), 1.5, "pushing", "press it")
    bench.tick()
    bench.tick("Space")
    bench.tick("KeyD")
    bench.tick(connected=False)
    bench.tick("KeyH")
    bench.tick()
    bench.tick("KeyH")
    bench.tick("Space")
    told = bench.shown
    assert (told.episode, told.episodes_planned, told.outcomes) == (2, 5, (("success", 1),))
    assert (told.instruction, told.task, told.action_labels) == ("press it", "pushing", LABELS)
    assert told.step == 8
    assert told.takeovers == 2
    assert told.human_share == pytest.approx(3 / 8)
    assert told.proposed_action == pytest.approx(tuple(PROPOSED.tolist()))
