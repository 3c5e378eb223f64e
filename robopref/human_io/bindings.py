"""One input of a device, named in a word, and what it is worth at a moment."""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass

from robopref.errors import RoboprefError
from robopref.human_io.key_codes import KEY_CODES
from robopref.human_io.readings import DeviceReading

MAX_INDEX = 63
"""The largest number of a button or an axis."""

_INDEXED = re.compile(r"(?P<kind>button|axis):(?P<index>0|[1-9]\d?)(?P<half>[+-]?)")
_PRESSED = 0.5  # how far an axis is pushed before it counts as pressed


@dataclass(frozen=True)
class Binding:
    """An input and how much of a command it is worth.

    Args:
        source: a key by its place (``KeyW``, ``ArrowUp``), a button (``button:3``), an axis (``axis:1``) or one half of
            an axis (``axis:1+``, ``axis:1-``), which is then worth 0 to 1.
        scale: what the input is multiplied with, in [-1, 1] and not 0; a negative one inverts it.

    Raises:
        RoboprefError: no such input, or a scale out of range.
    """

    source: str
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_source(self.source)
        scale = self.scale
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < abs(scale) <= 1:
            raise RoboprefError(f"the scale of {self.source} is {scale!r}: give a number in [-1, 1] that is not 0.")

    @property
    def inputs(self) -> frozenset[str]:
        """The indivisible inputs that it occupies; two bindings that share one are in conflict."""
        if self.source.startswith("axis:") and self.source[-1] not in "+-":
            return frozenset({f"{self.source}+", f"{self.source}-"})
        return frozenset({self.source})

    def level(self, reading: DeviceReading, dead_zone: float = 0.0) -> float:
        """How far the input is pushed, before scaling: 0 or 1 for keys and buttons, [-1, 1] for an axis.

        An axis within the dead zone is 0, and rises from 0 at its edge, so that there is no jump. An axis that the
        device does not have is 0.
        """
        found = _INDEXED.fullmatch(self.source)
        if found is None:
            return float(self.source in reading.keys)
        index = int(found["index"])
        if found["kind"] == "button":
            return float(index in reading.buttons)
        axis = reading.axes[index] if index < len(reading.axes) else 0.0
        if found["half"]:
            axis = max(0.0, axis if found["half"] == "+" else -axis)
        return math.copysign(max(0.0, abs(axis) - dead_zone) / (1.0 - dead_zone), axis)

    def pressed(self, reading: DeviceReading) -> bool:
        """Whether the input counts as pressed: a key or button that is held, an axis pushed more than half way."""
        return self.level(reading) > _PRESSED


def check_source(source: object) -> None:
    """That ``source`` names an input.

    Raises:
        RoboprefError: it does not; the message says what would.
    """
    if isinstance(source, str) and source in KEY_CODES:
        return
    found = _INDEXED.fullmatch(source) if isinstance(source, str) else None
    if found and int(found["index"]) <= MAX_INDEX and not (found["kind"] == "button" and found["half"]):
        return
    word = str(source)
    same = [code for code in KEY_CODES if word.lower() in (code.lower(), code.removeprefix("Key").lower())]
    close = same or difflib.get_close_matches(word, KEY_CODES, n=1)
    hint = f"; did you mean {close[0]}?" if close else "."
    raise RoboprefError(
        f"{source!r} is no input: name a key by its place (KeyW, ArrowUp, Space), a button (button:0), an axis "
        f"(axis:0) or half an axis (axis:0+){hint}"
    )
