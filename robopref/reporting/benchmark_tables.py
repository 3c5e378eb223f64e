"""Scores of refinement methods as tables: in Markdown, and as rows of plain text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from robopref.evaluation.benchmark_runs import BASE
from robopref.evaluation.benchmark_scores import BenchmarkScores, MethodScores
from robopref.evaluation.run_comparison import RunComparison, UnitMean, unit_of
from robopref.evaluation.statistics import Estimate

# With fewer runs of each task, intervals over runs are clearly too narrow: see paired_interquartile_difference.
_FEW_RUNS = 10
_NAMED_MISSING = 3
_NONE = "–"


def summary_header(scores: BenchmarkScores) -> list[str]:
    """Names of the columns of ``summary_rows``."""
    return [
        "method",
        "success, interquartile mean",
        "success, mean",
        "over base [points]",
        f"{scores.recipe} over it [points]",
        f"P({scores.recipe} is better)",
        "optimiser steps",
    ]


def summary_rows(scores: BenchmarkScores) -> list[list[str]]:
    """A row of plain text (no markup) per method, best interquartile mean first; n counts runs."""
    one_run = scores.one_run
    return [
        [
            row.method,
            percent_text(row.interquartile_mean, one_run=one_run),
            percent_text(row.mean, one_run=one_run),
            _NONE if row.over_base is None else percent_text(row.over_base, one_run=one_run, difference=True),
            _NONE if row.recipe_over is None else percent_text(row.recipe_over, one_run=one_run, difference=True),
            _NONE if row.recipe_improves is None else percent_text(row.recipe_improves, one_run=one_run),
            f"{row.optimiser_steps:.0f}",
        ]
        for row in by_score(scores)
    ]


def task_header(scores: BenchmarkScores) -> list[str]:
    """Names of the columns of ``task_rows``."""
    return ["method", *scores.tasks]


def task_rows(scores: BenchmarkScores) -> list[list[str]]:
    """A row of plain text per method: success on each task, n counting episodes; in the order of ``summary_rows``."""
    return [[row.method, *(str(row.tasks[task]) for task in scores.tasks)] for row in by_score(scores)]


def markdown(scores: BenchmarkScores) -> str:
    """Both tables in Markdown, with what was compared above and how to read it below."""
    return "\n\n".join(
        [
            compared(scores),
            _table(summary_header(scores), summary_rows(scores)),
            reading(scores),
            _table(task_header(scores), task_rows(scores)),
            "Success by task, with 95 % Wilson intervals over the episodes of all its runs.",
        ]
    )


def run_header(recipe: str) -> list[str]:
    """Names of the columns of ``run_rows``."""
    return ["method", "success, mean", "over base [points]", f"{recipe} over it [points]"]


def run_rows(rows: Sequence[RunComparison], regime: str, recipe: str) -> list[list[str]]:
    """A row of plain text per method, with how many tasks (or seeds) and runs each number is of."""

    def text(mean: UnitMean | None, *, difference: bool, itself: bool = False) -> str:
        if mean is None:
            return _NONE if itself else "no run in common"
        sign, unit = ("+", "") if difference else ("", " %")
        interval = "" if mean.interval is None else " [{}, {}]".format(*(f"{100 * x:{sign}.1f}" for x in mean.interval))
        of = f"{_count(mean.units, unit_of(regime))}, {_count(mean.runs, 'run')}"
        return f"{100 * mean.value:{sign}.1f}{unit}{interval} ({of})"

    return [
        [
            row.method,
            text(row.success, difference=False),
            text(row.over_base, difference=True, itself=row.method == BASE),
            text(row.recipe_over, difference=True, itself=row.method == recipe),
        ]
        for row in rows
    ]


def run_markdown(rows: Sequence[RunComparison], regime: str, recipe: str) -> str:
    """The methods pair by pair in Markdown, and how to read it."""
    return "\n\n".join([_table(run_header(recipe), run_rows(rows, regime, recipe)), run_reading(regime)])


def run_reading(regime: str) -> str:
    """What the pairs are over, and what their intervals speak of."""
    if unit_of(regime) == "seed":
        over = (
            "All tasks of a seed share a base policy: they are averaged first, and intervals are Student's 95 % "
            "intervals over seeds."
        )
    else:
        over = (
            "The runs of a task are averaged first, and intervals are Student's 95 % intervals over tasks: they speak "
            "of tasks like these, and are rather too wide for these alone."
        )
    return (
        f"Differences are over the runs that both methods have. {over} There is none with fewer than three, or where "
        "all are the same. Rows of different runs are not to be compared with each other."
    )


def compared(scores: BenchmarkScores) -> str:
    """What was compared in one or two sentences, the seeds that were left out among it."""
    text = (
        f"{scores.view[0].upper()}{scores.view[1:]}: {_count(len(scores.seeds), 'run')} of each of "
        f"{_count(len(scores.tasks), 'task')}, the same for every method."
    )
    if scores.dropped_seeds:
        verb = "was" if len(scores.dropped_seeds) == 1 else "were"
        more = f" and {len(scores.missing) - _NAMED_MISSING} more" if len(scores.missing) > _NAMED_MISSING else ""
        text += (
            f" {_count(len(scores.dropped_seeds), 'seed')} {verb} left out as incomplete; "
            f"missing: {'; '.join(scores.missing[:_NAMED_MISSING])}{more}."
        )
    return text


def reading(scores: BenchmarkScores) -> str:
    """How to read intervals over runs, and what these runs cannot tell."""
    if scores.one_run:
        return (
            "There is one run of each task: the spread between runs of a task is not known, so these numbers have no "
            "interval and support no claim."
        )
    text = (
        "Intervals are 95 %, from a bootstrap that resamples the runs of each task; differences to the base and to "
        f"{scores.recipe} are paired by run."
    )
    if len(scores.seeds) < _FEW_RUNS:
        text += f" With {len(scores.seeds)} runs of each task they are narrower than they should be."
    estimates = [e for row in scores.rows for e in (row.interquartile_mean, row.over_base, row.recipe_improves)]
    if any(e is not None and e.low == e.high for e in estimates):
        text += " An interval without width says that these runs did not vary, not that others would not."
    return text


def by_score(scores: BenchmarkScores) -> list[MethodScores]:
    """The methods, best interquartile mean first."""
    return sorted(scores.rows, key=lambda row: -row.interquartile_mean.value)


def percent_text(estimate: Estimate, *, one_run: bool, difference: bool = False) -> str:
    """``62.0 % [48.2, 74.1] (n=12)``; a difference with signs and no unit; one run is told instead of an interval."""
    sign, unit = ("+", "") if difference else ("", " %")
    value, low, high = (f"{100 * x:{sign}.1f}" for x in (estimate.value, estimate.low, estimate.high))
    if one_run:
        return f"{value}{unit} (one run a task, n={estimate.n})"
    return f"{value}{unit} [{low}, {high}] (n={estimate.n})"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
