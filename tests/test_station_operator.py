"""A person at a device, on a clock that the test moves: handovers, silence, smoothness, and what is told."""

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from teleop_sources import KEYS, PlayedSource

from robopref.envs.intervention import InterventionEnv
from robopref.errors import RoboprefError
from robopref.human_io.handover import State
from robopref.human_io.station_operator import ActionLayout, Session, StationConfig, StationOperator
from robopref.labeling import label_steps
from robopref.protocols import Mode, OperatorEvent
from robopref.store.recorder import RecordEpisodes
from robopref.store.store import EpisodeStore
from robopref.trajectory import Actor, Label, Outcome

LABELS = ("x", "y", "z", "gripper")
ROBOT = ActionLayout(LABELS, -np.ones(4), np.ones(4))
PROPOSED = np.array([0.4, -0.4, 0.2, 1.0], np.float32)
TICK = 50_000_000


class Bench:
    """An operator under test: ``tick(...)`` is one control tick with the given reading."""

    def __init__(self, layout=ROBOT, **config):
        self.now, self.next = 10**12, {}
        self.source = PlayedSource(lambda n: self.next, lambda: self.now)
        self.config = StationConfig(**({"autostart": True, "ramp": 0.25} | config))
        self.operator = StationOperator(self.source, KEYS, layout, self.config, clock=lambda: self.now)
        self.layout = layout
        self.reset()

    def reset(self, **reading):
        self.next = reading
        self.operator.reset({"seed": 1, "task": "reach", "instruction": "go there"})

    def tick(self, *keys, proposed=None, **reading):
        self.now += TICK
        self.next = {"keys": frozenset(keys), **reading}
        default = np.int64(1) if self.layout.discrete else PROPOSED
        return self.operator.command({}, default if proposed is None else proposed)

    def poll(self, *keys, **reading):
        self.now += TICK
        self.next = {"keys": frozenset(keys), **reading}
        return self.operator.poll()

    @property
    def shown(self):
        return self.source.shown[-1]


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


def test_a_device_that_is_back_before_the_next_episode_does_not_start_it():
    bench = Bench(abort_after=1.0)
    bench.tick()
    modes = [bench.tick(connected=False).mode for _ in range(30)]
    assert modes[-1] is Mode.STOP
    bench.reset()  # the device is back while the next episode is laid out
    assert [bench.poll() for _ in range(5)] == [State.PAUSED] * 5
    assert "waiting for you" in bench.shown.reason
    assert bench.poll("KeyH") is State.AUTONOMOUS
    bench.tick()
    bench.reset()
    assert bench.operator.state is State.AUTONOMOUS  # that word stands


def test_an_episode_that_ran_out_in_hold_leaves_the_next_one_waiting():
    bench = Bench()
    bench.tick()
    bench.tick(connected=False)
    assert bench.tick().mode is Mode.HOLD  # it is back, and the task's own time limit ends the episode here
    bench.reset()
    assert bench.poll() is State.PAUSED
    bench.tick("Enter")  # ends this one, and is no word on who drives
    bench.reset()
    assert bench.poll() is State.PAUSED
    assert bench.poll("Space") is State.TAKEOVER


def test_letting_go_and_judging_does_not_let_the_policy_start():
    bench = Bench(hold_to_run=True)
    bench.tick()
    bench.tick("Space")
    assert bench.tick().mode is Mode.HOLD
    assert bench.tick("KeyY").mode is Mode.STOP
    bench.reset()
    assert bench.operator.state is State.PAUSED


def test_a_handover_out_of_hold_is_a_word_for_the_next_episode_too():
    bench = Bench()
    bench.tick(connected=False)
    bench.tick()
    assert bench.tick("KeyH").mode is Mode.FOLLOW
    bench.reset()
    assert bench.operator.state is State.AUTONOMOUS


def test_a_pause_asked_for_while_an_episode_is_laid_out_never_starts_it():
    bench = Bench()
    bench.tick(connected=False)
    bench.reset(clicked=("pause",))
    assert bench.operator.state is State.PAUSED
    bench.reset(clicked=("pause",), connected=False)
    assert bench.operator.state is State.PAUSED
    assert bench.poll(clicked=("pause",)) is State.AUTONOMOUS  # seen waiting, then told to go on


@pytest.mark.parametrize(
    ("key", "event"),
    [
        ("KeyY", OperatorEvent.SUCCESS),
        ("KeyN", OperatorEvent.FAILURE),
        ("Delete", OperatorEvent.DISCARD),
        ("Enter", OperatorEvent.NEXT),
    ],
)
def test_judging_ends_the_episode_with_that_judgement(key, event):
    bench = Bench()
    bench.tick()
    command = bench.tick(key)
    assert (command.mode, command.event) == (Mode.HOLD, event)  # the robot is not left with its last command
    command = bench.tick()
    assert (command.mode, command.event) == (Mode.STOP, event)
    assert not bench.operator.stop_requested
    bench.reset(keys=frozenset({key}))
    assert bench.operator.state is State.AUTONOMOUS
    assert bench.tick(key).mode is Mode.FOLLOW  # still held from the last episode
    bench.reset(clicked=(event.value,))  # too late for the last episode and not meant for this one
    assert bench.tick().mode is Mode.FOLLOW


def test_stop_ends_episode_and_session_even_in_the_last_breath_of_a_connection():
    bench = Bench()
    bench.tick()
    command = bench.tick(clicked=("success", "stop"), connected=False)
    assert (command.mode, command.event) == (Mode.HOLD, OperatorEvent.SUCCESS)
    command = bench.tick(connected=False)
    assert (command.mode, command.event) == (Mode.STOP, OperatorEvent.SUCCESS)
    assert bench.operator.stop_requested


@pytest.mark.parametrize(("key", "event"), [("KeyN", OperatorEvent.FAILURE), ("Escape", None)])
def test_a_key_pressed_in_the_last_breath_of_a_connection_counts_if_it_ends_the_episode(key, event):
    bench = Bench()
    bench.tick()
    command = bench.tick(key, connected=False)
    assert (bench.operator.state, command.event) == (State.STOPPED, event)
    assert bench.operator.stop_requested == (key == "Escape")


@pytest.mark.parametrize("key", ["Space", "KeyH", "KeyP", "KeyD"])
def test_no_other_key_pressed_in_the_last_breath_of_a_connection_counts(key):
    bench = Bench()
    bench.tick("Space")
    assert bench.tick(key, connected=False).mode is Mode.HOLD
    assert bench.operator.state is State.HOLD


def test_a_judgement_held_while_the_device_is_gone_is_none_afterwards():
    bench = Bench()
    bench.tick(connected=False)
    for connected in (False, False, True, True):
        assert bench.tick("KeyN", connected=connected).mode is Mode.HOLD
    assert bench.operator.state is State.HOLD


class VelocityRobot(gym.Env):
    """Goes on as its last command says until it is given another."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float64)
    action_space = gym.spaces.Box(-1, 1, (4,), np.float32)

    def __init__(self, ends_after=None):
        self.commands, self.ends_after = [], ends_after

    def reset(self, *, seed=None, options=None):
        self.commands = []
        return np.zeros(4), {}

    def step(self, action):
        self.commands.append(action)
        return np.sum(self.commands, axis=0, dtype=float), 0.0, False, len(self.commands) == self.ends_after, {}


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        ("stop", Outcome.ABORTED),
        ("next", Outcome.ABORTED),
        ("success", Outcome.SUCCESS),
        ("failure", Outcome.FAILURE),
        ("discard", None),
    ],
)
@pytest.mark.parametrize("takeover", [False, True])
def test_an_episode_that_the_operator_ends_leaves_the_robot_at_rest_and_says_so(tmp_path, said, outcome, takeover):
    bench, robot, store = Bench(ramp=0.05), VelocityRobot(), EpisodeStore.create_or_open(tmp_path)
    env = RecordEpisodes(InterventionEnv(robot, bench.operator), store)
    env.reset(seed=1)

    def step(*keys, **reading):
        bench.now += TICK
        bench.next = {"keys": frozenset(keys), **reading}
        return env.step(np.full(4, 0.7, np.float32))

    step()
    if takeover:
        step("Space")
        step("KeyD")
    moved = len(robot.commands)
    assert robot.commands[-1].any()
    *_, truncated, info = step(clicked=(said,))
    assert not robot.commands[-1].any()
    assert bench.shown.executed_action == (0, 0, 0, 0)
    assert not truncated
    observation, *_, truncated, info = step()
    assert truncated
    assert bench.shown.executed_action == (0, 0, 0, 0)
    assert len(robot.commands) == bench.shown.step == moved + 1
    if outcome is None:
        assert len(store) == 0
        return
    episode = store.read(info["episode_id"])
    assert episode.info.outcome is outcome
    np.testing.assert_array_equal(episode.action, np.stack(robot.commands))
    np.testing.assert_array_equal(episode.final_observation["observation"], observation)
    assert episode.actor[-1] == Actor.HOLD
    for window in (0, 1, 10):  # what is learned from does not change by the step at rest
        labels = label_steps(episode.actor, window)
        np.testing.assert_array_equal(labels[:-1], label_steps(episode.actor[:-1], window))
        assert labels[-1] == Label.EXCLUDED


def test_a_robot_at_rest_is_not_told_so_again():
    bench = Bench()
    bench.tick()
    bench.tick(connected=False)
    assert bench.tick(clicked=("success",)).mode is Mode.STOP
    bench.reset(clicked=("stop",))  # ... nor one that has not moved yet
    assert bench.tick().mode is Mode.STOP
    assert bench.shown.step == 0


def test_a_judgement_stands_when_the_task_ends_at_the_step_that_brings_the_robot_to_rest(tmp_path):
    bench, store = Bench(), EpisodeStore.create_or_open(tmp_path)
    env = RecordEpisodes(InterventionEnv(VelocityRobot(ends_after=2), bench.operator), store)
    env.reset(seed=1)
    bench.next = {}
    env.step(PROPOSED)
    bench.next = {"clicked": ("success",)}
    *_, truncated, info = env.step(PROPOSED)
    assert truncated
    assert store.read(info["episode_id"]).info.outcome is Outcome.SUCCESS


def test_stop_between_episodes_is_not_forgotten():
    bench = Bench()
    bench.reset(clicked=("stop",))
    assert bench.operator.stop_requested
    assert bench.tick().mode is Mode.STOP


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


def test_the_first_episode_waits_for_the_operator_and_the_next_does_not():
    bench = Bench(autostart=False)
    assert bench.operator.state is State.PAUSED
    assert bench.shown.reason.startswith("waiting for you")
    assert bench.poll("Space") is State.TAKEOVER
    bench.reset()
    assert bench.operator.state is State.AUTONOMOUS


def test_what_is_pressed_while_an_episode_is_being_laid_out_counts():
    bench = Bench()
    bench.reset(clicked=("take_over",))
    assert bench.tick().mode is Mode.TAKE_OVER
    bench.reset(clicked=("pause",))
    assert bench.operator.state is State.PAUSED


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
