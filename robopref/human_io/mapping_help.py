"""A mapping in words, for whoever has to press the keys."""

from __future__ import annotations

from collections.abc import Iterable

from robopref.human_io.bindings import Binding
from robopref.human_io.mapping import Mapping


def help_lines(mapping: Mapping) -> tuple[str, ...]:
    """One line for each control and each dimension or part of an action that has an input.

    Of a dimension the inputs of the positive direction come before the stroke, those of the negative after it, and
    whole axes last: ``x: D / A, axis 0``.
    """
    lines = [f"{name.replace('_', ' ')}: {_either(bound)}" for name, bound in mapping.control_bindings.items() if bound]
    for name, bound in mapping.action_bindings.items():
        axes = [b for b in bound if _is_whole_axis(b)]
        plus = [b for b in bound if b.scale > 0 and b not in axes]
        minus = [b for b in bound if b.scale < 0 and b not in axes]
        parts = [f"{_either(plus)} / {_either(minus)}" if minus else _either(plus), _either(axes)]
        if bound:
            lines.append(f"{name}: {', '.join(filter(None, parts))}")
    return tuple(lines)


def input_name(source: str) -> str:
    """A short name of an input: ``W`` for ``KeyW``, ``up`` for ``ArrowUp``, ``button 3``, ``axis 1 -``."""
    if ":" in source:
        kind, rest = source.split(":")
        return f"{kind} {rest.rstrip('+-')}{' ' + rest[-1] if rest[-1] in '+-' else ''}"
    for prefix in ("Key", "Digit"):
        source = source.removeprefix(prefix)
    return source.removeprefix("Arrow").lower() if source.startswith("Arrow") else source


def _either(bound: Iterable[Binding]) -> str:
    return ", ".join(input_name(b.source) for b in bound)


def _is_whole_axis(binding: Binding) -> bool:
    return binding.source.startswith("axis:") and binding.source[-1] not in "+-"
