"""A gamepad at this machine, read through SDL, in the numbering that browsers use."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from robopref.errors import RoboprefError
from robopref.human_io.readings import DeviceReading, StationStatus
from robopref.human_io.sdl_thread import SdlThread, load_pygame

AXIS_NAMES = ("left x", "left y", "right x", "right y", "left trigger", "right trigger")

# SDL's number of a button -> its number in the W3C's standard gamepad, which the pages of a browser see.
_STANDARD = {0: 0, 1: 1, 2: 2, 3: 3, 4: 8, 5: 16, 6: 9, 7: 10, 8: 11, 9: 4, 10: 5, 11: 12, 12: 13, 13: 14, 14: 15}
_TRIGGERS = {4: 6, 5: 7}  # axis -> button
_TRIGGER_PRESSED = 0.5
_HAT = {(0, 1): 12, (0, -1): 13, (-1, 0): 14, (1, 0): 15}


class _StandardPad:
    """A pad whose layout SDL knows."""

    axis_names = AXIS_NAMES

    def __init__(self, controller: Any) -> None:
        self._controller = controller
        self.name = str(controller.name)

    def attached(self) -> bool:
        """Whether it is still plugged in."""
        return bool(self._controller.attached())

    def state(self) -> tuple[tuple[float, ...], frozenset[int]]:
        """Axes and buttons, numbered as in the standard gamepad."""
        axes = tuple(_unit(self._controller.get_axis(i) / 32767) for i in range(len(AXIS_NAMES)))
        buttons = {standard for number, standard in _STANDARD.items() if self._controller.get_button(number)}
        buttons |= {button for axis, button in _TRIGGERS.items() if axes[axis] > _TRIGGER_PRESSED}
        return axes, frozenset(buttons)

    def close(self) -> None:
        """Let go."""
        self._controller.quit()


class _PlainJoystick:
    """A joystick whose layout nobody knows: its own numbers. An axis that rests at one end counts from there."""

    def __init__(self, pygame: Any, index: int) -> None:
        self._joysticks = pygame.joystick
        self._joystick = joystick = pygame.joystick.Joystick(index)
        self._plugged_in = pygame.joystick.get_count()
        self.name = f"{joystick.get_name()} (layout unknown)"
        self._rest = [round(joystick.get_axis(i)) for i in range(joystick.get_numaxes())]
        self.axis_names = tuple(f"axis {i}" for i in range(len(self._rest)))

    def attached(self) -> bool:
        """Whether it is still plugged in; looked up when the number of joysticks changes."""
        before, self._plugged_in = self._plugged_in, self._joysticks.get_count()
        if self._plugged_in == before:
            return True
        mine = self._joystick.get_instance_id()
        return any(self._joysticks.Joystick(i).get_instance_id() == mine for i in range(self._plugged_in))

    def state(self) -> tuple[tuple[float, ...], frozenset[int]]:
        """Axes and buttons; the first hat is the four direction buttons."""
        joystick = self._joystick
        values = [joystick.get_axis(i) for i in range(len(self._rest))]
        axes = tuple(_unit(v if rest == 0 else (v - rest) / 2) for v, rest in zip(values, self._rest, strict=True))
        buttons = {i for i in range(joystick.get_numbuttons()) if joystick.get_button(i)}
        if joystick.get_numhats():
            x, y = joystick.get_hat(0)
            buttons |= {_HAT[way] for way in ((x, 0), (0, y)) if way in _HAT}
        return axes, frozenset(buttons)

    def close(self) -> None:
        """Let go."""
        self._joystick.quit()


class Gamepad:
    """An ``InputSource``: sticks, triggers and buttons; axes and buttons are numbered as ``mapping_defaults`` says.

    It is read by an ``SdlThread``, which must be given it. When the pad is unplugged the reading says so, what was
    held is forgotten at once, and its time stands still until one is plugged in.

    Args:
        operator_id: the name under which recordings know who drove.
    """

    needs_window = False

    def __init__(self, *, operator_id: str = "gamepad") -> None:
        self.operator_id = operator_id
        self._thread: SdlThread | None = None
        self._pad: _StandardPad | _PlainJoystick | None = None
        self._lock = threading.Lock()
        self._name = "gamepad"
        self._axis_names: tuple[str, ...] = AXIS_NAMES
        self._reading = DeviceReading(connected=False, detail="the gamepad is not open yet")
        self._tapped: frozenset[int] = frozenset()  # pressed since the last reading, if only for a moment

    @property
    def name(self) -> str:
        """What the pad calls itself."""
        return self._name

    @property
    def axis_names(self) -> tuple[str, ...]:
        """Names of the axes of its readings."""
        return self._axis_names

    def read(self) -> DeviceReading:
        """The newest state; a button that was pressed since the last reading is in it even if it is up again."""
        with self._lock:
            reading, tapped, self._tapped = self._reading, self._tapped, frozenset()
        return DeviceReading(
            axes=reading.axes,
            buttons=reading.buttons | tapped,
            received_ns=reading.received_ns,
            connected=reading.connected,
            detail=reading.detail,
        )

    def show(self, status: StationStatus) -> None:
        """A gamepad has nothing to show it on."""

    def run_in(self, thread: SdlThread) -> None:
        """Closing the pad will end this thread."""
        self._thread = thread

    def close(self) -> None:
        """Let go of the pad and of the thread that reads it."""
        if self._thread is not None:
            self._thread.close()

    def open(self) -> None:
        """Take the first pad that is plugged in.

        Raises:
            RoboprefError: there is none.
        """
        from pygame._sdl2 import controller

        self._pygame, self._controllers = load_pygame(), controller
        self._pygame.joystick.init()
        controller.init()
        self._pygame.event.pump()  # pads that are plugged in already are announced as if they came now
        if self._pygame.joystick.get_count() == 0:
            raise RoboprefError("there is no gamepad: plug one in, or choose another --operator.")
        self._attach(0)

    def pump(self, events: Sequence[Any], now_ns: int) -> None:
        """Take in what the pad says now."""
        # Asked, because pygame's event of a removal fails when the pad is one that it has not opened.
        if self._pad is not None and not self._pad.attached():
            self._lose(f"the {self._name} was unplugged")
        for event in events:
            if event.type == self._pygame.JOYDEVICEADDED and self._pad is None:
                self._attach(event.device_index)
        if self._pad is None:
            return
        axes, buttons = self._pad.state()
        with self._lock:
            self._tapped |= buttons - self._reading.buttons
            self._reading = DeviceReading(axes=axes, buttons=buttons, received_ns=now_ns)

    def fail(self, detail: str) -> None:
        """The pad can no longer be read."""
        self._lose(detail)

    def shut(self) -> None:
        """Let go of the pad, in the SDL thread."""
        if self._pad is not None:
            self._pad.close()

    def _attach(self, index: int) -> None:
        if self._controllers.is_controller(index):
            self._pad = _StandardPad(self._controllers.Controller(index))
        else:
            self._pad = _PlainJoystick(self._pygame, index)
        self._name, self._axis_names = self._pad.name, self._pad.axis_names

    def _lose(self, detail: str) -> None:
        if self._pad is not None:
            self._pad.close()
        self._pad = None
        with self._lock:
            self._tapped = frozenset()
            self._reading = DeviceReading(received_ns=self._reading.received_ns, connected=False, detail=detail)


def _unit(value: float) -> float:
    return max(-1.0, min(1.0, value))
