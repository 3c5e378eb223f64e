"""Figures of the sensitivity over time: the gradient norm along each episode, its numbers, where it peaks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from robopref.diagnosis.instability import STATISTICS
from robopref.diagnosis.results import EpisodeSeries, Instability, Peak
from robopref.evaluation.statistics import Estimate
from robopref.reporting.diagnosis_drawing import (
    WIDTH,
    finished,
    frame_labels,
    frames_of,
    interval_row,
    per_frame,
    plain_log_ticks,
    robust_limit,
    show_picture,
    signed_over_frame,
)
from robopref.reporting.diagnosis_words import episodes_text, estimate_text, intervals_text, number, shortened
from robopref.reporting.figures import Chart, drawing
from robopref.reporting.palette import BLUE, VERMILLION

_MOST_EPISODES = 12
_MOST_POINTS = 600  # along an axis; longer series are drawn as the range of each stretch
_LOG_FROM = 50.0  # ratio of the largest to the median norm from which the axis is logarithmic
_FADED = 1e-4  # of the largest norm: lowest value that a logarithmic axis still shows

MEASURES = {
    "mean": ("mean norm", "|g(s)|\u2082"),
    "variance": ("variance of the norm", "|g(s)|\u2082\u00b2"),
    "variation": ("variation", "standard deviation / mean"),
    "oscillation": ("oscillation", "mean change per step / mean"),
    "high_frequency": ("high-frequency share", "share of power below 4 steps"),
}
"""The numbers of ``Instability`` by field: what they are called, and their units."""


def measures_of(instability: Instability) -> dict[str, Estimate | None]:
    """The estimates of ``Instability`` by field."""
    return {name: getattr(instability, name) for name in MEASURES}


def norms_figure(episodes: Sequence[EpisodeSeries], peaks: Sequence[Peak]) -> Chart:
    """The gradient norm along each episode, a strip per episode on one scale, with the numbered peaks."""
    shown = episodes[:_MOST_EPISODES]
    pooled = np.concatenate([episode.norms for episode in episodes])
    largest = float(pooled.max())
    typical = float(np.median(pooled[pooled > 0]))
    logarithmic = largest > _LOG_FROM * typical
    floor = max(_FADED * largest, float(pooled[pooled > 0].min())) / 1.5 if logarithmic else 0.0
    longest = max(len(episode.norms) for episode in shown)
    with drawing(WIDTH, 0.75 + (0.64 if len(shown) < 6 else 0.52) * len(shown)) as figure:
        column = figure.subplots(len(shown), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        for index, (axes, episode) in enumerate(zip(column, shown, strict=True)):
            _draw_series(axes, episode.norms, floor)
            for rank, peak in enumerate(peaks, start=1):
                if peak.episode == index:
                    axes.plot(peak.step, peak.norm, "v", color=VERMILLION, ms=4.5, clip_on=False, zorder=3)
                    axes.annotate(
                        str(rank), (peak.step, peak.norm), (0, 3.5), textcoords="offset points", ha="center",
                        fontsize=8, weight="bold", color=VERMILLION, annotation_clip=False,
                    )  # fmt: skip
            axes.set_ylabel(f"{index + 1}", rotation=0, ha="right", va="center", weight="bold")
            axes.text(
                1.005, 0.5, f"return {number(episode.score)}\n{episode.length} steps", transform=axes.transAxes,
                fontsize=7.5, va="center", color="#444444",
            )  # fmt: skip
            axes.tick_params(axis="y", labelsize=7.5)
        if logarithmic:
            column[0].set(yscale="log", ylim=(floor / 1.3, largest * 3))
            plain_log_ticks(column[0], few=True)
        else:
            column[0].set(ylim=(0, largest * 1.5))
            column[0].locator_params(axis="y", nbins=3)
        column[-1].set(xlim=(0, longest), xlabel="agent step of the episode")
        figure.supylabel("episode,  gradient norm |g(s)|\u2082", fontsize=9)
        caption = (
            "How strongly the decision reacts to the pixels, step by step, in each clean episode (one scale). Sharp "
            "spikes are moments at which a tiny change of the picture moves the decision; numbered triangles are the "
            "highest peaks, shown below."
        )
        if logarithmic:
            caption += " The axis is logarithmic."
            if (pooled < floor).any():
                share = 100 * float((pooled < floor).mean())
                caption += f" Red bars at the bottom: below the axis, {number(share)} % of the states."
        if longest > _MOST_POINTS:
            caption += " Dark line: mean over a short stretch; light band: from its lowest to its highest value."
        if any(len(episode.norms) < episode.length for episode in episodes):
            caption += f" Only the first {max(len(e.norms) for e in episodes)} steps were followed."
        if len(shown) < len(episodes):
            caption += f" The first {len(shown)} of {len(episodes)} episodes are drawn."
        alt = f"Gradient norm along {len(shown)} episodes: median {number(typical)}, largest {number(largest)}, at " + (
            f"step {peaks[0].step} of episode {peaks[0].episode + 1}." if peaks else "an unmarked step."
        )
        return finished(figure, "norms", "Gradient norm along each episode", caption, alt)


def _draw_series(axes: Axes, norms: NDArray[np.float64], floor: float) -> None:
    """The norms [T], or stretches of them where they are many; what lies below the floor as a bar along it."""
    edges = np.linspace(0, len(norms), min(len(norms), _MOST_POINTS) + 1).astype(int)
    starts, middle = edges[:-1], (edges[:-1] + edges[1:] - 1) / 2
    drawn = np.maximum(norms, floor)
    if len(starts) < len(norms):
        lowest, highest = np.minimum.reduceat(drawn, starts), np.maximum.reduceat(drawn, starts)
        axes.fill_between(middle, lowest, highest, color=BLUE, alpha=0.35, linewidth=0)
    axes.plot(middle, np.add.reduceat(drawn, starts) / np.diff(edges), color=BLUE, linewidth=0.9)
    hidden = np.minimum.reduceat(norms, starts) < floor
    if hidden.any():
        axes.hlines(np.full(hidden.sum(), floor), starts[hidden], edges[1:][hidden], color=VERMILLION, linewidth=3)


def measures_figure(instability: Instability, confidence: float = 0.95) -> Chart:
    """Mean, variance, variation, oscillation and high-frequency share: each episode, and all together with interval."""
    found = {name: estimate for name, estimate in measures_of(instability).items() if estimate is not None}
    n = len(instability.episodes)
    with drawing(WIDTH, 0.35 + 0.78 * len(found)) as figure:
        column = figure.subplots(len(found), 1, squeeze=False)[:, 0]
        for axes, (name, estimate) in zip(column, found.items(), strict=True):
            single = STATISTICS[name](instability.moments)
            single = single[np.isfinite(single)]
            axes.plot(single, np.full(len(single), -0.55), "|", color=BLUE, ms=11, mew=1.3)
            interval_row(axes, 0.4, estimate, marker="D")
            title, unit = MEASURES[name]
            axes.set(ylim=(-1.1, 1), yticks=[], xlabel=unit)
            axes.set_ylabel(title, rotation=0, ha="right", va="center", weight="bold")
            axes.spines["left"].set_visible(False)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value, 4)))
            values = [estimate.low, estimate.high, *single]
            if min(values) > 0 and max(values) > 30 * min(values):
                axes.set_xscale("log")
                plain_log_ticks(axes, vertical=False)
            elif min(values) < 0.5 * max(values):
                axes.set_xlim(left=0)
        caption = (
            f"Blue ticks: single episodes. Diamonds: all together; lines: {intervals_text(n, confidence)}. "
            "Variation and oscillation do not depend on the scale of the action values, mean and variance do. "
            "High-frequency share: about 0.5 for white noise, near 0 for a norm that drifts slowly."
        )
        missing = [MEASURES[name][0] for name in MEASURES if name not in found]
        if missing:
            caption += f" Not defined here: {', '.join(missing)}."
        told = "; ".join(f"{MEASURES[name][0]} {estimate_text(estimate)}" for name, estimate in found.items())
        alt = f"Over {episodes_text(n)}: {told}."
        return finished(figure, "measures", "Size and restlessness of the sensitivity", caption, alt)


def peaks_figure(peaks: Sequence[Peak], channels_per_frame: int, actions: Sequence[str], value_unit: str) -> Chart:
    """The states with the largest gradient norms: oldest and newest frame, the gradient, the two best actions."""
    stack = peaks[0].state.shape[0] // channels_per_frame
    rows = 3 if stack > 1 else 2
    columns = max(len(peaks), 4)  # so that one or two peaks are not drawn huge
    side = (WIDTH - 0.3) / columns
    with drawing(WIDTH, rows * (side + 0.05) + 0.85) as figure:
        grid = figure.subplots(rows, columns, squeeze=False)
        for rank, (peak, column) in enumerate(zip(peaks, grid.T, strict=False), start=1):
            frames = frames_of(peak.state, channels_per_frame)
            gradient = per_frame(peak.gradient, channels_per_frame)[-1]
            shown = [frames[0], frames[-1]] if stack > 1 else [frames[-1]]
            for axes, frame in zip(column, shown, strict=False):
                show_picture(axes, frame)
            show_picture(column[-1], signed_over_frame(gradient, frames[-1], robust_limit(gradient)))
            column[0].set_title(f"{rank}")
            column[0].set_title(f"ep. {peak.episode + 1}, step {peak.step}", loc="right", fontsize=7.5, weight="normal")
            column[-1].set_xlabel(_decision(peak, actions), fontsize=7.5)
        for axes in grid[:, len(peaks) :].flat:
            axes.set_axis_off()
        oldest = frame_labels(stack)[0]
        for axes, label in zip(
            grid[:, 0], ([f"frame {oldest}"] if stack > 1 else []) + ["frame t", "gradient at t"], strict=True
        ):
            axes.set_ylabel(label, fontsize=8.5)
        caption = (
            "The states at which the gradient norm is largest, most sensitive first"
            + (": the oldest and the newest frame of the stack" if stack > 1 else "")
            + ", the gradient with respect to the newest frame (yellow up, blue down, each on its own scale), the "
            f"norm, and the best action with its lead over the second best [{value_unit}]. "
            "Look for what they have in common, such as a ball about to be hit."
        )
        told = "; ".join(
            f"{rank}: episode {p.episode + 1}, step {p.step}, norm {number(p.norm)}" for rank, p in enumerate(peaks, 1)
        )
        return finished(figure, "peaks", "States where it peaks", caption, f"Peaks of the gradient norm. {told}.")


def _decision(peak: Peak, actions: Sequence[str]) -> str:
    second, best = np.argsort(peak.q_values, kind="stable")[-2:]
    lead = number(float(peak.q_values[best] - peak.q_values[second]), 2)
    names = [shortened(actions[index], 16) for index in (best, second)]
    return f"|g|\u2082 = {number(peak.norm)}\n{names[0]}\nover {names[1]}\nby {lead}"
