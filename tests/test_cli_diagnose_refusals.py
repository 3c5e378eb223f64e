"""``robopref diagnose`` with bad input: one line that says what is wrong, and nothing is left behind."""

import pytest
import torch
from command_line import run
from diagnose_runs import QUICK, save
from diagnose_runs import model as model

from robopref.cli.diagnose import parse_bytes
from robopref.errors import RoboprefError


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--game", "Breakout"), "the model was trained on pong and the game is breakout"),
        (("--full-action-set", "True"), "set full_action_set to False"),
        (("--grayscale", "False"), "set grayscale to True"),
        (("--frame-stack", 3), "the model takes 4 stacked frames and the environment gives 3"),
        (("--image-size", 96), "the model takes 84 x 84 pixels"),
        (("--episodes", 0), "episodes must be at least 1"),
        (("--temperature", 0), "temperature must be positive"),
        (("--memory-limit", "lots"), "no amount of memory"),
        (("--shifts", "earthquake"), "no shift is called 'earthquake'"),
        (("--shifts", "jpeg", "jpeg"), "the shift jpeg is asked for twice"),
        (("--sticky-actions", 2), "sticky_actions is a probability"),
        (("--model", "nowhere.zip"), "no model at nowhere.zip"),
    ],
)
def test_bad_input_is_one_line(model, tmp_path, capsys, arguments, message):
    run("diagnose", "--model", model, "--out", tmp_path / "out", *QUICK, *arguments, expect=2)
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def _break(network):
    with torch.no_grad():
        next(network.parameters())[0] = torch.nan


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"change": _break}, "not finite"),
        ({"game": "freeway"}, "the model has 6 actions, but freeway has 3 (minimal set) or 18 (full set)"),
        ({"about": False}, "the model does not say which game it plays"),
    ],
)
def test_bad_models_are_one_line(tmp_path, capsys, settings, message):
    model = save(tmp_path / "model", **settings)
    run("diagnose", "--model", model, "--out", tmp_path / "out", *QUICK, expect=2)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((32, 1, 8, 8), "its frame stack is missing"),
        ((32, 84, 8, 8), "channels last"),
    ],
)
def test_a_missing_stack_and_channels_last_are_said(tmp_path, capsys, shape, message):
    linear = {"network.7.weight": torch.zeros(512, 3136), "network.7.bias": torch.zeros(512)}
    weights = {
        "network.0.weight": torch.zeros(shape), "network.0.bias": torch.zeros(32),
        "network.2.weight": torch.zeros(64, 32, 4, 4), "network.2.bias": torch.zeros(64),
        "network.4.weight": torch.zeros(64, 64, 3, 3), "network.4.bias": torch.zeros(64), **linear,
        "network.9.weight": torch.zeros(6, 512), "network.9.bias": torch.zeros(6),
    }  # fmt: skip
    torch.save(weights, tmp_path / "dqn_atari.cleanrl_model")
    arguments = ("--model", tmp_path / "dqn_atari.cleanrl_model", "--game", "Pong", "--out", tmp_path / "out")
    run("diagnose", *arguments, *QUICK, expect=2)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "size"),
    [("1G", 2**30), ("500M", 500 * 2**20), ("1.5GiB", 3 * 2**29), (" 2 kb ", 2048), ("4096", 4096)],
)
def test_amounts_of_memory(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1G", "1T", "0", "1.5.2M"])
def test_bad_amounts_of_memory(text):
    with pytest.raises(RoboprefError, match="no amount of memory"):
        parse_bytes(text)
