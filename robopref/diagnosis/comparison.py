"""Two policies side by side, from what their diagnoses kept: angles, ratios, overlap, each resampled over episodes.

Two directions in 28 224 dimensions that have nothing to do with one another are at right angles, while two sets of
episodes of one policy are not quite parallel. So every angle and overlap comes with those between the clean set and
the null control of each policy: only what goes beyond them tells the policies apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopref.diagnosis.instability import STATISTICS, bootstrap_moments
from robopref.diagnosis.results import Comparison, Diagnosis, Overlap, Subspace
from robopref.diagnosis.subspace import leading_vectors, resample_counts
from robopref.errors import RoboprefError
from robopref.evaluation.statistics import Estimate

_AT_ONCE = 100
_OVERLAP_RESAMPLES = 300
Resampled = NDArray[np.float64]


def compare(
    first: Diagnosis,
    second: Diagnosis,
    names: tuple[str, str] = ("A", "B"),
    *,
    k: int = 2,
    top_share: float = 0.05,
    n_resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Comparison:
    """Compare two diagnoses; B is ``second``, and ratios and differences are of B to A.

    Args:
        first: A.
        second: B.
        names: what to call them.
        k: directions of the subspaces between which principal angles are taken.
        top_share: share of the pixels, those with the most energy, that count as sensitive.
        n_resamples: of the bootstrap; the overlaps take at most 300.
        seed: of the bootstrap.
        confidence: of the intervals.

    Raises:
        RoboprefError: states of different shapes, a policy whose directions all vanished, or a setting out of range.
    """
    _check(first, second, names, k, top_share)
    run = _Resampling(n_resamples, seed, confidence)
    shape = first.subject.shape
    nulls = [
        None if d.null_subspace is None or not d.null_subspace.traces.any() else (d.subspace, d.null_subspace)
        for d in (first, second)
    ]
    return Comparison(
        names=names,
        subjects=(first.subject, second.subject),
        angle=run.angles(first.subspace, second.subspace, 1)[0],
        own_angles=tuple(None if null is None else run.angles(*null, 1)[0] for null in nulls),
        principal_angles=tuple(run.angles(first.subspace, second.subspace, k)),
        ratios={name: run.ratio(name, first, second) for name in STATISTICS},
        overlap=run.overlap(first.subspace, second.subspace, shape, top_share),
        own_overlaps=tuple(None if null is None else run.overlap(*null, shape, top_share) for null in nulls),
        quotients=_quotients(first, second, run),
        energies=np.stack([_energy(d.directions.directions[0].astype(np.float64)) for d in (first, second)]),
        statements=tuple(_statements(first, second, names)),
        settings={
            "k": k,
            "top_share": top_share,
            "n_resamples": n_resamples,
            "seed": seed,
            "confidence": confidence,
        },
        directions=np.stack([d.directions.directions[0] for d in (first, second)]),
        spatials=(first.spatial, second.spatial),
    )


class _Resampling:
    def __init__(self, n_resamples: int, seed: int, confidence: float) -> None:
        self._n, self._seed, self._confidence = n_resamples, seed, confidence

    def angles(self, first: Subspace, second: Subspace, k: int) -> list[Estimate]:
        """Principal angles between the first k directions, in degrees, smallest first."""
        cross = first.basis.astype(np.float64) @ second.basis.T.astype(np.float64)
        left, right = self._vectors(first, 0, k), self._vectors(second, 1, k)
        cosines = np.linalg.svd(left @ cross @ right.transpose(0, 2, 1), compute_uv=False)
        degrees = np.degrees(np.arccos(np.clip(cosines, 0, 1)))
        return [self._estimate(degrees[:, i], _units(first, second)) for i in range(k)]

    def ratio(self, name: str, first: Diagnosis, second: Diagnosis) -> Estimate | None:
        """B over A of a measure of instability, its interval taken of the logarithm; None where it is undefined."""
        values = []
        for which, diagnosis in enumerate((first, second)):
            moments = diagnosis.instability.moments
            whole = STATISTICS[name](moments.sum(axis=0))
            sample = bootstrap_moments(STATISTICS[name], moments, n_resamples=self._n, seed=2 * self._seed + which)
            values.append(np.append(whole, sample))
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log(values[1]) - np.log(values[0])
        if not np.isfinite(logs[0]):
            return None
        found = self._estimate(logs, min(len(d.instability.moments) for d in (first, second)))
        return Estimate(float(np.exp(found.value)), float(np.exp(found.low)), float(np.exp(found.high)), found.n)

    def overlap(self, first: Subspace, second: Subspace, shape: tuple[int, ...], top_share: float) -> Overlap:
        """Of the energy maps of the two directions."""
        n = min(self._n, _OVERLAP_RESAMPLES)
        common, affinity = [], []
        for ours, theirs in zip(self._maps(first, 0, shape, n), self._maps(second, 1, shape, n), strict=True):
            common.append(_common(ours, theirs, top_share))
            affinity.append(np.sqrt(ours * theirs).sum(axis=(-2, -1)))
        units = _units(first, second)
        return Overlap(
            top_share=top_share,
            common=self._estimate(np.concatenate(common), units),
            common_by_chance=top_share / (2 - top_share),
            bhattacharyya=self._estimate(np.concatenate(affinity), units),
        )

    def difference(self, first: Resampled, second: Resampled, n: int) -> Estimate:
        """B - A of two bootstrap samples whose first value is that of the whole sets."""
        return self._estimate(second - first, n)

    def _vectors(self, subspace: Subspace, which: int, k: int, n: int | None = None) -> Resampled:
        """Coordinates [1 + n, k, r] of the leading directions, those of the whole set first."""
        counts = resample_counts(len(subspace.grams), n or self._n, [self._seed, which])
        return leading_vectors(np.vstack([np.ones_like(counts[:1]), counts]), subspace.grams, k)[1]

    def _maps(self, subspace: Subspace, which: int, shape: tuple[int, ...], n: int) -> Iterator[Resampled]:
        """Energy maps [at most 100, H, W] of the first direction, in pieces."""
        vectors = self._vectors(subspace, which, 1, n)[:, 0]
        basis = subspace.basis.astype(np.float64)
        for start in range(0, len(vectors), _AT_ONCE):
            yield _energy((vectors[start : start + _AT_ONCE] @ basis).reshape(-1, *shape))

    def _estimate(self, values: Resampled, n: int) -> Estimate:
        """The first value, with the percentiles of the others, stretched where needed to hold it."""
        value, resamples = float(values[0]), values[1:][np.isfinite(values[1:])]
        low, high = np.quantile(resamples, [(1 - self._confidence) / 2, (1 + self._confidence) / 2])
        return Estimate(value, min(float(low), value), max(float(high), value), n)


def _energy(directions: NDArray[Any]) -> Resampled:
    """Squares of [..., C, H, W] summed over the channels and divided by their sum: [..., H, W]."""
    energy: Resampled = (directions**2).sum(axis=-3)
    normalised: Resampled = energy / energy.sum(axis=(-2, -1), keepdims=True)
    return normalised


def _common(ours: Resampled, theirs: Resampled, top_share: float) -> Resampled:
    """Intersection over union of the top pixels of maps [R, H, W]."""
    flat = [maps.reshape(len(maps), -1) for maps in (ours, theirs)]
    count = max(1, round(top_share * flat[0].shape[1]))
    tops = []
    for maps in flat:
        top = np.zeros(maps.shape, bool)
        np.put_along_axis(top, np.argpartition(maps, -count, axis=1)[:, -count:], True, axis=1)
        tops.append(top)
    shared: Resampled = (tops[0] & tops[1]).sum(axis=1) / (tops[0] | tops[1]).sum(axis=1)
    return shared


def _quotients(first: Diagnosis, second: Diagnosis, run: _Resampling) -> dict[str, tuple[Estimate | None, ...]]:
    theirs = {(c.name, c.detail): c for c in second.conditions}
    table: dict[str, tuple[Estimate | None, ...]] = {}
    for ours in first.conditions:
        other = theirs.get((ours.name, ours.detail))
        if other is None:
            continue
        difference = None
        if ours.quotient is not None and other.quotient is not None:
            n = min(len(ours.resamples), len(other.resamples))
            samples = [np.append(c.quotient.value, c.resamples[:n]) for c in (ours, other) if c.quotient is not None]
            # The two are independent, but drawn with the same seed: shuffled, or they would move together.
            shuffled = np.random.default_rng(0).permutation(n) + 1
            samples[1][1:] = samples[1][shuffled]
            difference = run.difference(samples[0], samples[1], min(ours.quotient.n, other.quotient.n))
        table[ours.name] = (ours.quotient, other.quotient, difference)
    return table


def _check(first: Diagnosis, second: Diagnosis, names: tuple[str, str], k: int, top_share: float) -> None:
    shapes = [d.subject.shape for d in (first, second)]
    if shapes[0] != shapes[1]:
        raise RoboprefError(
            f"{names[0]} sees states {list(shapes[0])} and {names[1]} {list(shapes[1])} (channels, height, width): "
            "only policies that see the same can be compared."
        )
    for name, diagnosis in zip(names, (first, second), strict=True):
        if diagnosis.directions.vanished:
            raise RoboprefError(
                f"all directions of {name} vanish at T = {diagnosis.settings.get('temperature')}: diagnose it at a "
                "higher temperature or in float64."
            )
    largest = min(len(d.subspace.basis) for d in (first, second))
    if not 1 <= k <= largest:
        raise RoboprefError(f"k runs from 1 to {largest}, the directions that both diagnoses keep; got {k}.")
    if not 0 < top_share < 1:
        raise RoboprefError(f"the share of sensitive pixels lies between 0 and 1, got {top_share}.")


def _statements(first: Diagnosis, second: Diagnosis, names: tuple[str, str]) -> Iterator[str]:
    for name, diagnosis in zip(names, (first, second), strict=True):
        yield from (f"{name}: {statement}" for statement in diagnosis.statements)
    for name, diagnosis in zip(names, (first, second), strict=True):
        if diagnosis.null_subspace is None:
            yield f"{name} has no null control, so there is no telling how large an angle is mere chance."
    differing: list[tuple[str, Callable[[Diagnosis], Any]]] = [
        ("play different tasks", lambda d: d.subject.task),
        ("play in different environments", lambda d: dict(d.subject.environment)),
        ("were diagnosed at different temperatures", lambda d: d.settings.get("temperature")),
        ("were diagnosed with different jitter", lambda d: d.settings.get("jitter")),
    ]
    for what, told in differing:
        if told(first) != told(second):
            yield f"The two {what} ({told(first)} and {told(second)}): what differs need not be the policies."


def _units(first: Subspace, second: Subspace) -> int:
    return min(len(first.grams), len(second.grams))
