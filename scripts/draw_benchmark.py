"""Tables and figures of a benchmark from its raw results, several files together where runs were made apart.

python scripts/draw_benchmark.py docs/results/one_round.parquet --out drawn
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.compute as pc
import tyro

from robopref.cli.benchmark_report import report_benchmark
from robopref.cli.benchmark_results import read_benchmark
from robopref.errors import RoboprefError
from robopref.evaluation.benchmark_runs import BASE


@dataclass(frozen=True)
class Settings:
    """Draw a benchmark anew."""

    results: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """The results.parquet of one or more benchmarks."""
    out: Path = Path("drawn")
    recipe: str = "apo"
    """The method that the others are compared with."""
    methods: tuple[str, ...] = ()
    """Which methods to draw, besides the base and the recipe; unset all. Fewer may have more seeds in common."""


def main() -> None:
    """Read, draw, write."""
    settings = tyro.cli(Settings, description=__doc__)
    try:
        table, _ = read_benchmark(settings.results)
        if settings.methods:
            chosen = {BASE, settings.recipe, *settings.methods}
            unknown = sorted(chosen - set(table.column("method").to_pylist()))
            if unknown:
                raise RoboprefError(f"the results hold no method {', '.join(unknown)}.")
            table = table.filter(pc.is_in(table.column("method"), pa.array(sorted(chosen))))
        settings.out.mkdir(parents=True, exist_ok=True)
        report_benchmark(table, settings.out, settings.recipe)
    except RoboprefError as error:
        sys.exit(f"{Path(__file__).name}: {error}")


if __name__ == "__main__":
    main()
