"""The tables of a diagnosis report: captions, columns and rows of text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from robopref.diagnosis.instability import STATISTICS
from robopref.diagnosis.results import Condition, Diagnosis
from robopref.evaluation.statistics import Estimate
from robopref.reporting.diagnosis_instability_figures import MEASURES, measures_of
from robopref.reporting.diagnosis_words import (
    condition_names,
    confidence_of,
    episodes_text,
    estimate_text,
    intervals_text,
    null_of,
    number,
    percent_text,
    settings_text,
    told_apart,
)


def overview_table(diagnosis: Diagnosis) -> dict[str, Any]:
    """The main numbers, each with its interval and n."""
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
        "caption": f"In brackets: {100 * confidence_of(diagnosis):g} % bootstrap intervals over n episodes",
        "columns": ["", "Value", "n"],
        "rows": rows,
    }


def facts_list(diagnosis: Diagnosis) -> list[tuple[str, str]]:
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


def measures_table(diagnosis: Diagnosis) -> dict[str, Any]:
    """What is measured of the gradient norm over time."""
    n = len(diagnosis.instability.episodes)
    return {
        "caption": f"Gradient norm over all clean states; {intervals_text(n, confidence_of(diagnosis))}",
        "columns": ["Measure", "Value", "Unit"],
        "rows": [
            (MEASURES[name][0].capitalize(), estimate_text(estimate), MEASURES[name][1])
            for name, estimate in measures_of(diagnosis.instability).items()
        ],
    }


def episodes_table(diagnosis: Diagnosis) -> dict[str, Any]:
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
    return intervals_text(len(diagnosis.instability.episodes), confidence_of(diagnosis))


def quotients_table(diagnosis: Diagnosis) -> dict[str, Any] | None:
    """How far the directions of each condition are from the clean ones; nothing where there is no condition."""
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
    caption = f"Feature correlation quotients; in brackets {intervals_text(n, confidence_of(diagnosis))} or more"
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


def flips_table(diagnosis: Diagnosis) -> dict[str, Any] | None:
    """What each condition did to actions and returns; nothing where neither was measured."""
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
        f"{100 * confidence_of(diagnosis):g} % bootstrap intervals over episodes",
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


def attacks_table(attacks: Sequence[Condition], confidence: float) -> dict[str, Any]:
    """How often each attack changed an action, and by how much of the picture."""
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
