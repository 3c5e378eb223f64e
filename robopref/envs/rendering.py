"""Off-screen frames of a MuJoCo scene: one OpenGL context per camera, cheap settings, no shared viewer.

Gymnasium's ``env.render()`` shares OpenGL state between environments, so that closing one blacks out another, and it
renders multisampled shadows and reflections, which costs about ten times more on a CPU.
"""

from __future__ import annotations

import functools
import importlib
import os
import subprocess
import sys
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError

_CONTEXT_MODULES = {"egl": "mujoco.egl", "osmesa": "mujoco.osmesa", "glfw": "mujoco.glfw", "cgl": "mujoco.cgl"}
_CANDIDATES = ("egl", "osmesa")  # egl uses a GPU where there is one
_PROBE = "import {module} as m; c = m.GLContext(8, 8); c.make_current(); c.free()"
_INSTALL = "install one with `apt-get install libegl1` or `apt-get install libosmesa6`"


@functools.cache
def ensure_gl_backend() -> str:
    """The OpenGL back end to render with; sets ``MUJOCO_GL`` when it is unset, so call it before importing mujoco.

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
            os.environ["MUJOCO_GL"] = backend
            return backend
        failures.append(f"{backend}: {reason}")
    raise RoboprefError(f"no OpenGL back end for off-screen rendering works ({'; '.join(failures)}): {_INSTALL}.")


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


class OffscreenCamera:
    """Square frames of one camera of one model.

    The OpenGL context is made at the first frame, in the process that asks for it, and is this camera's own.

    Args:
        model: the ``mujoco.MjModel`` to draw; textures and meshes are uploaded at the first frame.
        size: height and width of the frame in pixels.
        camera: name of a camera of the model.

    Raises:
        RoboprefError: the model has no such camera, or the size is not positive.
    """

    def __init__(self, model: Any, size: int, camera: str) -> None:
        import mujoco

        if size < 1:
            raise RoboprefError(f"a frame of {size} x {size} pixels cannot be rendered: use a size of at least 1.")
        camera_id = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, camera)
        if camera_id < 0:
            names = [model.camera(i).name for i in range(model.ncam)]
            raise RoboprefError(f"there is no camera {camera!r} in this scene: use one of {', '.join(names)}.")
        self.size = size
        self._model = model
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._camera.fixedcamid = camera_id
        self._gl: _GLResources | None = None

    def frame(self, data: Any) -> NDArray[np.uint8]:
        """The picture of ``data`` (a ``mujoco.MjData`` whose kinematics are up to date) -> uint8 [size, size, 3].

        A camera that hangs upside down (Meta-World's ``corner2``) is turned by 180 degrees.
        """
        if self._gl is None or self._gl.process_id != os.getpid():  # a context does not survive a fork
            self._gl = _GLResources(self._model, self.size)
        pixels = self._gl.draw(data, self._camera)  # OpenGL's first row is the lowest
        up_z = data.cam_xmat[self._camera.fixedcamid].reshape(3, 3)[2, 1]
        upright = pixels[:, ::-1] if up_z < -0.1 else pixels[::-1]
        return np.ascontiguousarray(upright)

    def close(self) -> None:
        """Free the OpenGL context; harmless when repeated, and the next frame makes a new one."""
        if self._gl is not None:
            self._gl.free()
            self._gl = None


class _GLResources:
    """The OpenGL context of one camera and what lives in it."""

    def __init__(self, model: Any, size: int) -> None:
        backend = ensure_gl_backend()
        import mujoco

        self.process_id = os.getpid()
        self._mujoco: ModuleType = mujoco
        try:
            self._context = importlib.import_module(_CONTEXT_MODULES[backend]).GLContext(size, size)
            self._context.make_current()
        except Exception as error:
            raise RoboprefError(f"the OpenGL back end {backend} does not work ({error}): {_INSTALL}.") from error
        # The frame buffer is as large as the picture and not multisampled: most of the time goes into filling it.
        model.vis.quality.offsamples = 0
        model.vis.global_.offwidth = size
        model.vis.global_.offheight = size
        self._scene = mujoco.MjvScene(model, maxgeom=1000)
        for flag in ("SHADOW", "REFLECTION", "FOG", "HAZE", "SKYBOX"):
            self._scene.flags[getattr(mujoco.mjtRndFlag, f"mjRND_{flag}")] = False
        self._option = mujoco.MjvOption()
        self._renderer = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._renderer)
        self._rectangle = mujoco.MjrRect(0, 0, size, size)
        self._pixels = np.empty((size, size, 3), dtype=np.uint8)
        self._model = model

    def draw(self, data: Any, camera: Any) -> NDArray[np.uint8]:
        """Draw into the reused pixel buffer -> uint8 [size, size, 3], lowest row first."""
        mujoco = self._mujoco
        self._context.make_current()
        mujoco.mjv_updateScene(self._model, data, self._option, None, camera, mujoco.mjtCatBit.mjCAT_ALL, self._scene)
        mujoco.mjr_render(self._rectangle, self._scene, self._renderer)
        mujoco.mjr_readPixels(self._pixels, None, self._rectangle, self._renderer)
        return self._pixels

    def free(self) -> None:
        if self.process_id != os.getpid():
            return  # the context belongs to the parent process
        self._context.make_current()
        self._renderer.free()
        self._context.free()
