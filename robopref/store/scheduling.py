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
    """After it the calling thread, and threads that were started inside, are scheduled as the caller was before.

    SVT-AV1, when root starts it, gives its threads and the one that calls it the highest real-time priority and leaves
    it so. Whatever that thread starts later inherits it, and may keep everything else from running.
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
                os.sched_setscheduler(thread, *before)
            except (ProcessLookupError, PermissionError):  # it has ended; or this is not root, and nothing was raised
                continue


def _threads() -> set[int]:
    return {int(path.name) for path in Path("/proc/self/task").iterdir()}
