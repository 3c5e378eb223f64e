"""The report of a run: one HTML file that needs nothing but the videos beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from robopref.evaluation.statistics import Estimate, bootstrap_ratio
from robopref.reporting.figures import STAGE_NAMES
from robopref.reporting.outcome_figures import (
    difference_text,
    lengths_figure,
    paired_figure,
    paired_outcomes,
    rate_text,
    rates_figure,
    solved_within_figure,
)
from robopref.reporting.page import setting_tables, shown, write_page
from robopref.reporting.results import MEASURES, RunResults, read_results
from robopref.reporting.training_figures import curve_figures, shares_figure, timeline_figure
from robopref.trajectory import Actor

_TITLES = {"success": "Success rate", "intervention_rate": "Intervention rate"}
_MORE_IS_BETTER = {"success": True, "intervention_rate": False}
_METHODS = {"apo": "Action Preference Optimization (APO)", "kto": "KTO", "bc": "cloning the corrections"}


def write_report(run_directory: Path) -> Path:
    """Write ``run_directory/report.html`` from the result files there, and return its path.

    It holds everything but the videos, which it plays from ``run_directory/videos``. A result file that is not there
    leaves its section out, with a note that says so.

    Raises:
        RoboprefError: there is no such directory, or a result file is damaged.
    """
    results = read_results(run_directory)
    return write_page(run_directory / "report.html", "report.html.j2", report_contents(results))


def report_contents(results: RunResults) -> dict[str, Any]:
    """What the template shows: sentences, table rows, and charts as data addresses."""
    summary = results.summary or {}
    task = str(summary.get("task", results.directory.resolve().name))
    if summary.get("perturb"):
        task += f", perturbed ({', '.join(summary['perturb'])})"
    method = str(summary.get("method", ""))
    outcomes = paired_outcomes(results.episodes.get("before", ()), results.episodes.get("after", ()))
    evaluated = {stage: rows for stage, rows in results.episodes.items() if rows}
    outcome_charts = [rates_figure(results.rates, results.differences)] if results.rates else []
    outcome_charts += [paired_figure(outcomes)] if outcomes else []
    outcome_charts += [solved_within_figure(evaluated), lengths_figure(evaluated)] if evaluated else []
    shares = shares_figure(summary.get("labels"), results.curves.get("refine", ()))
    return {
        "lone": results.lone,
        "task": task,
        "method": _METHODS.get(method, method),
        "policy": str(summary.get("policy_id", "")),
        "verdicts": [verdict(measure, results.differences[measure]) for measure in results.differences],
        "stages": [STAGE_NAMES[stage].capitalize() for stage in results.rates],
        "rows": _headline(results),
        "outcome_charts": [shown(chart) for chart in outcome_charts],
        "outcomes": outcomes,
        "episodes_known": bool(evaluated),
        "timeline": [shown(timeline_figure(results.timeline))] if results.timeline else [],
        "deployment": _deployment(results),
        "shares": [shown(shares)] if shares else [],
        "curves": {
            stage: [shown(chart) for chart in curve_figures(stage, results.curves.get(stage, ()))]
            for stage in ("train", "refine")
        },
        "films": [
            {"source": quote(f"videos/{film.path.name}"), "title": film.title, "caption": film.caption}
            for film in results.films
        ],
        "making": _making(summary),
        "training_seed": (summary.get("seeds") or {}).get("training"),
    }


def verdict(measure: str, difference: Estimate) -> dict[str, str]:
    """What a paired interval (after minus before) supports: ``kind`` better, worse or open, and the sentence."""
    title = _TITLES[measure].lower()
    told = difference_text(difference).replace("-", "−")
    # No-break spaces keep "n = 50" and "95 %" on one line.
    interval = f"{told} points (paired by seed, 95\u00a0% interval, n\u00a0=\u00a0{difference.n})"
    if difference.low <= 0 <= difference.high:
        reach = max(abs(difference.low), abs(difference.high))
        text = (
            f"The {title} changed by {interval}. The interval holds zero, so this run does not show a change; it does "
            f"not show that there is none either: up to {100 * reach:.0f} points are compatible with it."
        )
        return {"kind": "open", "text": text}
    better = (difference.value > 0) == _MORE_IS_BETTER[measure]
    text = (
        f"The {title} {'rose' if difference.value > 0 else 'fell'}: {interval}. The interval leaves zero aside and "
        f"supports {'an improvement' if better else 'a deterioration'}."
    )
    return {"kind": "better" if better else "worse", "text": text}


def _headline(results: RunResults) -> list[dict[str, Any]]:
    return [
        {
            "title": _TITLES[measure],
            "rates": [
                {
                    "text": f"{rate_text(rates[measure])} %",
                    "count": f"{rates[measure].successes} of {rates[measure].n} episodes",
                }
                for rates in results.rates.values()
            ],
            "difference": (
                f"{difference_text(results.differences[measure])} points".replace("-", "−")
                if measure in results.differences
                else None
            ),
            "pairs": results.differences[measure].n if measure in results.differences else None,
        }
        for measure in MEASURES
        if results.rates
    ]


def _deployment(results: RunResults) -> str:
    """How much the operator drove, with an interval over episodes."""
    if not results.timeline:
        return ""
    human = [sum(n for actor, n in attempt.actors if actor == Actor.HUMAN) for attempt in results.timeline]
    share = bootstrap_ratio(human, [attempt.steps for attempt in results.timeline])
    return (
        f"The operator drove {100 * share.value:.1f} % [{100 * share.low:.1f}, {100 * share.high:.1f}] of the control "
        f"steps (95 % bootstrap interval over n = {share.n} episodes)."
    )


def _making(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tables of how it was made; those of which the summary says nothing are absent."""
    # The operator's share is told with its interval beside the timeline.
    data = {name: value for name, value in (summary.get("data") or {}).items() if name != "human_share"}
    seconds = summary.get("timing") or {}
    timing = {stage: f"{value:.1f} s" for stage, value in seconds.items()}
    if timing:
        timing["in all"] = f"{sum(seconds.values()) / 60:.1f} min"
    labels = {name.lower(): f"{count} steps" for name, count in (summary.get("labels") or {}).items()}
    scene = {"perturbed": summary["perturb"], "strength": summary["perturb_strength"]} if summary.get("perturb") else {}
    tables = {
        "Scene": scene,
        "Data": data,
        "Labels": labels,
        "Seeds": summary.get("seeds") or {},
        "Time": timing,
        "Refinement": summary.get("recipe") or {},
        "Versions": summary.get("versions") or {},
    }
    return setting_tables(tables)
