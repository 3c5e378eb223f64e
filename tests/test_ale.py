from dataclasses import dataclass, replace

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from robopref.envs.ale import (
    AtariSpec,
    action_meanings,
    atari_spec_for,
    check_policy_fits,
    game_id,
    games,
    make_atari,
    make_atari_vector,
    n_actions,
)
from robopref.errors import RoboprefError


@dataclass(frozen=True)
class Shape:
    n_actions: int = 6
    frame_stack: int = 4
    channels_per_frame: int = 1
    height: int = 84
    width: int = 84
    game: str | None = None
    environment: dict | None = None


@pytest.mark.parametrize(
    ("name", "game"),
    [
        ("Pong", "pong"),
        ("pong", "pong"),
        ("PongNoFrameskip-v4", "pong"),
        ("PongDeterministic-v0", "pong"),
        ("ALE/Pong-v5", "pong"),
        ("BankHeist", "bank_heist"),
        ("bank_heist", "bank_heist"),
        ("UpNDownNoFrameskip-v4", "up_n_down"),
        ("ALE/TicTacToe3D-v5", "tic_tac_toe_3d"),
    ],
)
def test_every_spelling_of_a_game_is_its_id(name, game):
    assert game_id(name) == game
    assert AtariSpec(name).game == game


def test_an_unknown_game_is_refused_with_a_guess():
    with pytest.raises(RoboprefError, match=r"no game 'Pongg'; did you mean pong"):
        game_id("Pongg")
    with pytest.raises(RoboprefError, match="no game"):
        game_id("combat")  # a ROM for two players: opening it would end the process
    assert len(games()) > 100


@pytest.mark.parametrize(
    "setting", [{"frame_skip": 0}, {"frame_stack": 0}, {"sticky_actions": 1.0}, {"noop_max": -1}, {"image_size": 0}]
)
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(RoboprefError, match=next(iter(setting))):
        AtariSpec("pong", **setting)


def test_the_action_sets_are_those_of_ale():
    assert action_meanings(AtariSpec("freeway")) == ("NOOP", "UP", "DOWN")
    assert action_meanings(AtariSpec("pong")) == ("NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE")
    assert n_actions(AtariSpec("freeway", full_action_set=True)) == 18
    assert make_atari_vector(AtariSpec("freeway", full_action_set=True), 1).single_action_space.n == 18


@pytest.mark.parametrize(
    "spec",
    [
        AtariSpec("pong", noop_max=0),
        AtariSpec("breakout", noop_max=0, fire_reset=True, frame_skip=3, frame_stack=2, image_size=50),
        AtariSpec("freeway", noop_max=0, grayscale=False, frame_stack=3),
    ],
)
def test_one_game_and_many_see_the_same_to_the_bit(spec):
    vector, single = make_atari_vector(spec, 1, threads=1), make_atari(spec)
    many, _ = vector.reset(seed=3)
    one, _ = single.reset(seed=3)
    np.testing.assert_array_equal(many[0], one)
    assert not one[:-1].any()  # the older frames of the first state are black
    assert one[-1].any()
    rng = np.random.default_rng(0)
    for _ in range(80):
        action = int(rng.integers(n_actions(spec)))
        many, rewards, ends, *_ = vector.step(np.array([action]))
        one, reward, end, *_ = single.step(action)
        np.testing.assert_array_equal(many[0], one)
        assert (rewards[0], ends[0]) == (reward, end)


def test_a_seed_decides_the_game_sticky_actions_included():
    spec = AtariSpec("pong", sticky_actions=0.25)
    plays = []
    for env in (make_atari_vector(spec, 2, threads=1), make_atari_vector(spec, 2, threads=2)):
        env.reset(seed=np.array([9, 5]))
        env.step(np.array([2, 3]))  # what was played before a seeded reset leaves no trace
        env.reset(seed=np.array([5, 9]))
        rng = np.random.default_rng(0)
        plays.append([env.step(rng.integers(6, size=2))[0].copy() for _ in range(50)])
    np.testing.assert_array_equal(plays[0], plays[1])


def test_the_time_limit_is_in_agent_steps():
    spec = AtariSpec("pong", max_episode_steps=7, frame_skip=3)
    env = make_atari_vector(spec, 1)
    env.reset(seed=0)
    ends = [bool(env.step(np.array([0]))[3][0]) for _ in range(7)]
    assert ends == [False] * 6 + [True]
    single = make_atari(spec)
    single.reset(seed=0)
    assert [single.step(0)[3] for _ in range(7)] == ends


def test_rewards_are_clipped_only_where_asked():
    totals = {}
    for clip in (False, True):
        env = make_atari_vector(AtariSpec("space_invaders", reward_clip=clip, noop_max=0), 1)
        env.reset(seed=0)
        rewards = np.array([env.step(np.array([1]))[1][0] for _ in range(150)])
        totals[clip] = rewards
    assert totals[False].max() > 1
    np.testing.assert_array_equal(totals[True], np.sign(totals[False]))


def test_without_resets_there_is_no_vector():
    with pytest.raises(RoboprefError, match="NEXT_STEP or SAME_STEP"):
        make_atari_vector(AtariSpec("pong"), 1, autoreset=AutoresetMode.DISABLED)
    with pytest.raises(RoboprefError, match="num_envs"):
        make_atari_vector(AtariSpec("pong"), 0)


@pytest.mark.parametrize(
    ("policy", "spec", "message"),
    [
        (Shape(6), AtariSpec("freeway"), r"6 actions, but freeway has 3 \(minimal set\) or 18 .*such as pong"),
        (Shape(11), AtariSpec("freeway"), r"another game with 11 actions\.$"),
        (Shape(18), AtariSpec("freeway"), "set full_action_set to True"),
        (Shape(3), AtariSpec("freeway", full_action_set=True), "set full_action_set to False"),
        (Shape(6, frame_stack=1), AtariSpec("pong"), "takes 1 stacked frames .* gives 4: set frame_stack to 1"),
        (Shape(6, channels_per_frame=3), AtariSpec("pong"), "set grayscale to False"),
        (Shape(6, height=64, width=64), AtariSpec("pong"), "64 x 64 pixels and the environment gives 84 x 84"),
        (Shape(6, game="QbertNoFrameskip-v4"), AtariSpec("pong"), "trained on qbert"),
    ],
)
def test_a_policy_that_does_not_fit_is_refused_with_what_would(policy, spec, message):
    with pytest.raises(RoboprefError, match=message):
        check_policy_fits(policy, spec)


def test_the_environment_is_the_one_that_the_policy_was_made_for():
    policy = Shape(18, 2, 3, 64, 64, "FreewayNoFrameskip-v4", {"sticky_actions": 0.25, "frame_skip": 2})
    expected = AtariSpec(
        "freeway",
        frame_skip=2,
        sticky_actions=0.25,
        frame_stack=2,
        image_size=64,
        grayscale=False,
        full_action_set=True,
    )
    assert atari_spec_for(policy) == expected
    # Boxing's minimal set is the full one already.
    assert atari_spec_for(Shape(18), "Boxing") == AtariSpec("boxing")
    with pytest.raises(RoboprefError, match="does not say which game"):
        atari_spec_for(Shape(6))
    with pytest.raises(RoboprefError, match="square"):
        atari_spec_for(replace(Shape(6), width=80), "pong")
