"""The page as an operator's device."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from robopref.human_io.frames import FrameSlot
from robopref.human_io.readings import DeviceReading, StationStatus
from robopref.human_io.station.inbox import Counts
from robopref.human_io.station.listening import Listening
from robopref.human_io.station.remapping import MappingDesk
from robopref.human_io.station.server import StationServer

AXES = ("left stick x", "left stick y", "right stick x", "right stick y", "left trigger", "right trigger")
"""The axes of a page's gamepad, in the order of the W3C's standard gamepad, with its analog triggers behind."""


class WebSource:
    """Keyboard, gamepad and buttons of whoever holds the lease of the page.

    Args:
        cameras: pictures by name, in the order in which they are shown.
        listening: where the page is served.
        mappings: the mapping that the page may show and change.
        announce: told of every new address with a one-time token; see ``StationServer``.

    Raises:
        RoboprefError: the port cannot be had.
    """

    operator_id = "web"

    def __init__(
        self,
        cameras: Mapping[str, FrameSlot],
        listening: Listening | None = None,
        *,
        mappings: MappingDesk | None = None,
        announce: Callable[[str], None] = lambda address: None,
    ) -> None:
        self.server = StationServer(cameras, listening or Listening(), mappings=mappings, announce=announce)
        self.address = self.server.start()

    @property
    def name(self) -> str:
        """What messages call the device."""
        return "the web page"

    @property
    def axis_names(self) -> tuple[str, ...]:
        """Names of the axes of its readings."""
        return AXES

    @property
    def gamepad(self) -> str:
        """Name of the gamepad with which the page drives; empty without one."""
        return self.server.inbox.device

    @property
    def counts(self) -> Counts:
        """Messages that were taken, and those that were dropped, and why."""
        return self.server.inbox.counts

    @property
    def dropped(self) -> dict[str, int]:
        """See ``DropsMessages``: operators' messages that did not count, connections closed and requests refused."""
        counts = self.counts
        reasons = {
            "stale": counts.stale,
            "replayed": counts.replayed,
            "delayed": counts.delayed,
            "closed_for_cause": self.server.closed_for_cause,
            "refused": self.server.refused,
        }
        return {reason: count for reason, count in reasons.items() if count}

    def read(self) -> DeviceReading:
        """What the operator's page said last."""
        return self.server.inbox.read()

    def show(self, status: StationStatus) -> None:
        """Pass the status on to every page."""
        self.server.publish(status)

    def close(self) -> None:
        """End the session on every page, and the server."""
        self.server.stop()
