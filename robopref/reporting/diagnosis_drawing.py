"""What the figures of a diagnosis have in common: frames as pictures, signed maps over them, rows of intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from robopref.evaluation.statistics import Estimate
from robopref.reporting.diagnosis_words import has_interval, number, shortened
from robopref.reporting.figures import Chart, to_png, to_svg
from robopref.reporting.palette import BLACK

Image = NDArray[np.float64]

WIDTH = 7.6  # inches, of a figure over the whole width
_LUMA = np.array([0.299, 0.587, 0.114])
_GROUND = (0.45, 0.67)  # greys of the darkest and the brightest pixel of a frame under a signed map
# Dark blue, blue, (ground), ochre, pale yellow: lightness rises from end to end, so the sign survives a grey print.
_NEGATIVE = np.array([[0x2F, 0x6F, 0xB3], [0x08, 0x30, 0x6B]]) / 255
_POSITIVE = np.array([[0xE9, 0xB4, 0x4C], [0xFF, 0xF7, 0xBC]]) / 255
SEQUENTIAL = LinearSegmentedColormap.from_list("energy", ["#FFFFFF", "#CBD9EA", "#7FA3CC", "#3A5F9E", "#1B2A5C"])
"""From nothing (white) to much (dark blue)."""


def finished(figure: Figure, name: str, title: str, caption: str, alt: str, *, wide: bool = True) -> Chart:
    """The chart of a drawn figure, as SVG and as PNG; call inside ``drawing``."""
    svg = to_svg(figure)
    figure.set_layout_engine("none")  # it is laid out; a second time would cost as much again
    return Chart(name, svg, title, caption, alt, wide, to_png(figure))


def frames_of(state: NDArray[Any], channels_per_frame: int) -> NDArray[Any]:
    """A state [C, H, W] as its frames, oldest first: [F, H, W], or [F, H, W, 3] in colour."""
    if channels_per_frame == 1:
        return state
    return np.moveaxis(state.reshape(-1, channels_per_frame, *state.shape[1:]), 1, -1)


def per_frame(values: NDArray[Any], channels_per_frame: int) -> Image:
    """Values [C, H, W] as one map per frame [F, H, W]: in colour the mean of its channels, a change of brightness."""
    frames = values.astype(np.float64).reshape(-1, channels_per_frame, *values.shape[1:])
    return frames.mean(1)


def energy_per_frame(values: NDArray[Any], channels_per_frame: int) -> Image:
    """Squares of values [C, H, W], summed over the channels of each frame: [F, H, W]."""
    frames = np.square(values.astype(np.float64)).reshape(-1, channels_per_frame, *values.shape[1:])
    return frames.sum(1)


def frame_labels(frame_stack: int) -> list[str]:
    """``t−3`` to ``t``: agent steps before the decision."""
    return [f"t\u2212{back}" if back else "t" for back in range(frame_stack - 1, -1, -1)]


def robust_limit(values: NDArray[Any], share: float = 0.995) -> float:
    """The size that all but the largest components stay below, so that a few of them do not hide the rest."""
    sizes = np.abs(values)
    limit = float(np.quantile(sizes, share))
    return limit if limit > 0 else float(sizes.max()) or 1.0


def signed_over_frame(values: Image, frame: NDArray[Any] | None, limit: float) -> Image:
    """A signed map [H, W] over a frame [H, W] or [H, W, 3] of 0..255 as RGB [H, W, 3] in [0, 1].

    Negative values are blue and darker than the frame, positive ones yellow and lighter; the frame is flattened to
    middle greys so that this holds everywhere.
    """
    ground = np.full((*values.shape, 1), np.mean(_GROUND))
    if frame is not None:
        grey = frame.astype(np.float64) @ _LUMA if frame.ndim == 3 else frame.astype(np.float64)
        spread = np.ptp(grey)
        ground = np.interp((grey - grey.min()) / spread if spread else np.full_like(grey, 0.5), [0, 1], _GROUND)[
            ..., None
        ]
    size = np.clip(np.abs(values) / limit, 0, 1)[..., None]
    ends = np.where((values < 0)[..., None, None], _NEGATIVE, _POSITIVE)
    weak, strong = ends[..., 0, :], ends[..., 1, :]
    inner = np.minimum(2 * size, 1)
    outer = np.maximum(2 * size - 1, 0)
    return (1 - inner) * ground + inner * ((1 - outer) * weak + outer * strong)


def signed_colors() -> ListedColormap:
    """The colours of ``signed_over_frame`` from -limit to limit, for a colour bar."""
    scale = np.linspace(-1, 1, 255)[None]
    return ListedColormap(signed_over_frame(scale, None, 1.0)[0])


def show_picture(axes: Axes, picture: NDArray[Any], **settings: Any) -> Any:
    """An image, a square per pixel, without ticks; frames uint8 [H, W] in true greys."""
    if picture.ndim == 2 and picture.dtype == np.uint8:
        settings = {"cmap": "gray", "vmin": 0, "vmax": 255} | settings
    image = axes.imshow(picture, interpolation="none", **settings)
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set(visible=True, color="#888888", linewidth=0.6)
    return image


def interval_row(
    axes: Axes, y: float, estimate: Estimate, *, color: str = BLACK, marker: str = "o", filled: bool = True
) -> None:
    """A value and its interval at height y; a dot alone where there is no interval."""
    if has_interval(estimate):
        axes.plot([estimate.low, estimate.high], [y, y], color=color, linewidth=2.0, solid_capstyle="butt")
    axes.plot(estimate.value, y, marker, color=color, markerfacecolor=color if filled else "white", ms=6.5, mew=1.5)


def plain_log_ticks(axes: Axes, *, vertical: bool = True, few: bool = False) -> None:
    """On a logarithmic axis plain numbers instead of powers, as many as its limits leave room for; call when drawn.

    ``few``: the axis is short, so 1, 10, 100 only.
    """
    axis, (low, high) = (axes.yaxis, axes.get_ylim()) if vertical else (axes.xaxis, axes.get_xlim())
    decades = np.log10(high / low)
    steps = (1,) if few or decades > 3 else (1, 3) if decades > 1 else (1, 2, 5)
    axis.set_major_locator(LogLocator(subs=steps, numticks=4 if few else 8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axis.set_minor_formatter(NullFormatter())


def grouped_rows(groups: Sequence[tuple[str, Sequence[str]]]) -> tuple[dict[tuple[str, str], float], dict[str, float]]:
    """Heights of labelled rows under a header per group: (by group and label, by group); downwards from 0.

    A group without a name has no header.
    """
    rows, headers, y = {}, {}, 0.0
    for group, labels in groups:
        if not labels:
            continue
        if group:
            headers[group] = y
            y -= 0.9
        for label in labels:
            rows[group, label] = y
            y -= 1.0
        y -= 0.25
    return rows, headers


def label_rows(axes: Axes, rows: Mapping[tuple[str, str], float], headers: Mapping[str, float]) -> None:
    """Row labels as ticks, and the headers in bold, level with them."""
    heights, labels = [*rows.values(), *headers.values()], [*(shortened(label, 36) for _, label in rows), *headers]
    axes.set_yticks(heights, labels)
    for tick in axes.get_yticklabels()[len(rows) :]:
        tick.set(weight="bold", color="#222222")
    axes.set_ylim(min(heights) - 0.6, max(heights) + 0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
