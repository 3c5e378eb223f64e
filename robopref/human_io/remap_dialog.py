"""Changing keys, buttons and axes in the operator's window, without a mouse: a small machine fed with presses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from robopref.errors import RoboprefError
from robopref.human_io.mapping import Mapping, MappingRow
from robopref.human_io.mapping_help import input_name
from robopref.human_io.readings import Control, DeviceReading

OPEN_KEY = "F2"
"""The key that opens the dialog, and closes it."""

_OWN_KEYS = ("Escape", OPEN_KEY, "ArrowUp", "ArrowDown", "Enter", "NumpadEnter", "KeyI", "Delete")
_HINT = "up, down: choose   Enter: change   I: other way round   Delete: remove   Escape: done"
_WAITING = "press the new key or button, or push the stick or cap; Escape: leave it as it is"
_REST, _PUSHED = 0.3, 0.7


@dataclass(frozen=True)
class DialogView:
    """What is to be drawn: a line per binding, which one is chosen, and what to do or what went wrong."""

    lines: tuple[str, ...]
    chosen: int
    waiting: bool
    message: str
    is_error: bool


class RemapDialog:
    """Walks through the bindings of a mapping and changes one at a time.

    Args:
        mapping: to begin with.
        adopt: told of every new mapping; may refuse with a RoboprefError, and then nothing has changed.
    """

    def __init__(self, mapping: Mapping, adopt: Callable[[Mapping], None]) -> None:
        self.mapping = mapping
        self._adopt = adopt
        self.is_open = False
        self._chosen = 0
        self._waiting = False
        self._error = ""
        self._buttons: frozenset[int] = frozenset()
        self._rested: set[int] = set()  # axes that were at rest since the dialog began to wait

    def key(self, code: str) -> None:
        """A key was pressed; to be called for every one, for the dialog opens with one too."""
        if not self.is_open:
            self.is_open = code == OPEN_KEY
        elif self._waiting:
            self._waiting = False
            if code not in ("Escape", OPEN_KEY):
                self._change_to(code)
        elif code in ("Escape", OPEN_KEY):
            self.is_open, self._error = False, ""
        else:
            self._browse(code)

    def stops(self, source: str) -> bool:
        """Whether this input is Stop although the dialog is open: not one that it takes for itself."""
        bound = self.mapping.control_bindings.get(Control.STOP, ())
        free = self.is_open and not self._waiting and source not in _OWN_KEYS
        return free and any(binding.source == source for binding in bound)

    def hear(self, reading: DeviceReading) -> bool:
        """What the device in the hand says; its buttons and axes can be bound too -> whether Stop was pressed on it."""
        pressed, self._buttons = reading.buttons - self._buttons, reading.buttons
        stops = any(self.stops(f"button:{button}") for button in pressed)
        self._rested |= {i for i, axis in enumerate(reading.axes) if abs(axis) < _REST}
        if not (self.is_open and self._waiting):
            return stops
        pushed = [i for i, axis in enumerate(reading.axes) if i in self._rested and abs(axis) > _PUSHED]
        if pressed:
            self._waiting = False
            self._change_to(f"button:{min(pressed)}")
        elif pushed:
            self._waiting = False
            furthest = max(pushed, key=lambda i: abs(reading.axes[i]))  # a cap is never moved along one axis alone
            half = "" if self._is_whole_axis() else "+" if reading.axes[furthest] > 0 else "-"
            self._change_to(f"axis:{furthest}{half}")
        return False

    def view(self) -> DialogView:
        """What it looks like now."""
        rows = self._rows()
        message = self._error or (_WAITING if self._waiting else _HINT)
        return DialogView(
            tuple(_line(row) for row in rows), self._chosen, self._waiting, message, is_error=bool(self._error)
        )

    def _rows(self) -> list[MappingRow]:
        return list(self.mapping.rows())

    def _is_whole_axis(self) -> bool:
        source = self._rows()[self._chosen].binding.source
        return source.startswith("axis:") and source[-1] not in "+-"

    def _browse(self, code: str) -> None:
        self._error = ""
        rows = self._rows()
        if not rows:
            return
        row = rows[self._chosen]
        if code in ("ArrowUp", "ArrowDown"):
            self._chosen = (self._chosen + (1 if code == "ArrowDown" else -1)) % len(rows)
        elif code in ("Enter", "NumpadEnter"):
            self._waiting = True
            self._rested = set()
        elif code == "KeyI" and row.kind == "action":
            self._try(lambda: self.mapping.invert(row.name))
        elif code == "Delete":
            self._try(lambda: self.mapping.unbind(row.kind, row.name, row.binding.source))

    def _change_to(self, source: str) -> None:
        row = self._rows()[self._chosen]
        if source != row.binding.source:
            self._try(lambda: self.mapping.rebind(row.kind, row.name, row.binding.source, source))

    def _try(self, change: Callable[[], Mapping]) -> None:
        self._error = ""
        try:
            changed = change()
            self._adopt(changed)
        except RoboprefError as error:
            self._error = str(error)
            return
        self.mapping = changed
        self._chosen = max(0, min(self._chosen, len(self._rows()) - 1))


def _line(row: MappingRow) -> str:
    way = "" if row.kind == "control" else " +" if row.binding.scale > 0 else " -"
    return f"{row.name.replace('_', ' ')}{way}: {input_name(row.binding.source)}"
