"""A window at this machine: it shows the camera and the state of the session, and takes the keys."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from robopref.human_io.frames import FrameSlot
from robopref.human_io.key_codes import CODE_OF_SCANCODE
from robopref.human_io.mapping_help import help_lines
from robopref.human_io.readings import Control, DeviceReading, StationStatus
from robopref.human_io.remap_dialog import OPEN_KEY, RemapDialog
from robopref.human_io.sdl_thread import SdlThread, load_pygame
from robopref.human_io.window_drawing import WINDOW_SIZE, Shown, WindowDrawing

_REDRAW_NS = 33_000_000  # at most thirty pictures a second, so that keys never wait long for one


class KeyboardWindow:
    """An ``InputSource``: the keys held in a window, by their place on the keyboard.

    It is opened and read by an ``SdlThread``, which must be given it. A window that loses the focus, or is minimised,
    forgets every key at once; closing the window is Stop. With a dialog, F2 opens it, and while it is open no key
    drives, but Stop is Stop.

    Args:
        frames: the camera; none shows the state alone.
        dialog: changes the mapping, whose keys are listed below the camera.
        operator_id: the name under which recordings know who drove.
    """

    needs_window = True
    axis_names: tuple[str, ...] = ()
    name = "keyboard window"

    def __init__(
        self, frames: FrameSlot | None = None, dialog: RemapDialog | None = None, *, operator_id: str = "keyboard"
    ) -> None:
        self.operator_id = operator_id
        self._dialog = dialog
        self._frames = frames
        self._thread: SdlThread | None = None
        self._lock = threading.Lock()
        self._status: StationStatus | None = None
        self._held: set[str] = set()
        self._tapped: set[str] = set()  # pressed since the last reading, if only for a moment
        self._clicked: list[str] = []
        self._focused = True
        self._away = ""  # the last reason since the last reading
        self._failure = ""
        self._alive_ns = 0
        self._drawn_ns = 0

    @property
    def attentive(self) -> bool:
        """Whether hands are meant to drive: the window has the focus, and no dialog is open."""
        with self._lock:
            return self._focused and not self._dialog_is_open()

    def overhear(self, reading: DeviceReading) -> None:
        """What another device says; the dialog binds its buttons and axes, and lets its Stop through."""
        with self._lock:
            if self._dialog is not None and self._focused and self._dialog.hear(reading):
                self._clicked.append(Control.STOP)

    def read(self) -> DeviceReading:
        """The newest state; a key that was pressed since the last reading is in it even if it is up again."""
        with self._lock:
            keys = frozenset(self._held | self._tapped)
            clicked = tuple(self._clicked)
            self._tapped.clear()
            self._clicked.clear()
            away, self._away = self._away or self._why_away(), ""
            return DeviceReading(
                keys=keys,
                clicked=clicked,
                received_ns=self._alive_ns,
                connected=not self._failure,
                detail=self._failure,
                away=away,
            )

    def show(self, status: StationStatus) -> None:
        """What the next picture says."""
        with self._lock:
            self._status = status

    def run_in(self, thread: SdlThread) -> None:
        """Closing the window will end this thread."""
        self._thread = thread

    def close(self) -> None:
        """Close the window and the thread that reads it."""
        if self._thread is not None:
            self._thread.close()

    def open(self) -> None:
        """Open the window."""
        self._pygame = pygame = load_pygame()
        pygame.font.init()
        surface = pygame.display.set_mode(WINDOW_SIZE, pygame.RESIZABLE)
        pygame.display.set_caption("robopref")
        pygame.key.stop_text_input()  # an input method would take keys for itself
        self._drawing = WindowDrawing(pygame, surface)

    def pump(self, events: Sequence[Any], now_ns: int) -> None:
        """Take in the keys, and draw if it is time."""
        with self._lock:
            for event in events:
                self._take(event)
                self._away = self._why_away() or self._away
            self._alive_ns = now_ns
            status, focused, dialog = self._status, self._focused, self._dialog
            view = dialog.view() if dialog is not None and dialog.is_open else None
        if now_ns - self._drawn_ns >= _REDRAW_NS:
            self._drawn_ns = now_ns
            frame = self._frames.get() if self._frames is not None else None
            keys = (*help_lines(dialog.mapping), f"change these: {OPEN_KEY}") if dialog is not None else ()
            self._drawing.draw(Shown(frame, status, focused, keys, view), now_ns)

    def fail(self, detail: str) -> None:
        """The keys can no longer be read."""
        with self._lock:
            self._failure = detail
            self._forget_keys()

    def shut(self) -> None:
        """Nothing beyond what SDL does at its end."""

    def _take(self, event: Any) -> None:
        pygame = self._pygame
        if event.type == pygame.KEYDOWN and event.scancode in CODE_OF_SCANCODE:
            self._press(CODE_OF_SCANCODE[event.scancode])
        elif event.type == pygame.KEYUP:
            self._held.discard(CODE_OF_SCANCODE.get(event.scancode, ""))
        elif event.type in (pygame.WINDOWFOCUSLOST, pygame.WINDOWMINIMIZED, pygame.WINDOWHIDDEN):
            self._focused = False
            self._forget_keys()
        elif event.type == pygame.WINDOWFOCUSGAINED:
            self._focused = True
        elif event.type == pygame.QUIT:
            self._clicked.append(Control.STOP)

    def _press(self, code: str) -> None:
        was_open = self._dialog_is_open()
        if self._dialog is not None and self._dialog.stops(code):
            self._clicked.append(Control.STOP)
        elif self._dialog is not None:
            self._dialog.key(code)
        if was_open or self._dialog_is_open():
            self._forget_keys()  # neither what was held when it opened nor what closed it drives
        else:
            self._held.add(code)
            self._tapped.add(code)

    def _dialog_is_open(self) -> bool:
        return self._dialog is not None and self._dialog.is_open

    def _why_away(self) -> str:
        if not self._focused:
            return "the window is not in front"
        return "the keys are being changed" if self._dialog_is_open() else ""

    def _forget_keys(self) -> None:
        self._held.clear()
        self._tapped.clear()
