"""The mappings that an operator starts with, for robots and for Atari games.

Gamepads are numbered as the W3C's "standard gamepad" is: axes 0 to 3 are left x, left y, right x, right y (right and
down are positive), 4 and 5 the triggers (0 to 1); buttons 0 to 3 are south, east, west, north, 4 and 5 the shoulders, 6
and 7 the triggers, 8 and 9 back and start, 12 to 15 the directions up, down, left, right. The axes of a SpaceMouse are
right, forward, up, and the rotations about them. Keyboard bindings are part of every mapping: a page and a window
always have a keyboard.
"""

from __future__ import annotations

from collections.abc import Mapping as Table
from collections.abc import Sequence

from robopref.errors import RoboprefError
from robopref.human_io.atari_actions import PARTS, parts_of
from robopref.human_io.bindings import Binding
from robopref.human_io.mapping import Mapping
from robopref.human_io.readings import Control

DEVICES = ("web", "keyboard", "gamepad", "spacemouse")
"""The devices that there are default mappings for."""

GRIPPER = "gripper"

_ROLES = ("x", "y", "z", "roll", "pitch", "yaw", GRIPPER)
_SPARE_KEYS = tuple((f"Digit{i}", f"Digit{(i + 1) % 10}") for i in (1, 3, 5, 7, 9))

# One input of a pair is the positive direction, the other the negative one; "-" before an axis inverts it. The cameras
# of all tasks here look the robot in the face, so that its x, which is forward for the robot, comes towards the viewer,
# and its y goes to the right: keys and sticks follow the picture.
_ROBOT: dict[str, dict[str, str]] = {
    "keyboard": {
        "x": "KeyS KeyW", "y": "KeyD KeyA", "z": "KeyR KeyF",
        "roll": "KeyL KeyJ", "pitch": "KeyI KeyK", "yaw": "KeyQ KeyE", GRIPPER: "KeyC KeyV",
    },
    "gamepad": {
        "x": "axis:1", "y": "axis:0", "z": "-axis:3",
        "roll": "button:15 button:14", "pitch": "button:12 button:13", "yaw": "-axis:2", GRIPPER: "button:7 button:6",
    },
    "spacemouse": {
        "x": "-axis:1", "y": "axis:0", "z": "axis:2",
        "roll": "-axis:4", "pitch": "axis:3", "yaw": "axis:5", GRIPPER: "button:0 button:1",
    },
}  # fmt: skip

_ATARI: dict[str, dict[str, str]] = {
    "keyboard": {
        "UP": "ArrowUp KeyW", "DOWN": "ArrowDown KeyS", "LEFT": "ArrowLeft KeyA", "RIGHT": "ArrowRight KeyD",
        "FIRE": "KeyF ControlRight",
    },
    "gamepad": {
        "UP": "button:12 axis:1-", "DOWN": "button:13 axis:1+", "LEFT": "button:14 axis:0-",
        "RIGHT": "button:15 axis:0+", "FIRE": "button:7 button:6",
    },
    "spacemouse": {
        "UP": "axis:1+", "DOWN": "axis:1-", "LEFT": "axis:0-", "RIGHT": "axis:0+", "FIRE": "button:0",
    },
}  # fmt: skip

_CONTROLS: dict[str, dict[Control, str]] = {
    "keyboard": {
        Control.TAKE_OVER: "Space", Control.HAND_BACK: "KeyH", Control.SUCCESS: "KeyY", Control.FAILURE: "KeyN",
        Control.DISCARD: "Delete", Control.NEXT: "Enter", Control.PAUSE: "KeyP", Control.STOP: "Escape",
    },
    "gamepad": {
        Control.TAKE_OVER: "button:5", Control.HAND_BACK: "button:4", Control.SUCCESS: "button:3",
        Control.FAILURE: "button:1", Control.DISCARD: "button:2", Control.NEXT: "button:0",
        Control.PAUSE: "button:9", Control.STOP: "button:8",
    },
    "spacemouse": {},  # its two buttons are the gripper's; the other hand has the keyboard
}  # fmt: skip


def default_mapping(device: str, labels: Sequence[str], *, discrete: bool = False) -> Mapping:
    """The mapping that an operator starts with.

    Args:
        device: one of ``DEVICES``; ``web`` is the keyboard and gamepad of a page.
        labels: names of the action's dimensions, or of the discrete actions. Dimensions are recognised by name (``x``,
            ``y``, ``z``, ``roll``, ``pitch``, ``yaw``, ``gripper``); a name that is none of them takes the place of the
            first one that is missing, and beyond those the digit keys in pairs. Discrete actions with ALE's names are
            put together from directions and FIRE; others get the digit keys, one each.
        discrete: which of the two the labels name.

    Raises:
        RoboprefError: there is no such device, or no label, or a label twice.
    """
    if device not in DEVICES:
        raise RoboprefError(f"there is no mapping for a device {device!r}: the devices are {', '.join(DEVICES)}.")
    if not labels or len(set(labels)) < len(labels):
        raise RoboprefError(f"the action labels {list(labels)} must be at least one, and each must occur once.")
    parts = ["keyboard"]
    if device != "keyboard":
        parts.append("spacemouse" if device == "spacemouse" else "gamepad")
    return Mapping(
        action_bindings=_discrete_bindings(parts, labels) if discrete else _robot_bindings(parts, labels),
        control_bindings={
            control: tuple(Binding(source) for part in parts for source in _CONTROLS[part].get(control, "").split())
            for control in Control
        },
        latched=frozenset() if discrete else frozenset({GRIPPER}.intersection(labels)),
    )


def _robot_bindings(devices: Sequence[str], labels: Sequence[str]) -> dict[str, tuple[Binding, ...]]:
    bound: dict[str, tuple[Binding, ...]] = {}
    missing = [role for role in _ROLES if role not in labels]
    spare = iter(_SPARE_KEYS)
    for label in labels:
        role = label if label in _ROLES else missing.pop(0) if missing else None
        if role is None:
            bound[label] = _pair(" ".join(next(spare, ())))
        else:
            bound[label] = tuple(binding for device in devices for binding in _pair(_ROBOT[device][role]))
    return bound


def _pair(sources: str) -> tuple[Binding, ...]:
    """One axis, or an input for the positive direction and one for the negative."""
    match sources.split():
        case [axis]:
            return (Binding(axis.removeprefix("-"), -1.0 if axis.startswith("-") else 1.0),)
        case [plus, minus]:
            return (Binding(plus), Binding(minus, -1.0))
    return ()


def _discrete_bindings(devices: Sequence[str], labels: Sequence[str]) -> dict[str, tuple[Binding, ...]]:
    if any(parts_of(label) is None for label in labels):
        return {label: (Binding(f"Digit{(i + 1) % 10}"),) for i, label in enumerate(labels[:10])}
    used = {part for label in labels for part in parts_of(label) or ()}
    bound = {part: _all(devices, _ATARI, part) for part in PARTS if part in used}
    if not used & {"UP", "DOWN"} and {"LEFT", "RIGHT"} <= used:
        # Pong's paddle goes up with RIGHT and down with LEFT, and nobody's hands know that.
        bound["RIGHT"] += _all(devices, _ATARI, "UP")
        bound["LEFT"] += _all(devices, _ATARI, "DOWN")
    return bound


def _all(devices: Sequence[str], table: Table[str, Table[str, str]], name: str) -> tuple[Binding, ...]:
    return tuple(Binding(source) for device in devices for source in table[device][name].split())
