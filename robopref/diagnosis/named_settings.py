"""Things with a name and settings, written as text and read back: ``rotation:degrees=3``, ``translation:dx=2,dy=0``.

A kind of thing is a table of frozen dataclasses by name, each with a default for every field; the type of the default
(int, float or str) is the type of the setting.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from robopref.errors import RoboprefError

T = TypeVar("T")


def settings_text(name: str, thing: Any) -> str:
    """The name and every field of a dataclass instance: ``translation:dx=2.0,dy=0.0``."""
    settings = ",".join(f"{field.name}={getattr(thing, field.name)}" for field in fields(thing))
    return f"{name}:{settings}" if settings else name


def make_named(kind: str, table: Mapping[str, T], name: str, settings: Mapping[str, Any]) -> T:
    """The thing of that name with these settings; what is left out keeps its default.

    Args:
        kind: what it is, for messages: "shift".
        table: the defaults by name.
        name: which one.
        settings: values, or texts of them.

    Raises:
        RoboprefError: no such name, no such setting, or a value that is no finite number or that the thing refuses.
    """
    if name not in table:
        raise RoboprefError(f"no {kind} is called {name!r}; there are {', '.join(table)}.")
    default: Any = table[name]
    kinds = {field.name: type(getattr(default, field.name)) for field in fields(default)}
    for setting in settings:
        if setting not in kinds:
            raise RoboprefError(f"{name} has no setting {setting!r}; it has {', '.join(kinds)}.")
    make: Callable[..., T] = type(default)
    return make(**{key: _value(name, key, value, kinds[key]) for key, value in settings.items()})


def parse_named(kind: str, table: Mapping[str, T], text: str, example: str) -> T:
    """The thing out of text: ``name`` or ``name:setting=value,...``.

    Args:
        kind: as in ``make_named``, and so is ``table``.
        table: the defaults by name.
        text: what to read.
        example: a text of the right form, for messages.

    Raises:
        RoboprefError: the text has another form or gives a setting twice, or as ``make_named``.
    """
    name, colon, rest = text.strip().partition(":")
    settings: dict[str, str] = {}
    for part in rest.split(",") if colon else ():
        key, equals, value = part.partition("=")
        if not equals:
            raise RoboprefError(f"{kind} {text!r}: write settings as name=value, e.g. {example}.")
        if key.strip() in settings:
            raise RoboprefError(f"{kind} {text!r} gives {key.strip()!r} twice.")
        settings[key.strip()] = value.strip()
    return make_named(kind, table, name.strip(), settings)


def _value(name: str, setting: str, value: Any, kind: type) -> int | float | str:
    if kind is str:
        return str(value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise RoboprefError(f"{name}: {setting} must be a number, got {value!r}.") from None
    if not math.isfinite(number) or (kind is int and not number.is_integer()):
        raise RoboprefError(
            f"{name}: {setting} must be {'a whole' if kind is int else 'a finite'} number, got {value}."
        )
    return int(number) if kind is int else number
