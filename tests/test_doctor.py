import json
import re
import subprocess
import sys

import pytest

from robopref.cli import doctor as module
from robopref.cli.doctor import Check, doctor, run_checks


def by_name(checks):
    return {check.name: check for check in checks}


def test_everything_that_the_quickstart_needs_is_looked_at_and_found_here():
    checks = by_name(run_checks())
    assert {"Python", "off-screen rendering", "MUJOCO_GL=egl", "MUJOCO_GL=osmesa", "mujoco", "torch", "GPU"} <= set(
        checks
    )
    assert {"ALE with games", "Weights & Biases", "gamepad", "SpaceMouse", "disk", "CPU"} <= set(checks)
    assert [check.name for check in checks.values() if check.verdict == "fail"] == []
    assert checks["mujoco"].found == "3.3.0"
    assert re.search(r"\(210, 160, 3\)", checks["ALE with games"].found)
    for check in checks.values():
        assert check.found
        assert "\n" not in check.found


def test_it_runs_away_from_the_source_tree(tmp_path):
    (tmp_path / "mujoco.py").write_text("raise SystemExit('a file of the user, which is none of our business')\n")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "robopref.cli.main", "doctor"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ready" in done.stdout


def test_one_working_back_end_is_enough_and_none_is_a_failure(monkeypatch):
    def only_osmesa(code, **environment):
        return ("255", "") if environment["MUJOCO_GL"] == "osmesa" else ("", "ImportError: libEGL.so.1")

    monkeypatch.setattr(module, "_run_python", only_osmesa)
    checks = by_name(module._rendering())
    assert checks["off-screen rendering"].verdict == "ok"
    assert checks["MUJOCO_GL=egl"] == Check(
        "MUJOCO_GL=egl",
        "note",
        "does not draw (ImportError: libEGL.so.1)",
        "sudo apt-get install libegl1 libgl1-mesa-dri",
    )
    monkeypatch.setattr(module, "_run_python", lambda code, **environment: ("0", ""))  # a frame, but a black one
    checks = by_name(module._rendering())
    assert checks["off-screen rendering"].verdict == "fail"
    assert "libosmesa6" in checks["off-screen rendering"].advice
    assert "black picture" in checks["MUJOCO_GL=egl"].found


def test_a_probe_that_hangs_says_nothing_or_dies_is_an_answer(monkeypatch):
    monkeypatch.setattr(module, "_PROBE_SECONDS", 0.5)
    assert module._run_python("import time; time.sleep(60)") == ("", "no answer within 0.5 s")
    assert module._run_python("pass") == ("", "no output")
    assert module._run_python("import os; os.abort()") == ("", "exit status -6")
    monkeypatch.setattr(module, "_PROBE_SECONDS", 60)
    assert module._run_python("raise ImportError('no such game')") == ("", "ImportError: no such game")
    assert module._run_python("print('a warning'); print(7)") == ("7", "")


def test_missing_and_other_versions(monkeypatch):
    def version(package):
        if package in ("peft", "wandb", "ale-py"):
            raise module.PackageNotFoundError(package)
        return "4.0.0"

    monkeypatch.setattr(module, "version", version)
    checks = by_name(module._packages())
    assert (checks["peft"].verdict, checks["wandb"].verdict) == ("note", "fail")
    assert checks["ale-py"].verdict == "note"  # the README says that it may be left out
    assert "robopref[vla]" in checks["peft"].advice
    assert checks["mujoco"].advice == "tested with 3.3.0 only"


@pytest.mark.parametrize(
    ("environment", "verdict", "says"),
    [
        ({}, "note", "no key; runs are offline"),
        ({"WANDB_API_KEY": "0" * 40}, "ok", "a key; runs are online"),
        ({"WANDB_API_KEY": "0" * 40, "WANDB_MODE": "disabled"}, "ok", "a key; runs are disabled"),
        ({"WANDB_MODE": "on"}, "note", "WANDB_MODE is 'on'"),
    ],
)
def test_what_weights_and_biases_will_do(monkeypatch, tmp_path, environment, verdict, says):
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (check,) = module._wandb()
    assert check.verdict == verdict
    assert says in check.found
    assert "0" * 40 not in check.found + check.advice


def test_the_devices_of_an_operator(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    answers = {module._LIST_GAMEPADS: ('["Pad [one]", "Pad two"]', ""), module._LIST_SPACEMICE: ("[]", "")}
    monkeypatch.setattr(module, "_run_python", lambda code, **environment: answers[code])
    checks = by_name(module._devices())
    assert checks["gamepad"] == Check("gamepad", "ok", "Pad [one], Pad two")
    assert (checks["SpaceMouse"].verdict, checks["SpaceMouse"].found) == ("note", "none plugged in")
    assert checks["window for local devices"].verdict == "note"
    answers[module._LIST_GAMEPADS] = ("", "ModuleNotFoundError: No module named 'pygame'")
    answers[module._LIST_SPACEMICE] = ("", "exit status -11")
    monkeypatch.setenv("DISPLAY", ":0")
    checks = by_name(module._devices())
    assert "robopref[devices]" in checks["gamepad"].advice
    assert checks["SpaceMouse"].found == "exit status -11"
    assert checks["window for local devices"].verdict == "ok"


def test_the_probes_of_devices_run(monkeypatch):
    """What is plugged into this machine is not known here, but that the real libraries are asked and answer is."""
    for code in (module._LIST_GAMEPADS, module._LIST_SPACEMICE):
        printed, error = module._run_python(code)
        assert error == ""
        assert isinstance(json.loads(printed), list)


def test_a_check_that_breaks_is_reported_not_raised(monkeypatch, capsys):
    def _gpu():
        raise OSError("driver [crashed]")

    def _python():
        return [Check("Python", "ok", "3.11 [here]")]

    monkeypatch.setattr(module, "_GROUPS", (_python, _gpu))
    assert run_checks() == [Check("Python", "ok", "3.11 [here]"), Check("gpu", "fail", "OSError: driver [crashed]")]
    assert doctor() == 1
    printed = capsys.readouterr().out
    assert "driver [crashed]" in printed  # not taken for console markup
    assert "to be mended first: gpu" in printed
