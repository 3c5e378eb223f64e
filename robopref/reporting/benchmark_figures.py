"""Figures of a benchmark: methods over all tasks, by task, and what they gain from so many takeovers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from matplotlib.ticker import MaxNLocator

from robopref.evaluation.benchmark_runs import BASE
from robopref.evaluation.benchmark_scores import BenchmarkScores
from robopref.evaluation.statistics import paired_mean_difference
from robopref.reporting.benchmark_tables import by_score, compared, percent_text, reading
from robopref.reporting.figures import Chart, drawing, percent_axis, to_png, to_svg, zero_line
from robopref.reporting.palette import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY_BLUE, VERMILLION

_PANELS_ACROSS = 3
_BASE_COLOR = "#666666"
_OTHER_COLORS = (VERMILLION, GREEN, ORANGE, PURPLE, SKY_BLUE, BLACK)
_OTHER_MARKERS = ("s", "^", "D", "v", "P", "X", "<", ">", "p")


def methods_figure(scores: BenchmarkScores, name: str = "methods") -> Chart:
    """Interquartile mean of every method, best first, and the probability that the recipe improves on each."""
    rows = by_score(scores)
    looks = _looks(scores)
    one_run = scores.one_run
    with drawing(7.6, 1.0 + 0.34 * len(rows)) as figure:
        left, right = figure.subplots(1, 2, width_ratios=[3, 2], sharey=True)
        base = scores.row(BASE).interquartile_mean
        left.axvline(100 * base.value, color=_BASE_COLOR, linestyle="--", linewidth=1, zorder=0.5)
        right.axvline(50, color=GREY, linewidth=1, zorder=0.5)
        for y, row in enumerate(rows):
            estimates = [(left, row.interquartile_mean)]
            if row.recipe_improves is not None:
                estimates.append((right, row.recipe_improves))
            for axes, e in estimates:
                color, marker = looks[row.method]
                axes.plot([100 * e.low, 100 * e.high], [y, y], color=color, linewidth=2.2)
                axes.plot(100 * e.value, y, marker, color=color, markerfacecolor=_fill(row.method, color), ms=7)
        left.set_yticks(range(len(rows)), [row.method for row in rows])
        left.set_ylim(len(rows) - 0.5, -0.5)
        percent_axis(left, "success, interquartile mean [%]")
        percent_axis(right, f"P({scores.recipe} is better) [%]")
        for axes in (left, right):
            axes.grid(axis="y", visible=False)
        left.set_title("Success over all tasks")
        right.set_title(f"Does {scores.recipe} improve on it?")
        right.tick_params(axis="y", length=0)
        svg, png = to_svg(figure), to_png(figure)
    told = []
    for row in rows:
        text = f"{row.method} {percent_text(row.interquartile_mean, one_run=one_run)}"
        if row.recipe_improves is not None:
            text += f", {scores.recipe} better with probability {percent_text(row.recipe_improves, one_run=one_run)}"
        told.append(text)
    caption = (
        f"{compared(scores)} Left: the middle half of all success rates, averaged; the dashed line is the base. Right: "
        f"how often a run of {scores.recipe} beats one of the method on the same task, ties counting half; at 50 % "
        f"neither is better. {reading(scores)}"
    )
    return Chart(name, svg, "Methods over all tasks", caption, "; ".join(told) + ".", wide=True, png=png)


def tasks_figure(scores: BenchmarkScores, name: str = "tasks") -> Chart:
    """Success of every method on each task, with its Wilson interval."""
    rows = by_score(scores)
    looks = _looks(scores)
    spacing = 1 / (len(rows) + 1.5)  # of the methods within a task's band of height 1
    with drawing(7.6, 1.0 + len(scores.tasks) * (0.16 * len(rows) + 0.22)) as figure:
        axes = figure.subplots()
        for i, row in enumerate(rows):
            color, marker = looks[row.method]
            for j, task in enumerate(scores.tasks):
                rate = row.tasks[task]
                y = j + (i - (len(rows) - 1) / 2) * spacing
                axes.plot([100 * rate.low, 100 * rate.high], [y, y], color=color, linewidth=1.6)
                axes.plot(
                    100 * rate.value, y, marker, color=color, markerfacecolor=_fill(row.method, color), ms=5.5,
                    label=row.method if j == 0 else None,
                )  # fmt: skip
        for j in range(1, len(scores.tasks)):
            axes.axhline(j - 0.5, color="#CCCCCC", linewidth=0.7)
        axes.set_yticks(range(len(scores.tasks)), scores.tasks)
        axes.set_ylim(len(scores.tasks) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        percent_axis(axes, "success [%]")
        figure.legend(loc="outside right upper", handlelength=1)
        svg, png = to_svg(figure), to_png(figure)
    told = [f"{task}: " + ", ".join(f"{row.method} {row.tasks[task]}" for row in rows) for task in scores.tasks]
    caption = f"{compared(scores)} Bars are 95 % Wilson intervals over the episodes of all runs of a task."
    return Chart(name, svg, "Methods by task", caption, "; ".join(told) + ".", wide=True, png=png)


def gains_figure(scores: BenchmarkScores, name: str = "gains") -> Chart:
    """What each run gained over the base against the takeovers of its deployment, a panel per method."""
    looks = _looks(scores)
    methods = [row.method for row in by_score(scores) if row.method != BASE]
    # Methods share the takeovers of a run and would cover one another in one panel.
    across = min(_PANELS_ACROSS, len(methods))
    down = -(-len(methods) // across)
    told = []
    with drawing(1.2 + 2.15 * across, 0.5 + 1.9 * down) as figure:
        grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
        for axes, method in zip_longest(grid.flat, methods):
            if method is None:
                axes.set_visible(False)
                continue
            gains = [gain for gain in scores.gains if gain.method == method]
            color, marker = looks[method]
            x = [gain.takeovers for gain in gains]
            low, high = [100 * gain.gain.low for gain in gains], [100 * gain.gain.high for gain in gains]
            zero_line(axes, vertical=False)
            axes.vlines(x, low, high, color=color, alpha=0.4, linewidth=1.3)
            axes.plot(x, [100 * gain.gain.value for gain in gains], marker, color=color, ms=4.5)
            axes.set_title(method)
            axes.tick_params(labelbottom=True)
            mean = paired_mean_difference(scores.success[method], scores.success[BASE])
            told.append(
                f"{method}, runs with {_range(x)} takeovers: mean gain in points "
                f"{percent_text(mean, one_run=scores.one_run, difference=True)}"
            )
        most = max(gain.takeovers for gain in scores.gains)
        grid[0, 0].set_xlim(-0.05 * max(1, most), 1.08 * max(1, most))
        grid[0, 0].xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        figure.supxlabel("takeovers in the deployment", fontsize="medium")
        figure.supylabel("success over the base [points]", fontsize="medium")
        svg, png = to_svg(figure), to_png(figure)
    caption = (
        f"{compared(scores)} A mark per run, with the 95 % interval of its gain over the base on the same evaluation "
        "episodes. Methods of one run share its takeovers."
    )
    return Chart(name, svg, "Gain against takeovers", caption, "; ".join(told) + ".", wide=True, png=png)


def benchmark_charts(scores: BenchmarkScores, prefix: str = "") -> tuple[Chart, Chart, Chart]:
    """All three figures, their names after the prefix."""
    return (
        methods_figure(scores, f"{prefix}methods"),
        tasks_figure(scores, f"{prefix}tasks"),
        gains_figure(scores, f"{prefix}gains"),
    )


def _looks(scores: BenchmarkScores) -> dict[str, tuple[str, str]]:
    """(colour, marker) by method, alike in all figures of the same methods; markers differ where colours repeat."""
    looks = {BASE: (_BASE_COLOR, "o"), scores.recipe: (BLUE, "o")}
    for i, method in enumerate(row.method for row in scores.rows if row.method not in looks):
        looks[method] = (_OTHER_COLORS[i % len(_OTHER_COLORS)], _OTHER_MARKERS[i % len(_OTHER_MARKERS)])
    return looks


def _fill(method: str, color: str) -> str:
    return "white" if method == BASE else color


def _range(counts: Sequence[int]) -> str:
    return str(counts[0]) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
