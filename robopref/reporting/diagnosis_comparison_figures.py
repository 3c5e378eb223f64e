"""Figures of two policies side by side: angles, ratios, overlap of the sensitive regions, quotients, spectra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from robopref.diagnosis.results import Comparison, Overlap, Spatial
from robopref.evaluation.statistics import Estimate
from robopref.reporting.diagnosis_drawing import (
    SEQUENTIAL,
    WIDTH,
    finished,
    frame_labels,
    frames_of,
    grouped_rows,
    interval_row,
    label_rows,
    per_frame,
    plain_log_ticks,
    robust_limit,
    show_picture,
    signed_colors,
    signed_over_frame,
)
from robopref.reporting.diagnosis_instability_figures import MEASURES
from robopref.reporting.diagnosis_words import condition_name, estimate_text, has_interval, intervals_text, number
from robopref.reporting.figures import Chart, drawing, zero_line
from robopref.reporting.palette import BLACK, BLUE, GREY, LIGHT_GREY, VERMILLION

_COLORS = (BLUE, VERMILLION)
_MARKERS = ("o", "s")
_LINES = ("-", "--")
_ROW = 0.24  # inches


def angles_figure(comparison: Comparison, confidence: float = 0.95) -> Chart:
    """The angle between the two principal directions, beside what chance does within each policy."""
    own = [
        (f"{name}: clean against null", angle)
        for name, angle in zip(comparison.names, comparison.own_angles, strict=True)
        if angle is not None
    ]
    between = [("between the two policies", comparison.angle)]
    planes = [(f"angle {rank}", angle) for rank, angle in enumerate(comparison.principal_angles, start=1)]
    groups = [
        ("principal directions", between),
        ("within one policy", own),
        (f"spaces of the first {len(planes)} directions", planes if len(planes) > 1 else []),
    ]
    rows, headers = grouped_rows([(group, [label for label, _ in pairs]) for group, pairs in groups])
    with drawing(WIDTH, 0.75 + _ROW * (len(rows) + 1.2 * len(headers))) as figure:
        axes = figure.subplots()
        for group, pairs in groups:
            for label, angle in pairs:
                mine = group == "within one policy"
                interval_row(
                    axes, rows[group, label], angle, color=GREY if mine else BLACK, marker="o" if mine else "D"
                )
        label_rows(axes, rows, headers)
        axes.set(xlim=(-2, 92), xticks=[0, 15, 30, 45, 60, 75, 90], xlabel="angle [degrees]")
        caption = (
            "0 degrees: both policies are most sensitive along the same direction; 90: along unrelated ones, which is "
            "what two random directions of this many pixels would have. Within one policy: the same angle between two "
            "independent sets of episodes of it, so what chance alone does. "
        )
        if len(planes) > 1:
            caption += "Below: the angles between the two spaces that the leading directions span, smallest first. "
        caption += f"Lines: {intervals_text(comparison.angle.n, confidence)} of each."
        told = [f"{label} {estimate_text(angle)} degrees" for _, pairs in groups for label, angle in pairs]
        return finished(figure, "angles", "Angle between the principal directions", caption, "; ".join(told) + ".")


def ratios_figure(
    names: Sequence[str], ratios: Mapping[str, Estimate | None], confidence: float = 0.95
) -> Chart | None:
    """B over A of each measure of instability on a logarithmic axis; None where none is defined."""
    found = {name: ratio for name, ratio in ratios.items() if ratio is not None and ratio.value > 0}
    if not found:
        return None
    labels = {name: MEASURES[name][0] if name in MEASURES else name.replace("_", " ") for name in found}
    rows, headers = grouped_rows([("", list(labels.values()))])
    with drawing(WIDTH, 0.95 + 0.28 * len(found)) as figure:
        axes = figure.subplots()
        axes.set_xscale("log")
        axes.axvline(1, color=GREY, linewidth=1, zorder=0.5)
        for name, ratio in found.items():
            clear = has_interval(ratio) and not ratio.low <= 1 <= ratio.high
            interval_row(axes, rows["", labels[name]], ratio, marker="D", filled=clear)
        label_rows(axes, rows, headers)
        values = [x for ratio in found.values() for x in (ratio.low, ratio.value, ratio.high) if x > 0]
        axes.set_xlim(min(0.5, min(values) / 1.3), max(2.0, max(values) * 1.3))
        plain_log_ticks(axes, vertical=False)
        axes.set(xlabel=f"{names[1]} over {names[0]}")
        caption = (
            f"1: no difference; right of it {names[1]} has more. A filled mark's interval leaves 1 aside. Mean and "
            "variance carry the scale of the action values, which the two policies need not share; variation, "
            f"oscillation and high-frequency share do not. Lines: "
            f"{intervals_text(min(ratio.n for ratio in found.values()), confidence)} of each."
        )
        missing = [MEASURES[name][0] for name, ratio in ratios.items() if ratio is None and name in MEASURES]
        if missing:
            caption += f" Not defined: {', '.join(missing)}."
        alt = "; ".join(f"{labels[name]} ratio {estimate_text(ratio)}" for name, ratio in found.items())
        return finished(figure, "ratios", "Instability, one over the other", caption, alt + ".")


def overlap_figure(comparison: Comparison, confidence: float = 0.95) -> Chart:
    """How far the sensitive regions of the two policies coincide, beside each policy with itself."""
    measures = (
        ("common", f"intersection over union of the top {100 * comparison.overlap.top_share:.0f} % of the pixels"),
        ("bhattacharyya", "Bhattacharyya overlap of the energy maps"),
    )
    sets: list[tuple[str, Overlap]] = [("between the two policies", comparison.overlap)]
    sets += [
        (f"{name}: clean against null", overlap)
        for name, overlap in zip(comparison.names, comparison.own_overlaps, strict=True)
        if overlap is not None
    ]
    rows, headers = grouped_rows([("", [label for label, _ in sets])])
    with drawing(WIDTH, 1.1 + 0.3 * len(sets)) as figure:
        grid = figure.subplots(1, 2, sharey=True)
        for axes, (field, label) in zip(grid, measures, strict=True):
            for index, (name, overlap) in enumerate(sets):
                estimate: Estimate = getattr(overlap, field)
                interval_row(
                    axes, rows["", name], estimate, color=GREY if index else BLACK, marker="o" if index else "D"
                )
            axes.set(xlim=(-0.02, 1.02), xlabel=label.replace(" of the ", "\nof the ", 1))
            axes.grid(axis="y", visible=False)
            axes.tick_params(axis="y", length=0)
        grid[0].axvline(comparison.overlap.common_by_chance, color=VERMILLION, linewidth=1.2, linestyle=(0, (4, 3)))
        label_rows(grid[0], rows, headers)
        caption = (
            "1: the same pixels matter to both; 0: none in common. Dashed: what two independent sets of pixels of that "
            f"size share by chance, {number(comparison.overlap.common_by_chance)}. Grey: each policy with itself, "
            "clean against independent episodes, which is as much as one can expect. "
            f"Lines: {intervals_text(comparison.overlap.common.n, confidence)} of each."
        )
        alt = "; ".join(
            f"{name}: {estimate_text(o.common)} in common, Bhattacharyya {estimate_text(o.bhattacharyya)}"
            for name, o in sets
        )
        return finished(figure, "overlap", "Overlap of the sensitive regions", caption, alt + ".")


def energies_figure(names: Sequence[str], energies: NDArray[Any]) -> Chart:
    """The energy maps [2, H, W] of both policies on one scale, and which of the two has more where."""
    limit = robust_limit(energies)
    with drawing(WIDTH, 2.75) as figure:
        grid = figure.subplots(1, 3)
        for axes, name, energy in zip(grid, names, energies, strict=False):
            image = show_picture(axes, 1000 * energy, cmap=SEQUENTIAL, vmin=0, vmax=1000 * limit)
            axes.set_title(name)
        bar: dict[str, Any] = {"fraction": 0.046, "pad": 0.02, "location": "bottom", "aspect": 30}
        figure.colorbar(image, ax=grid[:2], extend="max", label="share of the energy [\u2030]", **bar)
        change = energies[1] - energies[0]
        reach = robust_limit(change)
        show_picture(grid[2], signed_over_frame(change, None, reach))
        grid[2].set_title("second minus first")
        scale = figure.colorbar(
            ScalarMappable(Normalize(-1000 * reach, 1000 * reach), signed_colors()), ax=grid[2], extend="both",
            label="difference [\u2030]", **(bar | {"aspect": 15}),
        )  # fmt: skip
        scale.locator = MaxNLocator(3, symmetric=True)
        caption = (
            "Squares of the components of G_S, summed over the frames of the stack; each map sums to 1. Right: yellow "
            f"where {names[1]} has more, blue where {names[0]} has. Values beyond the scales, half a percent, are "
            "drawn as their ends."
        )
        overlap = float(np.sqrt(energies[0] * energies[1]).sum())
        alt = f"Energy maps of {names[0]} and {names[1]}; their Bhattacharyya overlap is {number(overlap)}."
        return finished(figure, "energies", "Where each policy is sensitive", caption, alt)


def directions_figure(
    names: Sequence[str], directions: NDArray[Any], spatials: Sequence[Spatial], channels_per_frame: int
) -> Chart:
    """G_S of both policies [2, C, H, W], a row each, over the frames of a typical state of each."""
    values = [per_frame(direction, channels_per_frame) for direction in directions]
    labels = frame_labels(len(values[0]))
    columns = max(len(labels), 2)
    limits = [robust_limit(maps) for maps in values]
    side = min(2.4, (WIDTH - 0.4) / columns)
    with drawing(columns * side + 0.4, 2 * (side + 0.3)) as figure:
        grid = figure.subplots(2, columns, squeeze=False)
        for row, (name, maps, limit) in enumerate(zip(names, values, limits, strict=True)):
            frames = frames_of(spatials[row].typical_state, channels_per_frame) if spatials else [None] * len(labels)
            for axes, label, picture, frame in zip(grid[row], labels, maps, frames, strict=False):
                show_picture(axes, signed_over_frame(picture, frame, limit))
                axes.set_title(label)
            grid[row, 0].set_ylabel(name, weight="bold")
        for axes in grid[:, len(labels) :].flat:
            axes.set_axis_off()
        caption = (
            "Yellow and blue are the two signs of the components of the unit vector G_S, over a typical state of each "
            f"policy. The scale reaches \u00b1{number(limits[0])} above and \u00b1{number(limits[1])} below; half a "
            "percent of the components lie beyond and are drawn as that. A direction has no sign: opposite colours "
            "are the same."
        )
        alt = f"Signed maps of the principal directions of {names[0]} and {names[1]}."
        return finished(figure, "directions", "Both principal directions", caption, alt, wide=len(labels) > 1)


def profiles_figure(
    names: Sequence[str],
    spatials: Sequence[Spatial],
    channels_per_frame: int,
    n: int,
    confidence: float = 0.95,
) -> Chart:
    """The radial power profiles of both policies, a panel per frame; in colour the mean of the channels."""
    profiles = [
        [getattr(spatial, field).reshape(-1, channels_per_frame, len(spatial.frequencies)) for spatial in spatials]
        for field in ("radial", "radial_low", "radial_high")
    ]
    labels = frame_labels(len(profiles[0][0]))
    columns = min(len(labels), 4)
    rows = -(-len(labels) // columns)
    positive = np.concatenate([p[p > 0] for p in profiles[0]])
    floor = max(float(positive.min()) / 1.5, 0.03)
    with drawing(WIDTH if columns > 1 else 4.6, rows * 2.1 + 0.6) as figure:
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for index, (axes, label) in enumerate(zip(grid.flat, labels, strict=False)):
            for which, (name, spatial) in enumerate(zip(names, spatials, strict=True)):
                look = {"color": _COLORS[which], "linestyle": _LINES[which]}
                for channel in range(channels_per_frame):
                    middle, low, high = (np.maximum(p[which][index, channel], floor) for p in profiles)
                    axes.fill_between(spatial.frequencies, low, high, color=_COLORS[which], alpha=0.18, linewidth=0)
                    axes.plot(spatial.frequencies, middle, label="" if index or channel else name, **look)
            axes.axhline(1, color=BLACK, linewidth=0.8, linestyle=(0, (4, 3)))
            axes.axvline(0.5, color=LIGHT_GREY, linewidth=0.8, zorder=0.5)
            axes.set(yscale="log", xlim=(0, 0.71), title=label if len(labels) > 1 else "")
            axes.set_xticks([0, 0.25, 0.5], ["0", "0.25", "0.5"])
            plain_log_ticks(axes)
        for axes in grid.flat[len(labels) :]:
            axes.set_axis_off()
        figure.supxlabel("spatial frequency [cycles per pixel]", fontsize=9)
        grid[0, 0].set_ylabel("power, white = 1")
        figure.legend(loc="outside upper left", ncols=2)
        caption = (
            "Mean power of G_S in rings of its Fourier spectrum; the black dashed line is white noise. A flatter or "
            "rising profile means finer patterns. Bands: "
            f"{intervals_text(n, confidence)} of each."
        )
        if channels_per_frame > 1:
            caption += " Each colour channel has a line of its own."
        alt = f"Radial power profiles of {names[0]} and {names[1]} in {len(labels)} frame(s)."
        return finished(figure, "profiles", "Radial profiles of the power", caption, alt, wide=columns > 1)


def quotients_figure(
    names: Sequence[str], quotients: Mapping[str, tuple[Estimate | None, ...]], confidence: float = 0.95
) -> Chart | None:
    """Lambda of both policies under every condition in common, and the difference; None where none is defined."""
    found = {name: values for name, values in quotients.items() if any(value is not None for value in values)}
    if not found:
        return None
    labels = [condition_name(name) for name in found]
    rows, headers = grouped_rows([("", labels)])
    with drawing(WIDTH, 1.05 + 0.34 * len(found)) as figure:
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
        for label, (first, second, difference) in zip(labels, found.values(), strict=True):
            for which, estimate in enumerate((first, second)):
                if estimate is not None:
                    interval_row(
                        left, rows["", label] + (0.17, -0.17)[which], estimate, color=_COLORS[which],
                        marker=_MARKERS[which], filled=not which,
                    )  # fmt: skip
            if difference is not None:
                clear = has_interval(difference) and not difference.low <= 0 <= difference.high
                interval_row(right, rows["", label], difference, marker="D", filled=clear)
        for which, name in enumerate(names):
            fill = _COLORS[which] if not which else "white"
            left.plot([], [], _MARKERS[which], color=_COLORS[which], markerfacecolor=fill, mew=1.5, label=name)
        label_rows(left, rows, headers)
        zero_line(right, vertical=True)
        right.grid(axis="y", visible=False)
        right.tick_params(axis="y", length=0)
        left.set(xlim=(-0.02, 1.02), xlabel="quotient \u039b with its own clean episodes")
        right.set(xlabel="second minus first")
        figure.legend(loc="outside upper left", ncols=2)
        defined = [estimate for values in found.values() for estimate in values if estimate is not None]
        caption = (
            "\u039b of every shift or attack that both diagnoses hold. Each policy is to be read against its own null "
            "control, the first row. Right: a filled mark's interval leaves zero aside. "
            f"Lines: {intervals_text(min(estimate.n for estimate in defined), confidence)} of each."
        )
        alt = "; ".join(
            f"{label}: {estimate_text(a)} and {estimate_text(b)}, difference {estimate_text(c)}"
            for label, (a, b, c) in zip(labels, found.values(), strict=True)
        )
        return finished(figure, "quotients", "Quotients of both", caption, alt + ".")
