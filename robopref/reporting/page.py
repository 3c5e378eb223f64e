"""What every HTML report has in common: the template engine, charts as images inside the page, tables of settings."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from robopref.reporting.figures import Chart


def write_page(path: Path, template: str, contents: Mapping[str, Any]) -> Path:
    """Render a template of this package to ``path``, whole or not at all; everything in ``contents`` is escaped."""
    environment = Environment(
        loader=PackageLoader("robopref.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template).render(contents)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(page, encoding="utf-8")
    os.replace(temporary, path)
    return path


def shown(chart: Chart) -> dict[str, Any]:
    """A chart as an image of its own: identifiers inside one SVG never meet those of another."""
    address = "data:image/svg+xml;base64," + base64.b64encode(chart.svg.encode()).decode("ascii")
    return {
        "address": address,
        "title": chart.title,
        "caption": chart.caption,
        "alt": chart.alt,
        "wide": chart.wide,
        "name": chart.name,
    }


def setting_tables(tables: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Tables of names and values by title, as the page shows them; empty ones are absent."""
    return [{"title": title, "entries": _entries(table)} for title, table in tables.items() if table]


def _entries(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    entries: list[tuple[str, str]] = []
    for name, value in values.items():
        told = f"{prefix}{name}".replace("_", " ")
        if isinstance(value, Mapping):
            entries += _entries(value, f"{told}: ")
        else:
            entries.append((told, _value(value)))
    return entries


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "not set"
    if isinstance(value, Sequence) and not isinstance(value, str):
        numbers = [x for x in value if isinstance(x, int)]
        if len(numbers) == len(value) > 2 and numbers == list(range(numbers[0], numbers[0] + len(numbers))):
            return f"{numbers[0]} to {numbers[-1]} ({len(numbers)})"
        return ", ".join(map(_value, value))
    return str(value)
