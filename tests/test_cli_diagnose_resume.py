"""``robopref diagnose`` that was stopped, killed or failed: it is said, and the run goes on where it was."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from command_line import run
from diagnose_runs import QUICK
from diagnose_runs import model as model

from robopref.diagnosis import load_diagnosis


@pytest.mark.slow
def test_a_stopped_run_goes_on(model, tmp_path):
    out = tmp_path / "run"
    command = [
        sys.executable, "-m", "robopref.cli.main", "diagnose", "--model", str(model), "--out", str(out),
        *map(str, QUICK), "--max-steps", "200", "--shifts", "jpeg", "rotation", "median_blur",
    ]  # fmt: skip
    process = subprocess.Popen(command, env=os.environ, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not (out / "sets" / "null.json").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "stopped by SIGINT" in output
    assert "--resume goes on" in " ".join(output.split())
    assert not (out / "summary.json").exists()
    kept = (out / "sets" / "clean.json").stat().st_mtime_ns
    run(*command[3:], "--resume")
    assert len(load_diagnosis(out).conditions) == 4
    assert (out / "sets" / "clean.json").stat().st_mtime_ns == kept


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (
            MemoryError("Unable to allocate 3 GiB"),
            2,
            "memory ran out at 'jpeg: episodes 0/2' (Unable to allocate 3 GiB)",
        ),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 2, "lower --memory-limit, --num-envs"),
        (KeyboardInterrupt(), 130, "interrupted at once, at 'jpeg: episodes 0/2'"),
        (OSError(28, "No space left on device"), 2, "the disk is full"),
    ],
)
def test_whatever_ends_a_run_is_said_and_it_goes_on(model, tmp_path, capsys, monkeypatch, error, status, said):
    from robopref.diagnosis.sources import GameSource

    play = GameSource.play

    def failing(self, q_policy, **settings):
        if settings["shift"] is not None:
            raise error
        return play(self, q_policy, **settings)

    out = tmp_path / "run"
    arguments = ("diagnose", "--model", model, "--out", out, "--shifts", "jpeg", *QUICK)
    monkeypatch.setattr(GameSource, "play", failing)
    run(*arguments, expect=status)
    told = capsys.readouterr()
    assert said in " ".join((told.out + told.err).split())
    kept = json.loads((out / "status.json").read_text())
    assert kept["state"] not in ("running", "finished")
    assert kept["stage"] == "jpeg: episodes 0/2"
    assert not (out / "report.html").exists()
    monkeypatch.setattr(GameSource, "play", play)
    run(*arguments, "--resume")
    assert "The earlier run ended at 'jpeg: episodes 0/2'" in " ".join(capsys.readouterr().out.split())
    assert (out / "report.html").exists()


@pytest.mark.slow
def test_a_run_that_was_killed_is_known_by_what_it_left(model, tmp_path, capsys):
    """SIGKILL, as the kernel sends it when memory runs out, leaves no chance to say anything; the next run does."""
    out = tmp_path / "run"
    command = [
        sys.executable, "-m", "robopref.cli.main", "diagnose", "--model", str(model), "--out", str(out),
        *map(str, QUICK), "--max-steps", "200", "--shifts", "jpeg", "rotation", "median_blur",
    ]  # fmt: skip
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(command, stdout=log, stderr=log)
    deadline = time.monotonic() + 300
    while not (out / "sets" / "null.json").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    # how far it came is in the log, though nobody watched
    assert "null: gradients" in (tmp_path / "log").read_text()
    run(*command[3:], "--resume")
    printed = " ".join(capsys.readouterr().out.split())
    assert f"The earlier run (process {process.pid}) ended without a word at" in printed
    assert (out / "report.html").exists()
