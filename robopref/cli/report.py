"""``robopref report``: draw the report of a run from its result files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from robopref.cli.console import console
from robopref.errors import RoboprefError


@dataclass(frozen=True)
class Report:
    """Write report.html for a quickstart or evaluation directory."""

    run: tyro.conf.Positional[Path]
    """The directory with summary.json."""


def run_report(config: Report) -> bool:
    """Write the report and print where it is."""
    from robopref.reporting.html import write_report

    if not (config.run / "summary.json").exists():
        raise RoboprefError(f"{config.run} holds no summary.json: give the directory of a quickstart or an evaluation.")
    console.print(f"report: {write_report(config.run)}", soft_wrap=True)
    return True
