"""What a policy says of itself, where it may come from, and what names say about games."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from q_models import ChannelsLast, CleanRLNetwork, frames, pixels

from robopref.errors import RoboprefError
from robopref.policies.q_checkpoint import save_q_network
from robopref.policies.q_hints import hint_around, read_environment_id
from robopref.policies.q_loading import load_q_policy
from robopref.policies.q_module import as_q_policy
from robopref.policies.q_network import QArchitecture, QNetwork
from robopref.policies.q_policy import QPolicySpec, content_id, split_channels
from robopref.protocols import QPolicy

ABOUT = {"game": "freeway", "environment": {"frame_skip": 4, "sticky_actions": 0.25}, "algorithm": "SA-DDQN"}


def checkpoint(directory):
    torch.manual_seed(0)
    network = QNetwork(QArchitecture(n_actions=3, hidden=16)).eval()
    save_q_network(directory, network, ABOUT)
    return network


def test_our_own_checkpoint(tmp_path):
    network = checkpoint(tmp_path / "run" / "policy")
    for path in (tmp_path / "run" / "policy", tmp_path / "run"):  # also the directory of a training run
        policy, spec = load_q_policy(path)
        assert isinstance(policy, QPolicy)
        torch.testing.assert_close(policy.q_values(pixels(frames())), network(pixels(frames())))
        assert (spec.kind, spec.algorithm, spec.game, spec.n_actions) == ("q-network", "sa-ddqn", "freeway", 3)
        assert spec.environment == ABOUT["environment"]
        assert spec.shape == (4, 84, 84)
        assert spec.value_unit == "discounted reward"
        assert QPolicySpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_directories_that_hold_no_checkpoint(tmp_path):
    with pytest.raises(RoboprefError, match=r"no checkpoint of this project, and holds no model file"):
        load_q_policy(tmp_path)
    (tmp_path / "dqn_atari.cleanrl_model").write_bytes(b"x")
    with pytest.raises(RoboprefError, match=r"name the model file in it \(dqn_atari.cleanrl_model\)"):
        load_q_policy(tmp_path)
    description = {"kind": "compact", "architecture": {}, "normalization": {}, "tokenizer": {}}
    description |= {"format": "robopref-policy", "format_version": 1}
    (tmp_path / "policy.json").write_text(json.dumps(description))
    with pytest.raises(RoboprefError, match=r"action tokens.*one action dimension at a time"):
        load_q_policy(tmp_path)


def test_nothing_there(tmp_path):
    with pytest.raises(RoboprefError, match=r"no model at .*absent: give a model file, a checkpoint directory"):
        load_q_policy(tmp_path / "absent")


def test_a_factory_is_called():
    with pytest.raises(RoboprefError, match="--input-scale 1 or 255"):
        load_q_policy("q_models:make_channels_last")
    with pytest.raises(RoboprefError, match="pick them with output="):
        load_q_policy("q_models:make_channels_last", input_scale=255, channels_last=True)
    policy, spec = load_q_policy("test_q_loading:wrapped")
    torch.manual_seed(0)
    states = torch.as_tensor(frames()).float()
    torch.testing.assert_close(policy.q_values(pixels(frames())), ChannelsLast().eval()(states.permute(0, 2, 3, 1))[0])
    assert spec.source == "test_q_loading:wrapped"
    with pytest.raises(RoboprefError, match=r"returned a dict: it must return a torch\.nn\.Module"):
        load_q_policy("builtins:dict")
    with pytest.raises(RoboprefError, match="cannot import"):
        load_q_policy("no_such_module:make")


def wrapped():
    torch.manual_seed(0)
    return as_q_policy(ChannelsLast(), input_scale=255, channels_last=True, output=lambda answer: answer[0])


# --- the rule for channels


@given(st.integers(1, 10), st.sampled_from([1, 3]))
def test_a_frame_stack_that_is_given_decides(frames_in_state, per_frame):
    channels = frames_in_state * per_frame
    assert split_channels(channels, frames_in_state) == (frames_in_state, per_frame)


@pytest.mark.parametrize(
    ("channels", "expected"), [(2, (2, 1)), (4, (4, 1)), (6, (2, 3)), (8, (8, 1)), (9, (3, 3)), (12, (4, 3))]
)
def test_without_it_multiples_of_three_are_colour(channels, expected):
    assert split_channels(channels) == expected


@pytest.mark.parametrize(
    ("channels", "frame_stack", "message"),
    [(1, None, "single grayscale frame"), (3, None, "single colour frame"), (4, 3, "not 3 frames"), (84, None, "last"),
     (84, 84, "channels last"), (160, None, "channels last")],
)  # fmt: skip
def test_channels_that_make_no_stack(channels, frame_stack, message):
    with pytest.raises(RoboprefError, match=message):
        split_channels(channels, frame_stack)


@pytest.mark.parametrize("fields", [{"n_actions": 1}, {"frame_stack": 0}, {"head": "advantages"}, {"height": 0}])
def test_a_spec_checks_itself(fields):
    base = {"kind": "module", "algorithm": "", "architecture": "x", "head": "values", "n_actions": 2, "frame_stack": 4}
    base |= {"channels_per_frame": 1, "height": 84, "width": 84, "source": "x", "policy_id": "x"}
    assert QPolicySpec(**base).shape == (4, 84, 84)
    with pytest.raises(RoboprefError):
        QPolicySpec(**base | fields)


def test_the_id_follows_names_shapes_types_and_values():
    weights = {"a": torch.arange(6.0), "b": torch.ones(2, dtype=torch.bfloat16)}
    ids = [content_id("x", weights), content_id("x", {"a": weights["a"].reshape(2, 3), "b": weights["b"]})]
    ids += [content_id("x", {"c": weights["a"], "b": weights["b"]}), content_id("x", weights | {"a": -weights["a"]})]
    ids += [content_id("x", weights | {"b": weights["b"].half()}), content_id("y", weights)]
    assert len(set(ids)) == len(ids)
    assert content_id("x", dict(reversed(weights.items()))) == ids[0]


# --- names


@pytest.mark.parametrize(
    ("text", "game", "sticky"),
    [
        ("PongNoFrameskip-v4__dqn_atari__1__1690000000", "PongNoFrameskip-v4", 0.0),
        ("dqn-SpaceInvadersNoFrameskip-v4.zip", "SpaceInvadersNoFrameskip-v4", 0.0),
        ("models--cleanrl--QbertNoFrameskip-v4-dqn_atari-seed1", "QbertNoFrameskip-v4", 0.0),
        ("PongNoFrameskip-v4_1", "PongNoFrameskip-v4", 0.0),
        ("ALE/Pong-v5", "ALE/Pong-v5", 0.25),
        ("ppo_ALE-MsPacman-v5_3", "ALE/MsPacman-v5", 0.25),
        ("Breakout-v5__ppo_atari_envpool__1", "Breakout-v5", 0.25),
        ("UpNDownDeterministic-v0", "UpNDownDeterministic-v0", 0.25),
    ],
)
def test_environment_ids_in_names(text, game, sticky):
    hint = read_environment_id(text, "here")
    assert hint.game == game
    assert hint.environment == {"sticky_actions": sticky}


@pytest.mark.parametrize("text", ["CartPole-v1__dqn__1", "model-v4", "my_pong_model", "LunarLander-v2", "v5", "Pong"])
def test_other_names_say_nothing(text):
    assert read_environment_id(text, "here") is None


def test_the_nearest_name_wins(tmp_path):
    folder = tmp_path / "PongNoFrameskip-v4_1" / "seeds" / "QbertNoFrameskip-v4"
    folder.mkdir(parents=True)
    assert hint_around(folder / "BreakoutNoFrameskip-v4.zip").game == "BreakoutNoFrameskip-v4"
    assert hint_around(folder / "best_model.zip").game == "QbertNoFrameskip-v4"
    assert hint_around(folder.parent / "best_model.zip").game == "PongNoFrameskip-v4"
    assert hint_around(tmp_path / "best_model.zip").game is None
    (folder / "args.yml").write_text("- - - env\n    - CartPole-v1\n")  # says nothing about a game
    assert hint_around(folder / "best_model.zip").game == "QbertNoFrameskip-v4"
    torch.save(CleanRLNetwork().state_dict(), folder / "m.pt")
    assert "QbertNoFrameskip-v4" in load_q_policy(folder / "m.pt")[1].notes[0]
