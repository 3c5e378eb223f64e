"""The report of a diagnosis: one HTML file that needs nothing else, and its figures beside it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from robopref.diagnosis.results import SUMMARY_FILE, Diagnosis, load_diagnosis
from robopref.reporting.diagnosis_condition_figures import (
    attacks_figure,
    examples_figure,
    flips_figure,
    quotient_figure,
    returns_figure,
)
from robopref.reporting.diagnosis_decision_figures import distances_figure, gaps_figure
from robopref.reporting.diagnosis_direction_figures import (
    components_figure,
    direction_figure,
    energy_figure,
    power_figure,
    radial_figure,
    spectrum_figure,
)
from robopref.reporting.diagnosis_figure_files import kept_figures, write_figures
from robopref.reporting.diagnosis_instability_figures import (
    measures_figure,
    norms_figure,
    peaks_figure,
)
from robopref.reporting.diagnosis_tables import (
    attacks_table,
    episodes_table,
    facts_list,
    flips_table,
    measures_table,
    overview_table,
    quotients_table,
)
from robopref.reporting.diagnosis_words import (
    ABOVE,
    BELOW,
    KIND_NAMES,
    UNCHANGED,
    condition_names,
    confidence_of,
    episodes_text,
    estimate_text,
    number,
    paired_difference,
    percent_text,
    shown_statements,
    told_apart,
)
from robopref.reporting.figures import Chart
from robopref.reporting.page import setting_tables, shown, write_page

REPORT_FILE = "report.html"
FIGURES = "figures"
_SECTIONS = ("direction", "spectra", "time", "shifts", "decisions")


def write_diagnosis_report(directory: Path) -> Path:
    """Write ``directory/report.html`` and ``directory/figures`` from the diagnosis there; returns the report's path.

    The page holds everything it shows. What the diagnosis does not have (no attacks, no null control, gradients that
    vanish) is left out with a note that says so.

    Raises:
        RoboprefError: there is no finished diagnosis, or its files are damaged.
    """
    diagnosis = load_diagnosis(directory)
    charts = diagnosis_charts(diagnosis)
    write_figures(directory / FIGURES, [chart for section in charts.values() for chart in section])
    return write_page(directory / REPORT_FILE, "diagnosis.html.j2", diagnosis_contents(diagnosis, charts))


def diagnosis_images(directory: Path) -> dict[str, Path]:
    """The figures of a diagnosis as PNG files by name, for a tracker; those of its report where that is up to date.

    Raises:
        RoboprefError: as ``write_diagnosis_report``.
    """
    kept = kept_figures(directory / FIGURES, directory / REPORT_FILE, directory / SUMMARY_FILE)
    if kept is not None:
        return kept
    charts = diagnosis_charts(load_diagnosis(directory))
    return write_figures(directory / FIGURES, [chart for section in charts.values() for chart in section])


def diagnosis_charts(diagnosis: Diagnosis) -> dict[str, list[Chart]]:
    """Every figure that the diagnosis has, by section of the report."""
    subject, directions, conditions = diagnosis.subject, diagnosis.directions, diagnosis.conditions
    confidence = confidence_of(diagnosis)
    channels, pictures = subject.channels_per_frame, _are_pictures(diagnosis)
    n_episodes = len(diagnosis.instability.episodes)
    attacks = [condition for condition in conditions if condition.kind == "attack"]
    charts: dict[str, list[Chart | None]] = {section: [] for section in _SECTIONS}
    if not directions.vanished:
        origin = _origin(diagnosis)
        first = directions.directions[0]
        if not pictures:
            charts["direction"] = [
                components_figure([subject.policy], [first], origin),
                spectrum_figure(directions, origin),
            ]
        else:
            charts["direction"] = [
                direction_figure(first, diagnosis.spatial.typical_state, channels, origin=origin),
                energy_figure(first, diagnosis.spatial, channels),
                spectrum_figure(directions, origin),
            ]
            charts["spectra"] = [
                power_figure(diagnosis.spatial, channels),
                radial_figure(diagnosis.spatial, channels, n_episodes, confidence),
            ]
    if any((episode.norms > 0).any() for episode in diagnosis.instability.episodes):
        peaks = diagnosis.instability.peaks
        charts["time"] = [
            norms_figure(diagnosis.instability.episodes, peaks),
            measures_figure(diagnosis.instability, confidence),
            peaks_figure(peaks, channels, subject.actions, subject.value_unit) if peaks and pictures else None,
        ]
    charts["shifts"] = [quotient_figure(conditions, confidence), examples_figure(conditions) if pictures else None]
    charts["decisions"] = [
        gaps_figure(diagnosis.decisions, subject.value_unit),
        distances_figure(diagnosis.decisions, attacks, math.prod(subject.shape)),
        flips_figure(conditions, confidence),
        returns_figure(conditions, diagnosis.competence, confidence),
        attacks_figure(attacks, confidence),
    ]
    return {section: [chart for chart in drawn if chart is not None] for section, drawn in charts.items()}


def diagnosis_contents(diagnosis: Diagnosis, charts: dict[str, list[Chart]]) -> dict[str, Any]:
    """What the template shows: sentences, table rows, and charts as data addresses."""
    subject, settings = diagnosis.subject, diagnosis.settings
    attacks = [condition for condition in diagnosis.conditions if condition.kind == "attack"]
    return {
        "task": subject.task,
        "head": subject.head,
        "policy": subject.policy,
        "policy_id": subject.policy_id,
        "architecture": subject.architecture,
        "untrained": diagnosis.competence.untrained,
        "habit": _habit(diagnosis),
        "statements": shown_statements(diagnosis.statements),
        "findings": findings(diagnosis),
        "overview": overview_table(diagnosis),
        "charts": {section: [shown(chart) for chart in drawn] for section, drawn in charts.items()},
        "missing": _missing(diagnosis, charts),
        "facts": facts_list(diagnosis),
        "measures": measures_table(diagnosis),
        "episodes": episodes_table(diagnosis),
        "quotients": quotients_table(diagnosis),
        "flips": flips_table(diagnosis),
        "attacks": attacks_table(attacks, confidence_of(diagnosis)) if attacks else None,
        "making": setting_tables(
            {
                "Policy": {
                    "file": subject.policy,
                    "id": subject.policy_id,
                    "architecture": subject.architecture,
                    "actions": list(subject.actions) if len(subject.actions) <= 18 else len(subject.actions),
                    **({"synonyms": _synonyms(diagnosis)} if subject.synonyms else {}),
                    "state": " x ".join(map(str, subject.shape)),
                    "frame stack": subject.frame_stack,
                },
                "Environment": subject.environment,
                "Analysis": settings,
                "Versions": diagnosis.versions,
            }
        ),
    }


def findings(diagnosis: Diagnosis) -> list[str]:
    """The main results as sentences, each with its interval."""
    competence, directions = diagnosis.competence, diagnosis.directions
    said = [
        f"Return {estimate_text(competence.score)} (n\u00a0=\u00a0{competence.score.n}) against "
        f"{estimate_text(competence.random_score)} (n\u00a0=\u00a0{competence.random_score.n}) for random actions: "
        + (
            "these are too few episodes to show whether this policy learned to play."
            if competence.undecided
            else "nothing shows that this policy learned to play."
            if competence.untrained
            else f"the policy plays better than chance (p\u00a0=\u00a0{number(competence.p_value, 2)})."
        )
    ]
    cut = sum(not episode.finished for episode in diagnosis.instability.episodes)
    if cut:
        said[0] += f" {cut} of {len(diagnosis.instability.episodes)} episodes were cut before their end."
    habit = diagnosis.decisions.habit
    if habit is not None:
        said.append(
            f"It chooses {_habit(diagnosis)} in {percent_text(habit.share)} of {habit.states} visited states"
            + (
                ": its decision boundary is never met on them."
                if habit.always
                else ": its decision boundary is hardly met on them."
            )
        )
    if directions.share is not None:
        said.append(
            f"One direction in pixel space, G_S, holds {percent_text(directions.share)} of the squared gradients of "
            f"{directions.n_states} states."
        )
    for kind in ("shift", "attack"):
        said += _apart(diagnosis, kind)
    ties = f"Near-ties make up {percent_text(diagnosis.decisions.near_ties)} of the states"
    if diagnosis.decisions.synonym_ties is not None:
        ties += f", of which {percent_text(diagnosis.decisions.synonym_ties)} among synonyms only"
    said.append(ties + ".")
    return said


def _apart(diagnosis: Diagnosis, kind: str) -> list[str]:
    null = diagnosis.null
    compared = {
        name: (condition, told_apart(condition, null))
        for name, condition in zip(condition_names(diagnosis.conditions), diagnosis.conditions, strict=True)
        if condition.kind == kind and told_apart(condition, null)
    }
    if not compared:
        return []
    idle = sum(verdict == UNCHANGED for _, verdict in compared.values())
    if idle == len(compared):
        return [f"None of {idle} {KIND_NAMES[kind]} changed a single state."]
    apart = {name: paired_difference(c) for name, (c, verdict) in compared.items() if verdict in (BELOW, ABOVE)}
    said = f"{len(apart)} of {len(compared)} {KIND_NAMES[kind]} are told apart from the null control"
    paired = any(c.below_clean is not None for c, _ in compared.values())
    control = "that of the same states unattacked" if paired else "the null's"
    sizes = sorted(((size, name) for name, size in apart.items() if size is not None), key=lambda pair: -pair[0].value)
    if sizes:
        # A clear difference may still be a small one.
        said += f": {', '.join(name for _, name in sizes)}. \u039b lies below {control} by {estimate_text(sizes[0][0])}"
        said += f" ({sizes[0][1]})"
        if len(sizes) > 1:
            said += f" to {estimate_text(sizes[-1][0])} ({sizes[-1][1]})"
    return [said + "."]


def _habit(diagnosis: Diagnosis) -> str:
    """The name of what the policy always chooses, empty where it makes use of its choice."""
    habit = diagnosis.decisions.habit
    return "" if habit is None else " or ".join(diagnosis.subject.actions[action] for action in habit.actions)


def _synonyms(diagnosis: Diagnosis) -> str:
    actions = diagnosis.subject.actions
    return "; ".join(" = ".join(actions[action] for action in group) for group in diagnosis.subject.synonyms)


def _missing(diagnosis: Diagnosis, charts: dict[str, list[Chart]]) -> dict[str, list[str]]:
    """By section, why something is not there."""
    missing: dict[str, list[str]] = {section: [] for section in _SECTIONS}
    temperature = diagnosis.settings.get("temperature", "")
    if diagnosis.directions.vanished:
        reason = f"all gradients vanish at T = {temperature}, so there is no principal direction."
        missing["direction"].append(reason)
        missing["spectra"].append(reason)
    if not charts["time"]:
        missing["time"].append("the gradient norm is zero in every state.")
    elif not _are_pictures(diagnosis):
        missing["spectra"].append("the states are vectors and have no spatial frequencies.")
        missing["time"].append("the states where the norm peaks are vectors, not pictures.")
    elif not diagnosis.instability.peaks:
        missing["time"].append("no peaks were kept.")
    names = {chart.name for chart in charts["shifts"] + charts["decisions"]}
    kinds = {condition.kind for condition in diagnosis.conditions}
    if "null" not in kinds:
        missing["shifts"].append("no null control was played, so no shift can be told apart from chance.")
    for kind in ("shift", "attack"):
        if kind not in kinds:
            missing["shifts"].append(f"this diagnosis holds no {KIND_NAMES[kind]}.")
    undefined = [
        name
        for name, condition in zip(condition_names(diagnosis.conditions), diagnosis.conditions, strict=True)
        if condition.quotient is None
    ]
    if undefined:
        missing["shifts"].append(f"\u039b is not defined for {', '.join(undefined)}: gradients vanish.")
    if "distances" not in names:
        missing["decisions"].append("no distance to the boundary is finite.")
    if "returns" not in names:
        missing["decisions"].append("nothing was played under a shift, so there are no returns.")
    return missing


def _origin(diagnosis: Diagnosis) -> str:
    directions, settings = diagnosis.directions, diagnosis.settings
    text = f"over {directions.n_states} states of {episodes_text(len(diagnosis.instability.episodes))}"
    if "temperature" in settings:
        text += f" at T = {settings['temperature']}"
    if settings.get("jitter"):
        text += f", jitter {settings['jitter']}"
    return text + f" ({directions.n_zero} with zero gradient)"


def _are_pictures(diagnosis: Diagnosis) -> bool:
    """Not so for a policy that was varied in a vector [1, 1, S] of its observation."""
    return diagnosis.subject.shape[1] > 1
