"""Mappings on disk: JSON that a person can read and edit, checked line by line when it is loaded."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from robopref.errors import RoboprefError
from robopref.human_io.bindings import Binding
from robopref.human_io.mapping import Mapping, Table

FORMAT = "robopref-mapping-v1"

_FIELDS = {"format", "actions", "controls", "latched", "dead_zone"}


def mapping_to_json(mapping: Mapping) -> dict[str, Any]:
    """The mapping as JSON values; what ``mapping_from_json`` reads."""
    return {
        "format": FORMAT,
        "dead_zone": mapping.dead_zone,
        "latched": sorted(mapping.latched),
        "actions": _table_to_json(mapping.action_bindings),
        "controls": _table_to_json(mapping.control_bindings),
    }


def mapping_from_json(values: Any, where: str = "the mapping") -> Mapping:
    """The mapping that JSON values describe.

    Args:
        values: an object with ``format``, ``actions``, ``controls``, and, if not the defaults, ``latched`` and
            ``dead_zone``. A binding is ``{"input": "KeyW", "scale": -1}``, the scale 1 if not given.
        where: what messages call it.

    Raises:
        RoboprefError: anything missing, unknown or out of range, or two meanings of one input.
    """
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise RoboprefError(f'{where} is no mapping: it must be a JSON object whose "format" is "{FORMAT}".')
    if unknown := sorted(set(values) - _FIELDS):
        raise RoboprefError(
            f"{where} has an unknown field {unknown[0]!r}: the fields are {', '.join(sorted(_FIELDS))}."
        )
    latched = values.get("latched", [])
    if not isinstance(latched, list) or not all(isinstance(name, str) for name in latched):
        raise RoboprefError(f'{where}: "latched" must be a list of dimensions, not {latched!r}.')
    try:
        return Mapping(
            action_bindings=_table_from_json(values.get("actions"), "actions"),
            control_bindings=_table_from_json(values.get("controls"), "controls"),
            latched=frozenset(latched),
            dead_zone=values.get("dead_zone", Mapping.dead_zone),
        )
    except RoboprefError as error:
        raise RoboprefError(f"{where}: {error}") from error


def save_mapping(path: Path, mapping: Mapping) -> None:
    """Write the mapping; whoever reads meanwhile sees the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(mapping_to_json(mapping), file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load_mapping(path: Path) -> Mapping:
    """Read a mapping.

    Raises:
        RoboprefError: there is no such file, it is not JSON, or it is no mapping.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_object_without_repeats)
    except FileNotFoundError:
        raise RoboprefError(f"there is no mapping file {path}.") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RoboprefError(f"the mapping file {path} is not JSON: {error}.") from error
    except RoboprefError as error:
        raise RoboprefError(f"the mapping file {path} {error}") from error
    return mapping_from_json(values, f"the mapping file {path}")


def _object_without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise RoboprefError(f"gives {twice!r} twice: keep one of them.")  # JSON would silently take the last one
    return values


def _table_to_json(table: Table) -> dict[str, list[dict[str, Any]]]:
    return {
        str(name): [{"input": b.source} | ({"scale": b.scale} if b.scale != 1 else {}) for b in bound]
        for name, bound in table.items()
    }


def _table_from_json(values: Any, what: str) -> dict[str, tuple[Binding, ...]]:
    if not isinstance(values, dict) or not all(isinstance(bound, list) for bound in values.values()):
        raise RoboprefError(f'"{what}" must be an object from names to lists of bindings.')
    return {name: tuple(_binding_from_json(b, f"{what} {name!r}") for b in bound) for name, bound in values.items()}


def _binding_from_json(values: Any, where: str) -> Binding:
    if not isinstance(values, dict) or "input" not in values or set(values) - {"input", "scale"}:
        raise RoboprefError(
            f'{where}: a binding is an object with "input" and, if it is not 1, "scale", not {values!r}.'
        )
    try:
        return Binding(values["input"], values.get("scale", 1.0))
    except RoboprefError as error:
        raise RoboprefError(f"{where}: {error}") from error
