"""Scores of refinement methods that met the same tasks, seeds and evaluation episodes, from one table of episodes.

A run is one seed of one task in one regime; all methods of a run are evaluated on the same episodes. Success tables are
[seeds, tasks]; aggregates over them follow Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical
Precipice" (NeurIPS 2021).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError
from robopref.evaluation.benchmark_runs import (
    BASE,
    Evaluated,
    Run,
    RunKey,
    check_choice,
    check_paired,
    read_runs,
    where_evaluated,
)
from robopref.evaluation.statistics import (
    Estimate,
    Rate,
    paired_bootstrap_difference,
    paired_interquartile_difference,
    probability_of_improvement,
    stratified_interquartile_mean,
    stratified_mean,
)

if TYPE_CHECKING:
    import pyarrow as pa


_NAMED_MISSING = 3


class NoCompleteSeedError(RoboprefError):
    """Not one seed has a run of every method on every task yet."""


@dataclass(frozen=True)
class MethodScores:
    """One method over all runs that are compared; values are shares from 0 to 1, differences of such shares.

    Attributes:
        method: its name.
        interquartile_mean: of the success rates [seeds, tasks], stratified bootstrap; n counts runs.
        mean: of the same, likewise.
        tasks: success by task, the episodes of all seeds together. The Wilson interval takes them as independent: where
            runs of a task differ it is too narrow.
        over_base: interquartile mean less that of the base, paired by run; None for the base itself.
        recipe_over: interquartile mean of the recipe less this one's, paired by run; None for the recipe itself.
        recipe_improves: probability that a run of the recipe beats one of this method on the same task, ties counting
            half; None for the recipe itself.
        optimiser_steps: mean over the runs.
    """

    method: str
    interquartile_mean: Estimate
    mean: Estimate
    tasks: Mapping[str, Rate]
    over_base: Estimate | None
    recipe_over: Estimate | None
    recipe_improves: Estimate | None
    optimiser_steps: float


@dataclass(frozen=True)
class RunGain:
    """What one run of a method gained over the base on the same episodes, and how often the operator took over first.

    ``gain`` is a paired difference of success; its n counts episodes.
    """

    method: str
    task: str
    seed: int
    takeovers: int
    gain: Estimate


@dataclass(frozen=True)
class BenchmarkScores:
    """All methods of one regime, evaluated in one way, over the runs that each of them has finished.

    Attributes:
        regime: its name in the table.
        evaluated: ``same``: on the task refined on; ``others``: on all other tasks.
        scene: of the evaluation.
        recipe: the method that the others are held against.
        tasks: columns of ``success``: the tasks refined on.
        seeds: rows of ``success``.
        dropped_seeds: left out, for a method lacks one of their runs.
        missing: these runs, as ``method on task, seed 0``.
        success: success rate by method, [seeds, tasks].
        rows: a row per method, the base first, the recipe next.
        gains: a gain per run of every method but the base.
    """

    regime: str
    evaluated: Evaluated
    scene: str
    recipe: str
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    dropped_seeds: tuple[int, ...]
    missing: tuple[str, ...]
    success: Mapping[str, NDArray[np.float64]]
    rows: tuple[MethodScores, ...]
    gains: tuple[RunGain, ...]

    @property
    def view(self) -> str:
        """What was evaluated, in words."""
        return where_evaluated(self.regime, self.evaluated, self.scene)

    @property
    def one_run(self) -> bool:
        """Whether there is but one run of each task: intervals over runs are points then, and say nothing."""
        return len(self.seeds) == 1

    def row(self, method: str) -> MethodScores:
        """The row of a method. Raises RoboprefError when it is not among them."""
        for row in self.rows:
            if row.method == method:
                return row
        raise RoboprefError(f"no method {method!r} was compared, only {', '.join(r.method for r in self.rows)}.")


def score_methods(
    table: pa.Table,
    regime: str,
    *,
    evaluated: Evaluated = "same",
    scene: str = "original",
    recipe: str = "apo",
    methods: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    n_resamples: int = 2_000,
) -> BenchmarkScores:
    """Compare methods over the runs that all of them have finished.

    A seed counts when every method has evaluated its run of every task; other seeds are left out for all methods, and
    named in the result. Success of a run is the mean over its evaluation episodes.

    Args:
        table: evaluation episodes, one a row, with the columns ``regime``, ``task``, ``seed``, ``method``,
            ``evaluated_on``, ``scene``, ``episode_seed``, ``success``, ``optimiser_steps`` and
            ``deployment_takeovers``.
        regime: which one.
        evaluated: ``same``: episodes of the task refined on; ``others``: episodes of all other tasks.
        scene: of the evaluation, ``original`` or ``perturbed``.
        recipe: the method that the others are held against.
        methods: which to compare, all by default; the base and the recipe come first and are always among them.
        tasks: which tasks refined on; all by default.
        n_resamples: bootstrap resamples of each interval.

    Raises:
        RoboprefError: the table lacks columns, values or the base, the recipe or a method or task asked for; the
            recipe is the base; an episode is there twice; methods of a run were evaluated on different episodes; or
            no seed is complete.
    """
    runs = read_runs(table, regime, evaluated, scene)
    where = where_evaluated(regime, evaluated, scene)
    if recipe == BASE:
        raise RoboprefError("the base cannot be the recipe: choose the method that the others are held against.")
    there = {method for method, _, _ in runs}
    names = list(dict.fromkeys([BASE, recipe, *(sorted(there) if methods is None else methods)]))
    columns = list(dict.fromkeys(tasks)) if tasks is not None else sorted({task for _, task, _ in runs})
    check_choice(where, "method", names, there)
    check_choice(where, "task", columns, {task for _, task, _ in runs})
    runs = {key: run for key, run in runs.items() if key[0] in names and key[1] in columns}
    check_paired(where, names, runs)

    candidates = sorted({seed for _, _, seed in runs})
    lacking = [(m, t, s) for s in candidates for t in columns for m in names if (m, t, s) not in runs]
    dropped = sorted({seed for _, _, seed in lacking})
    seeds = [seed for seed in candidates if seed not in dropped]
    missing = tuple(f"{method} on {task}, seed {seed}" for method, task, seed in lacking)
    if not seeds:
        more = f" and {len(missing) - _NAMED_MISSING} more" if len(missing) > _NAMED_MISSING else ""
        raise NoCompleteSeedError(
            f"{where}: no seed has a run of every method on every task; missing are "
            f"{'; '.join(missing[:_NAMED_MISSING])}{more}. Finish these runs, or leave their methods or tasks out."
        )

    success = {m: np.array([[runs[m, t, s].success.mean() for t in columns] for s in seeds]) for m in names}
    rows = tuple(_row(method, recipe, runs, success, columns, seeds, n_resamples) for method in names)
    gains = tuple(
        _gain(method, task, seed, runs, n_resamples)
        for method in names
        if method != BASE
        for task in columns
        for seed in seeds
    )
    return BenchmarkScores(
        regime, evaluated, scene, recipe, tuple(columns), tuple(seeds), tuple(dropped), missing, success, rows, gains
    )


def _row(
    method: str,
    recipe: str,
    runs: Mapping[RunKey, Run],
    success: Mapping[str, NDArray[np.float64]],
    tasks: Sequence[str],
    seeds: Sequence[int],
    n_resamples: int,
) -> MethodScores:
    ours, reference = success[method], success[recipe]
    pooled = {task: np.concatenate([runs[method, task, seed].success for seed in seeds]) for task in tasks}
    other = method != recipe
    return MethodScores(
        method,
        stratified_interquartile_mean(ours, n_resamples=n_resamples),
        stratified_mean(ours, n_resamples=n_resamples),
        {task: Rate.of(int(episodes.sum()), len(episodes)) for task, episodes in pooled.items()},
        paired_interquartile_difference(ours, success[BASE], n_resamples=n_resamples) if method != BASE else None,
        paired_interquartile_difference(reference, ours, n_resamples=n_resamples) if other else None,
        probability_of_improvement(reference, ours, n_resamples=n_resamples) if other else None,
        float(np.mean([runs[method, task, seed].optimiser_steps for task in tasks for seed in seeds])),
    )


def _gain(method: str, task: str, seed: int, runs: Mapping[RunKey, Run], n_resamples: int) -> RunGain:
    run, base = runs[method, task, seed], runs[BASE, task, seed]
    gain = paired_bootstrap_difference(base.success, run.success, n_resamples=n_resamples)
    return RunGain(method, task, seed, run.takeovers, gain)
