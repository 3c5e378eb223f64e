"""Real SDL without hands: events pushed where its drivers push theirs, and its virtual joysticks."""

import ctypes
import time
from functools import cache

import pytest

from robopref.human_io.combined import CombinedSource
from robopref.human_io.key_codes import CODE_OF_SCANCODE
from robopref.human_io.keyboard import KeyboardWindow

pygame = pytest.importorskip("pygame")

W, D, SPACE = 26, 7, 44  # scancodes
SCANCODE_OF = {code: number for number, code in CODE_OF_SCANCODE.items()}
GAMECONTROLLER, PLAIN = 1, 0
_JOYSTICK_SUBSYSTEM = 0x200


def until(condition, what="it"):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true"
        time.sleep(0.005)


class _KeyEvent(ctypes.Structure):
    """SDL_KeyboardEvent, padded to the size of SDL_Event."""

    _fields_ = (
        ("type", ctypes.c_uint32), ("timestamp", ctypes.c_uint32), ("window", ctypes.c_uint32),
        ("state", ctypes.c_uint8), ("repeat", ctypes.c_uint8), ("padding", ctypes.c_uint8 * 2),
        ("scancode", ctypes.c_int32), ("sym", ctypes.c_int32), ("mod", ctypes.c_uint16), ("rest", ctypes.c_uint8 * 64),
    )  # fmt: skip


class _WindowEvent(ctypes.Structure):
    """SDL_WindowEvent, padded to the size of SDL_Event."""

    _fields_ = (
        ("type", ctypes.c_uint32), ("timestamp", ctypes.c_uint32), ("window", ctypes.c_uint32),
        ("event", ctypes.c_uint8), ("rest", ctypes.c_uint8 * 64),
    )  # fmt: skip


HIDDEN, MINIMIZED, FOCUS_GAINED, FOCUS_LOST = 2, 7, 12, 13  # of SDL_WindowEventID


@cache
def sdl():
    """The library that pygame has loaded."""
    with open("/proc/self/maps") as maps:
        return ctypes.CDLL(next(line.split()[-1] for line in maps if "libSDL2-2" in line))


def press(scancode, repeat=0):
    assert sdl().SDL_PushEvent(ctypes.byref(_KeyEvent(type=0x300, state=1, scancode=scancode, repeat=repeat))) >= 0


def release(scancode):
    assert sdl().SDL_PushEvent(ctypes.byref(_KeyEvent(type=0x301, scancode=scancode))) >= 0


def window_event(which):
    """What a window manager makes SDL say about its window."""
    assert sdl().SDL_PushEvent(ctypes.byref(_WindowEvent(type=0x200, window=1, event=which))) >= 0


def close_window():
    pygame.event.post(pygame.event.Event(pygame.QUIT))


def settle(source):
    """Wait until the SDL thread has been round twice: all that was posted before is in the reading then."""
    for _ in range(2):
        before = last_pump(source)
        until(lambda before=before: last_pump(source) > before, "the SDL thread")


def last_pump(source):
    if isinstance(source, CombinedSource):
        return source._window._alive_ns
    return source._alive_ns if isinstance(source, KeyboardWindow) else source._reading.received_ns


def typed(*codes):
    for code in codes:
        press(SCANCODE_OF[code])
        release(SCANCODE_OF[code])


class VirtualPads:
    """SDL's virtual joysticks, made and moved through the very library that pygame has loaded."""

    def __init__(self):
        self.sdl = sdl()
        self.sdl.SDL_JoystickOpen.restype = ctypes.c_void_p
        assert self.sdl.SDL_InitSubSystem(_JOYSTICK_SUBSYSTEM) == 0
        self.handles = []

    def attach(self, kind=GAMECONTROLLER, axes=6, buttons=15, hats=0):
        index = self.sdl.SDL_JoystickAttachVirtual(kind, axes, buttons, hats)
        assert index >= 0
        handle = ctypes.c_void_p(self.sdl.SDL_JoystickOpen(index))
        self.handles.append(handle)
        return _Pad(self.sdl, handle, index)

    def close(self):
        for handle in self.handles:
            self.sdl.SDL_JoystickClose(handle)
        while self.sdl.SDL_NumJoysticks() > 0:
            self.sdl.SDL_JoystickDetachVirtual(0)
        self.sdl.SDL_QuitSubSystem(_JOYSTICK_SUBSYSTEM)


class _Pad:
    def __init__(self, sdl, handle, index):
        self.sdl, self.handle, self.index = sdl, handle, index

    def axis(self, number, value):
        assert self.sdl.SDL_JoystickSetVirtualAxis(self.handle, number, ctypes.c_int16(value)) == 0

    def button(self, number, down=1):
        assert self.sdl.SDL_JoystickSetVirtualButton(self.handle, number, ctypes.c_uint8(down)) == 0

    def hat(self, value):
        assert self.sdl.SDL_JoystickSetVirtualHat(self.handle, 0, ctypes.c_uint8(value)) == 0

    def unplug(self):
        assert self.sdl.SDL_JoystickDetachVirtual(self.index) == 0
