"""What a SpaceMouse says over USB: reports of a few bytes, in two layouts.

Report 1 is the translation x, y, z, report 2 the rotation about x, y, z, three little-endian int16 each
(SpaceNavigator, SpaceMouse Compact and Pro); newer and wireless devices put all six into report 1. Report 3 is a bit
mask of the buttons. Everything else (battery, displays) is none of an operator's business. The device's x is to the
right, its y towards the user and its z down; the axes here are right, forward and up, and the right-handed rotations
about them. Raw values reach about 350.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

AXIS_NAMES = ("right", "forward", "up", "pitch", "roll", "yaw")

FULL_DEFLECTION = 350.0
"""The raw value that counts as 1."""

_SIGNS = (1, -1, -1, 1, -1, -1)  # half a turn about x: the device's y and z point the other way
_TRANSLATION, _ROTATION, _BUTTONS = 1, 2, 3
MOTION_REPORTS = (_TRANSLATION, _ROTATION)
_THREE, _SIX = 7, 13  # bytes of a report with so many axes, its number included


@dataclass(frozen=True)
class SpaceMouseState:
    """How the cap is held: ``AXIS_NAMES`` in [-1, 1], and the indices of the buttons that are pressed."""

    axes: tuple[float, ...] = (0.0,) * 6
    buttons: frozenset[int] = frozenset()


def apply_report(state: SpaceMouseState, report: Sequence[int]) -> SpaceMouseState:
    """The state after a report, given as bytes 0 to 255; one that is cut short or of another kind changes nothing."""
    kind = report[0] if report else None
    if kind == _TRANSLATION and len(report) >= _SIX:
        return replace(state, axes=_axes(report, 0, 6))
    if kind == _TRANSLATION and len(report) >= _THREE:
        return replace(state, axes=_axes(report, 0, 3) + state.axes[3:])
    if kind == _ROTATION and len(report) >= _THREE:
        return replace(state, axes=state.axes[:3] + _axes(report, 3, 6))
    if kind == _BUTTONS and len(report) > 1:
        mask = int.from_bytes(bytes(report[1:]), "little")
        return replace(state, buttons=frozenset(i for i in range(mask.bit_length()) if mask >> i & 1))
    return state


def _axes(report: Sequence[int], first: int, last: int) -> tuple[float, ...]:
    """Axes ``first`` to ``last`` from the int16 values after the report's number."""
    values = []
    for position, axis in enumerate(range(first, last)):
        raw = int.from_bytes(bytes(report[1 + 2 * position : 3 + 2 * position]), "little", signed=True)
        values.append(max(-1.0, min(1.0, _SIGNS[axis] * raw / FULL_DEFLECTION)) + 0.0)
    return tuple(values)
