"""What an operator's devices say and are shown: the words between the devices, the station and the control loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from robopref.errors import RoboprefError


class Control(StrEnum):
    """What an operator can say besides driving; the value is the name of its button on the screen."""

    TAKE_OVER = "take_over"
    HAND_BACK = "hand_back"
    SUCCESS = "success"
    FAILURE = "failure"
    DISCARD = "discard"
    NEXT = "next"
    PAUSE = "pause"
    STOP = "stop"


@dataclass(frozen=True)
class DeviceReading:
    """The state of an operator's devices at one moment.

    Attributes:
        keys: the keys held down, by their physical place: ``KeyboardEvent.code`` names such as ``KeyW``, ``ArrowUp``,
            ``Space``.
        axes: sticks, triggers or the six axes of a SpaceMouse, each in [-1, 1], at rest 0.
        buttons: indices of the buttons held down.
        clicked: on-screen buttons pressed since the reading before, as values of ``Control``, oldest first; each press
            is in exactly one reading.
        received_ns: monotonic time of the last sign of life of the device; it stands still when the device is gone.
        connected: whether there is a device at all; of one that is not, what was pressed since the reading before is
            in the reading all the same, because it may be a judgement, and moves nothing.
        detail: why not, in words for the operator.
        away: why the operator's hands are known not to drive although the device is there (its window is not in front),
            in words; empty while they may.

    Raises:
        RoboprefError: an axis that is not a number in [-1, 1], or a click that is no ``Control``.
    """

    keys: frozenset[str] = frozenset()
    axes: tuple[float, ...] = ()
    buttons: frozenset[int] = frozenset()
    clicked: tuple[str, ...] = ()
    received_ns: int = 0
    connected: bool = True
    detail: str = ""
    away: str = ""

    def __post_init__(self) -> None:
        if not all(-1.0 <= axis <= 1.0 for axis in self.axes):  # false for NaN as well
            raise RoboprefError(f"a device's axes are numbers in [-1, 1], got {self.axes}.")
        unknown = [name for name in self.clicked if name not in set(Control)]
        if unknown:
            raise RoboprefError(f"there is no control called {unknown[0]!r}: the controls are {', '.join(Control)}.")


@dataclass(frozen=True)
class StationStatus:
    """What the operator is told at a tick.

    Attributes:
        mode: name of the handover state: AUTONOMOUS, TAKEOVER, HOLD, PAUSED or STOPPED.
        reason: why, where that is not the operator's own doing, e.g. ``no heartbeat for 0.31 s``; else empty.
        episode: number of the running episode, from 1.
        episodes_planned: how many there are to be.
        step: control ticks of this episode so far.
        episode_seconds: how long this episode has run.
        takeovers: takeovers of this episode.
        human_share: share of this episode's ticks that the operator drove, in [0, 1].
        outcomes: how many finished episodes ended so: counts of success, failure, aborted and discarded.
        hold_to_run: true when the operator drives only while the take-over control is held, false when it toggles.
        proposed_action: what the policy proposes: one number per action dimension, or one index of a discrete action.
        executed_action: what is executed at this tick.
        action_labels: names of the dimensions, or of the discrete actions.
        discrete: whether the actions are indices of ``action_labels``.
        instruction: what the policy was told.
        task: name of the task or game.
        hz: control ticks a second that are aimed at.
        jitter_p99_ms: 99th percentile of how late the ticks of this episode came, in milliseconds.
    """

    mode: str
    reason: str = ""
    episode: int = 1
    episodes_planned: int = 1
    step: int = 0
    episode_seconds: float = 0.0
    takeovers: int = 0
    human_share: float = 0.0
    outcomes: tuple[tuple[str, int], ...] = ()
    hold_to_run: bool = False
    proposed_action: tuple[float, ...] = ()
    executed_action: tuple[float, ...] = ()
    action_labels: tuple[str, ...] = ()
    discrete: bool = False
    instruction: str = ""
    task: str = ""
    hz: float = 20.0
    jitter_p99_ms: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values; ``outcomes`` as an object from outcome to count."""
        return asdict(self) | {"outcomes": dict(self.outcomes)}


@runtime_checkable
class InputSource(Protocol):
    """A device, or a page, through which a person watches and drives.

    Attributes:
        operator_id: the name under which recordings know who drove, e.g. ``web``.
        name: what messages call the device, e.g. ``web page`` or ``Xbox Wireless Controller``.
        axis_names: names of the axes of its readings, in their order; may grow when a device is plugged in.
    """

    operator_id: str

    @property
    def name(self) -> str:
        """What messages call the device."""

    @property
    def axis_names(self) -> tuple[str, ...]:
        """Names of the axes of its readings."""

    def read(self) -> DeviceReading:
        """The newest state of the device. Never waits; a click is delivered once."""

    def show(self, status: StationStatus) -> None:
        """Tell the operator, without waiting for the telling to be done."""

    def close(self) -> None:
        """Let go of the device."""


@runtime_checkable
class DropsMessages(Protocol):
    """A source whose messages may be refused on their way."""

    @property
    def dropped(self) -> Mapping[str, int]:
        """How many were since the beginning, by reason; reasons without any are left out."""
