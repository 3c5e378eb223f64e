"""The figures of a report as separate files beside it, SVG for papers and PNG for where no SVG can go."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from robopref.reporting.figures import Chart


def write_figures(folder: Path, charts: Iterable[Chart]) -> dict[str, Path]:
    """Write each chart to ``folder`` as ``<name>.svg`` and ``<name>.png``; returns the PNGs by name.

    The folder belongs to the report: figures there of other names, left by an earlier report, are removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, Path] = {}
    for chart in charts:
        for suffix, data in ((".svg", chart.svg.encode()), (".png", chart.png)):
            temporary = folder / f".{chart.name}{suffix}.tmp"
            temporary.write_bytes(data)
            os.replace(temporary, folder / f"{chart.name}{suffix}")
        written[chart.name] = folder / f"{chart.name}.png"
    for path in folder.iterdir():
        if path.suffix in (".svg", ".png") and path.stem not in written:
            path.unlink()
    return written


def kept_figures(folder: Path, report: Path, result: Path) -> dict[str, Path] | None:
    """The PNGs by name that ``report`` left in ``folder``; None where it is missing or older than the result."""
    if not report.is_file() or report.stat().st_mtime_ns < result.stat().st_mtime_ns:
        return None
    return {path.stem: path for path in sorted(folder.glob("*.png"))} or None
