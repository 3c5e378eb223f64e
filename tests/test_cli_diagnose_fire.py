"""``robopref diagnose`` on models of others: FIRE is pressed for them where their own wrappers did."""

import numpy as np
import torch
from command_line import run
from diagnose_runs import QUICK

from robopref.diagnosis import load_diagnosis
from robopref.diagnosis.collection import load_traces


def cleanrl_model(directory, n_actions):
    torch.manual_seed(0)
    sizes = {"0": (32, 4, 8, 8), "2": (64, 32, 4, 4), "4": (64, 64, 3, 3), "7": (512, 3136), "9": (n_actions, 512)}
    weights = {f"network.{i}.weight": 0.01 * torch.randn(size) for i, size in sizes.items()}
    weights |= {f"network.{i}.bias": torch.zeros(size[0]) for i, size in sizes.items()}
    directory.mkdir(parents=True)
    torch.save(weights, directory / "dqn_atari.cleanrl_model")
    return directory / "dqn_atari.cleanrl_model"


def test_models_of_others_are_served_as_their_wrappers_do(tmp_path):
    """Breakout has no ball before FIRE. A model that never presses it still plays, at every life."""
    model = cleanrl_model(tmp_path / "BreakoutNoFrameskip-v4__dqn_atari__1__1", 4)

    def idle(weights):
        weights["network.9.bias"][0] = 100.0
        return weights

    torch.save(idle(torch.load(model)), model)
    settings = ("diagnose", "--model", model, "--shifts", "none", *QUICK, "--max-steps", 150, "--epsilon", 0)
    settings = (*settings, "--no-null", "--noop-max", 0, "--temperature", 100)
    run(*settings, "--out", tmp_path / "served")
    found = load_diagnosis(tmp_path / "served")
    assert found.subject.environment["fire_reset"] is True
    assert found.subject.environment["fire_after_lost_life"] is True
    assert any("FIRE is pressed for the policy at the start of an episode and in the step after a lost life" in s
               for s in found.statements)  # fmt: skip
    (trace, *_) = load_traces(tmp_path / "served" / "sets" / "clean_episodes.npz")
    fired = np.flatnonzero(trace.actions == 1)
    assert len(fired) >= 2  # a ball that nobody meets is lost within forty steps
    assert (trace.q_values.argmax(1) == 0).all()
    moving = [(trace.frames[t] != trace.frames[t + 1]).any() for t in range(len(trace.frames) - 1)]
    assert all(any(moving[t : t + 20]) for t in fired)

    run(*settings, "--out", tmp_path / "alone", "--fire-reset", "False")
    found = load_diagnosis(tmp_path / "alone")
    assert found.subject.environment["fire_reset"] is False
    assert found.subject.environment["fire_after_lost_life"] is False
    (trace, *_) = load_traces(tmp_path / "alone" / "sets" / "clean_episodes.npz")
    assert not trace.actions.any()
    assert (trace.frames[30:] == trace.frames[30]).all()  # no ball, ever


def test_a_game_without_fire_is_not_said_to_be_served(tmp_path, capsys):
    model = cleanrl_model(tmp_path / "FreewayNoFrameskip-v4__dqn_atari__1__1", 3)
    run("diagnose", "--model", model, "--out", tmp_path / "out", "--shifts", "none", *QUICK, "--no-null")
    environment = load_diagnosis(tmp_path / "out").subject.environment
    assert environment["fire_reset"] is environment["fire_after_lost_life"] is False
    capsys.readouterr()
    wrong = ("--out", tmp_path / "b", "--shifts", "none", *QUICK, "--fire-after-lost-life", "True")
    run("diagnose", "--model", model, *wrong, expect=2)
    assert "freeway has no FIRE among its actions" in capsys.readouterr().err
