"""The report of a diagnosis: one HTML file that needs nothing else, and its figures beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robopref.diagnosis.instability import STATISTICS
from robopref.diagnosis.results import SUMMARY_FILE, Condition, Diagnosis, load_diagnosis
from robopref.evaluation.statistics import Estimate
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
    MEASURES,
    measures_figure,
    measures_of,
    norms_figure,
    peaks_figure,
)
from robopref.reporting.diagnosis_words import (
    ABOVE,
    BELOW,
    KIND_NAMES,
    UNCHANGED,
    condition_names,
    episodes_text,
    estimate_text,
    intervals_text,
    null_of,
    number,
    paired_difference,
    percent_text,
    settings_text,
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
    confidence = _confidence(diagnosis)
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
        "overview": _overview(diagnosis),
        "charts": {section: [shown(chart) for chart in drawn] for section, drawn in charts.items()},
        "missing": _missing(diagnosis, charts),
        "facts": _facts(diagnosis),
        "measures": _measures(diagnosis),
        "episodes": _episodes(diagnosis),
        "quotients": _quotients(diagnosis),
        "flips": _decisions(diagnosis),
        "attacks": _attacks(attacks, _confidence(diagnosis)) if attacks else None,
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


def _overview(diagnosis: Diagnosis) -> dict[str, Any]:
    competence, directions, decisions = diagnosis.competence, diagnosis.directions, diagnosis.decisions
    null = diagnosis.null
    rows = [
        ("Return of the policy", estimate_text(competence.score), competence.score.n),
        ("Return of random actions", estimate_text(competence.random_score), competence.random_score.n),
        ("Difference", estimate_text(competence.difference), competence.difference.n),
    ]
    if directions.share is not None:
        rows.append(("Share of L(S) along G_S", percent_text(directions.share), directions.share.n))
    if directions.eigengap is not None:
        rows.append(("Eigengap \u03bb\u2082/\u03bb\u2081", estimate_text(directions.eigengap), directions.eigengap.n))
    if null is not None and null.quotient is not None:
        rows.append(("\u039b of the null control", estimate_text(null.quotient), null.quotient.n))
    for name in ("variation", "oscillation"):
        estimate = measures_of(diagnosis.instability)[name]
        if estimate is not None:
            rows.append((f"{MEASURES[name][0].capitalize()} of the gradient norm", estimate_text(estimate), estimate.n))
    rows.append(("Near-ties", percent_text(decisions.near_ties), decisions.near_ties.n))
    if decisions.synonym_ties is not None:
        rows.append(("Near-ties among synonyms only", percent_text(decisions.synonym_ties), decisions.synonym_ties.n))
    return {
        "caption": f"In brackets: {100 * _confidence(diagnosis):g} % bootstrap intervals over n episodes",
        "columns": ["", "Value", "n"],
        "rows": rows,
    }


def _facts(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    """What L(S) was made of, as the figures of the section share it."""
    directions, settings = diagnosis.directions, diagnosis.settings
    n_episodes = len(diagnosis.instability.episodes)
    facts = [
        ("States", f"{directions.n_states} of {episodes_text(n_episodes)}"),
        (
            "Zero gradients",
            f"{directions.n_zero} of {directions.n_states}, {100 * directions.n_zero / directions.n_states:.1f} %",
        ),
    ]
    for name, title in (("temperature", "Temperature T"), ("jitter", "Jitter"), ("dtype", "Precision")):
        if name in settings:
            facts.append((title, str(settings[name])))
    if not directions.vanished:
        bound = number(directions.error_bound / directions.eigenvalues[0], 2)
        facts += [
            ("Method", {"exact": "exact, in memory", "streaming": "streaming"}[directions.method]),
            ("Error bound of an eigenvalue", f"{bound} of \u03bb\u2081"),
            ("Eigengap \u03bb\u2082/\u03bb\u2081", estimate_text(directions.eigengap)),
        ]
    return facts


def _measures(diagnosis: Diagnosis) -> dict[str, Any]:
    n = len(diagnosis.instability.episodes)
    return {
        "caption": f"Gradient norm over all clean states; {intervals_text(n, _confidence(diagnosis))}",
        "columns": ["Measure", "Value", "Unit"],
        "rows": [
            (MEASURES[name][0].capitalize(), estimate_text(estimate), MEASURES[name][1])
            for name, estimate in measures_of(diagnosis.instability).items()
        ],
    }


def _episodes(diagnosis: Diagnosis) -> dict[str, Any]:
    """One row an episode; what makes the intervals of the measures above."""
    instability, choices = diagnosis.instability, diagnosis.decisions.choices
    rows = []
    for index, (episode, moments) in enumerate(zip(instability.episodes, instability.moments, strict=True)):
        measured = [float(STATISTICS[name](moments)) for name in ("mean", "variance", "oscillation")]
        most = ""
        if len(choices):
            action = int(choices[index].argmax())
            share = 100 * choices[index, action] / choices[index].sum()
            most = f"{diagnosis.subject.actions[action]}, {share:.1f}\u00a0%"
        rows.append(
            (
                f"{index + 1}",
                number(episode.score),
                f"{episode.length}{'' if episode.finished else ' (cut)'}",
                *("not defined" if math.isnan(value) else number(value) for value in measured),
                most,
            )
        )
    return {
        "caption": f"The clean episodes one by one; the numbers over all states are above, with {_over(diagnosis)}",
        "columns": [
            "Episode", "Return", "Steps", "Norm, mean", "Norm, variance", "Norm, oscillation", "Most frequent action",
        ],
        "rows": rows,
    }  # fmt: skip


def _over(diagnosis: Diagnosis) -> str:
    return intervals_text(len(diagnosis.instability.episodes), _confidence(diagnosis))


def _habit(diagnosis: Diagnosis) -> str:
    """The name of what the policy always chooses, empty where it makes use of its choice."""
    habit = diagnosis.decisions.habit
    return "" if habit is None else " or ".join(diagnosis.subject.actions[action] for action in habit.actions)


def _synonyms(diagnosis: Diagnosis) -> str:
    actions = diagnosis.subject.actions
    return "; ".join(" = ".join(actions[action] for action in group) for group in diagnosis.subject.synonyms)


def _quotients(diagnosis: Diagnosis) -> dict[str, Any] | None:
    if not diagnosis.conditions:
        return None
    paired = any(condition.below_clean is not None for condition in diagnosis.conditions)
    rows = []
    for name, condition in zip(condition_names(diagnosis.conditions), diagnosis.conditions, strict=True):
        null = null_of(condition, diagnosis.null)
        states = condition.null_states if condition.null_states is not None else "other"
        rows.append(
            (
                (name, settings_text(condition)),
                estimate_text(condition.quotient),
                f"{estimate_text(null)}, {states} states" if null is not None else "",
                estimate_text(condition.below_null) if condition.below_null is not None else "",
                *([_unattacked(condition)] if paired else []),
                told_apart(condition, diagnosis.null),
                f"{condition.n_states} ({condition.n_zero})",
                condition.n_episodes,
            )
        )
    n = min(condition.n_episodes for condition in diagnosis.conditions)
    caption = f"Feature correlation quotients; in brackets {intervals_text(n, _confidence(diagnosis))} or more"
    errors = [c.reduction_error for c in diagnosis.conditions if c.reduction_error is not None]
    if errors:
        caption += (
            ", taken in the leading directions, which changes the largest eigenvalue of a resample by at most "
            f"{number(100 * max(errors), 2)}\u00a0%"
        )
    return {
        "caption": caption,
        "columns": [
            "Condition",
            "\u039b",
            "Null held against",
            "Null minus \u039b",
            *(["Same states unattacked minus \u039b"] if paired else []),
            "Verdict",
            "States (zero gradients)",
            "Episodes",
        ],
        "rows": _wrapping(rows),
    }


def _unattacked(condition: Condition) -> str:
    return estimate_text(condition.below_clean) if condition.below_clean is not None else ""


def _decisions(diagnosis: Diagnosis) -> dict[str, Any] | None:
    rows = []
    synonyms = any(condition.synonym_flips is not None for condition in diagnosis.conditions)
    for name, condition in zip(condition_names(diagnosis.conditions), diagnosis.conditions, strict=True):
        if condition.flips is None and condition.score is None:
            continue
        score = "not played" if condition.score is None else estimate_text(condition.score)
        if condition.score is not None and condition.score_steps is not None:
            score += f" in {condition.score_steps} steps"
        rows.append(
            (
                name,
                percent_text(condition.flips) if condition.flips is not None else "",
                *([_optional_percent(condition.synonym_flips)] if synonyms else []),
                score,
                condition.score.n if condition.score is not None else "",
                estimate_text(condition.score_difference) if condition.score_difference is not None else "",
            )
        )
    if not rows:
        return None
    return {
        "caption": "Flipped actions and returns; in brackets "
        f"{100 * _confidence(diagnosis):g} % bootstrap intervals over episodes",
        "columns": [
            "Condition",
            "Flipped actions",
            *(["To a synonym"] if synonyms else []),
            "Return",
            "Episodes played",
            "Return minus clean return, paired",
        ],
        "rows": rows,
    }


def _optional_percent(estimate: Estimate | None) -> str:
    return "" if estimate is None else percent_text(estimate)


def _attacks(attacks: Sequence[Condition], confidence: float) -> dict[str, Any]:
    rows = []
    for name, attack in zip(condition_names(attacks), attacks, strict=True):
        sizes = ["", "", "", "", "", ""]
        if attack.distortion is not None:
            made, rate = attack.distortion, attack.distortion.successes
            needed = "none flipped" if made.l2_of_successes is None else estimate_text(made.l2_of_successes)
            flipped = f"{rate.successes} of {rate.n} [{100 * rate.low:.1f}, {100 * rate.high:.1f}]\u00a0%"
            sizes = [flipped, needed, *(estimate_text(size) for size in (made.l2, made.l1, made.linf, made.l0))]
        rows.append(((name, settings_text(attack)), percent_text(attack.flips), *sizes))
    n = min((attack.flips.n for attack in attacks if attack.flips is not None), default=0)
    return {
        "caption": f"Attacks on clean states, distortion of pixels in [0, 1] as means over states; in brackets "
        f"{intervals_text(n, confidence)}, beside counts Wilson intervals, as if states of an episode were independent",
        "columns": [
            "Attack", "Success rate", "Flipped of states, Wilson", "L2 of successes", "L2", "L1", "L\u221e", "L0",
        ],
        "rows": _wrapping(rows),
    }  # fmt: skip


def _wrapping(rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Rows whose intervals may stand below their values, where a table would be wider than the page."""
    return [tuple(cell.replace("\u00a0[", " [") if isinstance(cell, str) else cell for cell in row) for row in rows]


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


def _confidence(diagnosis: Diagnosis) -> float:
    return float(diagnosis.settings.get("confidence", 0.95))
