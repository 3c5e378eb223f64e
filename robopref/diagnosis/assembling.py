"""Findings of single sets put together: intervals over episodes, quotients against the null, what to say first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from robopref.diagnosis.competence import judge_competence, mean_score
from robopref.diagnosis.decisions import bootstrap_median
from robopref.diagnosis.findings import CleanFindings, ConditionFindings, RandomFindings
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
    EpisodeSeries,
    Instability,
    Peak,
    Spatial,
    Subject,
)
from robopref.diagnosis.subspace import leading_vectors, resample_counts
from robopref.evaluation.statistics import Estimate, bootstrap_ratio, paired_bootstrap_difference

Kind = Literal["null", "shift", "attack"]
_RADIAL_RESAMPLES = 200
_UNDERFLOW = {"float32": 80.0, "float64": 700.0}  # gaps over T below which exp(-gap / T) is an ordinary number
_CONSTANT = "the network does not react to the pixels there at all (dead units), which no temperature changes"
_FLAT = 0.9  # lambda_2 / lambda_1 from which the first direction is called arbitrary
_FEW_EPISODES = 5


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
    clean_rewards: Mapping[int, NDArray[np.float32]] | None = None,
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
    """
    competence = judge_competence(clean.played.scores, random.played.scores, confidence=plan.confidence)
    directions, spatial = _directions(clean, plan), _spatial(clean, plan)
    samples = {c.name: sample for c in conditions if (sample := _sample(clean, c.findings, plan)) is not None}
    null = next((c.name for c in conditions if c.kind == "null"), None)
    held = tuple(_condition(c, clean, plan, samples, null, clean_rewards or {}) for c in conditions)
    null_findings = next((c.findings for c in conditions if c.kind == "null"), None)
    return Diagnosis(
        subject=subject,
        settings=asdict(plan)
        | {"clean_seed": plan.clean_seed, "null_seed": plan.null_seed, "random_seed": plan.random_seed},
        versions=versions,
        statements=tuple(_statements(subject, plan, competence, directions, clean, conditions)),
        competence=competence,
        directions=directions,
        spatial=spatial,
        instability=_instability(clean, plan),
        decisions=_decisions(clean, plan),
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


def _decisions(clean: CleanFindings, plan: Plan) -> Decisions:
    gaps = np.split(clean.gaps, np.cumsum(clean.played.lengths)[:-1])
    ties = [int((values < plan.tie_share * clean.scale).sum()) for values in gaps]
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
    )


def _sample(clean: CleanFindings, found: ConditionFindings, plan: Plan) -> QuotientSample | None:
    if clean.sensitivity.vanished or found.sensitivity.vanished:
        return None
    return bootstrap_quotient(
        clean.sensitivity.subspace,
        found.sensitivity.subspace,
        found.sensitivity.cross_grams,
        n_resamples=plan.n_resamples,
        seed=plan.seed,
    )


def _condition(
    measured: MeasuredCondition,
    clean: CleanFindings,
    plan: Plan,
    samples: Mapping[str, QuotientSample],
    null: str | None,
    clean_rewards: Mapping[int, NDArray[np.float32]],
) -> Condition:
    found, sample = measured.findings, samples.get(measured.name)
    n_episodes = len(found.sensitivity.subspace.grams)
    n = min(n_episodes, len(clean.played.seeds))
    null_sample = samples.get(null) if null is not None and measured.kind != "null" else None
    flips = None
    if len(found.flips):
        seen = found.flip_states > 0
        flips = bootstrap_ratio(found.flips[seen], found.flip_states[seen], confidence=plan.confidence, seed=plan.seed)
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
        if sample is None or null_sample is None
        else quotient_difference(null_sample, sample, n, plan.confidence),
        reduction_error=None if sample is None else sample.reduction_error,
        flips=flips,
        score=None if found.played is None else mean_score(found.played.scores, confidence=plan.confidence),
        score_difference=None
        if found.played is None or measured.kind == "null"
        else _score_difference(found, clean, steps, clean_rewards, plan),
        score_steps=steps,
        scores=np.zeros(0) if found.played is None else found.played.scores,
        distortion=found.distortion,
        example=found.example,
        direction=found.sensitivity.directions[0],
        resamples=np.zeros(0) if sample is None else sample.resamples,
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


def _statements(
    subject: Subject,
    plan: Plan,
    competence: Competence,
    directions: Directions,
    clean: CleanFindings,
    conditions: Sequence[MeasuredCondition],
) -> list[str]:
    """What a reader must know before any number, loudest first."""
    said = []
    if competence.untrained:
        said.append(
            f"UNTRAINED: this policy does not play {subject.task} better than random actions do (return "
            f"{competence.score} against {competence.random_score}, p = {competence.p_value:.2g}). What follows "
            "describes a network, not a skill."
        )
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
