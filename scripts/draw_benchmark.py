"""Tables and figures of a benchmark from its raw results, several files together where runs were made apart.

python scripts/draw_benchmark.py docs/results/one_round.parquet --out drawn
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from robopref.cli.benchmark_report import report_benchmark
from robopref.cli.benchmark_results import read_benchmark
from robopref.errors import RoboprefError


@dataclass(frozen=True)
class Settings:
    """Draw a benchmark anew."""

    results: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """The results.parquet of one or more benchmarks."""
    out: Path = Path("drawn")
    recipe: str = "apo"
    """The method that the others are compared with."""


def main() -> None:
    """Read, draw, write."""
    settings = tyro.cli(Settings, description=__doc__)
    try:
        table, _ = read_benchmark(settings.results)
        settings.out.mkdir(parents=True, exist_ok=True)
        report_benchmark(table, settings.out, settings.recipe)
    except RoboprefError as error:
        sys.exit(f"{Path(__file__).name}: {error}")


if __name__ == "__main__":
    main()
