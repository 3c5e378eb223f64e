"""Who drives: the one table in which every handover is written down.

    state        TAKE_OVER  RELEASE  HAND_BACK   PAUSE       AWAY    LOST    EXPIRE   END and STOP
    AUTONOMOUS   TAKEOVER   -        -           PAUSED      HOLD    HOLD    STOPPED  STOPPED
    TAKEOVER     -          HOLD     AUTONOMOUS  PAUSED      HOLD    HOLD    STOPPED  STOPPED
    HOLD         TAKEOVER   -        AUTONOMOUS  PAUSED      -       -       STOPPED  STOPPED
    PAUSED       TAKEOVER   -        AUTONOMOUS  AUTONOMOUS  -       -       -        STOPPED
    STOPPED      -          -        -           -           -       -       -        -

Nothing leads from HOLD to motion but the operator's own word: neither a device nor an operator that comes back sets
anything going by being there. In PAUSED time stands still, so that nothing can go wrong while the operator is away, and
an absence ends nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum, StrEnum
from types import MappingProxyType


class State(StrEnum):
    """Who drives."""

    AUTONOMOUS = "AUTONOMOUS"  # the policy
    TAKEOVER = "TAKEOVER"  # the operator
    HOLD = "HOLD"  # nobody: the zero command is executed
    PAUSED = "PAUSED"  # nobody: the environment is not stepped
    STOPPED = "STOPPED"  # the episode is over


class Signal(Enum):
    """What may change it."""

    TAKE_OVER = "the operator takes over (with hold-to-run: keeps the control held)"
    RELEASE = "hold-to-run: the take-over control is not held"
    HAND_BACK = "the operator hands back to the policy"
    PAUSE = "the operator pauses, or goes on"
    AWAY = "the operator looks elsewhere: the page or window is not in front, or busy with a dialog"
    LOST = "no sign of life from the operator's device"
    EXPIRE = "the device has been gone for so long that the episode ends"
    END = "the operator ends the episode: success, failure, discard or next"
    STOP = "the operator stops everything"


_ENDINGS = {Signal.END: State.STOPPED, Signal.STOP: State.STOPPED}

TABLE: Mapping[State, Mapping[Signal, State]] = MappingProxyType(
    {
        State.AUTONOMOUS: {
            Signal.TAKE_OVER: State.TAKEOVER,
            Signal.RELEASE: State.AUTONOMOUS,
            Signal.HAND_BACK: State.AUTONOMOUS,
            Signal.PAUSE: State.PAUSED,
            Signal.AWAY: State.HOLD,
            Signal.LOST: State.HOLD,
            Signal.EXPIRE: State.STOPPED,
        }
        | _ENDINGS,
        State.TAKEOVER: {
            Signal.TAKE_OVER: State.TAKEOVER,
            Signal.RELEASE: State.HOLD,
            Signal.HAND_BACK: State.AUTONOMOUS,
            Signal.PAUSE: State.PAUSED,
            Signal.AWAY: State.HOLD,
            Signal.LOST: State.HOLD,
            Signal.EXPIRE: State.STOPPED,
        }
        | _ENDINGS,
        State.HOLD: {
            Signal.TAKE_OVER: State.TAKEOVER,
            Signal.RELEASE: State.HOLD,
            Signal.HAND_BACK: State.AUTONOMOUS,
            Signal.PAUSE: State.PAUSED,
            Signal.AWAY: State.HOLD,
            Signal.LOST: State.HOLD,
            Signal.EXPIRE: State.STOPPED,
        }
        | _ENDINGS,
        State.PAUSED: {
            Signal.TAKE_OVER: State.TAKEOVER,
            Signal.RELEASE: State.PAUSED,
            Signal.HAND_BACK: State.AUTONOMOUS,
            Signal.PAUSE: State.AUTONOMOUS,
            Signal.AWAY: State.PAUSED,
            Signal.LOST: State.PAUSED,
            Signal.EXPIRE: State.PAUSED,
        }
        | _ENDINGS,
        State.STOPPED: dict.fromkeys(Signal, State.STOPPED),
    }
)
"""The next state for each state and signal; complete."""


def next_state(state: State, signals: Iterable[Signal]) -> State:
    """The state after the signals of one tick, taken one after another."""
    for signal in signals:
        state = TABLE[state][signal]
    return state
