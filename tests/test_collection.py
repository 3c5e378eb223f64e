from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from torch import nn

from robopref.diagnosis.collection import (
    EpisodeTrace,
    collect_episodes,
    duplicate_episodes,
    load_traces,
    save_traces,
    stack_frames,
)
from robopref.diagnosis.shifts import make_shift
from robopref.envs.ale import AtariSpec, make_atari_vector
from robopref.errors import RoboprefError
from robopref.protocols import QPolicy

PONG = AtariSpec("pong", max_episode_steps=40)


class RandomNetwork(nn.Module):
    """A Q network with random weights; what it was shown is kept."""

    def __init__(self, n_actions=6, channels=4, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Conv2d(channels, 8, 8, 8), nn.ReLU(), nn.Flatten(), nn.Linear(800, n_actions))
        self.shown = []

    def q_values(self, pixels):
        self.shown.append(pixels.detach().clone())
        return self.layers(pixels)


def bare(spec):
    return replace(spec, frame_stack=1)


def collect(spec=PONG, num_envs=2, policy=None, frame_stack=4, episodes=3, seed=0, **settings):
    policy = policy or RandomNetwork()
    env = make_atari_vector(bare(spec), num_envs, threads=1)
    return collect_episodes(policy, env, episodes=episodes, seed=seed, frame_stack=frame_stack, **settings)


def assert_same(first, second, atol=0.0):
    assert len(first) == len(second)
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.frames, two.frames)
        np.testing.assert_array_equal(one.actions, two.actions)
        np.testing.assert_array_equal(one.rewards, two.rewards)
        np.testing.assert_allclose(one.q_values, two.q_values, atol=atol, rtol=0)
        assert (one.seed, one.finished, one.frame_stack, one.epsilon, one.shift) == (
            (two.seed, two.finished, two.frame_stack, two.epsilon, two.shift)
        )


@pytest.mark.parametrize("grayscale", [True, False])
def test_states_are_those_that_ale_stacks_itself(grayscale):
    spec = replace(PONG, grayscale=grayscale)
    policy = RandomNetwork(channels=4 if grayscale else 12)
    (trace,) = collect(spec, 1, policy, episodes=1, epsilon=0.3)
    env = make_atari_vector(spec, 1)
    observation, _ = env.reset(seed=np.array([trace.seed]))
    expected, rewards = [], []
    for action in trace.actions:
        expected.append(observation[0])
        observation, reward, *_ = env.step(np.array([action]))
        rewards.append(reward[0])
    expected = np.stack(expected)
    if not grayscale:  # [T, 4, H, W, 3]: the colours of the oldest frame come first
        expected = np.stack([expected[:, i // 3, :, :, i % 3] for i in range(12)], axis=1)
    np.testing.assert_array_equal(trace.states(), expected)
    np.testing.assert_array_equal(trace.states([7, 0, 2]), expected[[7, 0, 2]])
    np.testing.assert_array_equal(trace.rewards, rewards)


def test_the_policy_saw_what_the_trace_says():
    policy = RandomNetwork()
    assert isinstance(policy, QPolicy)
    (trace,) = collect(num_envs=1, policy=policy, episodes=1, epsilon=0.0)
    shown = torch.cat(policy.shown).numpy()
    np.testing.assert_array_equal(shown, trace.states().astype(np.float32) / 255)
    np.testing.assert_array_equal(trace.actions, trace.q_values.argmax(1))
    with torch.no_grad():
        np.testing.assert_allclose(trace.q_values, policy.layers(torch.tensor(shown)), atol=1e-5)


def test_a_shift_acts_on_each_frame_and_then_they_are_stacked():
    shift = make_shift("brightness_contrast", contrast=1, brightness=30)
    clean, shifted = collect(episodes=1, epsilon=1.0)[0], collect(episodes=1, epsilon=1.0, shift=shift)[0]
    np.testing.assert_array_equal(clean.actions, shifted.actions)  # random, and of the same seed
    np.testing.assert_array_equal(shifted.frames, shift(clean.frames))
    np.testing.assert_array_equal(shifted.states(), stack_frames(shift(clean.frames), 4))
    assert not shifted.states([0])[0, :3].any()  # padding is no frame, and is not brightened
    assert shifted.shift == "brightness_contrast:contrast=1.0,brightness=30.0"


def test_the_same_call_gives_the_same_traces_whatever_the_number_of_games():
    spec = replace(PONG, sticky_actions=0.25)
    traces = collect(spec, 2, episodes=5, epsilon=0.2)
    assert_same(traces, collect(spec, 2, episodes=5, epsilon=0.2))
    for num_envs in (1, 3, 8):
        assert_same(traces, collect(spec, num_envs, episodes=5, epsilon=0.2), atol=1e-5)
    assert len({trace.seed for trace in traces}) == 5
    others = collect(spec, 2, episodes=5, epsilon=0.2, seed=1)
    assert not {trace.seed for trace in others} & {trace.seed for trace in traces}


@pytest.mark.parametrize("autoreset", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_episodes_of_different_lengths_end_where_their_games_do(autoreset):
    # The player dies after a while, at different times: a game of one life per episode.
    spec = AtariSpec("breakout", episodic_life=True, fire_reset=True)
    policy = RandomNetwork(n_actions=4)
    settings = {"episodes": 5, "seed": 2, "frame_stack": 4, "epsilon": 0.5}
    traces = collect_episodes(policy, make_atari_vector(bare(spec), 2, autoreset=autoreset), **settings)
    assert len({len(trace) for trace in traces}) > 1
    env = make_atari_vector(bare(spec), 1)
    for trace in traces:
        assert trace.finished
        observation, _ = env.reset(seed=np.array([trace.seed]))
        for step, action in enumerate(trace.actions):
            np.testing.assert_array_equal(trace.frames[step], observation[0, 0])
            observation, reward, terminated, truncated, _ = env.step(np.array([action]))
            assert reward[0] == trace.rewards[step]
            assert (terminated[0] or truncated[0]) == (step == len(trace) - 1)


def test_rewards_are_those_of_the_game():
    (trace,) = collect(AtariSpec("space_invaders"), 1, episodes=1, epsilon=1.0)
    assert trace.finished
    assert trace.rewards.max() > 1
    assert trace.score == trace.rewards.sum()


def test_an_episode_may_be_cut():
    traces = collect(episodes=2, max_steps=9)
    assert [(len(trace), trace.finished) for trace in traces] == [(9, False), (9, False)]
    assert [(len(trace), trace.finished) for trace in collect(episodes=1)] == [(40, True)]  # the environment's limit


def test_random_actions_are_as_frequent_as_asked():
    traces = collect(episodes=20, num_envs=10, epsilon=0.25)
    greedy = np.concatenate([trace.actions == trace.q_values.argmax(1) for trace in traces])
    assert 1 - greedy.mean() == pytest.approx(0.25 * 5 / 6, abs=0.05)  # a random action may be the greedy one


def test_an_attack_changes_what_the_policy_sees_and_the_trace_keeps_it():
    def attack(pixels):
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()
        return (pixels + 0.0123 * torch.sign(pixels - 0.4)).clamp(0, 1)

    policy = RandomNetwork()
    (trace,) = collect(num_envs=1, policy=policy, episodes=1, attack=attack)
    seen = trace.states()
    assert seen.dtype == np.float32
    np.testing.assert_array_equal(torch.cat(policy.shown).numpy(), seen)
    clean = trace.states(perturbed=False)
    assert clean.dtype == np.uint8
    np.testing.assert_allclose(seen, attack(torch.tensor(clean / 255)), atol=1e-5)
    np.testing.assert_array_equal(trace.states([5, 3]), seen[[5, 3]])


def test_a_policy_in_double_precision_is_shown_doubles():
    policy = RandomNetwork().double()
    collect(policy=policy, episodes=1, max_steps=2)
    assert policy.shown[0].dtype == torch.float64


def test_episodes_that_are_the_same_are_found():
    # A game without chance: no idle frames at the start, no sticky actions, no random actions.
    spec = replace(PONG, noop_max=0)
    traces = collect(spec, episodes=3, epsilon=0.0)
    assert duplicate_episodes(traces) == [(0, 1, 2)]
    different = collect(spec, episodes=3, epsilon=0.5)
    assert duplicate_episodes(different) == []
    assert duplicate_episodes([different[0], traces[0], different[1], traces[1]]) == [(1, 3)]


def test_progress_counts_finished_episodes():
    calls = []
    collect(episodes=3, num_envs=2, max_steps=3, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(2, 3), (3, 3)]


def test_traces_are_saved_and_read_without_pickle(tmp_path):
    traces = collect(episodes=12, num_envs=4, max_steps=5, shift=make_shift("rotation"))
    traces += collect(episodes=1, max_steps=5, attack=lambda pixels: pixels * 0.9)
    path = tmp_path / "traces.npz"
    save_traces(path, traces)
    loaded = load_traces(path)
    assert_same(loaded, traces)
    assert loaded[0].perturbations is None
    np.testing.assert_array_equal(loaded[-1].states(), traces[-1].states())
    assert [entry.name for entry in tmp_path.iterdir()] == ["traces.npz"]


@pytest.mark.parametrize("damage", ["missing", "cut", "text", "other", "pickled"])
def test_a_file_that_holds_no_traces_is_refused(tmp_path, damage):
    path = tmp_path / "traces.npz"
    if damage == "cut":
        save_traces(path, collect(episodes=1, max_steps=5))
        path.write_bytes(path.read_bytes()[:-200])
    elif damage == "text":
        path.write_text("not an archive")
    elif damage == "other":
        np.savez(path, weights=np.zeros(3))
    elif damage == "pickled":
        np.savez(path, **{"0/frames": np.array([{}], object)})
    with pytest.raises(RoboprefError, match=r"traces\.npz"):
        load_traces(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"episodes": 0}, "episodes must be at least 1"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
        ({"frame_stack": 0}, "frame_stack must be at least 1"),
        ({"epsilon": 1.5}, "probability"),
        ({"seed": -1}, "negative"),
    ],
)
def test_numbers_out_of_range_are_refused(settings, message):
    with pytest.raises(RoboprefError, match=message):
        collect(**settings)


def test_a_policy_that_does_not_fit_is_refused():
    with pytest.raises(RoboprefError, match="values 6 actions and the environment has 3"):
        collect(AtariSpec("freeway"))
    broken = RandomNetwork()
    nn.init.constant_(broken.layers[3].bias, float("nan"))
    with pytest.raises(RoboprefError, match="not finite"):
        collect(policy=broken)
    with pytest.raises(RoboprefError, match="set frame_stack of the environment to 1"):
        collect_episodes(RandomNetwork(), make_atari_vector(PONG, 1), episodes=1, seed=0, frame_stack=4)


def test_a_trace_checks_itself():
    good = {
        "frames": np.zeros((3, 8, 8), np.uint8),
        "actions": np.zeros(3, np.int64),
        "rewards": np.zeros(3, np.float32),
        "q_values": np.zeros((3, 2), np.float32),
        "seed": 1,
        "finished": True,
        "frame_stack": 4,
        "epsilon": 0.0,
    }
    assert EpisodeTrace(**good).states([2]).shape == (1, 4, 8, 8)
    with pytest.raises(RoboprefError, match="states 0 to 2, asked for"):
        EpisodeTrace(**good).states([3])
    with pytest.raises(RoboprefError, match="as many rows"):
        EpisodeTrace(**good | {"rewards": np.zeros(2, np.float32)})
    with pytest.raises(RoboprefError, match="at least one step"):
        EpisodeTrace(**{name: value[:0] if isinstance(value, np.ndarray) else value for name, value in good.items()})
    with pytest.raises(RoboprefError, match="uint8"):
        EpisodeTrace(**good | {"frames": np.zeros((3, 8, 8))})


@pytest.mark.slow
@pytest.mark.parametrize(("game", "n_actions"), [("pong", 6), ("freeway", 3)])
def test_whole_games_are_played_to_their_end(game, n_actions):
    traces = collect(AtariSpec(game), 4, RandomNetwork(n_actions), episodes=4, epsilon=0.05)
    assert duplicate_episodes(traces) == []
    for trace in traces:
        assert trace.finished
        if game == "pong":  # to 21 points, and a network of chance loses
            assert (trace.rewards == -1).sum() == 21
        else:  # two minutes and sixteen seconds: 8192 emulator frames, less those that pass before the first state
            assert 8192 / 4 - 10 <= len(trace) <= 8192 / 4
