"""RecordEpisodes: every step of every attempt, with and without an operator, and how each attempt ended."""

from __future__ import annotations

import errno
import threading
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from robopref.envs.intervention import InterventionEnv
from robopref.errors import RoboprefError
from robopref.protocols import FOLLOW, HOLD, Mode, OperatorCommand, OperatorEvent
from robopref.store import EpisodeStore
from robopref.store.background import BackgroundStore
from robopref.store.journal import JournalWriter, Kind
from robopref.store.recorder import RecordEpisodes
from robopref.trajectory import Actor, Outcome


class Corridor(gym.Env[Any, Any]):
    """Walk right; success at 1. Like some simulators it writes every observation into the same array."""

    task_name = "corridor"
    instruction = "walk right"
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    observation_space = spaces.Dict({"state": spaces.Box(-9.0, 9.0, (1,), np.float32)})

    def __init__(self, horizon: int = 5) -> None:
        self.horizon = horizon
        self.state = np.zeros(1, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.state[:] = 0.0
        self.steps = 0
        return {"state": self.state}, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.state += action
        self.steps += 1
        success = bool(self.state[0] >= 1)
        return {"state": self.state}, 0.5, success, self.steps >= self.horizon, {"success": success}


class Playback:
    operator_id = "playback"

    def __init__(self, commands: list[OperatorCommand]) -> None:
        self.commands = commands

    def reset(self, info: Mapping[str, Any]) -> None:
        self.left = iter(self.commands)

    def command(self, observation: Any, proposed_action: Any) -> OperatorCommand:
        return next(self.left)


def drive(x: float, event: OperatorEvent | None = None) -> OperatorCommand:
    return OperatorCommand(Mode.TAKE_OVER, np.array([x]), event)


def stop(event: OperatorEvent | None = None) -> OperatorCommand:
    return OperatorCommand(Mode.STOP, event=event)


@pytest.fixture
def store(tmp_path: Any) -> EpisodeStore:
    return EpisodeStore.create_or_open(tmp_path)


def run(env: gym.Env[Any, Any], action: float = 0.25, seed: int = 0) -> dict[str, Any]:
    env.reset(seed=seed)
    while True:
        *_, terminated, truncated, info = env.step(np.array([action], np.float32))
        if terminated or truncated:
            return info


def test_a_demonstration(store: EpisodeStore) -> None:
    info = run(RecordEpisodes(Corridor(), store, operator_id="me", extra={"noise": 0.3}), 0.25, seed=9)
    (episode,) = store
    assert episode.info.episode_id == info["episode_id"]
    assert (episode.info.task, episode.info.instruction, episode.info.seed) == ("corridor", "walk right", 9)
    assert (episode.info.operator_id, episode.info.outcome) == ("me", Outcome.SUCCESS)
    assert episode.info.extra == {"noise": 0.3}
    # Each step holds what was seen before its action, although the environment reuses its array.
    np.testing.assert_array_equal(episode.observation["state"][:, 0], [0.0, 0.25, 0.5, 0.75])
    np.testing.assert_array_equal(episode.final_observation["state"], [1.0])
    np.testing.assert_array_equal(episode.action, np.full((4, 1), 0.25, np.float32))
    assert set(episode.actor) == {Actor.EXPERT}
    assert np.isnan(episode.policy_action).all()
    assert np.isnan(episode.human_action).all()
    assert episode.success.tolist() == episode.terminated.tolist() == [False, False, False, True]
    assert episode.reward.tolist() == [0.5] * 4
    assert (np.diff(episode.t_monotonic_ns) > 0).all()


class InPlace(Corridor):
    """Like some environments it scales the action that it is given."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        action *= 0.05
        return super().step(action)


@pytest.mark.parametrize("actor", [Actor.EXPERT, Actor.POLICY, Actor.HUMAN])
def test_the_action_is_recorded_as_it_was_commanded(store: EpisodeStore, actor: Actor) -> None:
    run(RecordEpisodes(InPlace(), store, actor=actor), 0.25)
    (episode,) = store
    commanded = np.full((5, 1), 0.25, np.float32)
    np.testing.assert_array_equal(episode.action, commanded)
    if actor is not Actor.EXPERT:
        np.testing.assert_array_equal(getattr(episode, f"{actor.name.lower()}_action"), commanded)


def test_an_action_array_may_be_used_again_while_the_disk_is_behind(
    store: EpisodeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go, append = threading.Event(), JournalWriter.append

    def slow(self: JournalWriter, kind: Kind, parts: Any) -> None:
        if kind is Kind.STEP:
            assert let_go.wait(30)
        append(self, kind, parts)

    monkeypatch.setattr(JournalWriter, "append", slow)
    env = RecordEpisodes(Corridor(), BackgroundStore(store, max_delay=60.0))
    env.reset()
    action = np.zeros(1, np.float32)
    for n in range(4):
        action[:] = n / 8
        env.step(action)
    let_go.set()
    env.close()
    (episode,) = store
    np.testing.assert_array_equal(episode.action[:, 0], np.arange(4) / 8)


def test_an_interaction_keeps_both_proposals(store: EpisodeStore) -> None:
    commands = [FOLLOW, drive(0.5), HOLD, drive(0.25), FOLLOW]
    run(RecordEpisodes(InterventionEnv(Corridor(), Playback(commands)), store, policy_id="base"), 0.125)
    (episode,) = store
    assert episode.actor.tolist() == [Actor.POLICY, Actor.HUMAN, Actor.HOLD, Actor.HUMAN, Actor.POLICY]
    assert episode.segment_id.tolist() == [-1, 0, 0, 0, -1]
    np.testing.assert_array_equal(episode.policy_action[:, 0], [0.125] * 5)
    np.testing.assert_array_equal(episode.human_action[:, 0], [np.nan, 0.5, np.nan, 0.25, np.nan])
    np.testing.assert_array_equal(episode.action[:, 0], [0.125, 0.5, 0.0, 0.25, 0.125])
    assert episode.info.policy_id == "base"


@pytest.mark.parametrize(
    ("commands", "outcome", "steps"),
    [
        ([FOLLOW] * 5, Outcome.FAILURE, 5),
        ([drive(1.0)], Outcome.SUCCESS, 1),
        ([FOLLOW, stop()], Outcome.ABORTED, 1),
        ([FOLLOW, stop(OperatorEvent.SUCCESS)], Outcome.SUCCESS, 1),
        ([FOLLOW, stop(OperatorEvent.FAILURE)], Outcome.FAILURE, 1),
        ([drive(1.0, OperatorEvent.FAILURE)], Outcome.FAILURE, 1),
        ([drive(0.0, OperatorEvent.FAILURE), drive(0.0, OperatorEvent.SUCCESS), stop()], Outcome.SUCCESS, 2),
        ([drive(0.0, OperatorEvent.SUCCESS), drive(0.0, OperatorEvent.PAUSE), stop()], Outcome.SUCCESS, 2),
    ],
)
def test_outcomes(store: EpisodeStore, commands: list[OperatorCommand], outcome: Outcome, steps: int) -> None:
    run(RecordEpisodes(InterventionEnv(Corridor(), Playback(commands)), store), 0.0)
    (episode,) = store
    assert (episode.info.outcome, len(episode)) == (outcome, steps)
    assert set(episode.final_observation) == {"state"}


class Passing(Corridor):
    """Success is reported in passing and does not end the episode."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, _, truncated, info = super().step(action)
        return observation, reward, False, truncated, info


@pytest.mark.parametrize(
    ("last", "outcome"),
    [
        (stop(), Outcome.ABORTED),
        (stop(OperatorEvent.NEXT), Outcome.ABORTED),
        (stop(OperatorEvent.SUCCESS), Outcome.SUCCESS),
        (FOLLOW, Outcome.SUCCESS),
    ],
)
def test_what_an_operator_stops_unjudged_is_aborted_whatever_came_before(
    store: EpisodeStore, last: OperatorCommand, outcome: Outcome
) -> None:
    commands = [drive(1.0), drive(-1.0), last]
    run(RecordEpisodes(InterventionEnv(Passing(horizon=3), Playback(commands)), store), 0.0)
    (episode,) = store
    assert episode.success.any()
    assert episode.info.outcome is outcome


@pytest.mark.parametrize("commands", [[FOLLOW, stop(OperatorEvent.DISCARD)], [drive(1.0, OperatorEvent.DISCARD)]])
def test_discarded_episodes_are_kept_apart(store: EpisodeStore, commands: list[OperatorCommand]) -> None:
    run(RecordEpisodes(InterventionEnv(Corridor(), Playback(commands)), store))
    assert len(store) == 0
    assert len(list((store.path / "discarded").iterdir())) == 1


def test_stop_before_the_first_step_records_nothing(store: EpisodeStore) -> None:
    info = run(RecordEpisodes(InterventionEnv(Corridor(), Playback([stop()])), store))
    assert "episode_id" not in info
    assert len(store) == 0


def test_reset_and_close_in_the_middle_keep_the_episode(store: EpisodeStore) -> None:
    env = RecordEpisodes(Corridor(), store)
    for steps in (2, 3):
        env.reset()
        for _ in range(steps):
            env.step(np.zeros(1, np.float32))
    env.reset()
    env.close()
    env.close()
    assert [(len(e), e.info.outcome) for e in store] == [(2, Outcome.ABORTED), (3, Outcome.ABORTED)]


def test_instruction_and_task_given_win(store: EpisodeStore) -> None:
    env = RecordEpisodes(Corridor(), store, task="hall", instruction="go")
    run(env)
    env.instruction = "walk"
    run(env)
    assert [(e.info.task, e.info.instruction) for e in store] == [("hall", "go"), ("hall", "walk")]


def test_a_bad_observation_is_told_and_the_rest_kept(store: EpisodeStore) -> None:
    env = RecordEpisodes(Corridor(), store)
    env.reset()
    env.step(np.zeros(1, np.float32))
    env.step(np.zeros(1, np.float32))
    env.unwrapped.state[:] = np.nan
    env.step(np.zeros(1, np.float32))
    with pytest.raises(RoboprefError, match="'observation/state' holds NaN"):
        env.step(np.zeros(1, np.float32))
    env.reset()
    (episode,) = store
    assert (len(episode), episode.info.outcome) == (3, Outcome.ABORTED)


def test_a_refused_first_step_leaves_nothing(store: EpisodeStore) -> None:
    env = RecordEpisodes(Corridor(), store)
    env.reset()
    with pytest.raises(RoboprefError, match="'action' holds NaN"):
        env.step(np.array([np.nan], np.float32))
    run(env)
    assert [len(e) for e in store] == [4]
    assert not list((store.path / "journal").glob("*.journal"))


@pytest.mark.parametrize("again", ["reset", "close"])
def test_an_end_that_could_not_be_written_is_kept_as_it_was(
    store: EpisodeStore, monkeypatch: pytest.MonkeyPatch, again: str
) -> None:
    append = JournalWriter.append

    def full(self: JournalWriter, kind: Kind, parts: Any) -> None:
        if kind is Kind.END:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(self, kind, parts)

    env = RecordEpisodes(Corridor(), store)
    with monkeypatch.context() as patch:
        patch.setattr(JournalWriter, "append", full)
        with pytest.raises(RoboprefError, match="disk is full"):
            run(env, 0.125)
    getattr(env, again)()
    (episode,) = store
    assert (len(episode), episode.info.outcome) == (5, Outcome.FAILURE)
    np.testing.assert_array_equal(episode.final_observation["state"], [0.625])
    if again == "reset":  # and the next one ends in its own way
        env.step(np.zeros(1, np.float32))
        env.close()
        assert sorted(e.info.outcome for e in store) == [Outcome.ABORTED, Outcome.FAILURE]


def test_steps_outside_an_episode_are_refused(store: EpisodeStore) -> None:
    env = RecordEpisodes(Corridor(), store)
    with pytest.raises(RoboprefError, match="reset"):
        env.step(np.zeros(1, np.float32))
    run(env)
    with pytest.raises(RoboprefError, match="reset"):
        env.step(np.zeros(1, np.float32))


def test_discrete_actions_and_plain_observations(store: EpisodeStore) -> None:
    env = RecordEpisodes(gym.make("CartPole-v1"), store, actor=Actor.POLICY)
    observation, _ = env.reset(seed=1)
    seen = [observation]
    done = False
    while not done:
        observation, _, terminated, truncated, _ = env.step(len(seen) % 2)
        seen.append(observation)
        done = terminated or truncated
    (episode,) = store
    assert episode.info.task == "CartPole-v1"
    assert episode.action.dtype == np.int64
    assert episode.action.tolist() == episode.policy_action.tolist() == [t % 2 for t in range(1, len(seen))]
    assert set(episode.human_action) == {-1}
    np.testing.assert_array_equal(episode.observation["observation"], seen[:-1])
    np.testing.assert_array_equal(episode.final_observation["observation"], seen[-1])
