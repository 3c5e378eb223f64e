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


class CombinedSource:
    """Keys and clicks of a window, axes and buttons of a device.

    Both must be alive: what is the older sign of life counts, and either one that is gone says so. While the window is
    in the background or shows a dialog the device is silent, as the keys are: hands that do something else must not
    drive.
    """

    def __init__(self, window: WindowSource, device: InputSource) -> None:
        self._window, self._device = window, device
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
        attentive = self._window.attentive
        return DeviceReading(
            keys=window.keys,
            axes=device.axes if attentive else (0.0,) * len(device.axes),
            buttons=device.buttons if attentive else frozenset(),
            clicked=window.clicked + device.clicked,
            received_ns=min(window.received_ns, device.received_ns),
            connected=window.connected and device.connected,
            detail=device.detail or window.detail,
        )

    def show(self, status: StationStatus) -> None:
        """Tell the operator through both."""
        self._window.show(status)
        self._device.show(status)

    def close(self) -> None:
        """Let go of both."""
        self._device.close()
        self._window.close()
