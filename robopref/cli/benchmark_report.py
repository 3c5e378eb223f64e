"""What a benchmark found, from its raw results alone: tables in the terminal and in Markdown, and figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from robopref.cli.console import console, say
from robopref.errors import RoboprefError

if TYPE_CHECKING:
    import pyarrow as pa

    from robopref.evaluation.benchmark_scores import BenchmarkScores

MARKDOWN = "results.md"
_FIGURES = "figures"


def report_benchmark(results: pa.Table, out: Path, recipe: str) -> list[BenchmarkScores]:
    """Print the tables, write ``out/results.md`` and ``out/figures/*.svg|png`` -> the scores they were made of.

    Aggregates over seeds and tasks leave out what is not complete yet, and say so; the comparison pair by pair takes
    what there is.

    Raises:
        RoboprefError: the recipe is not among the methods.
    """
    from robopref.evaluation.benchmark_runs import read_runs, views, where_evaluated
    from robopref.evaluation.benchmark_scores import NoCompleteSeedError, score_methods
    from robopref.evaluation.run_comparison import compare_runs
    from robopref.reporting.benchmark_tables import (
        compared,
        markdown,
        reading,
        run_header,
        run_markdown,
        run_reading,
        run_rows,
        summary_header,
        summary_rows,
    )

    methods = set(results.column("method").to_pylist())
    if recipe not in methods:
        raise RoboprefError(f"the results hold no method {recipe!r}: choose from {', '.join(sorted(methods))}.")
    found: list[BenchmarkScores] = []
    sections = []
    for regime in dict.fromkeys(results.column("regime").to_pylist()):
        for evaluated, scene in views(results, regime):
            where = where_evaluated(regime, evaluated, scene)
            if recipe not in {method for method, _, _ in read_runs(results, regime, evaluated, scene)}:
                say(f"left out: {where}; {recipe} was not run there to the end.")
                continue
            parts = []
            try:
                scores = score_methods(results, regime, evaluated=evaluated, scene=scene, recipe=recipe)
            except NoCompleteSeedError as error:  # nothing is wrong with the others
                parts.append(f"No aggregates: {error}")
                say(parts[-1])
            else:
                found.append(scores)
                table = Table(*map(escape, summary_header(scores)), title=scores.view)
                for row in summary_rows(scores):
                    table.add_row(*row)
                console.print(table)
                say(f"{compared(scores)} {reading(scores)}")
                parts += [markdown(scores), *_draw(scores, out)]
            runs = compare_runs(results, regime, evaluated=evaluated, scene=scene, recipe=recipe)
            table = Table(*map(escape, run_header(recipe)), title=f"pair by pair, {where}")
            for row in run_rows(runs, regime, recipe):
                table.add_row(*row)
            console.print(table)
            say(run_reading(regime))
            title = f"## {where[0].upper()}{where[1:]}"
            sections.append("\n\n".join([title, *parts, "Pair by pair:", run_markdown(runs, regime, recipe)]))
    if sections:
        (out / MARKDOWN).write_text("\n\n".join(sections) + "\n")
        say(f"tables and figures: {out / MARKDOWN}")
    return found


def _draw(scores: BenchmarkScores, out: Path) -> list[str]:
    """Write the figures of a view -> Markdown that shows them."""
    from robopref.reporting.benchmark_figures import benchmark_charts

    (out / _FIGURES).mkdir(parents=True, exist_ok=True)
    prefix = "-".join((scores.regime, *(("others",) if scores.evaluated == "others" else ()), scores.scene, ""))
    pictures = []
    for chart in benchmark_charts(scores, prefix):
        (out / _FIGURES / f"{chart.name}.svg").write_text(chart.svg)
        (out / _FIGURES / f"{chart.name}.png").write_bytes(chart.png)
        pictures.append(f"![{chart.alt}]({_FIGURES}/{chart.name}.png)\n\n{chart.caption}")
    return pictures
