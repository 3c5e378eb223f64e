import json

import numpy as np
import pytest
import torch

from robopref.dqn.evaluation import play, score_summary
from robopref.dqn.learner import LearnerSettings
from robopref.dqn.training import DQNSettings, DQNTrainer
from robopref.envs.ale import AtariSpec, make_atari_vector, n_actions
from robopref.errors import RoboprefError
from robopref.policies.q_checkpoint import load_q_network, save_q_network
from robopref.policies.q_network import QArchitecture, QNetwork

SPEC = AtariSpec("pong", image_size=42)


def network(seed=0):
    torch.manual_seed(seed)
    return QNetwork(QArchitecture(n_actions(SPEC), image_size=42, hidden=16))


def settings(steps=160, **changed):
    small = {
        "steps": steps, "num_envs": 4, "batch_size": 8, "train_every": 8, "replay_capacity": 400,
        "learning_starts": 40, "target_every": 32, "epsilon_steps": 100, "robust_ramp": 100,
    }  # fmt: skip
    return DQNSettings(**(small | changed))


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def test_a_run_learns_logs_and_is_deterministic():
    runs = []
    for _ in range(2):
        net, lines = network(), []
        before = weights(net)
        trainer = DQNTrainer(
            net, SPEC, settings(), log=lambda row, step, lines=lines: lines.append((step, row)), log_every=40
        )
        assert trainer.run()
        assert trainer.step == 160
        assert not torch.equal(weights(net), before)
        runs.append(weights(net))
    assert torch.equal(*runs)
    assert [step for step, _ in lines] == [40, 80, 120, 160]
    last = lines[-1][1]
    assert {"loss/td", "q/mean", "exploration", "steps_per_second", "grad_norm"} <= set(last)
    assert last["exploration"] == pytest.approx(0.01)


def test_the_replay_holds_what_was_played():
    trainer = DQNTrainer(network(), SPEC, settings(steps=80, learning_starts=76))
    trainer.run()
    replay = trainer.replay
    assert len(replay) == 80
    # The same games, played again with the recorded actions, show the recorded frames.
    env = make_atari_vector(SPEC, 4)
    states, _ = env.reset(seed=0)
    for row in range(20):
        np.testing.assert_array_equal(replay._frames[row, :, 0].numpy(), states[:, -1])
        states, *_ = env.step(replay._actions[row].numpy())
    env.close()


def test_an_interrupted_run_goes_on(tmp_path):
    asked = []
    first = DQNTrainer(network(), SPEC, settings(), should_stop=lambda: len(asked) >= 25 or asked.append(1))
    assert not first.run()
    assert first.step == 100
    first.save(tmp_path / "state.pt", "same")
    second = DQNTrainer(network(seed=9), SPEC, settings())
    second.load(tmp_path / "state.pt", "same")
    assert second.step == 100
    assert torch.equal(weights(second.learner.network), weights(first.learner.network))
    assert len(second.replay) == 100
    assert second.run()
    assert second.step == 160
    assert len(second.replay) == 160
    with pytest.raises(RoboprefError, match="other settings"):
        second.load(tmp_path / "state.pt", "changed")
    (tmp_path / "state.pt").write_bytes(b"torn")
    with pytest.raises(RoboprefError, match="damaged"):
        second.load(tmp_path / "state.pt", "same")


def test_the_checkpoint_is_called_on_the_way():
    steps = []
    trainer = DQNTrainer(network(), SPEC, settings(), checkpoint=lambda t: steps.append(t.step), checkpoint_every=40)
    trainer.run()
    assert steps == [40, 80, 120, 160]


def test_the_robust_radius_and_exploration_move_as_told():
    trainer = DQNTrainer(network(), SPEC, settings(robust_start=20, robust_radius=0.5, epsilon_start=0.8))
    told = []
    for step in (0, 20, 70, 120, 160):
        trainer.step = step
        told.append((trainer.robust_radius(), trainer.exploration()))
    radii, exploration = zip(*told, strict=True)
    # geometric: half of the way is two of the four decades
    assert radii == pytest.approx([0, 0.5e-4, 0.5e-2, 0.5, 0.5])
    assert exploration == pytest.approx([0.8, 0.642, 0.247, 0.01, 0.01])


def test_a_certified_run_reports_its_share():
    lines = []
    trainer = DQNTrainer(
        network(), SPEC, settings(learner=LearnerSettings(kappa=0.1)), log_every=160,
        log=lambda row, step: lines.append(row),
    )  # fmt: skip
    trainer.run()
    assert 0 <= lines[0]["certified"] <= 1
    assert "loss/robust" in lines[0]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train_every": 6}, "multiple of num_envs"),
        ({"gamma": 1.5}, "discount"),
        ({"learning_starts": 200}, "learning_starts"),
        ({"learning_starts": 15}, "learning_starts must be at least 16, got 15"),
        ({"seed": -1}, "seed runs from 0 to 2099, got -1"),
        ({"n_step": 0}, "n_step"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changed, message):
    with pytest.raises(RoboprefError, match=message):
        settings(**changed)


def test_learning_may_start_with_the_first_whole_return():
    trainer = DQNTrainer(network(), SPEC, settings(steps=24, learning_starts=16))
    assert trainer.run()


def test_scores_are_those_of_whole_games():
    spec = AtariSpec("pong", image_size=42, max_episode_steps=60, reward_clip=True)

    class Still(torch.nn.Module):
        """Never moves: every game is the same but for its start."""

        def __init__(self):
            super().__init__()
            self.bias = torch.nn.Parameter(torch.tensor([1.0, 0, 0, 0, 0, 0]))

        def forward(self, pixels):
            return self.bias.expand(len(pixels), -1)

    scores = play(Still(), spec, episodes=12, seed=3, epsilon=0.0)
    assert len(scores) == 12
    env = make_atari_vector(spec, 10)
    env.reset(seed=3)
    earned, over = np.zeros(10), np.zeros(10, bool)
    while not over.all():
        _, rewards, terminated, truncated, _ = env.step(np.zeros(10, np.int64))
        earned += rewards * ~over
        over |= terminated | truncated
    env.close()
    assert scores[:10] == earned.tolist()
    assert min(scores) < 0
    told = score_summary(scores)
    assert told["value"] == pytest.approx(np.mean(scores))
    assert told["low"] <= told["value"] <= told["high"]
    with pytest.raises(RoboprefError, match="at least one episode"):
        play(None, spec, episodes=0, seed=0)


def test_a_checkpoint_comes_back_with_what_it_says(tmp_path):
    net, about = network(), {"game": "pong", "scores": {"policy": 3.0}}
    save_q_network(tmp_path / "whole", net, about)
    save_q_network(tmp_path / "half", net, about, half=True)
    pixels = torch.rand(5, 4, 42, 42)
    back, told = load_q_network(tmp_path / "whole")
    assert told == about
    assert torch.equal(back(pixels), net(pixels))
    half, _ = load_q_network(tmp_path / "half")
    assert next(half.parameters()).dtype == torch.float32
    torch.testing.assert_close(half(pixels), net(pixels), atol=1e-3, rtol=1e-2)
    size = [(tmp_path / d / "policy.safetensors").stat().st_size for d in ("half", "whole")]
    assert size[0] < 0.55 * size[1]


def test_checkpoints_that_do_not_fit_are_refused(tmp_path):
    net = network()
    save_q_network(tmp_path / "policy", net, {})
    text = json.loads((tmp_path / "policy" / "policy.json").read_text())
    text["architecture"]["n_actions"] = 7
    (tmp_path / "policy" / "policy.json").write_text(json.dumps(text))
    with pytest.raises(RoboprefError, match="do not fit"):
        load_q_network(tmp_path / "policy")
    text["kind"] = "compact"
    (tmp_path / "policy" / "policy.json").write_text(json.dumps(text))
    with pytest.raises(RoboprefError, match="kind 'compact'"):
        load_q_network(tmp_path / "policy")
    with torch.no_grad():
        next(net.parameters())[0] = torch.nan
    save_q_network(tmp_path / "nan", net, {})
    with pytest.raises(RoboprefError, match="not finite"):
        load_q_network(tmp_path / "nan")


@pytest.mark.parametrize("changed", [{"n_actions": 1}, {"image_size": 20}, {"channels_per_frame": 2}])
def test_impossible_networks_are_refused(changed):
    with pytest.raises(RoboprefError):
        QArchitecture(**({"n_actions": 4} | changed))


def test_dueling_heads_by_hand():
    net = network()
    pixels = torch.rand(2, 4, 42, 42)
    features = net.features(pixels)
    value, advantage = net.value(features), net.advantage(features)
    torch.testing.assert_close(net.q_values(pixels), value + advantage - advantage.mean(1, keepdim=True))
    assert QNetwork(QArchitecture(3, dueling=False)).value is None
