"""Off-screen frames of a MuJoCo scene: one OpenGL context per camera, cheap settings, no shared viewer.

Gymnasium's ``env.render()`` shares OpenGL state between environments, so that closing one blacks out another, and it
renders multisampled shadows and reflections, which costs about ten times more on a CPU.
"""

from __future__ import annotations

import atexit
import math
import os
from collections.abc import Sequence
from typing import Any, cast

import cv2
import mujoco
import numpy as np
from numpy.typing import NDArray

from robopref.envs.gl_backend import INSTALL_HINT, context_module, ensure_gl_backend
from robopref.envs.mesh_simplification import simplified_for_upload
from robopref.errors import RoboprefError


class OffscreenCamera:
    """Square frames of one camera of one model.

    The OpenGL context is made at the first frame, in the process that asks for it, and is this camera's own. Textures
    and meshes are uploaded then; after changing them in the model, ``close()`` makes the next frame upload them again
    (``upload_textures`` does for textures alone, and faster).
    Colours, lights, and positions of bodies and cameras are read at every frame.

    Args:
        model: the ``mujoco.MjModel`` to draw.
        size: height and width of the frame in pixels.
        camera: name of a camera of the model.

    Raises:
        RoboprefError: the model has no such camera, or the size is not positive.
    """

    def __init__(self, model: Any, size: int, camera: str) -> None:
        if size < 1:
            raise RoboprefError(f"a frame of {size} x {size} pixels cannot be rendered: use a size of at least 1.")
        camera_id = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, camera)
        if camera_id < 0:
            names = [model.camera(i).name for i in range(model.ncam)]
            raise RoboprefError(f"there is no camera {camera!r} in this scene: use one of {', '.join(names)}.")
        self.size = size
        self._model = model
        self._original_place = model.cam_pos[camera_id].copy()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._camera.fixedcamid = camera_id
        self._gl: _GLResources | None = None

    def frame(self, data: Any) -> NDArray[np.uint8]:
        """The picture of ``data`` (a ``mujoco.MjData`` whose kinematics are up to date) -> uint8 [size, size, 3].

        A camera that hangs upside down (most of Meta-World's) is turned by 180 degrees.

        Raises:
            RoboprefError: no OpenGL back end works, or the process was forked from one that had rendered.
        """
        if _gl_process not in (None, os.getpid()):
            raise RoboprefError(
                "this process was forked from one that had rendered already, where OpenGL would wait for ever: "
                "start the processes before the first frame, or with the multiprocessing method 'spawn'."
            )
        while _abandoned:
            _abandoned.pop().free()
        if self._gl is None:
            self._gl = _GLResources(self._model, self.size, self._triangle_size())
        pixels = self._gl.draw(data, self._camera)  # OpenGL's first row is the lowest
        up_z = data.cam_xmat[self._camera.fixedcamid].reshape(3, 3)[2, 1]
        # 1 mirrors every row, 0 turns the order of the rows; twenty times faster than NumPy's reversed views.
        return cast("NDArray[np.uint8]", cv2.flip(pixels, 1 if up_z < -0.1 else 0))

    def upload_textures(self, textures: Sequence[int]) -> None:
        """Show what these textures of the model hold now, without the cost of a new context.

        Args:
            textures: ids of textures whose pixels, and not their sizes, have changed.
        """
        if self._gl is not None:  # else the first frame uploads all of them
            self._gl.upload_textures(textures)

    def close(self) -> None:
        """Free the OpenGL context; harmless when repeated, and the next frame makes a new one."""
        if self._gl is not None:
            self._gl.free()
            self._gl = None

    def __del__(self) -> None:
        # Garbage may be collected while another camera draws, so the context is only handed over here.
        resources: _GLResources | None = getattr(self, "_gl", None)  # absent when the constructor refused
        if resources is not None:
            _abandoned.append(resources)

    def _triangle_size(self) -> float:
        """Details below this length in metres are lost anyway: 0.4 pixels in the middle of the scene.

        Judged in the model's rest pose and with the camera in its original place, so that frames do not depend on where
        a moving or shifted camera was at the first one.
        """
        camera_id = self._camera.fixedcamid
        rest = mujoco.MjData(self._model)
        place = self._model.cam_pos[camera_id].copy()
        self._model.cam_pos[camera_id] = self._original_place
        mujoco.mj_forward(self._model, rest)
        self._model.cam_pos[camera_id] = place
        distance = max(0.1, float(np.linalg.norm(rest.cam_xpos[camera_id] - self._model.stat.center)))
        view = 2 * distance * math.tan(math.radians(float(self._model.cam_fovy[camera_id])) / 2)
        return 0.4 * view / self.size


class _GLResources:
    """The OpenGL context of one camera and what lives in it."""

    def __init__(self, model: Any, size: int, triangle_size: float) -> None:
        global _gl_process
        self._backend = ensure_gl_backend()
        _gl_process = os.getpid()
        self._model = model
        try:
            self._context = context_module(self._backend).GLContext(size, size)
            self._context.make_current()
        except Exception as error:  # PyOpenGL and the drivers raise anything from AttributeError to EGLError
            raise RoboprefError(
                f"the OpenGL back end {self._backend} does not work ({error}): {INSTALL_HINT}."
            ) from error
        self._scene = mujoco.MjvScene(model, maxgeom=model.ngeom + model.nsite + 100)
        for flag in ("SHADOW", "REFLECTION", "FOG", "HAZE", "SKYBOX"):
            self._scene.flags[getattr(mujoco.mjtRndFlag, f"mjRND_{flag}")] = False
        self._option = mujoco.MjvOption()
        uploaded = simplified_for_upload(model, triangle_size)
        # No multisampling, no shadow map, and a frame buffer no larger than the picture.
        uploaded.vis.quality.offsamples = 0
        uploaded.vis.quality.shadowsize = 0
        uploaded.vis.global_.offwidth = size
        uploaded.vis.global_.offheight = size
        self._renderer = mujoco.MjrContext(uploaded, mujoco.mjtFontScale.mjFONTSCALE_50)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._renderer)
        self._rectangle = mujoco.MjrRect(0, 0, size, size)
        self._pixels = np.empty((size, size, 3), dtype=np.uint8)
        _open.add(self)
        # Registered after the back end's own exit function, so that it runs before it: a context that outlives its
        # display makes the interpreter print errors while it shuts down.
        atexit.unregister(_free_all)
        atexit.register(_free_all)

    def draw(self, data: Any, camera: Any) -> NDArray[np.uint8]:
        """Draw into the reused pixel buffer -> uint8 [size, size, 3], lowest row first."""
        self._context.make_current()
        mujoco.mjv_updateScene(self._model, data, self._option, None, camera, mujoco.mjtCatBit.mjCAT_ALL, self._scene)
        mujoco.mjr_render(self._rectangle, self._scene, self._renderer)
        mujoco.mjr_readPixels(self._pixels, None, self._rectangle, self._renderer)
        self._release()
        return self._pixels

    def upload_textures(self, textures: Sequence[int]) -> None:
        """Replace pixels of textures by those that the model holds now."""
        self._context.make_current()
        for texture in textures:
            mujoco.mjr_uploadTexture(self._model, self._renderer, texture)
        self._release()

    def free(self) -> None:
        """Give everything back to OpenGL."""
        _open.discard(self)
        if _gl_process == os.getpid():  # else the context belongs to the parent process
            self._context.make_current()
            self._renderer.free()
            self._context.free()

    def _release(self) -> None:
        """Let go of the context: EGL refuses it to every other thread for as long as this one holds it."""
        if self._backend == "egl":
            module = context_module("egl")
            egl = module.EGL
            egl.eglMakeCurrent(module.EGL_DISPLAY, egl.EGL_NO_SURFACE, egl.EGL_NO_SURFACE, egl.EGL_NO_CONTEXT)


_gl_process: int | None = None
"""The process that has used OpenGL."""

_open: set[_GLResources] = set()
"""Everything that is not freed yet. Held here because the destructor of an EGL context makes its thread let go of
whichever context is current, and garbage collection may run it while another camera draws."""

_abandoned: list[_GLResources] = []
"""Those of cameras that were garbage collected without being closed."""


def _free_all() -> None:
    for resources in list(_open):
        resources.free()
