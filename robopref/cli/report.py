"""``robopref report``: draw the report of a run from its result files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tyro

from robopref.cli.console import console
from robopref.errors import RoboprefError


@dataclass(frozen=True)
class Report:
    """Write the report of a quickstart, an evaluation, a diagnosis or a comparison of two."""

    run: tyro.conf.Positional[Path]
    """The directory with summary.json, or comparison.json."""


def run_report(config: Report) -> bool:
    """Write the report and print where it is."""
    from robopref.diagnosis.results import ARRAYS_FILE, COMPARISON_FILE
    from robopref.reporting.diagnosis_comparison_report import write_comparison_report
    from robopref.reporting.diagnosis_report import write_diagnosis_report
    from robopref.reporting.html import write_report

    write: Callable[[Path], Path]
    if (config.run / COMPARISON_FILE).exists():
        write = write_comparison_report
    elif not (config.run / "summary.json").exists():
        raise RoboprefError(
            f"{config.run} holds no summary.json: give the directory of a quickstart, an evaluation or a diagnosis."
        )
    else:
        write = write_diagnosis_report if (config.run / ARRAYS_FILE).exists() else write_report
    console.print(f"report: {write(config.run)}", soft_wrap=True)
    return True
