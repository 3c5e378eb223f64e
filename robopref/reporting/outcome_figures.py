"""Figures of an evaluation: rates with their intervals, paired outcomes, lengths of episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from robopref.evaluation.statistics import Estimate, Rate
from robopref.reporting.figures import (
    STAGE_COLORS,
    STAGE_FILLS,
    STAGE_LINES,
    STAGE_NAMES,
    Chart,
    drawing,
    percent_axis,
    to_svg,
    zero_line,
)
from robopref.reporting.palette import BLACK, BLUE, LIGHT_GREY, SKY_BLUE, VERMILLION
from robopref.reporting.results import MEASURES, EvaluatedEpisode

MEASURE_NAMES = {"success": "success", "intervention_rate": "intervention"}


def rates_figure(rates: Mapping[str, Mapping[str, Rate]], differences: Mapping[str, Estimate]) -> Chart:
    """Both rates with their intervals, and the paired differences beside them when there are any."""
    rows = [(measure, stage) for measure in MEASURES for stage in rates]
    gap = 0.5  # between the two measures
    positions = {row: -i - gap * MEASURES.index(row[0]) for i, row in enumerate(rows)}
    with drawing(7.6, 0.9 + 0.42 * len(rows)) as figure:
        grid = figure.subplots(1, 2 if differences else 1, width_ratios=[3, 2] if differences else None, squeeze=False)
        axes = grid[0, 0]
        for (measure, stage), y in positions.items():
            rate = rates[stage][measure]
            axes.plot([100 * rate.low, 100 * rate.high], [y, y], color=STAGE_COLORS[stage], linewidth=2.2)
            axes.plot(100 * rate.value, y, "o", color=STAGE_COLORS[stage], markerfacecolor=STAGE_FILLS[stage], ms=7)
        labels = [f"{MEASURE_NAMES[m]}, {STAGE_NAMES[s].removesuffix(' refinement')}" for m, s in rows]
        axes.set_yticks(list(positions.values()), labels)
        axes.set_ylim(min(positions.values()) - 0.6, 0.6)
        axes.grid(axis="y", visible=False)
        percent_axis(axes, "share of evaluation episodes [%]")
        axes.set_title("Rates, 95 % Wilson intervals")
        if differences:
            axes = grid[0, 1]
            zero_line(axes, vertical=True)
            for measure, difference in differences.items():
                y = float(np.mean([p for (m, _), p in positions.items() if m == measure]))
                axes.plot([100 * difference.low, 100 * difference.high], [y, y], color=BLACK, linewidth=2.2)
                axes.plot(100 * difference.value, y, "D", color=BLACK, ms=6)
            reach = max(10.0, *(110 * max(abs(d.low), abs(d.high)) for d in differences.values()))
            axes.set(xlim=(-reach, reach), ylim=grid[0, 0].get_ylim(), xlabel="after minus before [points]")
            axes.set_yticks(
                [float(np.mean([p for (m, _), p in positions.items() if m == x])) for x in differences],
                [MEASURE_NAMES[x] for x in differences],
            )
            axes.grid(axis="y", visible=False)
            axes.set_title("Paired differences, 95 %")
        svg = to_svg(figure)
    told = [
        f"{MEASURE_NAMES[m]} {STAGE_NAMES[s]} {rate_text(rates[s][m])} percent, n = {rates[s][m].n}" for m, s in rows
    ]
    told += [f"difference of {MEASURE_NAMES[m]} {difference_text(d)} points" for m, d in differences.items()]
    caption = "Dots are the observed rates, bars their 95 % Wilson intervals."
    if differences:
        caption += (
            " Diamonds are the differences over the same seeds; an interval that leaves zero aside supports a change. "
            "Success should rise, intervention should fall."
        )
    return Chart("rates", svg, "Rates", caption, "; ".join(told) + ".", wide=True)


def rate_text(rate: Rate) -> str:
    """``62.0 [48.2, 74.1]``, in percent."""
    return f"{100 * rate.value:.1f} [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"


def difference_text(difference: Estimate) -> str:
    """``+24.0 [+8.0, +40.0]``, in points."""
    return f"{100 * difference.value:+.1f} [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"


def paired_outcomes(
    before: Sequence[EvaluatedEpisode], after: Sequence[EvaluatedEpisode]
) -> dict[str, list[int]] | None:
    """The seeds met by both evaluations by what became of them; None when there are none."""
    first, second = ({row.seed: row.success for row in rows} for rows in (before, after))
    shared = sorted(first.keys() & second.keys())
    if not shared:
        return None
    kinds = {"solved both times": (1, 1), "won": (0, 1), "lost": (1, 0), "failed both times": (0, 0)}
    return {kind: [s for s in shared if (first[s], second[s]) == pair] for kind, pair in kinds.items()}


def paired_figure(outcomes: Mapping[str, Sequence[int]]) -> Chart:
    """How many seeds were won, lost and kept, as one bar."""
    looks = {
        "solved both times": (SKY_BLUE, "", BLACK),
        "won": (BLUE, "", "white"),
        "lost": (VERMILLION, "///", BLACK),
        "failed both times": (LIGHT_GREY, "", BLACK),
    }
    total = sum(map(len, outcomes.values()))
    with drawing(7.6, 1.45) as figure:
        axes = figure.subplots()
        left = 0
        for kind, seeds in outcomes.items():
            color, hatch, ink = looks[kind]
            axes.barh(
                0, len(seeds), left=left, color=color, hatch=hatch, edgecolor="white", label=f"{kind}: {len(seeds)}"
            )
            if len(seeds) >= 0.04 * total:
                ground = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
                axes.text(
                    left + len(seeds) / 2, 0, str(len(seeds)), ha="center", va="center", color=ink, weight="bold",
                    bbox=ground if hatch else None,
                )  # fmt: skip
            left += len(seeds)
        axes.set(xlim=(0, total), yticks=[], xlabel="evaluation seeds (the same before and after)")
        axes.grid(visible=False)
        axes.spines["left"].set_visible(False)
        figure.legend(loc="outside upper left", ncols=4, handlelength=1.3, columnspacing=1.4)
        svg = to_svg(figure)
    told = ", ".join(f"{len(seeds)} {kind}" for kind, seeds in outcomes.items())
    caption = "Each seed is one scene. Won: failed before, solved after. Lost: the other way round."
    return Chart("paired", svg, "Seed by seed", caption, f"Of {total} seeds: {told}.", wide=True)


def solved_within_figure(episodes: Mapping[str, Sequence[EvaluatedEpisode]]) -> Chart:
    """Share of episodes solved within so many steps."""
    longest = max(row.steps for rows in episodes.values() for row in rows)
    told = []
    with drawing(4.6, 3.0) as figure:
        axes = figure.subplots()
        for stage, rows in episodes.items():
            solved = np.sort([row.steps for row in rows if row.success])
            share = 100 * np.arange(len(solved) + 1) / len(rows)
            axes.step(
                [0, *solved, longest],
                [*share, share[-1]],
                where="post",
                color=STAGE_COLORS[stage],
                linestyle=STAGE_LINES[stage],
                label=STAGE_NAMES[stage],
            )
            told.append(f"{STAGE_NAMES[stage]} {share[-1]:.0f} percent in the end")
        axes.set(xlim=(0, longest), xlabel="control steps since the start")
        percent_axis(axes, "episodes solved by then [%]", vertical=True)
        axes.legend(loc="upper left")
        svg = to_svg(figure)
    caption = "How soon episodes are solved: higher and further left is better. Levels at the right are success rates."
    return Chart("solved", svg, "Solved within", caption, "Share of episodes solved: " + ", ".join(told) + ".")


def lengths_figure(episodes: Mapping[str, Sequence[EvaluatedEpisode]]) -> Chart:
    """Every episode as a mark at its length, successes and failures apart."""
    told = []
    with drawing(4.6, 3.0) as figure:
        axes = figure.subplots()
        jitter = np.random.default_rng(0)
        for y, (stage, rows) in enumerate(episodes.items()):
            for success, marker in ((True, "o"), (False, "x")):
                steps = [row.steps for row in rows if row.success is success]
                axes.scatter(
                    steps,
                    -y + jitter.uniform(-0.28, 0.28, len(steps)),
                    marker=marker,
                    s=22,
                    linewidths=1.1,
                    alpha=0.85,
                    facecolors=(STAGE_FILLS[stage] if success else VERMILLION),
                    edgecolors=(STAGE_COLORS[stage] if success else None),
                )
            median = float(np.median([row.steps for row in rows]))
            axes.plot([median, median], [-y - 0.38, -y + 0.38], color=BLACK, linewidth=1.6)
            told.append(f"{STAGE_NAMES[stage]} median {median:.0f} steps")
        axes.set_yticks([-y for y in range(len(episodes))], [s if s != "evaluation" else "" for s in episodes])
        axes.set(ylim=(-len(episodes) + 0.45, 0.55), xlabel="length of the episode [control steps]")
        axes.set_xlim(left=0)
        axes.grid(axis="y", visible=False)
        svg = to_svg(figure)
    caption = "One mark per episode: circles were solved, crosses failed; the bar is the median length."
    return Chart("lengths", svg, "Lengths of the episodes", caption, "Lengths: " + ", ".join(told) + ".")
