"""Recording that a control loop does not wait for: a thread writes, and the disk may take its time.

A step is in the journal within moments of being recorded, normally before the next tick. When the disk has not taken
one for ``max_delay`` seconds, recording waits: what a killed process can lose stays bounded by that.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from time import monotonic
from types import TracebackType
from typing import Any, Self

from robopref.errors import RoboprefError
from robopref.store.store import EpisodeStore
from robopref.store.writer import EpisodeWriter
from robopref.trajectory import EpisodeInfo, Outcome, Step

MAX_DELAY = 0.5
"""Seconds that a step may wait for the disk before the recorder waits for it."""


class BackgroundStore:
    """An ``EpisodeStore``, as far as recording into it goes, whose writers write in a thread of their own.

    Args:
        store: where to.
        max_delay: seconds for which a step may be unwritten before the next one waits.
    """

    def __init__(self, store: EpisodeStore, *, max_delay: float = MAX_DELAY) -> None:
        self._store, self._max_delay = store, max_delay
        self._writer: BackgroundWriter | None = None
        self._before = (0.0, 0.0)

    @property
    def delays(self) -> tuple[float, float]:
        """Seconds over all episodes: longest from a step's being recorded to its being written, longest wait for it."""
        now = (0.0, 0.0) if self._writer is None else self._writer.delays
        return max(self._before[0], now[0]), max(self._before[1], now[1])

    def begin(self, info: EpisodeInfo) -> BackgroundWriter:
        """Start recording an episode."""
        self._before = self.delays
        self._writer = BackgroundWriter(lambda: self._store.begin(info), self._max_delay)
        return self._writer


class BackgroundWriter:
    """Records one episode as ``EpisodeWriter`` does; ``append`` does not wait for the disk.

    What the thread meets is raised by the next call. The step that met it is not recorded, nor is any after it, so that
    a recording has no gap; everything before is safe, and can be finished once the failure has been told.

    Args:
        begin: makes the ``EpisodeWriter``, in the thread.
        max_delay: as for ``BackgroundStore``.
    """

    def __init__(self, begin: Callable[[], EpisodeWriter], max_delay: float) -> None:
        self._begin, self._max_delay = begin, max_delay
        self._changed = threading.Condition()
        self._waiting: deque[tuple[float, Step]] = deque()  # when each was recorded; the first may be being written
        self._failure: BaseException | None = None
        self._told = False
        self._closing = False
        self._writer: EpisodeWriter | None = None
        self.delays = (0.0, 0.0)  # seconds: longest from recorded to written, longest that append waited
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)
        self._thread.start()

    @property
    def info(self) -> EpisodeInfo:
        """What is known of the episode so far; waits until what was recorded is written."""
        return self._flushed().info

    @property
    def steps(self) -> int:
        """How many steps are written; waits likewise."""
        self._settle()
        return 0 if self._writer is None else self._writer.steps

    def append(self, step: Step) -> None:
        """Record a step, whose arrays are not to change before they are written.

        Raises:
            RoboprefError: an earlier one could not be recorded; see ``EpisodeWriter.append``.
        """
        recorded = monotonic()
        with self._changed:
            while self._failure is None and self._waiting and monotonic() - self._waiting[0][0] > self._max_delay:
                self._changed.wait(0.05)
            if self._failure is not None:
                self._told = True
                raise self._failure
            self._waiting.append((recorded, step))
            self._changed.notify_all()
        self.delays = (self.delays[0], max(self.delays[1], monotonic() - recorded))

    def amend(self, **changes: Any) -> None:
        """As ``EpisodeWriter.amend``, after what was recorded before."""
        self._flushed().amend(**changes)

    def finish(self, outcome: Outcome, final_observation: Mapping[str, Any] | None = None) -> str:
        """As ``EpisodeWriter.finish``, with all that was recorded."""
        return self._flushed().finish(outcome, final_observation)

    def discard(self, final_observation: Mapping[str, Any] | None = None) -> str:
        """As ``EpisodeWriter.discard``."""
        return self._flushed().discard(final_observation)

    def close(self) -> None:
        """Write what is still to be written, and stop; see ``EpisodeWriter.close``."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        if self._writer is not None:
            self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._settle()
        try:
            if self._writer is not None:
                self._writer.__exit__(kind, value, traceback)
        finally:
            self.close()

    def _settle(self) -> None:
        """Wait until the thread has nothing left to do."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting)

    def _flushed(self) -> EpisodeWriter:
        self._settle()
        if self._failure is not None and not self._told:
            self._told = True
            raise self._failure
        if self._writer is None:
            raise RoboprefError("the episode has no steps: there is nothing to keep.")
        return self._writer

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                recorded, step = self._waiting[0]
            failure: BaseException | None = None
            try:
                if self._writer is None:
                    self._writer = self._begin()
                self._writer.append(step)
            except BaseException as error:  # belongs to whoever records, and is raised there
                failure = error
            with self._changed:
                self.delays = (max(self.delays[0], monotonic() - recorded), self.delays[1])
                if failure is not None:
                    self._failure = failure
                    self._waiting.clear()
                else:
                    self._waiting.popleft()
                self._changed.notify_all()
