"""A person at a device as an ``Operator``: readings become handovers and commands, and silence becomes HOLD."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError
from robopref.human_io.handover import Signal, State, next_state
from robopref.human_io.operator_signals import SIGNALS, Heard, SignalReader
from robopref.human_io.readings import Control, DeviceReading, InputSource, StationStatus
from robopref.human_io.smoothing import RateLimiter
from robopref.human_io.watchdog import Liveness, Watchdog
from robopref.protocols import FOLLOW, HOLD, Mode, Observation, Operator, OperatorCommand, OperatorEvent

_READY = "hand back to let the policy drive, or take over"


class CommandMapping(Protocol):
    """What a device's readings mean; ``robopref.human_io.mapping.Mapping`` is one."""

    def command(
        self,
        reading: DeviceReading,
        labels: Sequence[str],
        *,
        discrete: bool = False,
        previous: NDArray[Any] | None = None,
    ) -> NDArray[Any] | int:
        """The command [A] in [-1, 1], or the index of a discrete action."""

    def controls(self, reading: DeviceReading) -> frozenset[Control]:
        """The controls that are held down."""


@dataclass(frozen=True)
class ActionLayout:
    """What the operator commands: names of the dimensions with their bounds [A], or of the discrete actions.

    ``low`` and ``high`` are what -1 and 1 of a device mean; 0 stays 0. They are None for discrete actions.

    Raises:
        RoboprefError: bounds of another length than the labels, infinite ones, or none with 0 between them.
    """

    labels: tuple[str, ...]
    low: NDArray[Any] | None = None
    high: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        if self.low is None or self.high is None:
            return
        if not self.low.shape == self.high.shape == (len(self.labels),):
            raise RoboprefError(f"{len(self.labels)} labels cannot name the dimensions of {self.low.shape} actions.")
        if not (np.isfinite(self.low).all() and np.isfinite(self.high).all()):
            raise RoboprefError("the action space has no bounds, so a device's full deflection has no meaning in it.")
        if (self.low > 0).any() or (self.high < 0).any():
            raise RoboprefError("the action space has no zero, which is what a released device commands.")

    @property
    def discrete(self) -> bool:
        """Whether an action is one index."""
        return self.low is None

    @property
    def zero(self) -> NDArray[Any]:
        """What is executed when nobody drives."""
        return np.zeros((), np.int64) if self.discrete else np.zeros(len(self.labels), np.float32)

    def scaled(self, command: NDArray[Any]) -> NDArray[np.float32]:
        """A device's command [A] in [-1, 1] as an action."""
        low, high = self._bounds()
        return np.where(command < 0, -command * low, command * high).astype(np.float32)

    def unscaled(self, action: NDArray[Any]) -> NDArray[np.float64]:
        """The device's command that means this action."""
        low, high = self._bounds()
        bound = np.where(action < 0, -low, high)
        return np.divide(action, bound, out=np.zeros_like(bound), where=bound > 0).clip(-1, 1)

    def _bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if self.low is None or self.high is None:
            raise RoboprefError("discrete actions are indices and have no scale.")
        return self.low.astype(np.float64), self.high.astype(np.float64)


@dataclass(frozen=True)
class StationConfig:
    """How a person's word and silence are taken.

    Args:
        hz: control ticks a second.
        hold_to_run: the operator drives only while the take-over control is held; else it is pressed once.
        heartbeat_timeout: seconds without a sign of life after which nobody drives (HOLD).
        abort_after: seconds of HOLD for want of a device after which the episode ends, saved as aborted.
        ramp: seconds in which a command goes from zero to full deflection.
        autostart: the first episode begins with the policy driving; else it waits for the operator's word.

    Raises:
        RoboprefError: a ramp that is not positive.
    """

    hz: float = 20.0
    hold_to_run: bool = False
    heartbeat_timeout: float = 0.25
    abort_after: float = 10.0
    ramp: float = 0.15
    autostart: bool = False

    def __post_init__(self) -> None:
        if not self.ramp > 0:
            raise RoboprefError(f"a command cannot ramp up in {self.ramp} s: give a positive time.")


@dataclass(frozen=True)
class Session:
    """What the control loop knows of the session and the operator is shown; see ``StationStatus``.

    ``task`` and ``instruction`` are given where they differ from what the environment says of itself.
    """

    episode: int = 1
    episodes_planned: int = 1
    outcomes: tuple[tuple[str, int], ...] = ()
    jitter_p99_ms: float = 0.0
    task: str | None = None
    instruction: str | None = None


@dataclass
class _Episode:
    """What has come of the running episode so far."""

    task: str
    instruction: str
    proposed: NDArray[Any]
    executed: NDArray[Any]
    target: NDArray[Any] | None = None  # what the device asked for last, in the running takeover
    judgement: OperatorEvent | None = None
    ticks: int = 0
    human_ticks: int = 0
    takeovers: int = 0
    driving: bool = False

    @classmethod
    def beginning(cls, info: Mapping[str, Any], zero: NDArray[Any]) -> _Episode:
        return cls(str(info.get("task", "")), str(info.get("instruction", "")), zero, zero)


class StationOperator(Operator):
    """A person at a device. Either ``poll`` or ``command`` is called once a tick; neither ever waits.

    An episode begins PAUSED while the device or the operator's attention is gone, after one that ended in HOLD or
    without the device, and the first one in any case unless it is told to start by itself: the operator says who
    drives. ``state`` says who does; ``mapping`` and ``session`` may be replaced at any time; ``stop_requested`` says
    that no further episode is to begin.

    A robot may keep its last command until it is given another. So whatever ends an episode in motion is answered with
    HOLD at that tick, and with STOP at the next one, both with the judgement; where zero was executed last, with STOP
    at once.

    Args:
        source: the device.
        mapping: what its readings mean.
        layout: the actions.
        config: times, and the kind of takeover.
        clock: monotonic nanoseconds, on the clock of the readings.

    Raises:
        RoboprefError: a time in the configuration that makes no sense.
    """

    def __init__(
        self,
        source: InputSource,
        mapping: CommandMapping,
        layout: ActionLayout,
        config: StationConfig | None = None,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.source, self.mapping, self.layout = source, mapping, layout
        self.config = config or StationConfig()
        self.operator_id = source.operator_id
        self.session = Session()
        self.state = State.PAUSED
        self.stop_requested = False
        self._clock = clock
        self._limiter = RateLimiter(1 / self.config.ramp, self.config.hz)
        self._watchdog = Watchdog(self.config.heartbeat_timeout, self.config.abort_after)
        self._signals = SignalReader(hold_to_run=self.config.hold_to_run)
        self._waits_for_word = not self.config.autostart  # the next episode begins PAUSED
        self._reading = DeviceReading(connected=False)
        self._reason = ""
        self._lost = False  # the running HOLD is for want of the device
        self._left = ""  # ... or of the operator's attention, and why
        self._episode = _Episode.beginning({}, self.layout.zero)

    def reset(self, info: Mapping[str, Any]) -> None:
        """A new episode begins; ``info`` has ``task`` and ``instruction``.

        What was pressed since the last episode counts, but judgements do not: they came too late for that one.
        """
        self._episode = _Episode.beginning(info, self.layout.zero)
        self._lost, self._left = False, ""
        now = self._clock()
        self._watchdog.start(now)
        reading, liveness, heard = self._hear(now)
        self._signals.disarm()
        unwatched = not liveness.present or bool(reading.away)
        waits = self._waits_for_word or unwatched or self.stop_requested
        self.state = State.PAUSED if waits else State.AUTONOMOUS
        for control in heard.controls:
            too_late = SIGNALS[control] is Signal.END
            # Who asked for a pause has not seen that the episode waits already: it is no word to go on.
            done = control is Control.PAUSE and waits and self.state is State.PAUSED
            if not too_late and not done and not (control is Control.TAKE_OVER and self.config.hold_to_run):
                self._obey(control)
        self._reading = reading
        self._explain(liveness)
        self._show()

    def poll(self) -> State:
        """Read the device, let it move the state, tell the operator -> who drives now."""
        self._advance()
        self._show()
        return self.state

    def request_stop(self) -> None:
        """End the episode from the next tick on as aborted, and the session with it, as Stop does."""
        self._obey(Control.STOP)

    def command(self, observation: Observation, proposed_action: NDArray[Any]) -> OperatorCommand:
        """What to do at this tick, from the device's reading of this very moment.

        Raises:
            RoboprefError: the mapping does not fit the actions.
        """
        self._episode.proposed = np.asarray(proposed_action)
        self._advance()
        command = self._decide()
        self._show()
        return command

    def _advance(self) -> None:
        before = self.state
        reading, liveness, heard = self._hear(self._clock())
        if reading.away:
            # Whoever drives: nobody would see what the policy does, and what a press left on is nobody's command.
            # Before what was pressed, since the absence may be over: who has just come back and takes over drives.
            self.state = next_state(self.state, [Signal.AWAY])
        for control in heard.controls:
            self._obey(control)
        self.state = next_state(self.state, heard.conditions)
        last = before if self.state is State.STOPPED else self.state
        if last is State.HOLD or not liveness.present:
            self._waits_for_word = True
        elif last in (State.AUTONOMOUS, State.TAKEOVER):
            self._waits_for_word = False
        self._reading = reading
        self._explain(liveness)

    def _decide(self) -> OperatorCommand:
        episode, state = self._episode, self.state
        if state is State.STOPPED and not episode.executed.any():
            return OperatorCommand(Mode.STOP, event=episode.judgement)
        episode.ticks += 1
        if state is State.STOPPED:
            episode.executed = self.layout.zero
            # The judgement comes with it, because this may be the step at which the task itself ends the episode.
            return replace(HOLD, event=episode.judgement)
        if state is State.TAKEOVER:
            episode.takeovers += not episode.driving
            episode.driving = True
            episode.human_ticks += 1
            episode.executed = self._drive(episode.executed)
            return OperatorCommand(Mode.TAKE_OVER, episode.executed)
        episode.target = None
        if state is State.AUTONOMOUS:
            episode.driving = False
            episode.executed = episode.proposed
            return FOLLOW
        episode.executed = self.layout.zero
        return replace(HOLD, event=OperatorEvent.PAUSE) if state is State.PAUSED else HOLD

    def _hear(self, now: int) -> tuple[DeviceReading, Liveness, Heard]:
        reading = self.source.read()
        liveness = self._watchdog.look(reading, now)
        # What a device that is gone said last is heard as well: it may have been a judgement.
        held = self.mapping.controls(replace(reading, connected=True))
        return reading, liveness, self._signals.hear(held, reading.clicked, liveness)

    def _obey(self, control: Control) -> None:
        if control is Control.STOP:
            self.stop_requested = True
        elif SIGNALS[control] is Signal.END and self.state is not State.STOPPED:
            self._episode.judgement = OperatorEvent(control.value)
        self.state = next_state(self.state, [SIGNALS[control]])

    def _drive(self, current: NDArray[Any]) -> NDArray[Any]:
        """The operator's action; ``current`` is the one of the tick before, from which a takeover starts."""
        episode = self._episode
        if self.layout.discrete:
            return np.asarray(self.mapping.command(self._reading, self.layout.labels, discrete=True), np.int64)
        if episode.target is None:
            episode.target = self.layout.unscaled(current)
            self._limiter.start(episode.target)
        episode.target = np.asarray(self.mapping.command(self._reading, self.layout.labels, previous=episode.target))
        return self.layout.scaled(self._limiter(episode.target))

    def _explain(self, liveness: Liveness) -> None:
        """Say why, where the state is not what the operator last asked for."""
        self._lost = not liveness.present or (self._lost and self.state is State.HOLD)
        self._left = (self._reading.away or self._left) if self.state is State.HOLD else ""
        if self.state is State.PAUSED:
            self._reason = f"{liveness.why or 'waiting for you'}: {_READY}"
        elif self.state is State.HOLD and liveness.present:
            if self._left:
                self._reason = f"{self._left}: {_READY}"
            elif self._lost:
                self._reason = f"{self.source.name} is back: {_READY}"
            else:
                self._reason = "keep the take-over control pressed to drive, or hand back"
        else:
            self._reason = liveness.why

    def _show(self) -> None:
        session, episode, ticks = self.session, self._episode, self._episode.ticks
        self.source.show(
            StationStatus(
                mode=self.state.value,
                reason=self._reason,
                episode=session.episode,
                episodes_planned=session.episodes_planned,
                step=ticks,
                episode_seconds=ticks / self.config.hz,
                takeovers=episode.takeovers,
                human_share=episode.human_ticks / ticks if ticks else 0.0,
                outcomes=session.outcomes,
                hold_to_run=self.config.hold_to_run,
                proposed_action=_numbers(episode.proposed),
                executed_action=_numbers(episode.executed),
                action_labels=self.layout.labels,
                discrete=self.layout.discrete,
                instruction=episode.instruction if session.instruction is None else session.instruction,
                task=episode.task if session.task is None else session.task,
                hz=self.config.hz,
                jitter_p99_ms=session.jitter_p99_ms,
            )
        )


def _numbers(action: NDArray[Any]) -> tuple[float, ...]:
    return tuple(float(value) for value in np.atleast_1d(action))
