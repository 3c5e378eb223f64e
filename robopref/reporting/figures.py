"""What every figure has in common: a chart is an SVG with a title, a caption and a text for those who cannot see it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from robopref.reporting.palette import BLUE, GREY

STAGE_NAMES = {"before": "before refinement", "after": "after refinement", "evaluation": "evaluation"}
# Filled against hollow and solid against dashed: before and after differ without colour too.
STAGE_COLORS = {"before": "#666666", "after": BLUE, "evaluation": BLUE}
STAGE_FILLS = {"before": "white", "after": BLUE, "evaluation": BLUE}
STAGE_LINES = {"before": "--", "after": "-", "evaluation": "-"}

_STYLE: dict[Any, Any] = {  # the stubs list every key there is as a literal type
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.labelcolor": "#222222",
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.7,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "text.parse_math": False,  # a dollar sign in a name from outside is a dollar sign
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "hatch.linewidth": 1.2,
    "svg.fonttype": "path",
    "svg.hashsalt": "robopref",  # the same results draw the same bytes
}


@dataclass(frozen=True)
class Chart:
    """A drawn figure: SVG text, its title, what a reader should see in it, and the same in words (``alt``).

    ``png`` is the same picture in pixels, for where no SVG can go; empty where none was drawn.
    """

    name: str
    svg: str
    title: str
    caption: str
    alt: str
    wide: bool = False
    png: bytes = b""


@contextmanager
def drawing(width: float, height: float) -> Iterator[Figure]:
    """A figure of the given size in inches in the report's style; draw inside the block."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


def to_svg(figure: Figure) -> str:
    """The figure as SVG text without a date, so that it depends on nothing but what is drawn."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, transparent=False, facecolor="white")
    return text.getvalue()


def to_png(figure: Figure, dpi: int = 150) -> bytes:
    """The figure as PNG bytes that depend on nothing but what is drawn."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=dpi, metadata={"Software": None}, facecolor="white")
    return data.getvalue()


def percent_axis(axes: Axes, label: str, *, vertical: bool = False) -> None:
    """An axis of shares from 0 to 100 %."""
    ticks = [0, 25, 50, 75, 100]
    if vertical:
        axes.set(ylim=(-3, 103), yticks=ticks, ylabel=label)
    else:
        axes.set(xlim=(-3, 103), xticks=ticks, xlabel=label)


def zero_line(axes: Axes, *, vertical: bool) -> None:
    """A quiet line at zero."""
    (axes.axvline if vertical else axes.axhline)(0, color=GREY, linewidth=1, zorder=0.5)
