"""From what is held and pressed on a device to the signals of the handover table."""

from __future__ import annotations

from dataclasses import dataclass

from robopref.human_io.handover import Signal
from robopref.human_io.mapping import ControlEdges
from robopref.human_io.readings import Control
from robopref.human_io.watchdog import Liveness

SIGNALS = {
    Control.TAKE_OVER: Signal.TAKE_OVER,
    Control.HAND_BACK: Signal.HAND_BACK,
    Control.PAUSE: Signal.PAUSE,
    Control.SUCCESS: Signal.END,
    Control.FAILURE: Signal.END,
    Control.DISCARD: Signal.END,
    Control.NEXT: Signal.END,
    Control.STOP: Signal.STOP,
}


@dataclass(frozen=True)
class Heard:
    """What a tick brought: the controls just pressed, oldest first, and then the conditions that hold after them."""

    controls: tuple[Control, ...]
    conditions: tuple[Signal, ...]


class SignalReader:
    """Tells what was just pressed from what is held, and keeps the dead man's switch of hold-to-run.

    A control that was held while the device was gone, or since the episode before, means nothing until it is pressed
    anew. What was pressed comes first, then the switch, then silence, so that a judgement or a Stop that was given in
    the last moment before a connection broke still counts, and nothing else outlasts a broken connection.
    """

    def __init__(self, *, hold_to_run: bool) -> None:
        self.hold_to_run = hold_to_run
        self._edges = ControlEdges()
        self._armed = False  # the take-over control has been seen released, so that holding it counts

    def disarm(self) -> None:
        """A take-over control that is held now counts only once it has been released."""
        self._armed = False

    def hear(self, held: frozenset[Control], clicked: tuple[str, ...], liveness: Liveness) -> Heard:
        """What one reading says: controls held down and clicked on the screen, by a device that is alive or not.

        Of one that is not, ``held`` is what was held at the last; what of it was just pressed is obeyed if it ends the
        episode, since nothing else that it could ask for may outlast the loss.
        """
        if not liveness.present:
            self.disarm()
            held = frozenset(control for control in held if SIGNALS[control] in (Signal.END, Signal.STOP))
        controls = self._edges.update(held, clicked)
        if liveness.present:
            switch = (self._dead_man(Control.TAKE_OVER in held, controls),) if self.hold_to_run else ()
            return Heard(controls, switch)
        self._edges.reset()  # whatever is held when the device comes back was not just pressed
        return Heard(controls, (Signal.LOST, Signal.EXPIRE) if liveness.expired else (Signal.LOST,))

    def _dead_man(self, held: bool, controls: tuple[Control, ...]) -> Signal:
        self._armed = self._armed or not held
        if Control.PAUSE in controls or Control.HAND_BACK in controls:
            self.disarm()  # said with the switch still held: it counts until that is released
        return Signal.TAKE_OVER if held and self._armed else Signal.RELEASE
