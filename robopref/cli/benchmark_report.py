"""What a benchmark found, from its raw results alone: tables in the terminal and in Markdown, and figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

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

    A regime of which no seed is complete yet is told, and left out.

    Raises:
        RoboprefError: the recipe is not among the methods.
    """
    from robopref.evaluation.benchmark_scores import NoCompleteSeedError, score_methods, views
    from robopref.reporting.benchmark_figures import benchmark_charts
    from robopref.reporting.benchmark_tables import compared, markdown, reading, summary_header, summary_rows

    methods = set(results.column("method").to_pylist())
    if recipe not in methods:
        raise RoboprefError(f"the results hold no method {recipe!r}: choose from {', '.join(sorted(methods))}.")
    found: list[BenchmarkScores] = []
    regimes = results.column("regime").to_pylist()
    with_recipe = set(zip(regimes, results.column("method").to_pylist(), strict=True))
    for regime in dict.fromkeys(regimes):
        if (regime, recipe) not in with_recipe:
            say(f"left out: regime {regime}, in which {recipe} was not run.")
            continue
        for evaluated, scene in views(results, regime):
            try:
                found.append(score_methods(results, regime, evaluated=evaluated, scene=scene, recipe=recipe))
            except NoCompleteSeedError as error:  # nothing is wrong with the others
                say(f"left out: {error}")
    sections = []
    for scores in found:
        table = Table(*summary_header(scores), title=scores.view)
        for row in summary_rows(scores):
            table.add_row(*row)
        console.print(table)
        say(f"{compared(scores)} {reading(scores)}")
        prefix = "-".join((scores.regime, *(("others",) if scores.evaluated == "others" else ()), scores.scene, ""))
        pictures = []
        for chart in benchmark_charts(scores, prefix):
            (out / _FIGURES).mkdir(parents=True, exist_ok=True)
            (out / _FIGURES / f"{chart.name}.svg").write_text(chart.svg)
            (out / _FIGURES / f"{chart.name}.png").write_bytes(chart.png)
            pictures.append(f"![{chart.alt}]({_FIGURES}/{chart.name}.png)\n\n{chart.caption}")
        sections.append("\n\n".join([f"## {scores.view[0].upper()}{scores.view[1:]}", markdown(scores), *pictures]))
    if sections:
        (out / MARKDOWN).write_text("\n\n".join(sections) + "\n")
        say(f"tables and figures: {out / MARKDOWN}")
    return found
