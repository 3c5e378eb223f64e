"""Made-up diagnoses and comparisons, small and complete."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from robopref.diagnosis.fourier import power_spectrum, radial_profile
from robopref.diagnosis.instability import STATISTICS, moment_estimate, norm_moments
from robopref.diagnosis.results import (
    Comparison,
    Competence,
    Condition,
    Decisions,
    Diagnosis,
    Directions,
    Distortion,
    EpisodeSeries,
    Instability,
    Overlap,
    Peak,
    Spatial,
    Subject,
    Subspace,
)
from robopref.evaluation.statistics import Estimate, Rate

SIDE = 20


def make_direction(stack: int = 4, channels: int = 1, seed: int = 0) -> NDArray[np.float32]:
    """A unit direction [C, H, W] with a blob that differs from frame to frame."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    blob = np.exp(-((rows - 6) ** 2 + (columns - 12) ** 2) / 20)
    direction = (
        rng.normal(size=(stack * channels, SIDE, SIDE)) * blob * np.arange(1, stack * channels + 1)[:, None, None]
    )
    return (direction / np.linalg.norm(direction)).astype(np.float32)


def make_spatial(direction: NDArray[Any], seed: int = 0) -> Spatial:
    """Its Fourier view over random frames."""
    power = power_spectrum(direction)
    frequencies, radial = radial_profile(power)
    state = np.random.default_rng(seed).integers(0, 256, direction.shape, np.uint8)
    return Spatial(state, state[-1], power, frequencies, radial, 0.7 * radial, 1.4 * radial)


def make_condition(
    name: str,
    kind: Literal["null", "shift", "attack"],
    quotient: tuple[float, float, float] | None,
    below: tuple[float, float, float] | None = None,
    *,
    n: int = 6,
    flips: tuple[float, float, float] | None = None,
    score: tuple[float, float, float] | None = None,
    difference: tuple[float, float, float] | None = None,
    channels: int = 1,
) -> Condition:
    """A condition of the given estimates."""

    def estimate(values: tuple[float, float, float] | None) -> Estimate | None:
        return None if values is None else Estimate(*values, n)

    frame = (SIDE, SIDE) if channels == 1 else (SIDE, SIDE, 3)
    return Condition(
        name=name,
        kind=kind,
        detail="" if kind == "null" else f"{name}:strength=2.0,steps=7",
        n_episodes=n,
        n_states=321,
        n_zero=5,
        quotient=estimate(quotient),
        below_null=estimate(below),
        reduction_error=0.01,
        flips=estimate(flips),
        score=estimate(score),
        score_difference=estimate(difference),
        score_steps=40 if kind == "attack" and score else None,
        scores=np.zeros(n),
        distortion=make_distortion(n) if kind == "attack" else None,
        example=None if kind == "null" else np.random.default_rng(1).integers(0, 256, (2, *frame), np.uint8),
        direction=np.zeros((4, SIDE, SIDE), np.float32),
        resamples=np.zeros(3),
    )


def make_distortion(n: int = 6, scale: float = 1.0, flipped: int = 313) -> Distortion:
    """What an attack on 321 states of n episodes added."""

    def estimate(value: float) -> Estimate:
        return Estimate(scale * value, 0.9 * scale * value, 1.2 * scale * value, n)

    needed = estimate(1.11) if flipped else None
    return Distortion(
        estimate(123.0), estimate(45.6), estimate(1.23), estimate(0.0789), needed, Rate.of(flipped, 321),
        np.ones((n, 7)),
    )  # fmt: skip


CONDITIONS = (
    make_condition("null", "null", (0.9, 0.82, 0.95), score=(11.0, 8.0, 14.0)),
    make_condition(
        "rotation", "shift", (0.31, 0.21, 0.41), (0.59, 0.45, 0.71), flips=(0.234, 0.2, 0.27), score=(3.0, 1.0, 5.0),
        difference=(-9.0, -12.0, -6.0),
    ),
    make_condition(
        "jpeg", "shift", (0.88, 0.8, 0.94), (0.02, -0.05, 0.1), flips=(0.05, 0.02, 0.08), score=(12.0, 9.0, 15.0),
        difference=(0.0, -2.0, 2.0),
    ),
    make_condition(
        "carlini_wagner", "attack", (0.52, 0.4, 0.61), (0.38, 0.25, 0.5), flips=(0.975, 0.94, 1.0),
        score=(0.5, 0.0, 1.0), difference=(-2.5, -3.0, -2.0),
    ),
)  # fmt: skip


def make_instability(n_episodes: int = 6, steps: int = 60, *, stack: int = 4, channels: int = 1) -> Instability:
    """Norms that jump about, with their true numbers."""
    rng = np.random.default_rng(2)
    series = [rng.gamma(2.0, 0.5, steps) for _ in range(n_episodes)]
    moments = np.stack([norm_moments(norms) for norms in series])
    estimates: dict[str, Any] = {name: moment_estimate(s, moments, n_resamples=100) for name, s in STATISTICS.items()}
    shape = (stack * channels, SIDE, SIDE)
    peaks = tuple(
        Peak(
            e, int(series[e].argmax()), float(series[e].max()), rng.integers(0, 256, shape, np.uint8),
            rng.normal(size=shape).astype(np.float32), np.array([0.5, 2.0, 1.75], np.float32),
        )
        for e in range(min(2, n_episodes))
    )  # fmt: skip
    return Instability(
        tuple(EpisodeSeries(100 + e, 12.0 + e, steps, True, norms) for e, norms in enumerate(series)),
        estimates["mean"],
        estimates["variance"],
        estimates["variation"],
        estimates["oscillation"],
        estimates["high_frequency"],
        peaks,
        moments,
    )


def make_diagnosis(**changes: Any) -> Diagnosis:
    """A trained policy with a null control, two shifts and an attack."""
    direction = make_direction()
    rng = np.random.default_rng(3)
    eigenvalues = np.array([6.0, 2.4, 0.6])
    diagnosis = Diagnosis(
        subject=Subject(
            "model.zip", "abc123", "Nature CNN", "pong", {"frame_skip": 4, "sticky_actions": 0.25},
            ("NOOP", "UP", "DOWN"), "discounted reward", (4, SIDE, SIDE), 4, 1,
        ),
        settings={"temperature": 0.5, "jitter": 0.0, "dtype": "float32", "confidence": 0.95},
        versions={"torch": "2.13.0"},
        statements=(),
        competence=Competence(
            Estimate(12.0, 10.0, 14.0, 6), Estimate(1.5, 0.5, 2.5, 9), np.zeros(9), Estimate(10.5, 8.0, 13.0, 6), 0.003,
            False,
        ),
        directions=Directions(
            direction[None], eigenvalues, 12.0, Estimate(0.4, 0.31, 0.52, 6), Estimate(0.5, 0.44, 0.58, 6), 321, 7,
            6e-7, "exact", False,
        ),
        spatial=make_spatial(direction),
        instability=make_instability(),
        decisions=Decisions(
            rng.lognormal(-2, 1, 400).astype(np.float32), 2.0, 0.05, Estimate(0.361, 0.33, 0.39, 6),
            Estimate(0.135, 0.12, 0.15, 6), np.append(rng.lognormal(0, 1, 99), np.inf), Estimate(1.02, 0.8, 1.3, 6),
        ),
        conditions=CONDITIONS,
        subspace=Subspace(np.zeros((1, direction.size), np.float32), np.zeros((6, 1, 1)), np.zeros(6), 0.0),
        null_subspace=None,
    )  # fmt: skip
    return replace(diagnosis, **changes)


def make_comparison(**changes: Any) -> Comparison:
    """A vanilla and a certified policy."""
    directions = np.stack([make_direction(seed=seed) for seed in (0, 1)])
    energies = np.square(directions.astype(np.float64)).sum(1)
    subject = make_diagnosis().subject
    comparison = Comparison(
        names=("vanilla", "certified"),
        subjects=(subject, replace(subject, policy="other.zip", policy_id="def456")),
        angle=Estimate(84.2, 80.1, 87.3, 6),
        own_angles=(Estimate(12.5, 8.5, 20.5, 6), None),
        principal_angles=(Estimate(71.0, 60.0, 78.0, 6), Estimate(88.0, 84.0, 89.9, 6)),
        ratios={
            "mean": Estimate(0.31, 0.2, 0.45, 6), "variance": Estimate(4.22, 2.5, 7.0, 6),
            "variation": Estimate(1.1, 0.9, 1.4, 6), "oscillation": Estimate(0.5, 0.4, 0.7, 6), "high_frequency": None,
        },
        overlap=Overlap(0.05, Estimate(0.21, 0.12, 0.3, 6), 0.0256, Estimate(0.63, 0.5, 0.7, 6)),
        own_overlaps=(Overlap(0.05, Estimate(0.72, 0.6, 0.8, 6), 0.0256, Estimate(0.95, 0.9, 0.98, 6)), None),
        quotients={
            "null": (Estimate(0.9, 0.8, 0.95, 6), Estimate(0.71, 0.5, 0.8, 6), Estimate(-0.19, -0.4, -0.05, 6)),
            "jpeg": (None, Estimate(0.33, 0.2, 0.4, 6), None),
        },
        energies=energies,
        statements=(),
        settings={"confidence": 0.95, "k": 2},
        directions=directions,
        spatials=tuple(make_spatial(direction) for direction in directions),
    )  # fmt: skip
    return replace(comparison, **changes)
