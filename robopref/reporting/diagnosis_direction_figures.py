"""Figures of the principal direction G_S: its map, where its energy lies, the spectrum of L(S), its Fourier power."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from robopref.diagnosis.results import Directions, Spatial
from robopref.reporting.diagnosis_drawing import (
    SEQUENTIAL,
    WIDTH,
    energy_per_frame,
    finished,
    frame_labels,
    frames_of,
    per_frame,
    plain_log_ticks,
    robust_limit,
    show_picture,
    signed_colors,
    signed_over_frame,
)
from robopref.reporting.diagnosis_words import estimate_text, intervals_text, number
from robopref.reporting.figures import Chart, drawing, zero_line
from robopref.reporting.palette import BLACK, BLUE, GREEN, GREY, LIGHT_GREY, VERMILLION

_SMOOTHING = 2.0  # pixels, standard deviation
_CHANNEL_LOOKS = ((VERMILLION, "-", "red"), (GREEN, "--", "green"), (BLUE, ":", "blue"))
_POLICY_COLORS = (BLUE, VERMILLION)
_POLICY_MARKERS = ("o", "s")
_MOST_COLUMNS = 4
_MOST_EIGENVALUES = 10
_LEAST_POWER = 0.03  # of white noise: the lowest that a profile shows, so that an empty frequency does not squash it
_BAR = 0.85  # inches for a colour bar and its labels


def direction_figure(
    direction: NDArray[Any],
    typical_state: NDArray[np.uint8] | None,
    channels_per_frame: int,
    *,
    origin: str,
    name: str = "direction",
    title: str = "Principal direction G_S, frame by frame",
) -> Chart:
    """G_S [C, H, W] as a signed map over each frame of a typical state [C, H, W], with the frames above it.

    ``origin`` says whose states it comes from, for the caption.
    """
    values = per_frame(direction, channels_per_frame)
    shares = energy_per_frame(direction, channels_per_frame).sum((1, 2))
    labels = frame_labels(len(values))
    frames = [None] * len(values) if typical_state is None else list(frames_of(typical_state, channels_per_frame))
    limit = robust_limit(values)
    alone = len(values) == 1  # a single frame: beside its map instead of above it
    columns, rows = (2, 1) if alone else (len(values), 1 if typical_state is None else 2)
    side = min(3.3, (WIDTH - _BAR) / columns)
    with drawing(columns * side + _BAR, rows * (side + 0.27)) as figure:
        grid = figure.subplots(rows, columns, squeeze=False)
        for index, (label, frame) in enumerate(zip(labels, frames, strict=True)):
            if frame is not None:
                axes = grid[0, 0] if alone else grid[0, index]
                show_picture(axes, frame)
                axes.set_title("what the policy sees" if alone else label)
            axes = grid[0, 1] if alone else grid[-1, index]
            show_picture(axes, signed_over_frame(values[index], frame, limit))
            share = f"{100 * shares[index]:.0f} % of its energy"
            axes.set_title("G_S over it" if alone else share if frame is not None else f"{label}: {share}")
        scale = figure.colorbar(
            ScalarMappable(Normalize(-limit, limit), signed_colors()), ax=grid, extend="both",
            fraction=0.04, pad=0.015, aspect=28, label="component of G_S (unit vector)",
        )  # fmt: skip
        scale.ax.yaxis.set_major_locator(MaxNLocator(5, symmetric=True))
        largest, even = number(float(np.abs(values).max())), number(1 / np.sqrt(direction.size))
        caption = (
            f"The direction in pixel space along which the policy's decisions move most, {origin}. Yellow (lighter "
            "than the frame) and blue (darker) are the two signs of its components; which is which has no meaning, "
            "for a direction has no sign of its own. One scale for all frames; components beyond "
            f"\u00b1{number(limit)}, half a percent of them, are drawn as that (largest {largest}; an even vector "
            f"would have {even} everywhere). "
        )
        if channels_per_frame > 1:
            caption += "Colour channels are averaged. "
        if not alone and typical_state is not None:
            caption += "Above: the frames of a typical state, oldest first; t is the frame of the decision. "
        told = ", ".join(
            f"{100 * share:.0f} percent in frame {label}" for share, label in zip(shares, labels, strict=True)
        )
        alt = f"Signed map of the principal direction over {len(values)} frame(s). Its squared length lies: {told}."
        return finished(figure, name, title, caption.strip(), alt)


def energy_figure(direction: NDArray[Any], spatial: Spatial, channels_per_frame: int) -> Chart:
    """Where the squares of G_S lie, summed over frames and channels: raw, and the region that holds half of them."""
    energy = np.square(direction.astype(np.float64)).sum(0)
    smooth, level, share = half_region(energy)
    newest = frames_of(spatial.typical_state, channels_per_frame)[-1]
    with drawing(WIDTH, 3.0) as figure:
        left, right = figure.subplots(1, 2)
        limit = robust_limit(energy)
        image = show_picture(left, 1000 * energy, cmap=SEQUENTIAL, vmin=0, vmax=1000 * limit)
        left.set_title("energy of each pixel")
        figure.colorbar(image, ax=left, extend="max", fraction=0.046, pad=0.03, label="share of the energy [\u2030]")
        image = show_picture(right, 1000 * smooth, cmap=SEQUENTIAL, vmin=0)
        figure.colorbar(image, ax=right, fraction=0.046, pad=0.03, label="share of the energy [\u2030]")
        right.contour(smooth >= level, levels=[0.5], colors=[BLACK], linewidths=1.3)
        right.contour(_outline(newest), levels=[0.5], colors=["#8A8A8A"], linewidths=0.5)
        right.set_title("smoothed, half of it outlined")
        caption = (
            "Squares of the components of G_S, summed over the frames of the stack. Right: smoothed with a Gaussian of "
            f"{_SMOOTHING:.0f} pixels; the black line encloses the smallest region with half of the energy, "
            f"{100 * share:.0f} % of the picture (spread evenly it would be 50 %); grey lines are the outlines of the "
            "typical frame."
        )
        alt = (
            f"Map of the energy of the principal direction; half of it lies on {100 * share:.0f} percent of the pixels."
        )
        return finished(figure, "energy", "Where the sensitivity lies", caption, alt)


def components_figure(names: Sequence[str], directions: Sequence[NDArray[Any]], origin: str) -> Chart:
    """Directions of states that are vectors, one per policy, coordinate by coordinate."""
    vectors = [np.asarray(direction, np.float64).ravel() for direction in directions]
    size = len(vectors[0])
    with drawing(WIDTH, 2.8) as figure:
        axes = figure.subplots()
        for index, (name, vector) in enumerate(zip(names, vectors, strict=True)):
            at = np.arange(size) + 0.28 * (index - (len(vectors) - 1) / 2)
            color = _POLICY_COLORS[index]
            axes.vlines(at, 0, vector, color=color, linewidth=1.6)
            axes.plot(at, vector, _POLICY_MARKERS[index], color=color, ms=4.5, label=name)
        zero_line(axes, vertical=False)
        axes.set(xlabel="coordinate of the state", ylabel="component of G_S", xlim=(-0.7, size - 0.3))
        axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
        axes.grid(axis="x", visible=False)
        if len(names) > 1:
            figure.legend(loc="outside upper left", ncols=2)
        caption = (
            f"The direction in the space of states along which decisions move most, {origin}, as a unit vector; each "
            "coordinate is measured in its own range. A direction has no sign: turned over it is the same."
        )
        told = [
            f"{name}: largest at coordinate {int(np.abs(vector).argmax())}, {number(float(np.abs(vector).max()))}"
            for name, vector in zip(names, vectors, strict=True)
        ]
        return finished(figure, "direction", "Principal direction G_S", caption, "; ".join(told) + ".")


def half_region(energy: NDArray[np.float64]) -> tuple[NDArray[np.float64], float, float]:
    """The smoothed energy map [H, W], the level above which half of it lies, and that region's share of the pixels."""
    smooth = np.asarray(cv2.GaussianBlur(energy, (0, 0), _SMOOTHING, borderType=cv2.BORDER_REFLECT), np.float64)
    ordered = np.sort(smooth, axis=None)[::-1]
    count = int(np.searchsorted(np.cumsum(ordered), 0.5 * ordered.sum())) + 1
    return smooth, float(ordered[count - 1]), count / energy.size


def _outline(frame: NDArray[np.uint8]) -> NDArray[np.float64]:
    grey = frame if frame.ndim == 2 else cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    return (cv2.Canny(np.ascontiguousarray(grey), 40, 120) > 0).astype(np.float64)


def spectrum_figure(directions: Directions, origin: str) -> Chart:
    """The leading eigenvalues of L(S) as shares of its trace, with the gap between the first two."""
    eigenvalues = directions.eigenvalues[directions.eigenvalues > 0]
    shares = eigenvalues[:_MOST_EIGENVALUES] / directions.trace
    bound = directions.error_bound / directions.trace
    count = len(shares)
    gap, first = directions.eigengap, directions.share
    with drawing(4.6, 3.0) as figure:
        axes = figure.subplots()
        axes.bar(np.arange(1, count + 1), 100 * shares, 0.7, color=[BLUE] + [GREY] * (count - 1))
        if directions.method == "streaming":
            axes.errorbar(
                np.arange(1, count + 1), 100 * shares, yerr=[np.zeros(count), np.full(count, 100 * bound)],
                fmt="none", color=BLACK, capsize=2.5, linewidth=1,
            )  # fmt: skip
        for index, share in enumerate(shares):
            top = 100 * (first.high if index == 0 and first is not None else share + bound)
            axes.annotate(
                f"{100 * share:.1f}", (index + 1, top), (0, 2), textcoords="offset points", ha="center", fontsize=7.5
            )
        if gap is not None:
            axes.text(
                0.98, 0.95, f"\u03bb\u2082/\u03bb\u2081 = {estimate_text(gap)}", transform=axes.transAxes, ha="right",
                va="top", bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85},
            )  # fmt: skip
        if first is not None and first.n > 1:
            axes.plot([1, 1], [100 * first.low, 100 * first.high], color=BLACK, linewidth=1.6)
        axes.set(xlabel="eigenvalue of L(S), largest first", ylabel="share of the trace [%]", ylim=(0, None))
        axes.set_xticks(np.arange(1, count + 1))
        axes.grid(axis="x", visible=False)
        caption = (
            f"How much of the squared gradients each direction explains, {origin}; the first {count} of "
            f"{min(directions.n_states, directions.directions[0].size)}. "
        )
        if first is not None:
            caption += f"The first holds {estimate_text(first, 100)} %. "
        caption += "A second bar nearly as high as the first means that the first direction is one of several as good. "
        caption += _bound_text(directions)
        alt = "Shares of the trace: " + ", ".join(f"{100 * share:.1f}" for share in shares[:5]) + " percent"
        alt += f"; second over first {estimate_text(gap)}." if gap is not None else "."
        return finished(figure, "spectrum", "Spectrum of L(S)", caption.strip(), alt, wide=False)


def _bound_text(directions: Directions) -> str:
    relative = directions.error_bound / directions.eigenvalues[0]
    if directions.method == "streaming":
        return (
            "Computed as a stream: a true eigenvalue may lie above its bar by up to "
            f"{number(100 * relative)} % of the first (thin lines)."
        )
    return f"Solved in memory, each eigenvalue to within {number(relative, 2)} of the first."


def power_figure(spatial: Spatial, channels_per_frame: int) -> Chart:
    """The 2-D Fourier power spectrum of each frame of G_S, logarithmic, frequency zero in the middle."""
    power = spatial.power.reshape(-1, channels_per_frame, *spatial.power.shape[1:]).sum(1)
    labels = frame_labels(len(power))
    height, width = power.shape[1:]
    decibels = 10 * np.log10(np.maximum(power * power.size, 1e-30))  # 0: as if spread evenly over all frequencies
    high = float(np.ceil(decibels.max()))
    low = max(float(np.floor(np.quantile(decibels, 0.01))), high - 60)
    columns = min(len(power), _MOST_COLUMNS)
    rows = -(-len(power) // columns)
    side = min(2.6, (WIDTH - _BAR - 0.7) / columns)
    extent = (*_edges(width), *_edges(height)[::-1])
    margin = 0.7 if columns > 1 else 1.3  # a lone square leaves less room beside it than it takes
    with drawing(columns * side + _BAR + margin, rows * (side + 0.27) + 0.5) as figure:
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axes, label, image in zip(grid.flat, labels, decibels, strict=False):
            shown = axes.imshow(image, cmap="cividis", vmin=low, vmax=high, interpolation="none", extent=extent)
            axes.set(xticks=[-0.4, 0, 0.4], yticks=[-0.4, 0, 0.4], title=label if len(power) > 1 else "")
            axes.grid(visible=False)
        for axes in grid.flat[len(power) :]:
            axes.set_axis_off()
        figure.supxlabel("horizontal frequency [cycles per pixel]", fontsize=9)
        figure.supylabel("vertical frequency\n[cycles per pixel]", fontsize=9)
        figure.colorbar(shown, ax=grid, fraction=0.04, pad=0.015, label="power [dB], white = 0", extend="min")
        centre = spatial.frequencies < 0.1
        caption = (
            "Power of G_S at each spatial frequency, frequency zero in the middle; every 10 dB are a factor of ten, "
            "0 dB is white noise. A bright middle means broad, smooth patterns; bright edges and corners mean patterns "
            "that alternate from pixel to pixel; bright spots on a grid come from the strides of the convolutions."
        )
        coarse = float(power[:, _radius(height, width) < 0.1].sum() / max(power.sum(), 1e-300)) if centre.any() else 0.0
        alt = (
            f"Fourier power of {len(power)} frame(s); {100 * coarse:.0f} percent of it lies below 0.1 cycles per pixel."
        )
        return finished(figure, "power", "Fourier power spectrum of G_S", caption, alt, wide=len(power) > 1)


def _edges(size: int) -> tuple[float, float]:
    frequencies = np.fft.fftshift(np.fft.fftfreq(size))
    return float(frequencies[0] - 0.5 / size), float(frequencies[-1] + 0.5 / size)


def _radius(height: int, width: int) -> NDArray[np.float64]:
    vertical, horizontal = np.fft.fftshift(np.fft.fftfreq(height)), np.fft.fftshift(np.fft.fftfreq(width))
    return np.hypot(vertical[:, None], horizontal)


def radial_figure(spatial: Spatial, channels_per_frame: int, n_episodes: int, confidence: float = 0.95) -> Chart:
    """The radial profile of the power spectrum, a panel per frame, with its interval."""
    shape = (-1, channels_per_frame, len(spatial.frequencies))
    middle, low, high = (a.reshape(shape) for a in (spatial.radial, spatial.radial_low, spatial.radial_high))
    labels = frame_labels(len(middle))
    columns = min(len(middle), _MOST_COLUMNS)
    rows = -(-len(middle) // columns)
    looks = _CHANNEL_LOOKS if channels_per_frame > 1 else ((BLUE, "-", ""),)
    positive = middle[middle > 0]
    floor = max(float(positive.min()) / 1.5, _LEAST_POWER) if positive.size else _LEAST_POWER
    with drawing(WIDTH if columns > 1 else 4.6, rows * 2.1 + 0.4) as figure:
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for index, (axes, label) in enumerate(zip(grid.flat, labels, strict=False)):
            for other in np.delete(middle, index, axis=0).mean(1):
                axes.plot(spatial.frequencies, np.maximum(other, floor), color="#BBBBBB", linewidth=0.8)
            for channel, (color, line, _) in enumerate(looks[:channels_per_frame]):
                axes.fill_between(
                    spatial.frequencies, *(np.maximum(bound[index, channel], floor) for bound in (low, high)),
                    color=color, alpha=0.22, linewidth=0,
                )  # fmt: skip
                axes.plot(spatial.frequencies, np.maximum(middle[index, channel], floor), color=color, linestyle=line)
            axes.axhline(1, color=BLACK, linewidth=0.8, linestyle=(0, (4, 3)))
            axes.axvline(0.5, color=LIGHT_GREY, linewidth=0.8, zorder=0.5)
            axes.set(yscale="log", xlim=(0, 0.71), title=label if len(middle) > 1 else "")
            axes.set_xticks([0, 0.25, 0.5], ["0", "0.25", "0.5"])
            plain_log_ticks(axes)
        for axes in grid.flat[len(middle) :]:
            axes.set_axis_off()
        figure.supxlabel("spatial frequency [cycles per pixel]", fontsize=9)
        grid[0, 0].set_ylabel("power, white = 1")
        caption = (
            "Mean power in rings of the spectrum; the dashed line is white noise, whose power is the same everywhere. "
        )
        if (middle < floor).any():
            caption += f"Values below {floor:g} are drawn as that. "
        caption += f"Bands: {intervals_text(n_episodes, confidence)}. "
        if len(middle) > 1:
            caption += "Thin grey lines repeat the other frames. "
        if channels_per_frame > 1:
            caption += "Solid red, dashed green, dotted blue channel. "
        caption += "A profile that falls is coarse; one that rises or stays up to the right is made of fine patterns."
        peaks = [float(spatial.frequencies[np.argmax(profile.mean(0))]) for profile in middle]
        told = ", ".join(f"{label} at {peak:.2f}" for label, peak in zip(labels, peaks, strict=True))
        alt = f"Radial profiles of the power; they are highest, in cycles per pixel, for {told}."
        return finished(figure, "radial", "Radial profile of the power", caption, alt, wide=columns > 1)
