"""Figures of training: curves of the losses and rewards, who drove during the deployment, what the batches held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from robopref.reporting.figures import Chart, drawing, to_svg, zero_line
from robopref.reporting.palette import (
    ACTOR_COLORS,
    ACTOR_NAMES,
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    VERMILLION,
)
from robopref.reporting.results import Attempt
from robopref.trajectory import Actor, Label

_LABEL_LOOKS: dict[str, tuple[str, str]] = {
    "expert": (GREEN, "-"),
    "human": (ORANGE, "--"),
    "policy": (BLUE, "-."),
    "undesirable": (VERMILLION, ":"),
}
_PANELS: tuple[tuple[str, str, str, dict[str, tuple[str, str, str]], str], ...] = (
    ("loss", "Loss", "loss", {"loss": ("loss", BLACK, "-")}, "What is minimised, on each logged batch."),
    (
        "rewards",
        "Rewards",
        "implicit reward",
        {"rewards/chosen": ("desirable", BLUE, "-"), "rewards/rejected": ("undesirable", VERMILLION, "--")},
        "Beta times the log ratio of policy to reference, in nats. Desirable actions should become likelier than "
        "undesirable ones.",
    ),
    (
        "margins",
        "Margin of the rewards",
        "desirable minus undesirable",
        {"rewards/margins": ("margin", PURPLE, "-")},
        "The gap between the two curves of the rewards.",
    ),
    (
        "kl",
        "Distance from the reference",
        "KL estimate [nats]",
        {"kl": ("KL", BLACK, "-")},
        "Estimated on mismatched actions, so it can be negative; far from zero means far from the reference policy.",
    ),
    (
        "weights",
        "Adaptive weights",
        "weight of a sample",
        {"weights/desirable": ("desirable", BLUE, "-"), "weights/undesirable": ("undesirable", VERMILLION, "--")},
        "Mean weight of a sample in the loss, by class.",
    ),
    (
        "action_l1",
        "Action error",
        "mean L1 error [normalised]",
        {f"action_l1/{name}": (name, *look) for name, look in _LABEL_LOOKS.items()},
        "Greedy action against the recorded one, by class of the step. It should fall on expert and human steps.",
    ),
)
_MAX_ROWS = 60


def curve_figures(stage: str, rows: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """A panel for every group of metrics that ``rows`` holds, against the optimiser step."""
    charts = []
    for name, title, unit, series, caption in _PANELS:
        found = {key: look for key, look in series.items() if any(row.get(key) is not None for row in rows)}
        if not found:
            continue
        told = []
        with drawing(4.6, 2.8) as figure:
            axes = figure.subplots()
            for key, (label, color, line) in found.items():
                steps, values = _series(rows, key)
                axes.plot(steps, values, color=color, linestyle=line, label=label)
                finite = values[np.isfinite(values)]
                told.append(f"{label} from {finite[0]:.3g} to {finite[-1]:.3g}")
            axes.set(xlabel="optimiser step", ylabel=unit)
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            if name in ("rewards", "margins", "kl"):
                zero_line(axes, vertical=False)
            if len(found) > 1:
                figure.legend(loc="outside upper left", ncols=4, handlelength=2.2, columnspacing=1.2)
            svg = to_svg(figure)
        charts.append(Chart(f"{stage}-{name}", svg, title, caption, f"{title} over training: {', '.join(told)}."))
    return charts


def _series(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Steps and values of a metric; null (NaN or infinity when it was logged) leaves a gap."""
    pairs = [(row["step"], np.nan if row[key] is None else row[key]) for row in rows if key in row]
    table = np.array(pairs, dtype=np.float64)
    return table[:, 0], table[:, 1]


def shares_figure(labels: Mapping[str, int] | None, rows: Sequence[Mapping[str, Any]]) -> Chart | None:
    """What share each class has of the recorded steps and of the training batches; None when neither is known."""
    counts = {name.lower(): count for name, count in (labels or {}).items() if name.lower() in _LABEL_LOOKS}
    recorded = {name: 100 * count / sum(counts.values()) for name, count in counts.items() if sum(counts.values())}
    # A batch without a class logs nothing for it.
    logged = {name: [row.get(f"shares/{name}") or 0.0 for row in rows] for name in _LABEL_LOOKS}
    batches = {name: 100 * float(np.mean(shares)) for name, shares in logged.items() if any(map(any, logged.values()))}
    if not recorded and not batches:
        return None
    bars = [(recorded, "of the recorded steps", ""), (batches, "of the training batches", "////")]
    told = []
    with drawing(4.6, 2.8) as figure:
        axes = figure.subplots()
        for side, (shares, label, hatch) in zip((0.2, -0.2), bars, strict=True):
            for i, name in enumerate(_LABEL_LOOKS):
                if name not in shares:
                    continue
                color = _LABEL_LOOKS[name][0]
                axes.barh(
                    -i + side, shares[name], 0.36, color="white" if hatch else color, edgecolor=color, hatch=hatch
                )
                axes.text(shares[name] + 1, -i + side, f"{shares[name]:.0f} %", va="center", fontsize=8)
                told.append(f"{name} {shares[name]:.0f} percent {label}")
        axes.set_yticks([-i for i in range(len(_LABEL_LOOKS))], list(_LABEL_LOOKS))
        axes.set(xlim=(0, 112), xticks=[0, 25, 50, 75, 100], xlabel="share [%]")
        axes.grid(axis="y", visible=False)
        handles = [
            Patch(facecolor="white" if hatch else GREY, edgecolor=GREY, hatch=hatch, label=label)
            for shares, label, hatch in bars
            if shares
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=2, columnspacing=1.2)
        svg = to_svg(figure)
    caption = "Rare classes are drawn more often than they were recorded, so that each batch holds its share of them."
    return Chart("shares", svg, "Shares of the classes", caption, "; ".join(told) + ".")


def timeline_figure(attempts: Sequence[Attempt]) -> Chart:
    """Who drove when, a row per episode; the undesirable windows hatched under the band."""
    shown = attempts[:_MAX_ROWS]
    with drawing(7.6, 1.0 + 0.19 * max(3, len(shown))) as figure:
        axes = figure.subplots()
        for y, attempt in enumerate(shown):
            start = 0
            for actor, count in attempt.actors:
                axes.barh(-y, count, 0.72, left=start, color=ACTOR_COLORS[actor], linewidth=0)
                start += count
            for first, stop in attempt.undesirable:
                axes.barh(
                    -y, stop - first, 0.72, left=first, facecolor=VERMILLION, edgecolor="white", hatch="/////",
                    linewidth=0,
                )  # fmt: skip
            mark = {"success": "solved", "failure": "failed"}.get(attempt.outcome, attempt.outcome)
            axes.text(start, -y, f" {mark}", va="center", fontsize=7, color="#444444")
        longest = max(attempt.steps for attempt in shown)
        ticks = [i for i in range(len(shown)) if i == 0 or (i + 1) % 5 == 0]
        axes.set_yticks([-i for i in ticks], [str(i + 1) for i in ticks])
        axes.set(xlim=(0, 1.1 * longest), ylim=(-len(shown) + 0.4, 0.6), xlabel="control step", ylabel="episode")
        axes.grid(axis="y", visible=False)
        drove = [a for a in Actor if any(actor == a for attempt in shown for actor, _ in attempt.actors)]
        handles = [Patch(facecolor=ACTOR_COLORS[a], label=ACTOR_NAMES[a]) for a in drove]
        handles.append(Patch(facecolor=VERMILLION, edgecolor="white", hatch="/////", label=_UNDESIRABLE))
        figure.legend(handles=handles, loc="outside upper left", ncols=5, columnspacing=1.4)
        svg = to_svg(figure)
    taken = sum(any(actor == Actor.HUMAN for actor, _ in attempt.actors) for attempt in attempts)
    caption = "A band per episode. The policy's steps just before a takeover are what it should unlearn."
    if len(shown) < len(attempts):
        caption += f" The first {len(shown)} of {len(attempts)} episodes are drawn."
    alt = f"Who drove when in {len(attempts)} deployment episodes; the operator took over in {taken} of them."
    return Chart("timeline", svg, "Who drove when", caption, alt, wide=True)


_UNDESIRABLE = f"policy, labelled {Label.UNDESIRABLE.name.lower()}"
