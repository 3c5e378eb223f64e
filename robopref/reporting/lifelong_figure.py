"""Success and intervention over the rounds of lifelong refinement, with their intervals."""

from __future__ import annotations

from collections.abc import Sequence

from robopref.evaluation.statistics import Estimate, Rate
from robopref.reporting.figures import Chart, drawing, percent_axis, to_png, to_svg
from robopref.reporting.palette import BLUE, GREEN, GREY, VERMILLION


def rounds_figure(
    numbers: Sequence[int],
    success: Sequence[Rate],
    intervention: Sequence[Rate],
    takeover: Sequence[Rate | None],
    human_share: Sequence[Estimate | None],
) -> Chart:
    """Rates of each round's evaluation, and of its deployment where there was one; one entry per round in each."""
    shift = 0.06  # so that bars do not cover one another
    lines: tuple[tuple[str, Sequence[Rate | Estimate | None], str, str, str, float], ...] = (
        ("success", success, BLUE, "o", "-", -shift),
        ("the operator would have stepped in", intervention, VERMILLION, "s", "-", 0.0),
        ("the operator took over in the deployment", takeover, GREY, "^", ":", shift),
        ("share of the deployment's steps that he drove", human_share, GREEN, "v", ":", 2 * shift),
    )
    told = []
    with drawing(6.4, 3.2) as figure:
        axes = figure.subplots()
        for name, rates, color, marker, style, offset in lines:
            known = [(number, rate) for number, rate in zip(numbers, rates, strict=True) if rate is not None]
            if not known:
                continue
            x = [number + offset for number, _ in known]
            axes.plot(x, [100 * r.value for _, r in known], style, marker=marker, color=color, label=name)
            axes.vlines(x, [100 * r.low for _, r in known], [100 * r.high for _, r in known], color=color, alpha=0.6)
            told.append(f"{name}: " + ", ".join(f"round {number} {_in_percent(rate)}" for number, rate in known))
        axes.set(xlabel="round", xticks=list(numbers))
        percent_axis(axes, "episodes or steps [%]", vertical=True)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=1)
        svg, png = to_svg(figure), to_png(figure)
    caption = (
        "Dots are the observed rates, bars their 95 % intervals (Wilson; of the share of steps a bootstrap over "
        "episodes). Every evaluation has the same layouts."
    )
    return Chart("rounds", svg, "Rounds", caption, "; ".join(told) + ".", wide=True, png=png)


def _in_percent(rate: Rate | Estimate) -> str:
    return f"{100 * rate.value:.1f} % [{100 * rate.low:.1f}, {100 * rate.high:.1f}] (n={rate.n})"
