import json
import os
import signal
import subprocess
import sys
import time

import pytest
from ale_py.vector_env import AtariVectorEnv

from robopref.cli.main import main
from robopref.policies.q_checkpoint import load_q_network

SMALL = (
    "--steps=600", "--learning-starts=200", "--replay-capacity=2000", "--hidden=16", "--evaluation-episodes=1",
    "--wandb=offline", "--log-every=200", "--device=cpu", "--threads=1",
)  # fmt: skip


def command(*args, cwd):
    return [sys.executable, "-m", "robopref.cli.main", "train-dqn", *args], {
        "cwd": cwd, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
    }  # fmt: skip


def run(*args, cwd):
    argv, options = command(*args, cwd=cwd)
    return subprocess.run(argv, **options, timeout=800)


def run_here(*args):
    """In this process: the exit status."""
    try:
        main(["train-dqn", *args])
    except SystemExit as exit_:
        return exit_.code or 0
    return 0


TINY = (*SMALL, "--steps=96", "--learning-starts=64", "--batch-size=8", "--wandb=disabled", "--log-every=32")


@pytest.fixture
def evaluated(monkeypatch):
    """The seeds that evaluations were asked for, none of which is played."""
    seeds = []
    monkeypatch.setattr("robopref.dqn.evaluation.play", lambda *_, seed, **__: seeds.append(seed) or [1.0, 2.0])
    return seeds


@pytest.mark.slow
def test_a_short_run_is_honest_about_what_it_is(tmp_path):
    first = run("--game=Pong", "--out=run", *SMALL, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "UNTRAINED" in first.stdout
    _, about = load_q_network(tmp_path / "run" / "policy")
    assert about["game"] == "pong"
    assert about["environment"]["frame_skip"] == 4
    assert about["scores"]["policy"]["n"] == 1
    assert about["training"]["batch_size"] == 128
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [200, 400, 600]
    assert not (tmp_path / "run" / "state.pt").exists()
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*"))

    again = run("--game=Pong", "--out=run", *SMALL, cwd=tmp_path)
    assert again.returncode == 2
    assert "--resume" in again.stderr

    robust = ("--game=Pong", "--out=certified", "--robust", "--anchor")
    nothing = run(*robust, *SMALL, cwd=tmp_path)
    assert nothing.returncode == 2
    assert "--init" in nothing.stderr
    certified = run(*robust, "--init=run/policy", *SMALL, cwd=tmp_path)
    assert certified.returncode == 0, certified.stderr
    told = load_q_network(tmp_path / "certified" / "policy")[1]
    assert told["algorithm"] == "SA-DDQN"
    assert told["anchored"] is True

    other = run("--game=Freeway", "--out=other", "--init=run/policy", *SMALL, cwd=tmp_path)
    assert other.returncode == 2
    assert "n_actions=6" in other.stderr
    assert "n_actions=3" in other.stderr
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_ctrl_c_keeps_everything_and_resume_goes_on(tmp_path):
    options = ("--game=Pong", "--out=run", *SMALL, "--save-every=200")
    argv, settings = command(*options, cwd=tmp_path)
    process = subprocess.Popen(argv, **settings)
    deadline = time.monotonic() + 200
    while not (tmp_path / "run" / "state.pt").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped at step" in output
    refused = run(*options, "--resume", "--gamma=0.9", cwd=tmp_path)
    assert refused.returncode == 2
    assert "gamma" in refused.stderr
    fewer = run(*options, "--resume", "--steps=500", cwd=tmp_path)
    assert fewer.returncode == 2
    assert "steps" in fewer.stderr
    resumed = run(*options, "--resume", "--steps=800", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "going on from step" in resumed.stdout
    assert load_q_network(tmp_path / "run" / "policy")[1]["training"]["steps"] == 800
    assert json.loads((tmp_path / "run" / "config.json").read_text())["config"]["steps"] == 800


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--game=Pongg",), "did you mean pong?"),
        (("--game=Pong", "--train-every=12"), "multiple of num_envs"),
        (("--game=Pong", "--init=nowhere"), "no policy checkpoint"),
        (("--game=Pong", "--save-every=0"), "--save-every must be at least 1, got 0"),
        (("--game=Pong", "--log-every=0"), "--log-every must be at least 1, got 0"),
        (("--game=Pong", "--evaluation-episodes=0"), "--evaluation-episodes must be at least 1, got 0"),
        (("--game=Pong", "--learning-starts=0"), "learning_starts must be at least 32, got 0"),
        (("--game=Pong", "--seed=2147"), "seed runs from 0 to 2099, got 2147"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(args, message, tmp_path, capsys):
    assert run_here(*args, f"--out={tmp_path / 'run'}") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_not_trained_again(tmp_path, capsys, evaluated):
    arguments = ("--game=Pong", f"--out={tmp_path / 'run'}", *TINY)
    assert run_here(*arguments) == 0

    def left():
        return {path: (path.stat().st_mtime_ns, path.read_bytes())
                for path in (tmp_path / "run").rglob("*") if path.is_file()}  # fmt: skip

    before = left()
    assert run_here(*arguments, "--resume") == 0
    assert "is finished already" in capsys.readouterr().out
    assert run_here(*arguments, "--resume", "--steps=128") == 2
    told = capsys.readouterr().err
    assert "its replay is gone" in told
    assert f"--init {tmp_path / 'run' / 'policy'}" in " ".join(told.split())
    assert run_here(*arguments, "--resume", "--gamma=0.9") == 2
    assert "other settings (gamma)" in capsys.readouterr().err
    assert left() == before
    assert len(evaluated) == 2  # the policy and chance, once


def test_no_game_of_the_evaluation_is_one_of_the_training(tmp_path, monkeypatch, evaluated):
    trained, reset = [], AtariVectorEnv.reset

    def noted(self, *, seed=None, options=None):
        trained.append(seed)
        return reset(self, seed=seed, options=options)

    monkeypatch.setattr(AtariVectorEnv, "reset", noted)
    assert run_here("--game=Pong", f"--out={tmp_path / 'run'}", *TINY, "--seed=10") == 0
    assert trained == [10_000_030]  # and up to as many steps later, where a run is gone on with
    assert evaluated == [2_100_000_010] * 2
