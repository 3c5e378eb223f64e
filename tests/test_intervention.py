"""InterventionEnv: who drives, what is executed, what is reported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from robopref.envs.intervention import InterventionEnv
from robopref.errors import RoboprefError
from robopref.protocols import FOLLOW, HOLD, Mode, OperatorCommand, OperatorEvent
from robopref.trajectory import Actor, takeover_count


class CountingEnv(gym.Env[Any, Any]):
    """Remembers what it was made to do."""

    task_name = "count"
    instruction = "count the steps"

    def __init__(self, action_space: spaces.Space[Any]) -> None:
        self.action_space = action_space
        self.observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.executed: list[Any] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.executed = []
        return np.zeros(1, np.float32), {"layout": 7}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.executed.append(action)
        return np.full(1, len(self.executed), np.float32), 1.0, False, False, {"success": False}


class Playback:
    """An operator that gives the commands it was given."""

    operator_id = "playback"

    def __init__(self, commands: list[OperatorCommand]) -> None:
        self.commands = commands
        self.told: Mapping[str, Any] = {}
        self.seen: list[tuple[Any, Any]] = []

    def reset(self, info: Mapping[str, Any]) -> None:
        self.told = info
        self.seen = []

    def command(self, observation: Any, proposed_action: Any) -> OperatorCommand:
        self.seen.append((observation, proposed_action))
        return self.commands[len(self.seen) - 1]


def take_over(action: Any, event: OperatorEvent | None = None) -> OperatorCommand:
    return OperatorCommand(Mode.TAKE_OVER, action, event)


BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)
DRIVE = take_over(np.array([0.5, -0.5]))


def make(commands: list[OperatorCommand], space: spaces.Space[Any] = BOX, **kwargs: Any) -> InterventionEnv:
    env = InterventionEnv(CountingEnv(space), Playback(commands), **kwargs)
    env.reset(seed=3)
    return env


def test_follow_executes_the_policy_and_takeover_the_operator() -> None:
    env = make([FOLLOW, DRIVE])
    policy = np.array([0.1, 0.2], np.float32)
    *_, info = env.step(policy)
    assert not info["is_intervention"]
    assert "intervene_action" not in info
    assert info["step_record"]["actor"] is Actor.POLICY
    assert info["step_record"]["human_action"] is None
    *_, info = env.step(policy)
    assert info["is_intervention"]
    np.testing.assert_array_equal(info["intervene_action"], np.array([0.5, -0.5], np.float32))
    record = info["step_record"]
    assert record["actor"] is Actor.HUMAN
    np.testing.assert_array_equal(record["policy_action"], policy)
    np.testing.assert_array_equal(record["action"], record["human_action"])
    np.testing.assert_array_equal(env.unwrapped.executed, [policy, [0.5, -0.5]])


def test_operator_sees_the_observation_acted_upon_and_the_episode() -> None:
    env = make([FOLLOW, FOLLOW])
    for _ in range(2):
        env.step(np.zeros(2))
    assert [float(o[0]) for o, _ in env.operator.seen] == [0.0, 1.0]
    assert env.operator.told == {"task": "count", "instruction": "count the steps", "seed": 3, "layout": 7}


def test_hold_executes_the_hold_action() -> None:
    env = make([HOLD])
    *_, info = env.step(np.ones(2))
    assert info["step_record"]["actor"] is Actor.HOLD
    assert not info["is_intervention"]
    np.testing.assert_array_equal(env.unwrapped.executed, [[0.0, 0.0]])
    env = make([HOLD], hold_action=[0.0, 1.0])
    env.step(np.zeros(2))
    np.testing.assert_array_equal(env.unwrapped.executed, [[0.0, 1.0]])
    env = make([HOLD], spaces.Discrete(4))
    env.step(2)
    assert env.unwrapped.executed == [0]


def test_hold_action_must_be_possible() -> None:
    positive = spaces.Box(0.5, 1.0, (2,), np.float32)
    with pytest.raises(RoboprefError, match="hold_action"):
        make([], positive)
    with pytest.raises(RoboprefError, match="shape"):
        make([], hold_action=[0.0])
    with pytest.raises(RoboprefError, match=r"hold action 0 is not in 1\.\.3"):
        make([], spaces.Discrete(3, start=1))


@pytest.mark.parametrize(
    ("event", "success"), [(None, False), (OperatorEvent.SUCCESS, True), (OperatorEvent.FAILURE, False)]
)
def test_stop_ends_the_episode_without_a_step(event: OperatorEvent | None, success: bool) -> None:
    env = make([FOLLOW, OperatorCommand(Mode.STOP, event=event)])
    before, *_ = env.step(np.zeros(2))
    observation, reward, terminated, truncated, info = env.step(np.zeros(2))
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert observation is before
    assert len(env.unwrapped.executed) == 1
    assert info["operator_stop"] is True
    assert info["success"] is success
    assert info.get("operator_event") is event
    assert "step_record" not in info


def test_event_is_reported_and_ends_nothing() -> None:
    env = make([take_over(np.zeros(2), OperatorEvent.DISCARD), FOLLOW])
    *_, truncated, info = env.step(np.zeros(2))
    assert not truncated
    assert info["operator_event"] is OperatorEvent.DISCARD
    assert "operator_event" not in env.step(np.zeros(2))[-1]


def test_segments_by_hand() -> None:
    env = make([FOLLOW, DRIVE, HOLD, DRIVE, FOLLOW, HOLD, DRIVE, DRIVE])
    segments = [env.step(np.zeros(2))[-1]["step_record"]["segment_id"] for _ in range(8)]
    assert segments == [-1, 0, 0, 0, -1, -1, 1, 1]
    env.reset()
    assert [env.step(np.zeros(2))[-1]["step_record"]["segment_id"] for _ in range(2)] == [-1, 0]


@given(st.lists(st.sampled_from([FOLLOW, HOLD, DRIVE]), min_size=1, max_size=40))
def test_segments_count_takeovers(commands: list[OperatorCommand]) -> None:
    env = make(commands)
    records = [env.step(np.zeros(2))[-1]["step_record"] for _ in commands]
    human = [r["segment_id"] for r in records if r["actor"] is Actor.HUMAN]
    # HOLD between two HUMAN steps keeps the takeover open, as takeover_count has it.
    assert sorted(set(human)) == list(range(takeover_count(np.array([r["actor"] for r in records]))))
    assert human == sorted(human)
    assert all(r["segment_id"] == -1 for r in records if r["actor"] is Actor.POLICY)


def test_values_outside_a_box_are_clipped_and_counted() -> None:
    env = make([take_over([2.0, 0.0]), FOLLOW, FOLLOW])
    *_, info = env.step(np.array([-3.0, 1.5]))
    assert info["clipped"] == 3
    np.testing.assert_array_equal(info["step_record"]["policy_action"], [-1.0, 1.0])
    np.testing.assert_array_equal(info["intervene_action"], [1.0, 0.0])
    assert env.step(np.array([0.0, 1.1]))[-1]["clipped"] == 1
    assert env.step(np.array([0.0, 1.0]))[-1]["clipped"] == 0
    assert all(BOX.contains(action) for action in env.unwrapped.executed)


@pytest.mark.parametrize("bad", [[np.nan, 0.0], [np.inf, 0.0], [0.0], 0.0, [[0.0, 0.0]], "left", None, ["a", "b"]])
def test_bad_box_actions_are_refused(bad: Any) -> None:
    with pytest.raises(RoboprefError, match="policy's action"):
        make([FOLLOW]).step(bad)
    if bad is not None:
        env = make([take_over(bad)])
        with pytest.raises(RoboprefError, match="operator's action"):
            env.step(np.zeros(2))
        assert env.unwrapped.executed == []


@pytest.mark.parametrize("bad", [-1, 4, 1.0, [1], None, np.nan])
def test_bad_discrete_actions_are_refused(bad: Any) -> None:
    with pytest.raises(RoboprefError, match="policy's action"):
        make([FOLLOW], spaces.Discrete(4)).step(bad)
    if bad is not None:
        with pytest.raises(RoboprefError, match="operator's action"):
            make([take_over(bad)], spaces.Discrete(4)).step(0)


def test_discrete_takeover() -> None:
    env = make([take_over(np.int64(3)), FOLLOW], spaces.Discrete(4))
    *_, info = env.step(1)
    assert (int(info["intervene_action"]), int(info["step_record"]["policy_action"])) == (3, 1)
    env.step(2)
    assert [int(a) for a in env.unwrapped.executed] == [3, 2]


def test_environment_cannot_change_the_record() -> None:
    class Scribbler(CountingEnv):
        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            action *= 0
            return super().step(action)

    env = InterventionEnv(Scribbler(BOX), Playback([FOLLOW]))
    env.reset()
    np.testing.assert_array_equal(env.step(np.ones(2, np.float32))[-1]["step_record"]["action"], [1.0, 1.0])


def test_other_action_spaces_and_steps_before_reset_are_refused() -> None:
    with pytest.raises(RoboprefError, match="MultiBinary"):
        InterventionEnv(CountingEnv(spaces.MultiBinary(2)), Playback([]))
    with pytest.raises(RoboprefError, match="reset"):
        InterventionEnv(CountingEnv(BOX), Playback([FOLLOW])).step(np.zeros(2))


def test_wraps_real_environments() -> None:
    for name in ("CartPole-v1", "Pendulum-v1"):
        env = InterventionEnv(gym.make(name), Playback([FOLLOW, HOLD]))
        observation, _ = env.reset(seed=0)
        assert env.operator.told["task"] == name
        for _ in range(2):
            observation, *_ = env.step(env.action_space.sample())
        assert env.observation_space.contains(observation)
        env.close()
