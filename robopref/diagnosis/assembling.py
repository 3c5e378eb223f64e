"""Findings of single sets put together: intervals over episodes, quotients against the null, what to say first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from robopref.diagnosis.competence import judge_competence, mean_score
from robopref.diagnosis.decisions import bootstrap_median, synonym_labels
from robopref.diagnosis.findings import CleanFindings, ConditionFindings, RandomFindings, Sensitivity
from robopref.diagnosis.fourier import power_spectrum, radial_profile
from robopref.diagnosis.instability import STATISTICS, moment_estimate, norm_moments
from robopref.diagnosis.plan import Plan
from robopref.diagnosis.quotient import QuotientSample, bootstrap_quotient, quotient_difference, quotient_estimate
from robopref.diagnosis.results import (
    Competence,
    Condition,
    Decisions,
    Diagnosis,
    Directions,
    Distortion,
    EpisodeSeries,
    Habit,
    Instability,
    Peak,
    Spatial,
    Subject,
)
from robopref.diagnosis.subspace import leading_vectors, resample_counts
from robopref.evaluation.statistics import Estimate, Rate, bootstrap_ratio, paired_bootstrap_difference

Kind = Literal["null", "shift", "attack"]
_RADIAL_RESAMPLES = 200
_UNDERFLOW = {"float32": 80.0, "float64": 700.0}  # gaps over T below which exp(-gap / T) is an ordinary number
_CONSTANT = "the network does not react to the pixels there at all (dead units), which no temperature changes"
_FLAT = 0.9  # lambda_2 / lambda_1 from which the first direction is called arbitrary
_FEW_EPISODES = 5
_HABIT = 0.99  # share of states with one and the same action from which the choice is called a habit


@dataclass(frozen=True)
class MeasuredCondition:
    """A condition's findings with its name and its settings as text."""

    name: str
    kind: Kind
    detail: str
    findings: ConditionFindings


def assemble(
    subject: Subject,
    plan: Plan,
    versions: Mapping[str, str],
    random: RandomFindings,
    clean: CleanFindings,
    conditions: Sequence[MeasuredCondition],
    *,
    clean_rewards: Mapping[int, NDArray[np.float32]] | None = None,
    nulls: Mapping[int, Sensitivity] | None = None,
    originals: Sensitivity | None = None,
) -> Diagnosis:
    """The diagnosis out of its sets.

    Args:
        subject: who and on what.
        plan: the settings.
        versions: of the software.
        random: what random actions score.
        clean: the clean set.
        conditions: the null control first.
        clean_rewards: rewards [T] of the clean episodes by seed, for scores over less than whole episodes.
        nulls: null controls of other sizes than the first condition's, by the number of states asked for.
        originals: the states that the attacks were tried on, before the attack.
    """
    competence = judge_competence(clean.played.scores, random.played.scores, confidence=plan.confidence)
    directions, spatial = _directions(clean, plan), _spatial(clean, plan)
    decisions = _decisions(subject, clean, plan)
    null_findings = next((c.findings for c in conditions if c.kind == "null"), None)
    controls = _controls(clean, null_findings, nulls or {}, originals, plan)
    held = tuple(_condition(subject, c, clean, plan, controls, clean_rewards or {}) for c in conditions)
    return Diagnosis(
        subject=subject,
        settings=asdict(plan)
        | {"clean_seed": plan.clean_seed, "null_seed": plan.null_seed, "random_seed": plan.random_seed},
        versions=versions,
        statements=tuple(_statements(subject, plan, competence, directions, decisions, clean, conditions)),
        competence=competence,
        directions=directions,
        spatial=spatial,
        instability=_instability(clean, plan),
        decisions=decisions,
        conditions=held,
        subspace=clean.sensitivity.subspace,
        null_subspace=None if null_findings is None else null_findings.sensitivity.subspace,
    )


def _interval(value: float, resamples: NDArray[np.float64], n: int, plan: Plan) -> Estimate:
    low, high = np.nanquantile(resamples, [(1 - plan.confidence) / 2, (1 + plan.confidence) / 2])
    return Estimate(value, min(float(low), value), max(float(high), value), n)


def _directions(clean: CleanFindings, plan: Plan) -> Directions:
    found = clean.sensitivity
    eigengap = share = None
    n_episodes = len(found.subspace.grams)
    if not found.vanished:
        counts = resample_counts(n_episodes, plan.n_resamples, [plan.seed, 0])
        values, _ = leading_vectors(counts, found.subspace.grams, 2)
        with np.errstate(invalid="ignore"):  # a resample whose gradients all vanish has neither
            gaps, shares = values[:, 1] / values[:, 0], values[:, 0] / (counts @ found.subspace.traces)
        eigengap = _interval(float(found.eigenvalues[1] / found.eigenvalues[0]), gaps, n_episodes, plan)
        share = _interval(min(1.0, float(found.eigenvalues[0] / found.trace)), shares, n_episodes, plan)
    return Directions(
        directions=found.directions,
        eigenvalues=found.eigenvalues,
        trace=found.trace,
        eigengap=eigengap,
        share=share,
        n_states=found.n_states,
        n_zero=found.n_zero,
        error_bound=found.error_bound,
        method="exact" if found.method == "exact" else "streaming",
        vanished=found.vanished,
    )


def _spatial(clean: CleanFindings, plan: Plan) -> Spatial:
    found = clean.sensitivity
    power = power_spectrum(found.directions[0])
    frequencies, radial = radial_profile(power)
    low = high = radial
    if not found.vanished:
        counts = resample_counts(len(found.subspace.grams), min(_RADIAL_RESAMPLES, plan.n_resamples), [plan.seed, 0])
        _, vectors = leading_vectors(counts, found.subspace.grams)
        profiles = np.stack(
            [
                radial_profile(power_spectrum((vector @ found.subspace.basis).reshape(clean.shape)))[1]
                for vector in vectors[:, 0]
            ]
        )
        low, high = np.quantile(profiles, [(1 - plan.confidence) / 2, (1 + plan.confidence) / 2], axis=0)
    return Spatial(
        typical_state=clean.typical_state,
        median_frame=clean.median_frame,
        power=power,
        frequencies=frequencies,
        radial=radial,
        radial_low=np.minimum(low, radial),
        radial_high=np.maximum(high, radial),
    )


def _series(clean: CleanFindings) -> list[NDArray[np.float64]]:
    return np.split(clean.norms, np.cumsum(clean.series_lengths)[:-1])


def _instability(clean: CleanFindings, plan: Plan) -> Instability:
    series = _series(clean)
    moments = np.stack([norm_moments(norms) for norms in series])
    estimates = {
        name: moment_estimate(
            statistic, moments, n_resamples=plan.n_resamples, seed=plan.seed, confidence=plan.confidence
        )
        for name, statistic in STATISTICS.items()
    }
    mean, variance = estimates["mean"], estimates["variance"]
    assert mean is not None
    assert variance is not None  # sums over at least one state
    played = clean.played
    return Instability(
        episodes=tuple(
            EpisodeSeries(int(seed), float(score), int(length), bool(finished), norms)
            for seed, score, length, finished, norms in zip(
                played.seeds, played.scores, played.lengths, played.finished, series, strict=True
            )
        ),
        mean=mean,
        variance=variance,
        variation=estimates["variation"],
        oscillation=estimates["oscillation"],
        high_frequency=estimates["high_frequency"],
        peaks=tuple(
            Peak(int(episode), int(step), float(series[episode][step]), state, gradient, q_values)
            for (episode, step), state, gradient, q_values in zip(
                clean.peaks, clean.peak_states, clean.peak_gradients, clean.peak_q_values, strict=True
            )
        ),
        moments=moments,
    )


def _decisions(subject: Subject, clean: CleanFindings, plan: Plan) -> Decisions:
    ends, threshold = np.cumsum(clean.played.lengths)[:-1], plan.tie_share * clean.scale
    gaps = np.split(clean.gaps, ends)
    ties = [int((values < threshold).sum()) for values in gaps]
    only_synonyms = (clean.gaps < threshold) & (clean.other_gaps >= threshold)
    synonym_ties = [int(values.sum()) for values in np.split(only_synonyms, ends)]
    median = partial(bootstrap_median, n_resamples=plan.n_resamples, seed=plan.seed, confidence=plan.confidence)
    distances = [clean.distances[clean.distance_episodes == e] for e in range(len(gaps))]
    return Decisions(
        gaps=clean.gaps,
        scale=clean.scale,
        tie_share=plan.tie_share,
        near_ties=bootstrap_ratio(ties, clean.played.lengths, confidence=plan.confidence, seed=plan.seed),
        median_gap=median(gaps),
        distances=clean.distances,
        median_distance=median([d for d in distances if len(d)]) if np.isfinite(np.median(clean.distances)) else None,
        synonym_ties=bootstrap_ratio(synonym_ties, clean.played.lengths, confidence=plan.confidence, seed=plan.seed)
        if subject.synonyms
        else None,
        choices=clean.choices,
        habit=_habit(subject, clean, plan),
    )


def _habit(subject: Subject, clean: CleanFindings, plan: Plan) -> Habit | None:
    """The action, or the synonyms, chosen in more than 99 % of the states."""
    labels = synonym_labels(clean.choices.shape[1], subject.synonyms)
    totals = np.bincount(labels, clean.choices.sum(axis=0), clean.choices.shape[1])
    favourite = labels == totals.argmax()
    share = bootstrap_ratio(
        clean.choices[:, favourite].sum(axis=1), clean.choices.sum(axis=1), confidence=plan.confidence, seed=plan.seed
    )
    if share.value <= _HABIT:
        return None
    chosen = favourite & (clean.choices.sum(axis=0) > 0)
    return Habit(tuple(int(action) for action in np.flatnonzero(chosen)), share, int(clean.choices.sum()))


@dataclass(frozen=True)
class _Control:
    """What a quotient is held against."""

    sample: QuotientSample | None
    n_states: int
    n_episodes: int


@dataclass(frozen=True)
class _Controls:
    null: _Control | None
    nulls: Mapping[int, _Control]
    originals: _Control | None

    def for_size(self, n_states: int) -> _Control | None:
        """The null of as many states."""
        return self.nulls.get(n_states, self.null)


def _controls(
    clean: CleanFindings,
    null: ConditionFindings | None,
    nulls: Mapping[int, Sensitivity],
    originals: Sensitivity | None,
    plan: Plan,
) -> _Controls:
    def control(found: Sensitivity, *, paired: bool = False) -> _Control:
        return _Control(_sample(clean, found, plan, paired=paired), found.n_states, len(found.subspace.grams))

    return _Controls(
        None if null is None else control(null.sensitivity),
        {size: control(found) for size, found in nulls.items()},
        None if originals is None else control(originals, paired=True),
    )


def _sample(clean: CleanFindings, found: Sensitivity, plan: Plan, *, paired: bool = False) -> QuotientSample | None:
    """None where a set's gradients all vanish; ``paired``: its states are of the clean episodes."""
    if clean.sensitivity.vanished or found.vanished:
        return None
    return bootstrap_quotient(
        clean.sensitivity.subspace,
        found.subspace,
        found.cross_grams,
        n_resamples=plan.n_resamples,
        seed=plan.seed,
        paired=paired,
    )


def _condition(
    subject: Subject,
    measured: MeasuredCondition,
    clean: CleanFindings,
    plan: Plan,
    controls: _Controls,
    clean_rewards: Mapping[int, NDArray[np.float32]],
) -> Condition:
    found, attacked = measured.findings, measured.kind == "attack"
    sample = _sample(clean, found.sensitivity, plan, paired=attacked)
    n_episodes = len(found.sensitivity.subspace.grams)
    n = min(n_episodes, len(clean.played.seeds))
    null = None if measured.kind == "null" else controls.for_size(found.sensitivity.n_states)
    null_n = n if null is None else min(n, null.n_episodes)
    original = controls.originals.sample if attacked and controls.originals is not None else None
    flips = synonym_flips = None
    if len(found.flips):
        seen = found.flip_states > 0
        ratio = partial(bootstrap_ratio, confidence=plan.confidence, seed=plan.seed)
        flips = ratio(found.flips[seen], found.flip_states[seen])
        synonym_flips = ratio(found.synonym_flips[seen], found.flip_states[seen]) if subject.synonyms else None
    steps = plan.attack_steps if measured.kind == "attack" else None
    return Condition(
        name=measured.name,
        kind=measured.kind,
        detail=measured.detail,
        n_episodes=n_episodes,
        n_states=found.sensitivity.n_states,
        n_zero=found.sensitivity.n_zero,
        quotient=None if sample is None else quotient_estimate(sample, n, plan.confidence),
        below_null=None
        if sample is None or null is None or null.sample is None
        else quotient_difference(null.sample, sample, null_n, plan.confidence),
        reduction_error=None if sample is None else sample.reduction_error,
        flips=flips,
        score=None if found.played is None else mean_score(found.played.scores, confidence=plan.confidence),
        score_difference=None
        if found.played is None or measured.kind == "null"
        else _score_difference(found, clean, steps, clean_rewards, plan),
        score_steps=steps,
        scores=np.zeros(0) if found.played is None else found.played.scores,
        distortion=_distortion(found, len(clean.played.seeds), plan) if attacked else None,
        example=found.example,
        direction=found.sensitivity.directions[0],
        resamples=np.zeros(0) if sample is None else sample.resamples,
        null_states=None if null is None else null.n_states,
        null_quotient=None
        if null is None or null.sample is None
        else quotient_estimate(null.sample, min(null.n_episodes, len(clean.played.seeds)), plan.confidence),
        clean_quotient=None if original is None else quotient_estimate(original, n, plan.confidence),
        below_clean=None
        if sample is None or original is None
        else quotient_difference(original, sample, n, plan.confidence),
        synonym_flips=synonym_flips,
        flips_by_episode=np.stack([found.flip_states, found.flips, found.synonym_flips], axis=1).astype(np.int64),
    )


def _distortion(found: ConditionFindings, n_episodes: int, plan: Plan) -> Distortion:
    """Means over states with percentile intervals over the clean episodes."""
    successes = np.where(found.flipped, found.distortions[:, 2], 0)
    columns = [np.ones(len(found.flipped)), found.flipped, *found.distortions.T, successes]
    sums = np.stack([np.bincount(found.state_episodes, column, n_episodes) for column in columns], axis=1)
    counts = resample_counts(n_episodes, plan.n_resamples, [plan.seed, 0])
    n = int((sums[:, 0] > 0).sum())

    def mean(top: int, bottom: int = 0) -> Estimate:
        resampled = counts @ sums
        with np.errstate(invalid="ignore", divide="ignore"):  # a resample without a state, or without a success
            ratios = resampled[:, top] / resampled[:, bottom]
        return _interval(float(sums[:, top].sum() / sums[:, bottom].sum()), ratios, n, plan)

    return Distortion(
        l0=mean(2),
        l1=mean(3),
        l2=mean(4),
        linf=mean(5),
        l2_of_successes=mean(6, 1) if found.flipped.any() else None,
        successes=Rate.of(int(found.flipped.sum()), len(found.flipped), plan.confidence),
        by_episode=sums,
    )


def _score_difference(
    found: ConditionFindings,
    clean: CleanFindings,
    steps: int | None,
    clean_rewards: Mapping[int, NDArray[np.float32]],
    plan: Plan,
) -> Estimate | None:
    """Score minus clean score over the seeds that both have."""
    assert found.played is not None
    before = dict(zip(clean.played.seeds.tolist(), clean.played.scores.tolist(), strict=True))
    if steps is not None:
        before = {seed: float(rewards[:steps].sum()) for seed, rewards in clean_rewards.items()}
    after = dict(zip(found.played.seeds.tolist(), found.played.scores.tolist(), strict=True))
    common = sorted(set(before) & set(after))
    if not common:
        return None
    return paired_bootstrap_difference(
        [before[seed] for seed in common],
        [after[seed] for seed in common],
        confidence=plan.confidence,
        seed=plan.seed,
    )


def _habit_statement(subject: Subject, habit: Habit, confidence: float) -> str:
    names = " or ".join(subject.actions[action] for action in habit.actions)
    synonyms = ", which do the same," if len(habit.actions) > 1 else ""
    if habit.always:
        return (
            f"ALWAYS {names}: the greedy action{synonyms} is {names} in every one of {habit.states} visited states, so "
            "its decision boundary is never met on the visited states. What follows describes how near a constant "
            "answer comes to changing, not decisions."
        )
    share, low, high = (f"{100 * part:.2f}" for part in (habit.share.value, habit.share.low, habit.share.high))
    return (
        f"ALMOST ALWAYS {names}: the greedy action{synonyms} is {names} in {share} % of {habit.states} visited states "
        f"({100 * confidence:g} % interval {low} to {high}, n = {habit.share.n} episodes), so its decision boundary is "
        "hardly met on the visited states. What follows describes a nearly constant answer."
    )


def _statements(
    subject: Subject,
    plan: Plan,
    competence: Competence,
    directions: Directions,
    decisions: Decisions,
    clean: CleanFindings,
    conditions: Sequence[MeasuredCondition],
) -> list[str]:
    """What a reader must know before any number, loudest first."""
    said = []
    if competence.undecided:
        said.append(
            f"Perhaps UNTRAINED: every episode scored above every one of random actions on {subject.task} (return "
            f"{competence.score} against {competence.random_score}), but so few cannot show that this is no chance "
            f"(p = {competence.p_value:.2g}). Play ten."
        )
    elif competence.untrained:
        said.append(
            f"UNTRAINED: this policy does not play {subject.task} better than random actions do (return "
            f"{competence.score} against {competence.random_score}, p = {competence.p_value:.2g}). What follows "
            "describes a network, not a skill."
        )
    if decisions.habit is not None:
        said.append(_habit_statement(subject, decisions.habit, plan.confidence))
    where = f"at T = {plan.temperature:g} in {plan.dtype}"
    remedy = "raise the temperature" + ("" if plan.dtype == "float64" else " or compute in float64")
    widest = float(clean.gaps.max()) / plan.temperature
    constant = widest < _UNDERFLOW[plan.dtype]
    if directions.vanished:
        said.append(
            f"All directions vanish {where}: the gradient of every one of {directions.n_states} states is exactly zero"
            + (f". The softmax is not saturated: {_CONSTANT}." if constant else
               f", the policy's softmax being saturated. There is nothing to compare; {remedy}.")
        )  # fmt: skip
    elif directions.n_zero and constant:
        said.append(
            f"{directions.n_zero} of {directions.n_states} gradients are exactly zero and do not count, though no "
            f"softmax is saturated (action gaps are at most {widest:.3g} T): {_CONSTANT}."
        )
    elif directions.n_zero:
        said.append(
            f"{directions.n_zero} of {directions.n_states} states are saturated {where}: their gradients are exactly "
            f"zero and do not count. To see them, {remedy}."
        )
    if directions.eigengap is not None and directions.eigengap.value > _FLAT:
        said.append(
            f"The first two eigenvalues are nearly equal (lambda_2 / lambda_1 = {directions.eigengap}): G_S is one of "
            "many directions in their plane, and a quotient along it says little."
        )
    said += [
        f"All gradients vanish under {c.name} {where}, so that its quotient is undefined."
        for c in conditions
        if c.findings.sensitivity.vanished and not directions.vanished
    ]
    repeats = clean.played.repeats
    if repeats:
        said.append(
            f"{repeats} of {repeats + len(clean.played.seeds)} clean episodes repeat another to the last frame and "
            "were left out: raise epsilon or play with sticky actions for independent ones."
        )
    if len(clean.played.seeds) < _FEW_EPISODES:
        said.append(
            f"Only {len(clean.played.seeds)} different clean episode(s): intervals over so few are too narrow, so "
            "play ten."
        )
    null = next((c.findings.played for c in conditions if c.kind == "null"), None)
    if null is not None and null.repeats:
        said.append(
            f"{null.repeats} of {plan.episodes} episodes of the null control repeat another or a clean one to the last "
            "frame and are no evidence: raise epsilon or play with sticky actions."
        )
    if not any(c.kind == "null" for c in conditions):
        said.append("No null control was played: a quotient below 1 may be mere chance.")
    return said
