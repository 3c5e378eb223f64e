"""How the operator ends an episode: judged or stopped, with the robot at rest, in a connection's last breath too."""

import gymnasium as gym
import numpy as np
import pytest
from operator_bench import PROPOSED, TICK, Bench

from robopref.envs.intervention import InterventionEnv
from robopref.human_io.handover import State
from robopref.labeling import label_steps
from robopref.protocols import Mode, OperatorEvent
from robopref.store.recorder import RecordEpisodes
from robopref.store.store import EpisodeStore
from robopref.trajectory import Actor, Label, Outcome


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
