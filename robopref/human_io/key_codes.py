"""Names of the keys by their physical place: the ``code`` of a browser's KeyboardEvent, whatever the layout says.

The numbers are usage ids of the keyboard page of the USB HID usage tables, which SDL takes as its scancodes; the names
are those of the W3C's "UI Events KeyboardEvent code Values".
"""

from __future__ import annotations

from string import ascii_uppercase


def _table() -> dict[int, str]:
    runs: list[tuple[int, str]] = [
        (4, " ".join(f"Key{letter}" for letter in ascii_uppercase)),
        (30, " ".join(f"Digit{digit}" for digit in "1234567890")),
        (40, "Enter Escape Backspace Tab Space Minus Equal BracketLeft BracketRight Backslash"),
        (51, "Semicolon Quote Backquote Comma Period Slash CapsLock"),
        (58, " ".join(f"F{number}" for number in range(1, 13))),
        (70, "PrintScreen ScrollLock Pause Insert Home PageUp Delete End PageDown"),
        (79, "ArrowRight ArrowLeft ArrowDown ArrowUp"),
        (83, "NumLock NumpadDivide NumpadMultiply NumpadSubtract NumpadAdd NumpadEnter"),
        (89, " ".join(f"Numpad{digit}" for digit in "1234567890")),
        (99, "NumpadDecimal IntlBackslash ContextMenu"),
        (103, "NumpadEqual"),
        (104, " ".join(f"F{number}" for number in range(13, 25))),
        (135, "IntlRo KanaMode IntlYen Convert NonConvert"),
        (224, "ControlLeft ShiftLeft AltLeft MetaLeft ControlRight ShiftRight AltRight MetaRight"),
    ]
    return {first + i: name for first, names in runs for i, name in enumerate(names.split())}


CODE_OF_SCANCODE: dict[int, str] = _table()
"""SDL scancode -> key code, e.g. 26 -> ``KeyW``."""

KEY_CODES: frozenset[str] = frozenset(CODE_OF_SCANCODE.values())
"""Every key that can be bound."""
