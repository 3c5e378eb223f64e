"""What an operator's keys, buttons and axes mean: from a device's reading to a command and to controls."""

from __future__ import annotations

import collections.abc
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError
from robopref.human_io.atari_actions import atari_action
from robopref.human_io.bindings import Binding, check_source
from robopref.human_io.readings import Control, DeviceReading

Kind = Literal["action", "control"]
Table = collections.abc.Mapping[str, tuple[Binding, ...]]


class MappingRow(NamedTuple):
    """One binding, as a dialog lists it."""

    kind: Kind
    name: str
    binding: Binding


@dataclass(frozen=True)
class Mapping:
    """Which input does what.

    Args:
        action_bindings: for each action dimension (``x``, ``gripper``) or each part of a discrete action (``UP``,
            ``FIRE``), the inputs that drive it; of a dimension they add up.
        control_bindings: for each ``Control``, the inputs that say it.
        latched: dimensions that keep their last order while none of their inputs is touched, as a gripper must: it
            would drop what it holds when the key is released.
        dead_zone: how far an axis moves before it counts, in [0, 1).

    Raises:
        RoboprefError: an unknown control, a dead zone out of range, a latched dimension without inputs, or one input
            with two meanings.
    """

    action_bindings: Table = field(default_factory=dict)
    control_bindings: Table = field(default_factory=dict)
    latched: frozenset[str] = frozenset()
    dead_zone: float = 0.1

    def __post_init__(self) -> None:
        zone = self.dead_zone
        if isinstance(zone, bool) or not isinstance(zone, int | float) or not 0 <= zone < 1:
            raise RoboprefError(f"the dead zone is {zone!r}: give a number from 0 up to, and without, 1.")
        for name in self.control_bindings:
            if name not in set(Control):
                raise RoboprefError(f"there is no control called {name!r}: the controls are {', '.join(Control)}.")
        for name in sorted(self.latched):
            if not self.action_bindings.get(name):
                raise RoboprefError(f"the latched dimension {name!r} has no input: bind one, or do not latch it.")
        if clashes := conflicts(self):
            raise RoboprefError(f"{clashes[0]}: bind one of them to something else.")

    def command(
        self,
        reading: DeviceReading,
        labels: Sequence[str],
        *,
        discrete: bool = False,
        previous: NDArray[Any] | None = None,
    ) -> NDArray[np.float32] | int:
        """What the operator orders.

        Args:
            reading: the state of the devices; one that is not connected orders nothing.
            labels: names of the A dimensions, or of the discrete actions in the order of their indices.
            discrete: which of the two the labels name.
            previous: [A], the command before this one (at a takeover, the one that is being executed), which latched
                dimensions keep; without it, an untouched latched dimension is 0 as any other.

        Returns:
            float32 [A] in [-1, 1], zeros where nothing is pressed; or the index of a discrete action, the idle one
            where nothing is pressed.

        Raises:
            RoboprefError: ``previous`` has another length than the labels.
        """
        if not reading.connected:
            reading = DeviceReading(connected=False)
        if discrete:
            pressed = {name for name, bound in self.action_bindings.items() if any(b.pressed(reading) for b in bound)}
            return atari_action(pressed, labels)
        if previous is not None and len(previous) != len(labels):
            raise RoboprefError(f"the previous command has {len(previous)} dimensions and there are {len(labels)}.")
        command = np.zeros(len(labels), np.float32)
        for i, label in enumerate(labels):
            values = [b.scale * b.level(reading, self.dead_zone) for b in self.action_bindings.get(label, ())]
            if label in self.latched and previous is not None and reading.connected and not any(values):
                command[i] = previous[i]
            else:
                command[i] = sum(values)
        return np.clip(command, -1.0, 1.0)

    def controls(self, reading: DeviceReading) -> frozenset[Control]:
        """The controls whose keys or buttons are held down; see ``ControlEdges`` for what was just pressed."""
        if not reading.connected:
            return frozenset()
        return frozenset(
            Control(name) for name, bound in self.control_bindings.items() if any(b.pressed(reading) for b in bound)
        )

    def unbound(self, labels: Sequence[str]) -> tuple[str, ...]:
        """Those of a continuous action's labels that no input drives."""
        return tuple(label for label in labels if not self.action_bindings.get(label))

    def rows(self) -> Iterator[MappingRow]:
        """Every binding, actions first, in the order in which they were written."""
        yield from (MappingRow("action", name, b) for name, bound in self.action_bindings.items() for b in bound)
        yield from (MappingRow("control", name, b) for name, bound in self.control_bindings.items() for b in bound)

    def rebind(self, kind: Kind, name: str, old: str, new: str) -> Mapping:
        """The mapping in which ``name`` answers to the input ``new`` instead of ``old``, with the same scale.

        Raises:
            RoboprefError: there is no such binding or input, or ``new`` already means something.
        """
        check_source(new)
        bound = self._bound(kind, name)
        if old not in [b.source for b in bound]:
            raise RoboprefError(f"{name} is not bound to {old}: it is bound to {_listed(bound)}.")
        return self._with(kind, name, tuple(replace(b, source=new) if b.source == old else b for b in bound))

    def bind(self, kind: Kind, name: str, binding: Binding) -> Mapping:
        """The mapping with one more input for ``name``.

        Raises:
            RoboprefError: the input already means something, or there is no such control.
        """
        return self._with(kind, name, (*self._table(kind).get(name, ()), binding))

    def unbind(self, kind: Kind, name: str, source: str) -> Mapping:
        """The mapping without an input of ``name``.

        Raises:
            RoboprefError: there is no such binding, or it is the last one of a latched dimension.
        """
        bound = self._bound(kind, name)
        if source not in [b.source for b in bound]:
            raise RoboprefError(f"{name} is not bound to {source}: it is bound to {_listed(bound)}.")
        return self._with(kind, name, tuple(b for b in bound if b.source != source))

    def invert(self, name: str) -> Mapping:
        """The mapping in which every input of a dimension works the other way round.

        Raises:
            RoboprefError: no input drives such a dimension.
        """
        return self._with("action", name, tuple(replace(b, scale=-b.scale) for b in self._bound("action", name)))

    def _table(self, kind: Kind) -> Table:
        return self.action_bindings if kind == "action" else self.control_bindings

    def _bound(self, kind: Kind, name: str) -> tuple[Binding, ...]:
        bound = self._table(kind).get(name, ())
        if not bound:
            known = ", ".join(self._table(kind)) or "none"
            raise RoboprefError(f"no input is bound to the {kind} {name!r}: those that are bound are {known}.")
        return bound

    def _with(self, kind: Kind, name: str, bound: tuple[Binding, ...]) -> Mapping:
        table = {**self._table(kind), name: bound}
        return replace(self, action_bindings=table) if kind == "action" else replace(self, control_bindings=table)


def conflicts(mapping: Mapping) -> tuple[str, ...]:
    """What inputs mean two things at once, in words; empty when none does."""
    meanings: dict[str, list[str]] = {}
    for row in mapping.rows():
        for single in row.binding.inputs:
            meanings.setdefault(single, []).append(f"{row.name} ({row.binding.source})")
    return tuple(
        f"{source} means both {first} and {second}"
        for source, meant in sorted(meanings.items())
        for first, second in itertools.combinations(meant, 2)
    )


def _listed(bound: Sequence[Binding]) -> str:
    return ", ".join(b.source for b in bound)


class ControlEdges:
    """Finds what was just pressed in what is held.

    What is already held at the first reading, or at the first one after ``reset``, was not just pressed: a button that
    a reconnected device reports, or a finger that stayed on it, starts nothing.
    """

    def __init__(self) -> None:
        self._before: frozenset[Control] | None = None

    def reset(self) -> None:
        """Forget what was held."""
        self._before = None

    def update(self, held: frozenset[Control], clicked: Sequence[str] = ()) -> tuple[Control, ...]:
        """What is new: on-screen clicks, oldest first, then what is held now and was not before; nothing twice."""
        before = held if self._before is None else self._before
        self._before = held
        pressed = [control for control in Control if control in held - before]
        return tuple(dict.fromkeys([*map(Control, clicked), *pressed]))
