"""Figures of how clear the decisions are: the action gap, and the distance to the decision boundary."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from robopref.diagnosis.results import Condition, Decisions
from robopref.evaluation.statistics import Estimate
from robopref.reporting.diagnosis_drawing import finished, plain_log_ticks
from robopref.reporting.diagnosis_words import (
    condition_names,
    estimate_text,
    has_interval,
    number,
    percent_text,
    shortened,
)
from robopref.reporting.figures import Chart, drawing
from robopref.reporting.palette import BLACK, BLUE, GREY, LIGHT_GREY, VERMILLION

_BINS = 40
_DECADES = 6  # below the largest value; what is smaller still counts in the lowest bin


def gaps_figure(decisions: Decisions, value_unit: str) -> Chart:
    """The distribution of the action gap, with the near-ties in another colour."""
    gaps = decisions.gaps.astype(np.float64)
    threshold = decisions.tie_share * decisions.scale
    with drawing(4.6, 3.1) as figure:
        axes = figure.subplots()
        edges = log_edges(gaps, threshold)
        _log_histogram(axes, gaps, edges, threshold)
        if threshold > 0:
            axes.axvline(threshold, color=BLACK, linewidth=1, linestyle=(0, (4, 3)))
        _median_mark(axes, decisions.median_gap)
        axes.set(xlabel=f"action gap [{value_unit}]", ylabel="states [%]")
        axes.set_title(f"near-ties: {percent_text(decisions.near_ties)}", fontsize=8.5, weight="normal")
        caption = (
            "Value of the best action minus that of the second best, on a logarithmic axis, in "
            f"{len(gaps)} states of {decisions.near_ties.n} clean episode(s). Left of the dashed line (hatched) are "
            f"near-ties: a gap below {100 * decisions.tie_share:g} % of the range of the action values in a usual "
            f"state, {number(decisions.scale)}. The diamond is the median, {estimate_text(decisions.median_gap)}."
        )
        if _lowest(gaps, edges):
            caption += f" The lowest bar also holds what lies further left ({_lowest(gaps, edges)} states)."
        if decisions.synonym_ties is not None:
            caption += f" Near-ties among synonyms only: {percent_text(decisions.synonym_ties)} of all states."
        alt = (
            f"Near-ties: {percent_text(decisions.near_ties)}. Median gap {estimate_text(decisions.median_gap)} "
            f"{value_unit}."
        )
        return finished(figure, "gaps", "Action gap", caption, alt, wide=False)


def distances_figure(decisions: Decisions, attacks: Sequence[Condition], size: int) -> Chart | None:
    """First-order distances to the boundary with the runner-up, beside what successful attacks needed.

    ``size`` is the number of components of a state: no change of pixels in [0, 1] is longer than its root. None where
    no distance is finite.
    """
    distances = decisions.distances.astype(np.float64)
    finite = distances[np.isfinite(distances)]
    if not len(finite):
        return None
    needed = [
        (name, attack.distortion.l2_of_successes.value)
        for name, attack in zip(condition_names(attacks), attacks, strict=True)
        if attack.distortion is not None and attack.distortion.l2_of_successes is not None
    ]
    with drawing(4.6, 3.1 + 0.17 * len(needed)) as figure:
        axes = figure.subplots()
        edges = log_edges(np.concatenate([finite, [l2 for _, l2 in needed]]), 0.0)
        _log_histogram(axes, finite, edges, 0.0, total=len(distances))
        if decisions.median_distance is not None:
            _median_mark(axes, decisions.median_distance)
        axes.set(xlabel="distance to the boundary [L2 norm, pixels in [0, 1]]", ylabel="states [%]")
        longest = float(np.sqrt(size))
        if edges[-1] > longest:
            axes.axvline(longest, color=BLACK, linewidth=1, linestyle=":")
        if needed:
            height = axes.get_ylim()[1]
            for row, (name, l2) in enumerate(sorted(needed, key=lambda pair: pair[1])):
                y = height * (1.06 + 0.075 * row)
                axes.plot([l2, l2], [0, y], color=VERMILLION, linewidth=0.8, zorder=1.5)
                left = l2 > np.sqrt(edges[0] * edges[-1])
                axes.annotate(
                    shortened(name), (l2, y), (-4 if left else 4, 0), textcoords="offset points",
                    ha="right" if left else "left", va="center", fontsize=7.5, color="#A34700",
                )  # fmt: skip
            axes.set_ylim(0, height * (1.1 + 0.075 * len(needed)))
        caption = (
            "How far, to first order, a state is from the boundary with its second best action: its gap over the "
            f"gradient of the gap, in {len(distances)} states. "
        )
        if decisions.median_distance is not None:
            caption += f"The diamond is the median, {estimate_text(decisions.median_distance)}. "
        if len(finite) < len(distances):
            caption += f"In {len(distances) - len(finite)} states the gap does not move with the pixels (not drawn). "
        if needed:
            caption += "Lines: mean L2 distortion with which each attack flipped the action, where it did. "
        if edges[-1] > longest:
            beyond = 100 * float((distances > longest).mean())
            caption += (
                f"No change of the pixels is longer than {number(longest)} (dotted): in {number(beyond)} % of the "
                "states the boundary is out of reach, to first order. "
            )
        caption += "Further right is more robust."
        alt = f"Median distance {estimate_text(decisions.median_distance)}; " + "; ".join(
            f"{name} needed {number(l2)}" for name, l2 in needed
        )
        return finished(
            figure, "distances", "Distance to the decision boundary", caption, alt.rstrip("; ") + ".", wide=False
        )


def log_edges(values: NDArray[np.float64], threshold: float) -> NDArray[np.float64]:
    """Edges of logarithmic bins over the positive values; the threshold, where there is one, is among them."""
    positive = values[values > np.finfo(np.float32).tiny]  # what is smaller is as good as zero
    if not len(positive):
        return np.geomspace(0.5, 2, _BINS + 1) * (threshold or 1)
    high = max(float(positive.max()), threshold) * 1.05
    low = max(float(np.quantile(positive, 0.002)) / 1.1, high / 10**_DECADES)
    if not threshold:
        return np.geomspace(low, high, _BINS + 1)
    low = min(low, threshold / 1.1)
    width = np.log(high / low) / _BINS
    steps = np.arange(np.floor(np.log(low / threshold) / width), np.ceil(np.log(high / threshold) / width) + 1)
    edges: NDArray[np.float64] = threshold * np.exp(width * steps)
    return edges


def _lowest(values: NDArray[np.float64], edges: NDArray[np.float64]) -> int:
    return int((values < edges[0]).sum())


def _log_histogram(
    axes: Axes, values: NDArray[np.float64], edges: NDArray[np.float64], threshold: float, *, total: int | None = None
) -> None:
    shares = 100 * np.histogram(np.maximum(values, edges[0]), edges)[0] / (total or len(values))
    tied = edges[1:] <= threshold * (1 + 1e-9)
    for which, color, hatch in ((~tied, BLUE, ""), (tied, LIGHT_GREY, "////")):
        axes.bar(
            edges[:-1][which], shares[which], np.diff(edges)[which], align="edge", color=color, hatch=hatch,
            edgecolor=GREY if hatch else color, linewidth=0.3,
        )  # fmt: skip
    axes.set(xscale="log", xlim=(edges[0], edges[-1]), ylim=(0, 1.08 * float(shares.max())))
    plain_log_ticks(axes, vertical=False)
    axes.grid(axis="x", visible=False)


def _median_mark(axes: Axes, median: Estimate) -> None:
    # A logarithmic axis has no place for a gap of zero but its left end.
    value, low, high = np.clip([median.value, median.low, median.high], *axes.get_xlim())
    if has_interval(median):
        axes.plot([low, high], [0, 0], color=BLACK, linewidth=2.4, clip_on=False, zorder=4)
    axes.plot(value, 0, "D", color=BLACK, ms=5.5, clip_on=False, zorder=4)
