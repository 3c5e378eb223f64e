"""A video encoder that takes the highest priority, put back in its place."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def scheduling_kept() -> Iterator[None]:
    """After it the calling thread, and threads that were started inside, no longer have the highest priority there is.

    SVT-AV1, when root starts it, gives its threads and the one that calls it the highest real-time priority and leaves
    it so. Whatever that thread starts later inherits it, and may keep everything else from running. They are scheduled
    as the caller was before; threads that others started meanwhile, with a priority of their own, keep it.
    """
    if sys.platform != "linux":
        yield
        return
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    known = _threads() - {threading.get_native_id()}
    try:
        yield
    finally:
        for thread in _threads() - known:
            try:
                if _has_highest_priority(thread):
                    os.sched_setscheduler(thread, *before)
            except ProcessLookupError:  # it has ended
                continue


def _threads() -> set[int]:
    return {int(path.name) for path in Path("/proc/self/task").iterdir()}


def _has_highest_priority(thread: int) -> bool:
    highest = os.SCHED_FIFO, os.sched_get_priority_max(os.SCHED_FIFO)
    return (os.sched_getscheduler(thread), os.sched_getparam(thread).sched_priority) == highest
