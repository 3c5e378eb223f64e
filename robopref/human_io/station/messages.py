"""What a page may say, checked to the last field; whoever says anything else is hung up on.

Every message is a JSON object with a ``type`` and exactly the fields of the class of that name.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any

from robopref.human_io.bindings import MAX_INDEX
from robopref.human_io.key_codes import KEY_CODES
from robopref.human_io.readings import Control

_MAX_KEYS = 32
_MAX_AXES = 32
_MAX_NAME = 120
_MAX_INTEGER = 2**53 - 1  # the largest that a page can count to
_KEY = re.compile(r"[A-Za-z0-9]{1,32}")


class MalformedMessageError(ValueError):
    """A message that no page of this station sends."""


@dataclass(frozen=True)
class State:
    """The operator's devices now, sent at every change and 20 times a second: the heartbeat.

    ``epoch`` is that of the lease under which the page drives, ``seq`` counts its messages in that epoch, ``sent_ms``
    is the page's own clock; ``device`` is the name of its gamepad, empty without one; ``away`` says why the operator is
    known not to drive, empty while they may.
    """

    epoch: int
    seq: int
    sent_ms: float
    keys: frozenset[str]
    axes: tuple[float, ...]
    buttons: frozenset[int]
    device: str
    away: str


@dataclass(frozen=True)
class Click:
    """A button on the screen, named by its ``Control``; numbered as ``State`` is."""

    epoch: int
    seq: int
    sent_ms: float
    control: str


@dataclass(frozen=True)
class Alive:
    """A page that does not drive is there; by ``sent_ms`` it sets its clock."""

    sent_ms: float


@dataclass(frozen=True)
class Ask:
    """A visitor wants to drive."""


@dataclass(frozen=True)
class Withdraw:
    """... and no longer wants to."""


@dataclass(frozen=True)
class Grant:
    """The operator hands the lease to a visitor."""

    visitor: int


@dataclass(frozen=True)
class Refuse:
    """The operator keeps it."""

    visitor: int


@dataclass(frozen=True)
class Release:
    """The operator puts the lease down for anyone to take."""


@dataclass(frozen=True)
class Invite:
    """The operator wants an address for one more visitor."""


@dataclass(frozen=True)
class Rebind:
    """An input of the mapping: ``new`` instead of ``old``; ``old`` empty adds one, ``new`` empty removes one."""

    kind: str
    name: str
    old: str
    new: str


@dataclass(frozen=True)
class Invert:
    """Turn a dimension of the mapping round."""

    name: str


@dataclass(frozen=True)
class Defaults:
    """Go back to the mapping that the station came with."""


@dataclass(frozen=True)
class Shown:
    """A picture is on the screen: the acknowledgement that lets the next one be sent.

    ``age_ms`` is how long after its capture it was shown, as the page reckons; negative before it has set its clock.
    """

    frame: int
    age_ms: float


Message = State | Click | Alive | Ask | Withdraw | Grant | Refuse | Release | Invite | Rebind | Invert | Defaults
_CONTROL_MESSAGES = {kind.__name__.lower(): kind for kind in Message.__args__}
_VIDEO_MESSAGES = {"shown": Shown}


def parse_control(text: str) -> Message:
    """A message of the control socket.

    Raises:
        MalformedMessageError: it is none; the text says why.
    """
    message: Message = _parse(text, _CONTROL_MESSAGES)
    return message


def parse_video(text: str) -> Shown:
    """A message of a video socket.

    Raises:
        MalformedMessageError: it is none; the text says why.
    """
    message: Shown = _parse(text, _VIDEO_MESSAGES)
    return message


def _parse(text: str, kinds: dict[str, Any]) -> Any:
    try:
        values = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:  # RecursionError: brackets nested without end
        raise MalformedMessageError("not a message in JSON") from error
    if not isinstance(values, dict):
        raise MalformedMessageError("not an object")
    kind = values.pop("type", None)
    if not isinstance(kind, str) or kind not in kinds:
        raise MalformedMessageError("unknown type")
    wanted = fields(kinds[kind])
    if set(values) != {field.name for field in wanted}:
        raise MalformedMessageError(f"wrong fields for {kind}")
    return kinds[kind](**{field.name: _checked(field, values[field.name]) for field in wanted})


def _checked(field: Field[Any], value: Any) -> Any:
    check = _CHECKS.get(field.name)
    assert check is not None, f"no check is written for {field.name}"
    assert field.default is MISSING
    checked = check(value)
    if checked is None:
        raise MalformedMessageError(f"bad {field.name}")
    return checked


def _integer(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= _MAX_INTEGER else None  # a bool is no int here


def _number(value: Any) -> float | None:
    if type(value) not in (int, float) or not abs(value) <= _MAX_INTEGER:
        return None
    return float(value)


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) and len(value) <= _MAX_NAME and value.isprintable() else None


def _keys(value: Any) -> frozenset[str] | None:
    if not isinstance(value, list) or len(value) > _MAX_KEYS:
        return None
    if not all(isinstance(key, str) and _KEY.fullmatch(key) for key in value):
        return None
    return frozenset(value) & KEY_CODES  # a key that no table knows can mean nothing


def _axes(value: Any) -> tuple[float, ...] | None:
    if not isinstance(value, list) or len(value) > _MAX_AXES:
        return None
    numbers = [_number(axis) for axis in value]
    if any(axis is None or not math.fabs(axis) <= 1 for axis in numbers):
        return None
    return tuple(axis for axis in numbers if axis is not None)


def _buttons(value: Any) -> frozenset[int] | None:
    if not isinstance(value, list) or len(value) > MAX_INDEX + 1:
        return None
    if not all(type(button) is int and 0 <= button <= MAX_INDEX for button in value):
        return None
    return frozenset(value)


def _control(value: Any) -> str | None:
    return value if isinstance(value, str) and value in set(Control) else None


def _kind(value: Any) -> str | None:
    return value if value in ("action", "control") else None


_CHECKS = {
    "epoch": _integer,
    "seq": _integer,
    "frame": _integer,
    "visitor": _integer,
    "sent_ms": _number,
    "age_ms": _number,
    "keys": _keys,
    "axes": _axes,
    "buttons": _buttons,
    "device": _name,
    "away": _name,
    "control": _control,
    "kind": _kind,
    "name": _name,
    "old": _name,
    "new": _name,
}


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a field is given twice")
    return values
