"""The report of two policies side by side: one HTML file that needs nothing else, and its figures beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from robopref.diagnosis.results import COMPARISON_FILE, Comparison, load_comparison
from robopref.evaluation.statistics import Estimate
from robopref.reporting.diagnosis_comparison_figures import (
    angles_figure,
    directions_figure,
    energies_figure,
    overlap_figure,
    profiles_figure,
    quotients_figure,
    ratios_figure,
)
from robopref.reporting.diagnosis_direction_figures import components_figure
from robopref.reporting.diagnosis_figure_files import kept_figures, write_figures
from robopref.reporting.diagnosis_instability_figures import MEASURES
from robopref.reporting.diagnosis_words import (
    condition_name,
    estimate_text,
    has_interval,
    number,
    shortened,
    shown_statements,
)
from robopref.reporting.figures import Chart
from robopref.reporting.page import setting_tables, shown, write_page

COMPARISON_REPORT_FILE = "comparison.html"
COMPARISON_FIGURES = "comparison_figures"
_SECTIONS = ("angle", "region", "instability", "quotients")


def write_comparison_report(directory: Path) -> Path:
    """Write ``directory/comparison.html`` and ``directory/comparison_figures``; returns the page's path.

    Raises:
        RoboprefError: there is no finished comparison, or its files are damaged.
    """
    comparison = load_comparison(directory)
    charts = comparison_charts(comparison)
    write_figures(directory / COMPARISON_FIGURES, [chart for section in charts.values() for chart in section])
    contents = comparison_contents(comparison, charts)
    return write_page(directory / COMPARISON_REPORT_FILE, "diagnosis_comparison.html.j2", contents)


def comparison_images(directory: Path) -> dict[str, Path]:
    """The figures of a comparison as PNG files by name, for a tracker; those of its report where that is up to date.

    Raises:
        RoboprefError: as ``write_comparison_report``.
    """
    kept = kept_figures(directory / COMPARISON_FIGURES, directory / COMPARISON_REPORT_FILE, directory / COMPARISON_FILE)
    if kept is not None:
        return kept
    charts = comparison_charts(load_comparison(directory))
    return write_figures(directory / COMPARISON_FIGURES, [chart for section in charts.values() for chart in section])


def comparison_charts(comparison: Comparison) -> dict[str, list[Chart]]:
    """Every figure that the comparison has, by section of the report."""
    names = tuple(map(shortened, comparison.names))
    comparison, confidence = replace(comparison, names=names), _confidence(comparison)
    pictures = _are_pictures(comparison)
    charts: dict[str, list[Chart | None]] = {
        "angle": [angles_figure(comparison, confidence), *_direction_charts(comparison, confidence)],
        "region": [
            overlap_figure(comparison, confidence),
            energies_figure(names, comparison.energies) if pictures else None,
        ],
        "instability": [ratios_figure(names, comparison.ratios, confidence)],
        "quotients": [quotients_figure(names, comparison.quotients, confidence)],
    }
    return {section: [chart for chart in drawn if chart is not None] for section, drawn in charts.items()}


def _direction_charts(comparison: Comparison, confidence: float) -> Iterator[Chart]:
    names, channels = comparison.names, comparison.subjects[0].channels_per_frame
    if comparison.directions is not None:
        if not _are_pictures(comparison):
            yield components_figure(names, list(comparison.directions), "over the states of each policy")
            return
        yield directions_figure(names, comparison.directions, comparison.spatials, channels)
    if comparison.spatials:
        yield profiles_figure(names, comparison.spatials, channels, comparison.angle.n, confidence)


def comparison_contents(comparison: Comparison, charts: dict[str, list[Chart]]) -> dict[str, Any]:
    """What the template shows."""
    first, second = comparison.names
    missing: dict[str, list[str]] = {section: [] for section in _SECTIONS}
    if not comparison.spatials:
        missing["angle"].append("this comparison does not hold the directions and their spectra.")
    if not charts["instability"]:
        missing["instability"].append("no ratio is defined.")
    if not charts["quotients"]:
        missing["quotients"].append("the two diagnoses have no defined quotient in common.")
    return {
        "names": comparison.names,
        "task": comparison.subjects[0].task,
        "policies": [
            {"name": name, "policy": s.policy, "id": s.policy_id, "architecture": s.architecture, "head": s.head}
            for name, s in zip(comparison.names, comparison.subjects, strict=True)
        ],
        "statements": shown_statements(comparison.statements),
        "findings": comparison_findings(comparison),
        "numbers": _numbers(comparison),
        "quotients": {
            "caption": f"Feature correlation quotients; in brackets {_level(comparison)} intervals over episodes",
            "columns": ["Condition", first, second, f"{second} minus {first}"],
            "rows": [
                (condition_name(name), *(estimate_text(value) for value in values))
                for name, values in comparison.quotients.items()
            ],
        }
        if comparison.quotients
        else None,
        "charts": {section: [shown(chart) for chart in drawn] for section, drawn in charts.items()},
        "missing": missing,
        "making": setting_tables(
            {f"Environment of {n}": s.environment for n, s in zip(comparison.names, comparison.subjects, strict=True)}
            | {"Comparison": comparison.settings}
        ),
    }


def comparison_findings(comparison: Comparison) -> list[str]:
    """The main results as sentences, each with its interval and what it is to be held against."""
    first, second = comparison.names
    said = [
        f"The principal directions lie {estimate_text(comparison.angle)} degrees apart (n\u00a0=\u00a0"
        f"{comparison.angle.n})."
    ]
    own = [
        f"{estimate_text(angle)} for {name}"
        for name, angle in zip(comparison.names, comparison.own_angles, strict=True)
        if angle is not None
    ]
    said[0] += (
        f" Chance alone, within one policy: {', '.join(own)}." if own else " No null control says what chance does."
    )
    for field in ("variance", "variation", "oscillation"):
        ratio = comparison.ratios.get(field)
        if ratio is not None:
            measure = MEASURES[field][0].removesuffix(" of the norm").capitalize()
            said.append(
                f"{measure} of the gradient norm, {second} over {first}: {estimate_text(ratio)} (n\u00a0=\u00a0"
                f"{ratio.n}); {_ratio_verdict(ratio, second)}."
            )
    overlap = comparison.overlap
    said.append(
        f"The sensitive regions (top {100 * overlap.top_share:.0f}\u00a0% of the pixels) have "
        f"{estimate_text(overlap.common)} of their union in common; by chance it would be "
        f"{number(overlap.common_by_chance)}."
    )
    return said


def _ratio_verdict(ratio: Estimate, second: str) -> str:
    if not has_interval(ratio) or ratio.low <= 1 <= ratio.high:
        return "the two are not told apart"
    return f"{second} has {'more' if ratio.value > 1 else 'less'}"


def _numbers(comparison: Comparison) -> dict[str, Any]:
    rows: list[tuple[str, str, int | str]] = [
        ("Angle between G_S [degrees]", estimate_text(comparison.angle), comparison.angle.n)
    ]
    for name, angle in zip(comparison.names, comparison.own_angles, strict=True):
        rows.append((f"Angle of {name}, clean to null [degrees]", estimate_text(angle), angle.n if angle else ""))
    for rank, principal in enumerate(comparison.principal_angles, start=1):
        rows.append((f"Angle {rank} between the leading spaces [degrees]", estimate_text(principal), principal.n))
    for field, ratio in comparison.ratios.items():
        label = MEASURES[field][0].capitalize() if field in MEASURES else field
        rows.append((f"{label}, ratio", estimate_text(ratio), ratio.n if ratio else ""))
    rows.append(("Regions in common", estimate_text(comparison.overlap.common), comparison.overlap.common.n))
    rows.append(
        (
            "Bhattacharyya overlap",
            estimate_text(comparison.overlap.bhattacharyya),
            comparison.overlap.bhattacharyya.n,
        )
    )
    for name, own in zip(comparison.names, comparison.own_overlaps, strict=True):
        if own is not None:
            rows.append((f"Regions of {name}, clean and null in common", estimate_text(own.common), own.common.n))
    return {
        "caption": f"In brackets: {_level(comparison)} intervals over n episodes of each policy",
        "columns": ["", "Value", "n"],
        "rows": rows,
    }


def _are_pictures(comparison: Comparison) -> bool:
    return comparison.subjects[0].shape[1] > 1


def _confidence(comparison: Comparison) -> float:
    return float(comparison.settings.get("confidence", 0.95))


def _level(comparison: Comparison) -> str:
    return f"{100 * _confidence(comparison):g}\u00a0% bootstrap"
