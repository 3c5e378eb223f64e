import json
import os
import signal
import subprocess
import sys
import time

import pytest

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
    ],
)
def test_mistakes_are_told_before_anything_is_written(args, message, tmp_path):
    result = run(*args, "--out=run", cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
    assert not (tmp_path / "run").exists()
