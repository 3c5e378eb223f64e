"""What every command does with its output directory: resolved configuration, versions, results as JSON."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import sys
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from robopref import __version__
from robopref.errors import RoboprefError

_PACKAGES = ("torch", "numpy", "gymnasium", "mujoco", "metaworld", "ale-py", "accelerate", "wandb")


def versions() -> dict[str, str]:
    """Versions of robopref, Python and the packages that decide a result."""
    found = {"robopref": __version__, "python": platform.python_version(), "platform": platform.machine()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def to_json(value: Any) -> Any:
    """Dataclasses, paths, enums and containers of them as JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(v) for v in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    return value


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` so that ``path`` holds either the old text or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(to_json(value), indent=2) + "\n")
    os.replace(temporary, path)


def read_json(path: Path) -> Any:
    """The JSON value in ``path``.

    Raises:
        RoboprefError: the file is missing or no JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise RoboprefError(f"{path} does not exist.") from error
    except json.JSONDecodeError as error:
        raise RoboprefError(f"{path} is not valid JSON ({error}).") from error


_BEFORE_IT_WAS_A_SETTING: dict[str, Any] = {"action_smoothing": 0.0, "refine_learning_rate": None}
"""What runs did that were begun before there was such a setting, whose files have none."""


def start_run(
    out: Path,
    command: str,
    config: Any,
    *,
    resume: bool,
    identity: dict[str, str] | None = None,
    extendable: tuple[str, ...] = (),
    changeable: tuple[str, ...] = (),
) -> None:
    """Claim ``out`` for this command and save its resolved configuration there.

    ``identity`` holds content hashes of what the configuration only names (the policy, the data): a run goes on only
    with the same content. Settings in ``extendable`` may be raised when it goes on, and are saved anew then; those in
    ``changeable`` may differ, because the results do not depend on them.

    Raises:
        RoboprefError: ``out`` holds an earlier run and ``resume`` is off, or that run had another configuration.
    """
    resolved, raised = check_run(
        out, command, config, resume=resume, identity=identity, extendable=extendable, changeable=changeable
    )
    path = out / "config.json"
    if not path.exists():
        write_json(path, {"command": command, "config": resolved, "versions": versions(), "argv": sys.argv[1:]})
    elif raised:
        earlier = read_json(path)
        write_json(path, earlier | {"config": earlier["config"] | {k: resolved[k] for k in raised}})


def check_run(
    out: Path,
    command: str,
    config: Any,
    *,
    resume: bool,
    identity: dict[str, str] | None = None,
    extendable: tuple[str, ...] = (),
    changeable: tuple[str, ...] = (),
) -> tuple[dict[str, Any], list[str]]:
    """See that ``start_run`` will not refuse, writing nothing -> the resolved settings, names of those raised.

    Raises:
        RoboprefError: see there.
    """
    path = out / "config.json"
    unimportant = {"out", "resume", "workers", "wandb"}
    resolved = {k: v for k, v in to_json(config).items() if k not in unimportant} | (identity or {})
    if path.exists():
        earlier = read_json(path)
        if not resume:
            raise RoboprefError(f"{out} holds an earlier run: add --resume to go on with it, or choose another --out.")
        settings = _BEFORE_IT_WAS_A_SETTING | earlier.get("config", {})
        raised = [k for k in extendable if k in settings and resolved[k] > settings[k]]
        may_differ = {*raised, *changeable}
        changed = [k for k in resolved if settings.get(k) != resolved[k] and k not in may_differ]
        if earlier.get("command") != command or changed:
            what = f"other settings ({', '.join(changed)})" if changed else f"the command {earlier.get('command')!r}"
            raise RoboprefError(f"{out} was started with {what}: repeat it as it was, or choose another --out.")
        return resolved, raised
    if out.is_dir() and any(out.iterdir()) and not resume:
        raise RoboprefError(f"{out} is not empty and holds no robopref run: choose another --out.")
    return resolved, []
