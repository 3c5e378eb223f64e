"""The devices at this machine, by the name that ``--operator`` gives them; each is imported when it is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from robopref.errors import RoboprefError
from robopref.human_io.frames import FrameSlot
from robopref.human_io.readings import InputSource

if TYPE_CHECKING:
    from robopref.human_io.keyboard import KeyboardWindow
    from robopref.human_io.mapping import Mapping

_DEAD_ZONE = 0.1  # where no mapping says what counts as rest


def open_device(
    name: str,
    *,
    frames: FrameSlot | None = None,
    mapping: Mapping | None = None,
    adopt: Callable[[Mapping], None] | None = None,
    window: bool = True,
    operator_id: str | None = None,
) -> InputSource:
    """Open a device for an operator who sits at this machine.

    Args:
        name: ``keyboard``, ``gamepad`` or ``spacemouse``.
        frames: the camera, shown in a window.
        mapping: what the inputs mean, listed in the window; F2 opens a dialog there that changes it.
        adopt: told of every changed mapping, on the window's thread or the reader's; it may refuse with a
            RoboprefError, which the dialog shows.
        window: whether a gamepad or SpaceMouse gets a window too, with the keys that judge an episode; without one a
            gamepad still has every control, a SpaceMouse only what its mapping binds to its buttons.
        operator_id: the name under which recordings know who drove; the device's name if not given.

    Returns:
        The source; its ``close`` lets go of everything that was opened here.

    Raises:
        RoboprefError: an unknown device, a missing library or device, or no display for the window.
    """
    if name not in _OPENERS:
        raise RoboprefError(f"there is no device {name!r} at this machine: choose one of {', '.join(_OPENERS)}.")
    return _OPENERS[name](
        _window(frames, mapping, adopt) if window or name == "keyboard" else None,
        operator_id or name,
        mapping.dead_zone if mapping is not None else _DEAD_ZONE,
    )


def _window(
    frames: FrameSlot | None, mapping: Mapping | None, adopt: Callable[[Mapping], None] | None
) -> KeyboardWindow:
    from robopref.human_io.keyboard import KeyboardWindow
    from robopref.human_io.remap_dialog import RemapDialog

    dialog = RemapDialog(mapping, adopt or (lambda mapping: None)) if mapping is not None else None
    return KeyboardWindow(frames, dialog)


def _open_keyboard(window: KeyboardWindow | None, operator_id: str, dead_zone: float) -> InputSource:
    from robopref.human_io.sdl_thread import SdlThread

    assert window is not None
    window.operator_id = operator_id
    window.run_in(SdlThread([window]))
    return window


def _open_gamepad(window: KeyboardWindow | None, operator_id: str, dead_zone: float) -> InputSource:
    from robopref.human_io.combined import CombinedSource
    from robopref.human_io.gamepad import Gamepad
    from robopref.human_io.sdl_thread import SdlThread

    pad = Gamepad(operator_id=operator_id)
    pad.run_in(SdlThread([pad] if window is None else [pad, window]))
    return pad if window is None else CombinedSource(window, pad, dead_zone=dead_zone)


def _open_spacemouse(window: KeyboardWindow | None, operator_id: str, dead_zone: float) -> InputSource:
    from robopref.human_io.combined import CombinedSource
    from robopref.human_io.sdl_thread import SdlThread
    from robopref.human_io.spacemouse import SpaceMouse

    mouse = SpaceMouse(operator_id=operator_id)
    if window is None:
        return mouse
    try:
        window.run_in(SdlThread([window]))
    except BaseException:
        mouse.close()
        raise
    return CombinedSource(window, mouse, dead_zone=dead_zone)


_OPENERS: dict[str, Callable[[KeyboardWindow | None, str, float], InputSource]] = {
    "keyboard": _open_keyboard,
    "gamepad": _open_gamepad,
    "spacemouse": _open_spacemouse,
}

LOCAL_DEVICES = tuple(_OPENERS)
"""The names that ``open_device`` knows."""
