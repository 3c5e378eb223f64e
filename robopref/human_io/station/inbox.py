"""What the operator's page said last, between the network's thread and the control loop."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, replace

from robopref.human_io.readings import Control, DeviceReading
from robopref.human_io.station.messages import Click, State

MAX_DELAY_MS = 250.0
"""A message that was under way for longer than the quickest ones, by so much, is out of date."""

_WINDOW_MS = 30_000.0
_NO_EPOCH = -1


@dataclass(frozen=True)
class Counts:
    """Messages of operators: taken; dropped because of an earlier epoch, a number not above the last, or delay."""

    accepted: int = 0
    stale: int = 0
    replayed: int = 0
    delayed: int = 0


class DelayGauge:
    """How much longer than the quickest messages one was under way, in milliseconds.

    The two clocks need not agree: the smallest difference between them, over 30 to 60 s so that they may drift, stands
    for no delay. It tells a connection that stalled and then delivered everything at once.
    """

    def __init__(self) -> None:
        self._began_ms: float | None = None
        self._quickest = self._before = float("inf")

    def delay(self, sent_ms: float, received_ms: float) -> float:
        """Of a message, by the sender's and the receiver's clock."""
        difference = received_ms - sent_ms
        if self._began_ms is None:
            self._began_ms = received_ms
        if received_ms - self._began_ms > _WINDOW_MS:
            self._began_ms, self._before, self._quickest = received_ms, self._quickest, float("inf")
        self._quickest = min(self._quickest, difference)
        return difference - min(self._quickest, self._before)


class Inbox:
    """Keeps the newest reading; any thread may call anything.

    A key or button that went down since the reading before is in the next one even if it is up again, so that a tap
    shorter than a control tick is not lost. Likewise an absence, and a loss: after ``lose`` or ``open``, one reading at
    least is not connected, however soon messages come again, so that nobody goes on driving who did not see it happen.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._away = ""  # of an absence since the last reading
        self._epoch = _NO_EPOCH
        self._counts = Counts()
        self._began = False  # the page has spoken under this epoch
        self._lost = True  # the next reading is to be one that is not connected
        self._newest = DeviceReading()
        self._clicks: deque[str] = deque(maxlen=16)
        self._taps: frozenset[str] = frozenset()
        self._button_taps: frozenset[int] = frozenset()
        self._reset(_NO_EPOCH, "no page is open yet")

    @property
    def counts(self) -> Counts:
        """Of messages so far."""
        with self._lock:
            return self._counts

    def open(self, epoch: int, detail: str) -> None:
        """A page holds the lease from now on, under this epoch; until it speaks, ``detail`` says what is waited for."""
        with self._lock:
            self._reset(epoch, detail)

    def lose(self, detail: str) -> None:
        """The page is gone: nothing is held any more. What it clicked and pressed before is in the next reading."""
        with self._lock:
            clicks, taps, button_taps = tuple(self._clicks), self._taps, self._button_taps
            self._reset(_NO_EPOCH, detail)  # what is still under way means nothing any more
            self._clicks.extend(clicks)
            self._taps, self._button_taps = taps, button_taps

    def state(self, message: State, now_ns: int) -> bool:
        """The page's devices -> whether the message counted."""
        with self._lock:
            if not self._current(message.epoch, message.seq):
                return False
            old = self._newest
            if not self._prompt(message.sent_ms, now_ns):
                # Nothing that is held counts any longer, nor is this a sign of life; what it says is not obeyed.
                self._newest = DeviceReading(received_ns=old.received_ns)
                return False
            if not self._lost:  # the reading that tells the loss has what came before it only
                self._taps |= message.keys - old.keys
                self._button_taps |= message.buttons - old.buttons
            self._away = message.away or self._away
            self._newest = DeviceReading(
                keys=message.keys, axes=message.axes, buttons=message.buttons, received_ns=now_ns, away=message.away
            )
            self._device = message.device
            return True

    def click(self, message: Click, now_ns: int) -> bool:
        """A button on the screen -> whether it counted. Stop counts however long it took."""
        with self._lock:
            if not self._current(message.epoch, message.seq):
                return False
            if not self._prompt(message.sent_ms, now_ns) and message.control != Control.STOP:
                return False
            self._clicks.append(message.control)
            return True

    @property
    def device(self) -> str:
        """Name of the page's gamepad; empty without one."""
        with self._lock:
            return self._device

    def read(self) -> DeviceReading:
        """What counts now."""
        with self._lock:
            reading = self._newest
            if self._lost:
                reading = replace(reading, keys=self._taps, axes=(), buttons=self._button_taps, connected=False)
                reading = replace(reading, detail=self._detail)
            else:
                reading = replace(reading, keys=reading.keys | self._taps, buttons=reading.buttons | self._button_taps)
            reading = replace(reading, clicked=tuple(self._clicks), away=self._away or self._newest.away)
            self._away = ""
            self._clicks.clear()
            self._taps, self._button_taps = frozenset(), frozenset()
            self._lost = not self._began
            return reading

    def _reset(self, epoch: int, detail: str) -> None:
        self._epoch, self._detail = epoch, detail
        self._seq = -1
        self._gauge = DelayGauge()
        self._lost, self._began = True, False
        self._device = self._away = ""
        self._newest = DeviceReading()
        self._taps, self._button_taps = frozenset(), frozenset()
        self._clicks.clear()

    def _current(self, epoch: int, seq: int) -> bool:
        counts = self._counts
        if epoch != self._epoch:
            self._counts = replace(counts, stale=counts.stale + 1)
            return False
        if seq <= self._seq:
            self._counts = replace(counts, replayed=counts.replayed + 1)
            return False
        self._seq = seq
        return True

    def _prompt(self, sent_ms: float, now_ns: int) -> bool:
        counts = self._counts
        if self._gauge.delay(sent_ms, now_ns / 1e6) > MAX_DELAY_MS:
            self._counts = replace(counts, delayed=counts.delayed + 1)
            return False
        self._counts = replace(counts, accepted=counts.accepted + 1)
        self._began = True
        return True
