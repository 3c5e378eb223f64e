"""A device in the hand and the window in front of the eyes, as one source."""

from __future__ import annotations

from typing import Protocol

from robopref.human_io.readings import DeviceReading, InputSource, StationStatus


class WindowSource(InputSource, Protocol):
    """A source with a window, which may be in the background or busy with a dialog."""

    @property
    def attentive(self) -> bool:
        """Whether what the operator's hands do is meant for the robot."""

    def overhear(self, reading: DeviceReading) -> None:
        """What the device says, whether or not it is meant for the robot."""


class _Mask:
    """Of a device what was held while it did not count, and was not let go since."""

    def __init__(self, dead_zone: float) -> None:
        self._dead_zone = dead_zone
        self._forgotten = False
        self._buttons: frozenset[int] = frozenset()
        self._axes: frozenset[int] = frozenset()

    def forget(self) -> None:
        """Whatever is held at the next reading must be let go before it counts."""
        self._forgotten = True

    def apply(self, axes: tuple[float, ...], buttons: frozenset[int]) -> tuple[tuple[float, ...], frozenset[int]]:
        """What counts of a reading."""
        moved = frozenset(i for i, axis in enumerate(axes) if abs(axis) > self._dead_zone)
        self._buttons = buttons if self._forgotten else self._buttons & buttons
        self._axes = moved if self._forgotten else self._axes & moved
        self._forgotten = False
        return tuple(0.0 if i in self._axes else axis for i, axis in enumerate(axes)), buttons - self._buttons


class CombinedSource:
    """Keys and clicks of a window, axes and buttons of a device.

    Both must be alive: what is the older sign of life counts, and either one that is gone says so. While the window is
    in the background or shows a dialog the device is silent, as the keys are: hands that do something else must not
    drive. What is held when it may speak again, or when it is plugged in again, counts once it was let go: a button
    once it was seen released, an axis once it was seen within the dead zone.

    Args:
        window: the window.
        device: the device.
        dead_zone: how far an axis may be from 0 and is yet at rest.
    """

    def __init__(self, window: WindowSource, device: InputSource, *, dead_zone: float = 0.1) -> None:
        self._window, self._device = window, device
        self._mask = _Mask(dead_zone)
        self.operator_id = device.operator_id

    @property
    def name(self) -> str:
        """The device's name."""
        return self._device.name

    @property
    def axis_names(self) -> tuple[str, ...]:
        """The device's axes."""
        return self._device.axis_names

    def read(self) -> DeviceReading:
        """The newest state of both."""
        window, device = self._window.read(), self._device.read()
        self._window.overhear(device)
        axes, buttons = (0.0,) * len(device.axes), frozenset[int]()
        if self._window.attentive and device.connected:
            axes, buttons = self._mask.apply(device.axes, device.buttons)
        else:
            self._mask.forget()
        return DeviceReading(
            keys=window.keys,
            axes=axes,
            buttons=buttons,
            clicked=window.clicked + device.clicked,
            received_ns=min(window.received_ns, device.received_ns),
            connected=window.connected and device.connected,
            detail=device.detail or window.detail,
            away=window.away,
        )

    def show(self, status: StationStatus) -> None:
        """Tell the operator through both."""
        self._window.show(status)
        self._device.show(status)

    def close(self) -> None:
        """Let go of both."""
        self._device.close()
        self._window.close()
