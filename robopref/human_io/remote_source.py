"""A device that lives in a process of its own, so that nothing it does can make the control loop late.

The station's process polls the device and puts what it says into shared memory, many times a control tick; the control
loop takes what is there. Neither ever waits for the other, and if the station's process dies, its readings grow old,
which is what the watchdog looks for.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from multiprocessing.context import SpawnContext
from typing import Any

from robopref.human_io.readings import DeviceReading, DropsMessages, InputSource, StationStatus
from robopref.human_io.shared_slot import SharedSlot

_READING_BYTES = 1 << 14
_STATUS_BYTES = 1 << 16
_DROPPED_BYTES = 1 << 10
_KEPT_CLICKS = 64


class SourceLink:
    """The slots between a control loop and a station's process: readings, what was read of them, statuses, drops."""

    def __init__(self, context: SpawnContext) -> None:
        self.readings = SharedSlot(context, _READING_BYTES)
        self.taken = SharedSlot(context, 8)
        self.statuses = SharedSlot(context, _STATUS_BYTES)
        self.dropped = SharedSlot(context, _DROPPED_BYTES)


@dataclass(frozen=True)
class SourceDescription:
    """What the control loop has to know of a device that it does not hold."""

    operator_id: str
    name: str
    axis_names: tuple[str, ...]


class RemoteSource:
    """The control loop's end of a ``SourceLink``: an ``InputSource``.

    Args:
        link: to the station's process.
        about: the device there.
        is_alive: whether the station's process runs.
        on_close: ends it.
    """

    def __init__(
        self,
        link: SourceLink,
        about: SourceDescription,
        is_alive: Callable[[], bool] = lambda: True,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self.operator_id, self.name, self.axis_names = about.operator_id, about.name, about.axis_names
        self._link, self._is_alive, self._on_close = link, is_alive, on_close
        self._number = 0
        self._clicks_seen = 0
        self._reading = DeviceReading(connected=False, detail="the station has not started yet")

    @property
    def dropped(self) -> dict[str, int]:
        """See ``DropsMessages``; nothing for a device that drops none."""
        dropped: dict[str, int] = json.loads(self._link.dropped.get()[1] or b"{}")
        return dropped

    def read(self) -> DeviceReading:
        """The newest reading; the same one again, without its clicks, while there is no newer one."""
        number, message = self._link.readings.get()
        if number == self._number:
            if not self._is_alive():
                return replace(self._reading, clicked=(), connected=False, detail="the station's process has ended")
            return replace(self._reading, clicked=())
        self._number = number
        values = json.loads(message)
        clicks = values.pop("clicks")
        fresh = tuple(name for n, name in clicks if n > self._clicks_seen)
        self._clicks_seen = max([self._clicks_seen, *(n for n, _ in clicks)])
        self._reading = _reading_from_json(values)
        self._link.taken.put(number.to_bytes(8, "little"))
        return replace(self._reading, clicked=fresh)

    def show(self, status: StationStatus) -> None:
        """Leave the status for the station's process."""
        self._link.statuses.put(json.dumps(status.to_json()).encode())

    def close(self) -> None:
        """End the station's process."""
        self._on_close()


class SourcePump:
    """The station's end of a ``SourceLink``: call ``turn`` often.

    A key or button that was pressed and let go between two of the control loop's readings is kept in the readings until
    the loop has seen it once, also in one that is not connected, and so are clicks, absences, and losses of the device,
    however short; a key that it had seen is let go at once.

    Args:
        link: to the control loop.
        source: the device.
    """

    def __init__(self, link: SourceLink, source: InputSource) -> None:
        self._link, self._source = link, source
        self._number = 0  # of the reading that was put last
        self._pressed: dict[str | int, int] = {}  # number of the reading in which it was first held, this time
        self._down: frozenset[str | int] = frozenset()
        self._clicks: list[tuple[int, str]] = []
        self._clicks_made = 0
        self._status_number = 0
        self._dropped: dict[str, int] = {}
        self._connected = True
        self._lost_at, self._lost_why = 0, ""  # number of the first reading of the last loss, and its reason
        self._away_at, self._away_why = 0, ""  # number of the last reading of the last absence, and its reason

    def turn(self) -> None:
        """Read the device once and pass on what it says; show it the newest status."""
        self._put(self._source.read())
        number, message = self._link.statuses.get()
        if number != self._status_number:
            self._status_number = number
            self._source.show(_status_from_json(json.loads(message)))
        if isinstance(self._source, DropsMessages) and (dropped := dict(self._source.dropped)) != self._dropped:
            self._dropped = dropped
            self._link.dropped.put(json.dumps(dropped).encode())

    def _put(self, reading: DeviceReading) -> None:
        number, taken = self._number + 1, int.from_bytes(self._link.taken.get()[1] or b"\0", "little")
        reading = self._with_unseen_loss(reading, number, taken)
        down: frozenset[str | int] = reading.keys | reading.buttons
        self._pressed.update(dict.fromkeys(down - self._down, number))
        self._down = down
        unseen = {name for name, since in self._pressed.items() if since > taken}
        self._pressed = {name: since for name, since in self._pressed.items() if name in down or name in unseen}
        for name in reading.clicked:
            self._clicks_made += 1
            self._clicks.append((self._clicks_made, name))
        self._clicks = self._clicks[-_KEPT_CLICKS:]
        if reading.away:
            self._away_at, self._away_why = number, reading.away
        values = {
            "keys": sorted(reading.keys | {n for n in unseen if isinstance(n, str)}),
            "axes": reading.axes,
            "buttons": sorted(reading.buttons | {n for n in unseen if isinstance(n, int)}),
            "received_ns": reading.received_ns,
            "connected": reading.connected,
            "detail": reading.detail,
            "away": self._away_why if self._away_at > taken else "",
            "clicks": self._clicks,
        }
        self._number = self._link.readings.put(json.dumps(values).encode())

    def _with_unseen_loss(self, reading: DeviceReading, number: int, taken: int) -> DeviceReading:
        if not reading.connected:
            if self._connected:
                self._lost_at, self._lost_why = number, reading.detail
            self._connected = False
            return reading
        if self._lost_at > taken:
            return DeviceReading(connected=False, detail=self._lost_why, clicked=reading.clicked)
        self._connected = True
        return reading


def _reading_from_json(values: dict[str, Any]) -> DeviceReading:
    sets = {name: frozenset(values[name]) for name in ("keys", "buttons")}
    return DeviceReading(**(values | sets | {"axes": tuple(values["axes"])}))


def _status_from_json(values: dict[str, Any]) -> StationStatus:
    tuples = {f.name: tuple(values[f.name]) for f in fields(StationStatus) if isinstance(values[f.name], list)}
    return StationStatus(**(values | tuples | {"outcomes": tuple(values["outcomes"].items())}))
