"""Who drives: one visitor at a time, by a lease whose epoch dates everything that is said under it."""

from __future__ import annotations

import time
from collections.abc import Callable

FREE = 0
"""Nobody: the visitor number of a lease that is free."""


class Lease:
    """The right to drive.

    The first visitor gets it; every other one watches, and may ask. The holder hands it over or refuses. A holder
    whose connection breaks keeps the lease for ``grace`` seconds, so that a reload loses nothing, but a visitor who
    asks meanwhile gets it as soon as the holder has been silent for ``silence`` seconds; so does one who asks a holder
    that is connected and silent, as a frozen page is. A lease that is free goes to whoever asks or joins.

    ``epoch`` grows by one whenever the lease changes hands and whenever its holder connects anew: what was said under
    an earlier epoch is void.

    Args:
        grace: seconds.
        silence: seconds.
        clock: monotonic seconds.
    """

    def __init__(
        self, *, grace: float = 15.0, silence: float = 2.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.holder = FREE
        self.epoch = 0
        self.connected = False  # the holder
        self.asking: list[int] = []
        self._grace, self._silence, self._clock = grace, silence, clock
        self._heard = clock()

    def join(self, visitor: int) -> None:
        """A visitor has connected, for the first time or anew."""
        if self.holder in (FREE, visitor):
            self._give(visitor)

    def leave(self, visitor: int) -> None:
        """A visitor's connection has ended."""
        self.withdraw(visitor)
        if visitor == self.holder:
            self.connected = False

    def heard(self, visitor: int) -> None:
        """A sign of life."""
        if visitor == self.holder:
            self._heard = self._clock()

    def ask(self, visitor: int) -> None:
        """A visitor who watches wants to drive."""
        if visitor == self.holder:
            return
        if self.holder == FREE:
            self._give(visitor)
        elif visitor not in self.asking:
            self.asking.append(visitor)
            self.tick()

    def withdraw(self, visitor: int) -> None:
        """... and no longer wants to."""
        if visitor in self.asking:
            self.asking.remove(visitor)

    def grant(self, by: int, visitor: int) -> None:
        """The holder hands it to a visitor who asked; from anyone else, or to anyone else, it means nothing."""
        if by == self.holder and visitor in self.asking:
            self._give(visitor)

    def refuse(self, by: int, visitor: int) -> None:
        """The holder keeps it."""
        if by == self.holder:
            self.withdraw(visitor)

    def release(self, by: int) -> None:
        """The holder puts it down: whoever asked first has it, else it is free."""
        if by == self.holder:
            self._next()

    def tick(self) -> bool:
        """Let time pass -> whether the lease changed hands by it."""
        if self.holder == FREE:
            return False
        silent = self._clock() - self._heard
        if (self.asking and silent >= self._silence) or (not self.connected and silent >= self._grace):
            self._next()
            return True
        return False

    def _next(self) -> None:
        if self.asking:
            self._give(self.asking[0])
            return
        self.holder, self.connected = FREE, False
        self.epoch += 1

    def _give(self, visitor: int) -> None:
        self.withdraw(visitor)
        self.holder, self.connected = visitor, True
        self.epoch += 1
        self._heard = self._clock()
