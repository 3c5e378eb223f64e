"""Whether the operator's device is alive, judged by the control loop and by nobody else."""

from __future__ import annotations

import math
from dataclasses import dataclass

from robopref.errors import RoboprefError
from robopref.human_io.readings import DeviceReading


@dataclass(frozen=True)
class Liveness:
    """The verdict on one reading: whether the device is there, whether it has been gone too long, and why."""

    present: bool
    expired: bool
    why: str


class Watchdog:
    """Counts from the device's last sign of life, on the clock of the readings.

    Args:
        timeout: seconds without a sign of life after which the device is not there.
        abort_after: seconds of its absence after which waiting for it is over.

    Raises:
        RoboprefError: a time that is not positive, or an end that comes before the timeout.
    """

    def __init__(self, timeout: float, abort_after: float) -> None:
        if not (0 < timeout < math.inf and 0 < abort_after < math.inf):
            raise RoboprefError(f"a watchdog's times are positive seconds, got {timeout} and {abort_after}.")
        if abort_after < timeout:
            raise RoboprefError(
                f"the episode would end {abort_after} s after the last sign of life, before {timeout} s of silence "
                f"count as one: let it end later."
            )
        self._timeout, self._abort_after = timeout, abort_after
        self._present_ns: int | None = None

    def start(self, now: int) -> None:
        """The device counts as present at ``now`` (monotonic ns), whatever it says."""
        self._present_ns = now

    def look(self, reading: DeviceReading, now: int) -> Liveness:
        """Judge a reading at ``now`` (monotonic ns)."""
        silent = (now - reading.received_ns) / 1e9
        if reading.connected and silent <= self._timeout:
            self._present_ns = now
            return Liveness(True, False, "")
        if self._present_ns is None:
            self._present_ns = now
        expired = (now - self._present_ns) / 1e9 >= self._abort_after
        why = f"no heartbeat for {silent:.2f} s" if reading.connected else reading.detail or "not connected"
        return Liveness(False, expired, why)
