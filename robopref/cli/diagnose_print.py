"""What ``robopref diagnose`` shows in the terminal: how far its stages are, and what it found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from robopref.cli.console import console

if TYPE_CHECKING:
    from robopref.diagnosis import Diagnosis
    from robopref.evaluation.statistics import Estimate


@contextmanager
def stage_bars() -> Iterator[Callable[[str, int, int], None]]:
    """A bar per stage, as the stages come; call the result with (stage, done, total).

    On a pipe or in a file, where bars would appear at the end only, a line per stage as it begins.
    """
    if not console.is_terminal:
        begun: set[str] = set()

        def tell(stage: str, done: int, total: int) -> None:
            if stage not in begun:
                begun.add(stage)
                console.print(f"{stage} ({total})", highlight=False)
                console.file.flush()

        yield tell
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, refresh_per_second=4) as progress:
        tasks: dict[str, Any] = {}

        def advance(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total)
            progress.update(tasks[stage], completed=done, total=total)

        yield advance


def print_diagnosis(diagnosis: Diagnosis) -> None:
    """What must be said first, then a row per condition."""
    from robopref.reporting.diagnosis_words import is_loud, null_of, told_apart

    for statement in diagnosis.statements:
        console.print(statement, style="bold red" if is_loud(statement) else "yellow", highlight=False)
    null = diagnosis.null
    title = f"{diagnosis.subject.policy} on {diagnosis.subject.task} {diagnosis.subject.head}".strip()
    console.print(
        _table(
            title,
            ("condition", "Lambda", "its null", "null - Lambda", "unattacked - Lambda", "verdict"),
            [
                (
                    c.name,
                    short_text(c.quotient),
                    short_text(null_of(c, null)),
                    short_text(c.below_null),
                    short_text(c.below_clean),
                    told_apart(c, null).partition(":")[0],
                )
                for c in diagnosis.conditions
            ],
        )
    )
    console.print(
        _table(
            "",
            ("condition", "flips", "to a synonym", "return", "- clean"),
            [
                ("clean", "", "", short_text(diagnosis.competence.score), ""),
                *((c.name, *map(short_text, (c.flips, c.synonym_flips, c.score, c.score_difference)))
                  for c in diagnosis.conditions),
            ],
        )
    )  # fmt: skip
    directions, decisions = diagnosis.directions, diagnosis.decisions
    synonyms = "" if decisions.synonym_ties is None else f" (among synonyms only {short_text(decisions.synonym_ties)})"
    console.print(
        f"lambda_1 / trace {short_text(directions.share)}; lambda_2 / lambda_1 {short_text(directions.eigengap)}; "
        f"{directions.n_zero} of {directions.n_states} gradients exactly zero; near-ties "
        f"{short_text(decisions.near_ties)}{synonyms}",
        highlight=False,
    )


def _table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table without the columns in which no row has anything."""
    used = [i for i in range(len(headings)) if any(row[i].strip("- ") for row in rows)]
    table = Table(title=title or None)
    for i in used:
        table.add_column(headings[i], no_wrap=i == 0, overflow="fold")
    for row in rows:
        table.add_row(*(row[i] for i in used))
    return table


def short_text(estimate: Estimate | None) -> str:
    """``0.49 [0.41, 0.55]``; says so where there is no interval because one episode has none."""
    from robopref.reporting.diagnosis_words import has_interval

    if estimate is None:
        return "-"
    interval = f"[{estimate.low:.3g}, {estimate.high:.3g}]" if has_interval(estimate) else f"(n = {estimate.n})"
    return f"{estimate.value:.3g} {interval}"
