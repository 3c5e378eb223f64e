"""``robopref doctor``: what this machine has, what works, and what to do about the rest."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from rich.markup import escape
from rich.table import Table

from robopref import __version__
from robopref.cli.console import console
from robopref.errors import RoboprefError
from robopref.tracking import has_api_key, resolve_mode

Verdict = Literal["ok", "note", "fail"]

_RENDER_ONE_FRAME = """
import mujoco
model = mujoco.MjModel.from_xml_string(
    '<mujoco><worldbody><light pos="0 0 2"/><geom type="sphere" size=".3" rgba="1 0 0 1"/></worldbody></mujoco>'
)
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 16, 16)
renderer.update_scene(data)
print(int(renderer.render().max()))
"""
_MAKE_GAME = (
    "import ale_py, gymnasium; gymnasium.register_envs(ale_py); print(gymnasium.make('ALE/Pong-v5').reset()[0].shape)"
)
_LIST_GAMEPADS = """
import json, os
os.environ.update(SDL_VIDEODRIVER="dummy", PYGAME_HIDE_SUPPORT_PROMPT="1")
import pygame
pygame.display.init()
pygame.joystick.init()
print(json.dumps([pygame.joystick.Joystick(i).get_name() for i in range(pygame.joystick.get_count())]))
"""
_LIST_SPACEMICE = """
import json
try:
    import hidraw
except ImportError:
    import hid
from robopref.human_io.spacemouse import find_spacemice, load_hidapi
print(json.dumps([info.get("product_string") or "SpaceMouse" for info in find_spacemice(load_hidapi())]))
"""
_PINNED = {"mujoco": "3.3.0", "metaworld": "3.1.1"}
_PACKAGES = (
    "torch", "numpy", "gymnasium", "mujoco", "metaworld", "ale-py", "stable-baselines3", "accelerate", "wandb",
    "aiohttp", "gymnasium-robotics", "pygame", "hidapi", "transformers", "peft",
)  # fmt: skip
_PROBE_SECONDS: float = 120
_OPTIONAL = {
    "gymnasium-robotics": "fetch",
    "pygame": "devices",
    "hidapi": "devices",
    "transformers": "vla",
    "peft": "vla",
}


@dataclass(frozen=True)
class Check:
    """One thing looked at: ``fail`` keeps the quickstart from running, ``note`` is good to know."""

    name: str
    verdict: Verdict
    found: str
    advice: str = ""


def run_checks() -> list[Check]:
    """Look at everything; a check that itself breaks is reported as a failure, never raised."""
    checks: list[Check] = []
    for group in _GROUPS:
        try:
            checks += group()
        except Exception as error:  # the one command that must always answer says what broke instead
            checks.append(Check(group.__name__.strip("_"), "fail", f"{type(error).__name__}: {error}"))
    return checks


def doctor() -> int:
    """Print the checks as a table; 0 when nothing failed that the quickstart needs, else 1."""
    checks = run_checks()
    table = Table(title=f"robopref {__version__}", show_lines=False)
    for column in ("", "what", "found", "what to do"):
        table.add_column(column, overflow="fold")
    style = {"ok": "green", "note": "yellow", "fail": "bold red"}
    for check in checks:
        table.add_row(
            f"[{style[check.verdict]}]{check.verdict}[/]", check.name, escape(check.found), escape(check.advice)
        )
    console.print(table)
    failed = [check.name for check in checks if check.verdict == "fail"]
    console.print(f"to be mended first: {', '.join(failed)}" if failed else "ready: try robopref quickstart")
    return 1 if failed else 0


def _python() -> list[Check]:
    right = sys.version_info >= (3, 11)
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return [Check("Python", "ok" if right else "fail", found, "" if right else "install Python 3.11 or newer")]


def _rendering() -> list[Check]:
    """Draw one frame with each back end, each in a process of its own: a broken one cannot then spoil this process."""
    checks = []
    for backend, package in (("egl", "libegl1 libgl1-mesa-dri"), ("osmesa", "libosmesa6")):
        brightest, error = _run_python(_RENDER_ONE_FRAME, MUJOCO_GL=backend)
        works = brightest.isdigit() and int(brightest) > 0
        found = "draws" if works else f"does not draw ({error or 'black picture'})"
        checks.append(Check(f"MUJOCO_GL={backend}", "ok" if works else "note", found,
                            "" if works else f"sudo apt-get install {package}"))  # fmt: skip
    working = [check.name for check in checks if check.verdict == "ok"]
    checks.insert(
        0,
        Check(
            "off-screen rendering",
            "ok" if working else "fail",
            f"{len(working)} of {len(checks)} back ends"
            + (f"; MUJOCO_GL={os.environ['MUJOCO_GL']} is set" if "MUJOCO_GL" in os.environ else ""),
            "" if working else "sudo apt-get install libosmesa6 (state policies work without)",
        ),
    )
    return checks


def _packages() -> list[Check]:
    checks = []
    for package in _PACKAGES:
        try:
            found = version(package)
        except PackageNotFoundError:
            if package == "ale-py":
                checks.append(Check(package, "note", "absent", "only Atari games need it: pip install ale-py"))
                continue
            extra = _OPTIONAL.get(package)
            advice = f'pip install "robopref[{extra}]" if you need it' if extra else "pip install robopref"
            checks.append(Check(package, "note" if extra else "fail", "absent", advice))
            continue
        pinned = _PINNED.get(package)
        right = pinned is None or found == pinned
        checks.append(Check(package, "ok" if right else "note", found, "" if right else f"tested with {pinned} only"))
    return checks


def _gpu() -> list[Check]:
    import torch

    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
        return [Check("GPU", "ok", f"{torch.cuda.device_count()} x {', '.join(sorted(names))}")]
    return [Check("GPU", "note", "none", "not needed for the compact policies")]


def _atari() -> list[Check]:
    shape, error = _run_python(_MAKE_GAME)
    return [
        Check("ALE with games", "ok", f"Pong gives frames of {shape}")
        if shape
        else Check("ALE with games", "note", error)
    ]


def _wandb() -> list[Check]:
    try:
        key, mode = has_api_key(), resolve_mode(None)
    except RoboprefError as error:
        return [Check("Weights & Biases", "note", str(error), "unset it or mend it: training would refuse to start")]
    advice = "" if key else "nothing: runs are kept on disk; `wandb login`, then `wandb sync`, uploads them"
    return [Check("Weights & Biases", "ok" if key else "note", f"{'a' if key else 'no'} key; runs are {mode}", advice)]


def _devices() -> list[Check]:
    """What an operator could drive with; a page in a browser is always there."""
    return [_device("gamepad", _LIST_GAMEPADS), _device("SpaceMouse", _LIST_SPACEMICE), _display()]


def _device(what: str, code: str) -> Check:
    """A kind of device, looked for in a process of its own: a driver that crashes is then an answer too."""
    found, error = _run_python(code)
    names = json.loads(found) if found.startswith("[") else []
    if names:
        return Check(what, "ok", ", ".join(names))
    if "ModuleNotFoundError" in error:
        return Check(what, "note", "its library is absent", 'pip install "robopref[devices]" if you have one')
    return Check(what, "note", error or "none plugged in", "not needed: the operator's page has keys and gamepads")


def _display() -> Check:
    has = sys.platform == "win32" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    return Check("window for local devices", "ok" if has else "note", "a display" if has else "no display",
                 "" if has else "robopref teleop --operator web needs none here: open its page elsewhere")  # fmt: skip


def _resources() -> list[Check]:
    import torch

    free = shutil.disk_usage(".").free / 2**30
    return [
        Check(
            "disk",
            "ok" if free > 2 else "note",
            f"{free:.1f} GiB free here",
            "" if free > 2 else "recordings need room",
        ),
        Check("CPU", "ok", f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads"),
    ]


def _run_python(code: str, **environment: str) -> tuple[str, str]:
    """The last line that a fresh interpreter prints, and what went wrong (empty when nothing did)."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", code],  # -P: files that happen to lie here are not ours to import
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=_PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "", f"no answer within {_PROBE_SECONDS} s"
    if done.returncode != 0:
        return "", (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    printed = done.stdout.strip().splitlines()
    return (printed[-1], "") if printed else ("", "no output")


_GROUPS: tuple[Callable[[], list[Check]], ...] = (
    _python, _rendering, _packages, _gpu, _atari, _wandb, _devices, _resources,
)  # fmt: skip
