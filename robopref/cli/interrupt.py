"""Ctrl-C as a wish, so that what is under way can be finished and saved first."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupt:
    """Whether the user asked to stop."""

    def __init__(self) -> None:
        self.requested = False
        self.signal: signal.Signals | None = None

    def hear(self, other: Interrupt) -> None:
        """Take over what was asked of ``other``."""
        if other.requested:
            self.requested, self.signal = True, other.signal

    def __call__(self) -> bool:
        """Whether to stop after what is under way."""
        return self.requested


_OF_THE_GROUP = (signal.SIGINT, signal.SIGHUP)

_running: list[Interrupt] = []
"""Those that are open, the innermost last."""


@contextmanager
def starting_processes() -> Iterator[None]:
    """Processes that are started inside it do not hear of Ctrl-C, nor of a terminal that closes.

    Both reach the whole process group, and a process that is just starting would die of it. It inherits the blocked
    signals, as does the process by which ``multiprocessing`` keeps track of semaphores; the parent, which hears of a
    signal when this is left, decides what is still to be finished.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _OF_THE_GROUP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _OF_THE_GROUP)


@contextmanager
def graceful_interrupt() -> Iterator[Interrupt]:
    """Inside it the first Ctrl-C (or SIGTERM, or SIGHUP of a terminal that closes) only sets ``requested``.

    The second one interrupts as usual. A SIGHUP that is ignored, as under ``nohup``, stays so. Within another one it
    knows what was asked before, and passes on what was asked of it: a wish is never lost between two stages.
    """
    interrupt = Interrupt()
    outer = _running[-1] if _running else None
    if outer:
        interrupt.hear(outer)

    def handle(signum: int, frame: FrameType | None) -> None:
        if interrupt.requested:
            raise KeyboardInterrupt
        interrupt.requested, interrupt.signal = True, signal.Signals(signum)

    heard = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        heard.append(signal.SIGHUP)
    old = {s: signal.signal(s, handle) for s in heard}
    _running.append(interrupt)
    try:
        yield interrupt
    finally:
        _running.pop()
        if outer:
            outer.hear(interrupt)
        for number, handler in old.items():
            signal.signal(number, handler)
