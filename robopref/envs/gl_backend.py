"""Which OpenGL back end renders without a display.

Imports no mujoco: MuJoCo's own renderer reads ``MUJOCO_GL`` once, while it is imported.
"""

from __future__ import annotations

import functools
import importlib
import os
import subprocess
import sys
from typing import Any

from robopref.errors import RoboprefError

_CONTEXT_MODULES = {"egl": "mujoco.egl", "osmesa": "mujoco.osmesa", "glfw": "mujoco.glfw", "cgl": "mujoco.cgl"}
_CANDIDATES = ("egl", "osmesa")  # egl uses a GPU where there is one
_PROBE = "import {module} as m; c = m.GLContext(8, 8); c.make_current(); c.free()"
INSTALL_HINT = "install one with `apt-get install libegl1` or `apt-get install libosmesa6`"


@functools.cache
def ensure_gl_backend() -> str:
    """The OpenGL back end to render with; ``MUJOCO_GL`` decides where it is set.

    A back end that is not installed properly can leave a process unusable, so each is tried in a process of its own.

    Raises:
        RoboprefError: no back end works, or ``MUJOCO_GL`` names one that robopref does not know.
    """
    chosen = os.environ.get("MUJOCO_GL", "").strip().lower()
    if chosen:
        if chosen not in _CONTEXT_MODULES:
            raise RoboprefError(
                f"MUJOCO_GL={chosen!r} is no off-screen back end: unset it or set it to one of "
                f"{', '.join(_CONTEXT_MODULES)}."
            )
        return chosen
    failures = []
    for backend in ("cgl",) if sys.platform == "darwin" else _CANDIDATES:
        reason = _probe(backend)
        if reason is None:
            os.environ["MUJOCO_GL"] = backend  # processes started from here need not try again
            return backend
        failures.append(f"{backend}: {reason}")
    raise RoboprefError(f"no OpenGL back end for off-screen rendering works ({'; '.join(failures)}): {INSTALL_HINT}.")


def _probe(backend: str) -> str | None:
    """``None`` when a process of its own can make a context with this back end, else the reason."""
    environment = {k: v for k, v in os.environ.items() if k != "PYOPENGL_PLATFORM"} | {"MUJOCO_GL": backend}
    command = [sys.executable, "-c", _PROBE.format(module=_CONTEXT_MODULES[backend])]
    try:
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return "gave no answer within 60 s"
    if result.returncode == 0:
        return None
    lines = result.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit status {result.returncode}"


def context_module(backend: str) -> Any:
    """MuJoCo's module whose ``GLContext(width, height)`` makes contexts of this back end."""
    return importlib.import_module(_CONTEXT_MODULES[backend])
