"""The statistics of a data directory on a terminal: bars for histograms, a table row for each dimension."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from robopref.cli.console import console, say

_BAR = 30  # characters
_ROWS = 8  # dimensions of one column
_TEXT = ("column", "who", "distribution")
_TOLD_ELSEWHERE = ("actor", "segment_id", "terminated", "truncated", "success")
_LEVELS = " ▁▂▃▄▅▆▇█"


def print_statistics(statistics: dict[str, Any]) -> None:
    """Print what ``directory_statistics`` found."""
    for problem in statistics["damaged"].values():
        say(f"damaged, left out below: {problem}", style="red")
    say(f"{statistics['path']}: {statistics['episodes']} episodes")
    _print_lengths(statistics["lengths"])
    _print_labels(statistics["labels"])
    _print_actions(statistics["actions"])
    _print_distance(statistics["human_against_policy"], discrete=statistics["actions"]["discrete"])
    _print_columns(statistics["columns"])


def _print_lengths(lengths: dict[str, Any]) -> None:
    say(f"lengths: {lengths['shortest']} to {lengths['longest']} steps, median {lengths['median']:g}")
    edges = lengths["edges"]
    totals = [sum(of) for of in zip(*lengths["counts"].values(), strict=True)]
    for i, total in enumerate(totals):
        told = ", ".join(f"{of[i]} {outcome}" for outcome, of in lengths["counts"].items() if of[i])
        bar = "█" * round(_BAR * total / max(totals))
        say(f"  {edges[i]:7.0f} to {edges[i + 1]:7.0f}  {bar:{_BAR}}  {told}".rstrip())


def _print_labels(labels: dict[str, Any]) -> None:
    total = max(1, sum(labels["counts"].values()))
    told = ", ".join(f"{name} {count} ({100 * count / total:.1f} %)" for name, count in labels["counts"].items())
    say(f"labels with a window of {labels['rule']['window']}: {told}")


def _print_actions(actions: dict[str, Any]) -> None:
    if actions["discrete"]:
        table = _table("executed actions", ("who", "steps", *map(str, actions["dimensions"][0]["values"])))
        for who, of in actions["dimensions"][0]["by"].items():
            shares = (f"{100 * count / of['steps']:.0f} %" if count else "" for count in of["counts"])
            table.add_row(who, str(of["steps"]), *shares)
        console.print(table)
        return
    headings = ("dim", "who", "steps", "lowest", "distribution", "highest", "at the ends")
    table = _table("executed actions, from the lowest to the highest recorded", headings)
    for number, dimension in enumerate(actions["dimensions"]):
        for who, of in dimension["by"].items():
            table.add_row(
                str(number), who, str(of["steps"]), f"{dimension['lowest']:.4g}", _spark(of["counts"]),
                f"{dimension['highest']:.4g}", f"{100 * of['at_lowest']:.1f}, {100 * of['at_highest']:.1f} %",
            )  # fmt: skip
    console.print(table)


def _print_distance(against: dict[str, Any], *, discrete: bool) -> None:
    if not against["steps"]:
        say("no step with a human action beside the policy's proposal")
        return
    share = 100 * against["same_action"] / against["steps"]
    say(f"while the operator drove ({against['steps']} steps), the policy proposed the very same in {share:.1f} %")
    if against["distance"] is not None and not discrete:
        d = {name: values[0] for name, values in against["distance"].items()}
        say(
            f"distance of the two actions: mean {d['mean']:.4g}, median {d['q50']:.4g}, 90 % below {d['q90']:.4g}, "
            f"at most {d['max']:.4g} (Euclidean, in the units of the actions)"
        )


def _print_columns(columns: dict[str, Any]) -> None:
    headings = {"min": "min", "median": "q50", "max": "max", "mean": "mean", "std": "std"}
    table = _table("columns (--json has quantiles as well)", ("column", *headings, "absent"))
    for name, column in columns.items():
        if name in _TOLD_ELSEWHERE:
            continue
        size = len(column["count"])
        for d in range(min(size, _ROWS)):
            numbers = (column[key][d] for key in headings.values())
            absent = column["missing"][d]
            table.add_row(
                escape(f"{name} [{d}]" if size > 1 else name),
                *("-" if number is None else f"{number:.3g}" for number in numbers),
                str(absent) if absent else "",
            )
        if size > _ROWS:
            table.add_row(escape(f"{name}: {size - _ROWS} more, see --json"))
    console.print(table)


def _table(title: str, headings: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in headings:
        name = heading == "column"
        table.add_column(
            heading,
            justify="left" if heading in _TEXT else "right",
            overflow="fold",
            no_wrap=not name,
            min_width=24 if name else 0,
        )
    return table


def _spark(counts: Sequence[int]) -> str:
    highest = max(1, *counts)
    # What was recorded at all is seen, however rare.
    return "".join(_LEVELS[0 if count == 0 else max(1, round(8 * count / highest))] for count in counts)
