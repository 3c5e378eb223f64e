"""What a robomimic file of ours holds beyond robomimic's own, where robomimic does not look."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from robopref.errors import RoboprefError
from robopref.trajectory import STEP_COLUMNS

RECORD = "robopref"
"""Group in a demonstration: the step columns as recorded, and ``final_observation``."""

INFO, KEYS = "info", "keys"
"""Attributes of that group: the episode's information, and the observations' names by robomimic's, both as JSON."""

FINAL = "final_observation"
COLUMNS = tuple(name for name in STEP_COLUMNS if name not in ("terminated", "truncated", "success"))
FLAGS = ("terminated", "truncated", "success")
UNNUMBERED = 1 << 62
GYM = 2  # robomimic's number for environments of Gym


def robomimic_names(keys: Mapping[str, Any]) -> dict[str, str]:
    """robomimic's name for each observation: it splits none at a slash.

    Raises:
        RoboprefError: two of them would be the same.
    """
    names = {key: key.replace("/", ".") for key in keys}
    if len(set(names.values())) < len(names):
        raise RoboprefError(f"robomimic cannot tell the observations {sorted(names)} apart.")
    if odd := [key for key, name in names.items() if name in (".", "..") or "\0" in name]:
        raise RoboprefError(f"the observation {odd[0]!r} has a name that HDF5 cannot keep.")
    return names


def demo_number(name: str) -> int:
    """The number behind ``demo_``; demonstrations of other names come last."""
    number = name.rpartition("_")[2]
    return int(number) if number.isdigit() else UNNUMBERED
