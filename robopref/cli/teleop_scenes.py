"""The world as the operator's picture shows it: written down in the control loop, drawn in another process.

Drawing a robot's scene on a CPU takes tens of milliseconds, so the control loop only copies the state of the simulation
into shared memory (tens of microseconds, or half a millisecond where textures may change), and the station's process
draws the newest one whenever it is done with the one before.
"""

from __future__ import annotations

import struct
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError
from robopref.human_io.shared_slot import SharedSlot

_CAPTURED = struct.Struct("<q")

_LOOKS = (
    "body_pos", "body_quat", "geom_pos", "geom_quat", "geom_size", "geom_rgba", "site_pos", "site_quat", "site_size",
    "site_rgba", "mat_rgba", "geom_matid", "cam_pos", "cam_quat", "light_pos", "light_dir", "light_diffuse",
    "light_ambient", "light_specular",
)  # fmt: skip
"""Fields of a ``mujoco.MjModel`` that tasks and perturbations change while they run, and that a picture shows."""


def _looks_of(model: Any) -> list[NDArray[Any]]:
    """Views of all that is sent of a model: its headlight and the pixels of its spare textures too."""
    from robopref.envs.perturbations.scene import texture_pixels
    from robopref.envs.perturbations.texture import textures_in_use

    headlight = model.vis.headlight
    textures = [texture_pixels(model, texture) for texture in textures_in_use(model)]
    return [*(getattr(model, name) for name in _LOOKS), headlight.ambient, headlight.diffuse, *textures]


class Painter(Protocol):
    """Draws in the station's process; can be sent there before it has drawn anything. ``cameras`` are their names."""

    slot: SharedSlot
    cameras: tuple[str, ...]

    def warm_up(self) -> None:
        """Do what takes seconds the first time, before anybody waits for a picture, in the thread that paints."""

    def paint(self, scene: bytes) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """The pictures uint8 [H, W, 3] of a scene as the control loop wrote it, by camera, each when it is done."""


class Scene:
    """The control loop's side: ``capture`` writes the world down, and never waits.

    Args:
        write: fills the buffer that it is given.
        size: of that buffer, in bytes.
        painter: who draws it.
    """

    def __init__(self, write: Callable[[NDArray[np.uint8]], None], size: int, painter: Painter) -> None:
        self.painter = painter
        self._write = write
        self._buffer = np.zeros(_CAPTURED.size + size, np.uint8)

    def capture(self) -> None:
        """Write the world down as it is now."""
        self._write(self._buffer[_CAPTURED.size :])
        message = self._buffer.data
        _CAPTURED.pack_into(message, 0, time.monotonic_ns())
        self.painter.slot.put(message)


def split_scene(message: bytes) -> tuple[int, bytes]:
    """Monotonic time of capture, and the scene, of what ``capture`` put into the slot."""
    return _CAPTURED.unpack_from(message)[0], message[_CAPTURED.size :]


def make_scene(env: Any, context: SpawnContext, size: int, cameras: Sequence[str] = ()) -> Scene | None:
    """How to show what happens in ``env``: a MuJoCo scene, an Atari screen, or what ``render()`` returns.

    ``render()`` is the one that takes its time in the control loop. None where there is nothing to see.

    Args:
        env: the environment, reset or not.
        context: of the station's process.
        size: pixels a side of the picture, or at most so many for a screen that is enlarged.
        cameras: of a MuJoCo scene; the task's own if none is named.

    Raises:
        RoboprefError: a camera that the scene does not have.
    """
    base = env.unwrapped
    if _is_mujoco(base):
        return _mujoco_scene(base, context, size, tuple(cameras) or (base.camera,))
    if cameras:
        raise RoboprefError(f"there are no cameras {', '.join(cameras)} to choose: leave --cameras out.")
    if hasattr(base, "ale"):
        height, width = base.ale.getScreenDims()
        return _screen_scene(base.ale.getScreenRGB, (height, width, 3), context, max(1, size // height))
    if getattr(env, "render_mode", None) == "rgb_array":
        env.reset(seed=0)
        shape = np.asarray(env.render()).shape
        return _screen_scene(env.render, shape, context, 1)
    return None


def _is_mujoco(task: Any) -> bool:
    return type(getattr(task, "model", None)).__name__ == "MjModel" and hasattr(task, "camera")


def _mujoco_scene(task: Any, context: SpawnContext, size: int, cameras: tuple[str, ...]) -> Scene:
    import mujoco

    known = [task.model.camera(i).name for i in range(task.model.ncam)]
    if unknown := sorted(set(cameras) - set(known)):
        raise RoboprefError(f"there is no camera {unknown[0]!r} in this scene: use some of {', '.join(known)}.")

    full = int(mujoco.mjtState.mjSTATE_INTEGRATION)
    state = np.zeros(mujoco.mj_stateSize(task.model, full))
    looks = _looks_of(task.model)
    total = state.nbytes + sum(values.nbytes for values in looks)
    painter = MujocoPainter(task.model, cameras, size, SharedSlot(context, _CAPTURED.size + total))

    def write(buffer: NDArray[np.uint8]) -> None:
        mujoco.mj_getState(task.model, task.data, state, full)
        start = 0
        for values in (state, *looks):
            buffer[start : start + values.nbytes] = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
            start += values.nbytes

    return Scene(write, total, painter)


class MujocoPainter:
    """Draws a MuJoCo scene from its state, in a copy of the model.

    Args:
        model: the ``mujoco.MjModel``.
        cameras: what it is seen by.
        size: pixels a side.
        slot: where scenes come from.
    """

    def __init__(self, model: Any, cameras: tuple[str, ...], size: int, slot: SharedSlot) -> None:
        import mujoco

        self.slot, self.cameras = slot, cameras
        self._size = size
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "model.mjb"
            mujoco.mj_saveModel(model, str(path), None)
            self._model_bytes = path.read_bytes()

    def warm_up(self) -> None:
        """Load the model and draw it once by each camera."""
        import mujoco

        from robopref.envs.rendering import OffscreenCamera

        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "model.mjb"
            path.write_bytes(self._model_bytes)
            self._model = mujoco.MjModel.from_binary_path(str(path))
        self._data = mujoco.MjData(self._model)
        self._state = np.zeros(mujoco.mj_stateSize(self._model, int(mujoco.mjtState.mjSTATE_INTEGRATION)))
        mujoco.mj_forward(self._model, self._data)
        self._views = [OffscreenCamera(self._model, self._size, name) for name in self.cameras]
        for view in self._views:
            view.frame(self._data)

    def paint(self, scene: bytes) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """See ``Painter``."""
        import mujoco

        from robopref.envs.perturbations.texture import textures_in_use

        start = 0
        textures_before = self._textures()
        for values in (self._state, *_looks_of(self._model)):
            flat = np.frombuffer(scene, values.dtype, values.size, start)
            values[...] = flat.reshape(values.shape)
            start += values.nbytes
        if self._textures() != textures_before:
            for view in self._views:
                view.upload_textures(textures_in_use(self._model))
        mujoco.mj_setState(self._model, self._data, self._state, int(mujoco.mjtState.mjSTATE_INTEGRATION))
        for update in (mujoco.mj_kinematics, mujoco.mj_comPos, mujoco.mj_camlight, mujoco.mj_flex, mujoco.mj_tendon):
            update(self._model, self._data)
        for name, view in zip(self.cameras, self._views, strict=True):
            yield name, view.frame(self._data)

    def _textures(self) -> bytes:
        """The pixels of the spare textures, which need to be uploaded when they have changed."""
        from robopref.envs.perturbations.scene import texture_pixels
        from robopref.envs.perturbations.texture import textures_in_use

        return b"".join(texture_pixels(self._model, t).tobytes() for t in textures_in_use(self._model))


def _screen_scene(pixels: Callable[[], Any], shape: tuple[int, ...], context: SpawnContext, enlarge: int) -> Scene:
    size = int(np.prod(shape))
    painter = ScreenPainter(shape, enlarge, SharedSlot(context, _CAPTURED.size + size))

    def write(buffer: NDArray[np.uint8]) -> None:
        buffer[:] = np.asarray(pixels(), np.uint8).reshape(-1)

    return Scene(write, size, painter)


class ScreenPainter:
    """Shows a screen that is a picture already, enlarged by a whole number so that its pixels stay sharp."""

    def __init__(self, shape: tuple[int, ...], enlarge: int, slot: SharedSlot) -> None:
        self.slot = slot
        self.cameras: tuple[str, ...] = ("screen",)
        self._shape, self._enlarge = shape, enlarge

    def warm_up(self) -> None:
        """Nothing takes long here."""

    def paint(self, scene: bytes) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """See ``Painter``."""
        screen = np.frombuffer(scene, np.uint8).reshape(self._shape)
        yield self.cameras[0], screen.repeat(self._enlarge, axis=0).repeat(self._enlarge, axis=1)
