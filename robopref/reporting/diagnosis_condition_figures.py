"""Figures of the null control, the shifts and the attacks: quotients, flipped actions, returns, what they look like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from robopref.diagnosis.results import Competence, Condition
from robopref.evaluation.statistics import Estimate
from robopref.reporting.diagnosis_drawing import (
    WIDTH,
    finished,
    grouped_rows,
    interval_row,
    label_rows,
    plain_log_ticks,
    show_picture,
    signed_over_frame,
)
from robopref.reporting.diagnosis_words import (
    ABOVE,
    BELOW,
    KIND_NAMES,
    condition_names,
    estimate_text,
    has_interval,
    intervals_text,
    null_of,
    number,
    paired_difference,
    percent_text,
    shortened,
    told_apart,
)
from robopref.reporting.figures import Chart, drawing, percent_axis, zero_line
from robopref.reporting.palette import BLACK, BLUE, GREY, LIGHT_GREY, VERMILLION

_KIND_COLORS = {"null": BLACK, "shift": BLUE, "attack": VERMILLION}
_KIND_MARKERS = {"null": "D", "shift": "o", "attack": "s"}
_ROW = 0.235  # inches


def _groups(conditions: Sequence[Condition], kinds: Sequence[str]) -> list[tuple[str, list[str]]]:
    names = condition_names(conditions)
    return [
        (
            "" if kind == "null" else KIND_NAMES[kind],
            [n for n, c in zip(names, conditions, strict=True) if c.kind == kind],
        )
        for kind in kinds
    ]


def _height(groups: Sequence[tuple[str, Sequence[str]]]) -> float:
    return 0.75 + _ROW * sum(len(names) + (1.15 if group else 0.25) for group, names in groups if names)


def quotient_figure(conditions: Sequence[Condition], confidence: float = 0.95) -> Chart | None:
    """Lambda of every condition with its interval over that of its null; None where none is defined."""
    shown = [condition for condition in conditions if condition.quotient is not None]
    if not shown:
        return None
    null = next((condition for condition in shown if condition.kind == "null"), None)
    names = condition_names(shown)
    groups = _groups(shown, ("null", "shift", "attack"))
    rows, headers = grouped_rows(groups)
    told = []
    with drawing(WIDTH, _height(groups) + 0.25) as figure:
        axes, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
        for condition, name in zip(shown, names, strict=True):
            assert condition.quotient is not None
            verdict = told_apart(condition, null)
            y = rows["" if condition.kind == "null" else KIND_NAMES[condition.kind], name]
            look: dict[str, Any] = {
                "color": _KIND_COLORS[condition.kind],
                "marker": _KIND_MARKERS[condition.kind],
                "filled": condition.kind == "null" or verdict in (BELOW, ABOVE),
            }
            axes.barh(y, condition.quotient.value, 0.5, color=look["color"], alpha=0.22, linewidth=0, zorder=1)
            held = null_of(condition, null)
            if held is not None and has_interval(held):
                axes.barh(y, held.high - held.low, 0.86, held.low, color=GREY, alpha=0.55, linewidth=0, zorder=1.5)
            interval_row(axes, y, condition.quotient, **look)
            difference = paired_difference(condition)
            if difference is not None:
                interval_row(right, y, difference, **look)
            told.append(f"{name} {estimate_text(condition.quotient)}{', ' + verdict if verdict else ''}")
        label_rows(axes, rows, headers)
        right.tick_params(axis="y", length=0)
        right.grid(axis="y", visible=False)
        zero_line(right, vertical=True)
        right.locator_params(axis="x", nbins=5)
        axes.set(xlim=(-0.02, 1.02), xlabel="feature correlation quotient \u039b")
        paired = any(condition.below_clean is not None for condition in shown)
        right.set(
            xlabel="\u039b of the null minus \u039b" + (";\nattacks: \u039b unattacked minus \u039b" if paired else "")
        )
        axes.set_title("Quotient with the clean episodes")
        right.set_title("Distance below the control")
        caption = "\u039b near 1: the decisions are sensitive along the same direction as in the clean episodes. "
        if null is not None:
            caption += (
                "The null control is other episodes of the same policy, without any shift: what chance alone does. "
                "The grey box in a row is the interval of a null of as many states as the row's. Right: how far each "
                "lies below it, both resampled together, on a scale of its own"
            )
            caption += "; an attack below the same states unattacked. " if paired else ". "
            caption += (
                "Filled marks are told apart from the null; hollow marks are not: their interval overlaps the box, or "
                "that of a difference holds zero. "
            )
        else:
            caption += "There is no null control, so nothing here can be told apart from chance. "
        n = min(condition.quotient.n for condition in shown if condition.quotient is not None)
        caption += f"Lines: {intervals_text(n, confidence)}."
        apart = sum(told_apart(condition, null) == BELOW for condition in shown)
        alt = f"{apart} of {sum(c.kind != 'null' for c in shown)} lie below the null control. {'; '.join(told)}."
        return finished(figure, "quotients", "Does a shift change what the policy is sensitive to?", caption, alt)


def flips_figure(conditions: Sequence[Condition], confidence: float = 0.95) -> Chart | None:
    """How often each shift and attack flips the greedy action; None where that is not known."""
    shown = [condition for condition in conditions if condition.flips is not None]
    if not shown:
        return None
    names = condition_names(shown)
    groups = _groups(shown, ("shift", "attack"))
    rows, headers = grouped_rows(groups)
    with drawing(WIDTH, _height(groups)) as figure:
        axes = figure.subplots()
        for condition, name in zip(shown, names, strict=True):
            assert condition.flips is not None
            y = rows[KIND_NAMES[condition.kind], name]
            flips = condition.flips
            axes.barh(y, 100 * flips.value, 0.62, color=_KIND_COLORS[condition.kind], alpha=0.35, linewidth=0)
            same = condition.synonym_flips
            if same is not None and same.value > 0:
                axes.barh(
                    y, 100 * same.value, 0.62, color="none", edgecolor=_KIND_COLORS[condition.kind], hatch="////",
                    linewidth=0.4,
                )  # fmt: skip
            if has_interval(flips):
                axes.plot([100 * flips.low, 100 * flips.high], [y, y], color=BLACK, linewidth=1.6)
            axes.plot(100 * flips.value, y, "|", color=BLACK, ms=9, mew=1.8)
        label_rows(axes, rows, headers)
        percent_axis(axes, "clean states whose greedy action changes [%]")
        n = min(condition.flips.n for condition in shown if condition.flips is not None)
        caption = (
            "The clean states, seen under each shift or attack: how many lead to another greedy action. For an attack "
            "this is its success rate. "
        )
        if any(c.synonym_flips is not None for c in shown):
            caption += "Hatched: to an action that does the same all but always (a synonym). "
        caption += f"Lines: {intervals_text(n, confidence)}."
        alt = "; ".join(
            f"{name} {percent_text(c.flips)}"
            + (f", between synonyms {percent_text(c.synonym_flips)}" if c.synonym_flips is not None else "")
            for name, c in zip(names, shown, strict=True)
        )
        return finished(figure, "flips", "How often the action changes", caption, alt + ".")


def returns_figure(conditions: Sequence[Condition], competence: Competence, confidence: float = 0.95) -> Chart | None:
    """The return under each condition, and how far it lies from the clean return of the same seeds.

    Of whole episodes only: what an attack gains in the few steps that it is played for is in ``attacks_figure``.
    """
    shown = [condition for condition in conditions if condition.score is not None and condition.score_steps is None]
    if not shown:
        return None
    names = condition_names(shown)
    groups = _groups(shown, ("null", "shift", "attack"))
    rows, headers = grouped_rows([("", ["clean"]), *groups])
    with drawing(WIDTH, _height(groups) + 0.75) as figure:
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
        clean = competence.score
        if has_interval(clean):
            left.axvspan(clean.low, clean.high, color=LIGHT_GREY, alpha=0.75, linewidth=0, zorder=0)
        interval_row(left, rows["", "clean"], clean, marker="D")
        left.axvline(
            competence.random_score.value,
            color=VERMILLION,
            linewidth=1.4,
            linestyle=(0, (5, 2)),
            label="random actions",
        )
        for condition, name in zip(shown, names, strict=True):
            y = rows["" if condition.kind == "null" else KIND_NAMES[condition.kind], name]
            color, marker = _KIND_COLORS[condition.kind], _KIND_MARKERS[condition.kind]
            if condition.score is not None:
                interval_row(left, y, condition.score, color=color, marker=marker)
            difference = condition.score_difference
            if difference is not None:
                clear = _is_clear(difference)
                interval_row(right, y, difference, color=color, marker=marker, filled=clear)
        label_rows(left, rows, headers)
        right.tick_params(axis="y", length=0)
        right.grid(axis="y", visible=False)
        zero_line(right, vertical=True)
        left.set(xlabel="mean return of an episode")
        right.set(xlabel="return minus clean return")
        right.locator_params(axis="x", nbins=4)
        left.set_title("Return")
        right.set_title("Paired difference to clean")
        figure.legend(loc="outside upper right", handlelength=2.6)
        caption = (
            "Left: mean returns; the grey band is the clean interval, the dashed line what random actions score "
            f"({estimate_text(competence.random_score)}, n = {competence.random_score.n}). Right: difference to the "
            "clean episodes of the same seeds; a filled mark's interval leaves zero aside. Lines: "
            f"{intervals_text(clean.n, confidence)}."
        )
        told = [f"clean {estimate_text(clean)}", f"random {estimate_text(competence.random_score)}"]
        told += [
            f"{name} {estimate_text(c.score)}"
            + (f", difference {estimate_text(c.score_difference)}" if c.score_difference is not None else "")
            for name, c in zip(names, shown, strict=True)
        ]
        return finished(figure, "returns", "Return under each shift", caption, "; ".join(told) + ".")


def attacks_figure(attacks: Sequence[Condition], confidence: float = 0.95) -> Chart | None:
    """Success rate of each attack, the distortion it needed, and what it cost in play; None where there is none."""
    shown = [a for a in attacks if a.distortion is not None and a.flips is not None]
    if not shown:
        return None
    names = condition_names(shown)
    rows, headers = grouped_rows([("", names)])
    played = [attack for attack in shown if attack.score_difference is not None]
    with drawing(WIDTH, 1.0 + 0.3 * len(shown)) as figure:
        success, size, cost = (*figure.subplots(1, 2 + bool(played), sharey=True), None)[:3]
        for attack, name in zip(shown, names, strict=True):
            assert attack.flips is not None
            assert attack.distortion is not None
            y = rows["", name]
            low, value, high = (100 * part for part in (attack.flips.low, attack.flips.value, attack.flips.high))
            interval_row(success, y, Estimate(value, low, high, attack.flips.n), color=VERMILLION, marker="s")
            interval_row(size, y, attack.distortion.l2, color=VERMILLION, marker="s", filled=False)
            if attack.distortion.l2_of_successes is not None:
                interval_row(size, y, attack.distortion.l2_of_successes, color=VERMILLION, marker="s")
            difference = attack.score_difference
            if difference is not None:
                clear = _is_clear(difference)
                interval_row(cost, y, difference, color=VERMILLION, marker="s", filled=clear)
        label_rows(success, rows, headers)
        percent_axis(success, "success rate [%]")
        sizes = [
            size for a in shown if a.distortion is not None for size in (a.distortion.l2.low, a.distortion.l2.high)
        ]
        if min(sizes) > 0 and max(sizes) > 20 * min(sizes):
            size.set_xscale("log")
            plain_log_ticks(size, vertical=False)
        else:
            reach = max(sizes) or 1.0
            size.set_xlim(-0.04 * reach, 1.15 * reach)
            size.locator_params(axis="x", nbins=5)
        size.set(xlabel="mean distortion\n[L2, pixels in [0, 1]]")
        size.tick_params(axis="y", length=0)
        n = min(attack.flips.n for attack in shown if attack.flips is not None)
        caption = (
            "Left: share of attacked states whose greedy action flipped; lines: "
            f"{intervals_text(n, confidence)}. Next: mean L2 size of what was added, over the states that flipped "
            "(filled) and over all (hollow). An attack is strong that is far right on the left side and far left "
            "beside it; attacks stop at different points, so neither stands alone. "
        )
        if played:
            steps = sorted({a.score_steps for a in played if a.score_steps is not None})
            cost.tick_params(axis="y", length=0)
            zero_line(cost, vertical=True)
            if np.ptp(cost.get_xlim()) < 1e-6:  # all the same: no scale of its own
                cost.set_xlim(-1, 1)
            cost.locator_params(axis="x", nbins=4)
            cost.set(xlabel="return minus\nclean return")
            caption += "Right: return while under attack minus the clean return of the same seeds"
            caption += f" in the first {', '.join(map(str, steps))} steps" if steps else ""
            caption += (
                f", n = {min(a.score_difference.n for a in played if a.score_difference is not None)} episodes; a "
                "filled mark's interval leaves zero aside."
            )
        alt = "; ".join(
            f"{name} flips {percent_text(a.flips)} at mean L2 {estimate_text(a.distortion.l2)}"
            + (f", return {estimate_text(a.score_difference)} to clean" if a.score_difference is not None else "")
            for name, a in zip(names, shown, strict=True)
            if a.distortion is not None
        )
        return finished(figure, "attacks", "Attacks: success, distortion and cost", caption.strip(), alt + ".")


def examples_figure(conditions: Sequence[Condition]) -> Chart | None:
    """One frame under every shift and attack, and what changed in it; None where there are no examples."""
    shown = [condition for condition in conditions if condition.example is not None]
    if not shown:
        return None
    names = condition_names(shown)
    columns = min(6, max(4, len(shown)))
    bands = -(-len(shown) // columns)
    side = (WIDTH - 0.3) / columns
    with drawing(WIDTH, bands * (2 * (side + 0.06) + 0.55)) as figure:
        figure.set_layout_engine("constrained", h_pad=0.07)
        grid = figure.subplots(2 * bands, columns, squeeze=False)
        for index, (condition, name) in enumerate(zip(shown, names, strict=True)):
            assert condition.example is not None
            band, column = divmod(index, columns)
            before, after = condition.example
            change = after.astype(np.float64) - before
            change = change.mean(-1) if change.ndim == 3 else change
            largest = float(np.abs(change).max())
            show_picture(grid[2 * band, column], after)
            show_picture(grid[2 * band + 1, column], signed_over_frame(change, before, max(largest, 1.0)))
            grid[2 * band, column].set_title(_wrapped(name), fontsize=8)
            size = number(largest) if largest or condition.kind != "attack" else "below 1"
            grid[2 * band + 1, column].set_xlabel(f"largest: {size} of 255", fontsize=7.5)
        for axes in grid.T.reshape(columns, bands, 2).transpose(1, 0, 2).reshape(-1, 2)[len(shown) :].flat:
            axes.set_axis_off()
        caption = (
            "The newest frame of a clean state as the policy sees it under each shift or attack, and below what "
            "changed (yellow: brighter, blue: darker), each on its own scale up to its largest change in grey levels. "
            "Shown in 256 levels: what an attack adds may be finer."
        )
        alt = "Examples of " + ", ".join(names) + "."
        return finished(figure, "examples", "What the shifts look like", caption, alt)


def _is_clear(difference: Estimate) -> bool:
    """Its interval leaves zero aside; a few episodes that differ alike have a point, which says nothing."""
    return has_interval(difference) and difference.low < difference.high and not difference.low <= 0 <= difference.high


def _wrapped(name: str) -> str:
    """A title on two lines where one would run into its neighbour."""
    if len(name) <= 16:
        return name
    return name.replace(" and ", "\nand ") if " and " in name else shortened(name, 18)
