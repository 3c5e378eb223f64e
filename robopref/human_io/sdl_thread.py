"""One thread that owns SDL: its window, its joysticks and its event queue must all be used from the same one.

It pumps events as they come and at least every few milliseconds, so that neither a slow control loop nor a slow
picture makes the other wait; whoever reads a device finds what this thread saw last.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from robopref.errors import RoboprefError

_PUMP_MS = 4
_INVISIBLE = ("offscreen", "dummy", "evdev")  # what SDL falls back on where there is no display
_EXCLUSIVE = threading.Lock()  # SDL is one for the whole process

# Read by SDL when it starts. A pad is heard without a focused window (there may be none; with one, the readings are
# silenced here), and its buttons are numbered by their place on all makes. The window is drawn without OpenGL, which
# would wait for the screen, and which belongs to the simulator's cameras in this process.
_HINTS = {
    "SDL_JOYSTICK_ALLOW_BACKGROUND_EVENTS": "1",
    "SDL_GAMECONTROLLER_USE_BUTTON_LABELS": "0",
    "SDL_FRAMEBUFFER_ACCELERATION": "0",
}


class SdlPart(Protocol):
    """Something that lives in the SDL thread; all its methods but these are for other threads."""

    needs_window: bool

    def open(self) -> None:
        """Called first. RoboprefError when it cannot be had."""

    def pump(self, events: Sequence[Any], now_ns: int) -> None:
        """Called every few milliseconds with the events since the last call, often none."""

    def fail(self, detail: str) -> None:
        """The thread is about to die of an error: from now on the device is gone, and ``detail`` says why."""

    def shut(self) -> None:
        """Called last, if ``open`` was."""


def load_pygame() -> Any:
    """pygame, without its greeting.

    Raises:
        RoboprefError: it is not installed; the message says how to.
    """
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        import pygame
    except ImportError as error:
        raise RoboprefError(
            f"a local gamepad or keyboard window needs pygame ({error}): install it with "
            "`pip install 'robopref[devices]'`, or use --operator web."
        ) from error
    return pygame


class SdlThread:
    """Runs the parts in a thread of their own until it is closed.

    Args:
        parts: what is to be had; events go to each of them.
        clock: monotonic nanoseconds.

    Raises:
        RoboprefError: pygame is not installed, SDL is in use already, or a part cannot be opened.
    """

    def __init__(self, parts: Sequence[SdlPart], *, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._pygame = load_pygame()
        self._parts = parts
        self._clock = clock
        self._windowed = any(part.needs_window for part in parts)
        if self._windowed and sys.platform == "darwin":
            raise RoboprefError("macOS allows a window in a program's main thread only: use --operator web.")
        if not _EXCLUSIVE.acquire(blocking=False):
            raise RoboprefError("a local gamepad or keyboard window is open already: close it first.")
        self._closing = threading.Event()
        self._opened = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="sdl", daemon=True)
        self._thread.start()
        self._opened.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    def close(self) -> None:
        """End the thread and let go of SDL; may be called again."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        opened: list[SdlPart] = []
        try:
            try:
                self._start()
                self._choose_events()
                for part in self._parts:
                    opened.append(part)
                    part.open()
                self._pump([])  # so that the first reading is a real one
            except BaseException as error:  # belongs to whoever is waiting in __init__
                self._failure = error
                return
            finally:
                self._opened.set()
            try:
                while not self._closing.is_set():
                    event = self._pygame.event.wait(_PUMP_MS)  # sleeps without holding up other threads
                    self._pump([event, *self._pygame.event.get()])
            except Exception as error:
                for part in self._parts:
                    part.fail(f"reading the devices failed ({type(error).__name__}: {error})")
                raise  # the traceback is for whoever mends it
        finally:
            for part in reversed(opened):
                part.shut()
            self._pygame.quit()
            _EXCLUSIVE.release()

    def _choose_events(self) -> None:
        """Only what the parts use: pygame fails on events of a pad that it has not opened itself."""
        pygame = self._pygame
        keys = [pygame.KEYDOWN, pygame.KEYUP, pygame.QUIT]
        window = [pygame.WINDOWFOCUSLOST, pygame.WINDOWFOCUSGAINED, pygame.WINDOWMINIMIZED, pygame.WINDOWHIDDEN]
        pygame.event.set_blocked(None)
        pygame.event.set_allowed([*keys, *window, pygame.JOYDEVICEADDED])

    def _pump(self, events: Sequence[Any]) -> None:
        now = self._clock()
        for part in self._parts:
            part.pump(events, now)

    def _start(self) -> None:
        for name, value in _HINTS.items():
            os.environ.setdefault(name, value)
        chosen = os.environ.get("SDL_VIDEODRIVER")
        if not self._windowed:
            os.environ["SDL_VIDEODRIVER"] = "dummy"  # events need a video driver, a pad needs no display
        try:
            self._pygame.display.init()
        except self._pygame.error as error:
            raise RoboprefError(_no_window(str(error))) from error
        finally:
            if not self._windowed:
                os.environ.pop("SDL_VIDEODRIVER")
                if chosen is not None:
                    os.environ["SDL_VIDEODRIVER"] = chosen
        driver = self._pygame.display.get_driver()
        if self._windowed and chosen is None and driver in _INVISIBLE:
            raise RoboprefError(_no_window(f"SDL has only its driver {driver!r}, which shows nothing"))


def _no_window(why: str) -> str:
    return f"no window can be opened ({why}): run it where there is a display, or use --operator web."
