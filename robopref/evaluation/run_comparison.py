"""Methods of a benchmark compared pair by pair, over whatever runs two of them share.

Scores over tables of seeds and tasks (``benchmark_scores``) need every method on every task of a seed. This needs no
more than pairs, so that unfinished benchmarks and methods that were added later count all the same, and it has an
interval where each task was run once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from robopref.errors import RoboprefError
from robopref.evaluation.benchmark_runs import (
    BASE,
    PRETRAINED,
    Evaluated,
    Run,
    RunKey,
    check_paired,
    read_runs,
    where_evaluated,
)
from robopref.evaluation.statistics import student_mean

if TYPE_CHECKING:
    import pyarrow as pa

_FEWEST_UNITS = 3
"""With two, shares of few episodes agree by chance, and Student's interval is nothing like as wide as it should be."""


@dataclass(frozen=True)
class UnitMean:
    """A mean over units that are independent of each other, each the mean of its runs.

    ``interval`` is Student's 95 %, over units; None with fewer than three of them, or where all are the same.
    """

    value: float
    interval: tuple[float, float] | None
    units: int
    runs: int


@dataclass(frozen=True)
class RunComparison:
    """One method over its runs; values are shares from 0 to 1 or differences of such.

    Attributes:
        method: its name.
        success: mean success of its runs. Methods with other runs are not to be compared by it.
        over_base: its success less that of the base, over the runs of both; None for the base, and without such runs.
        recipe_over: the recipe's success less its own, over the runs of both; None for the recipe itself, and without
            such runs.
    """

    method: str
    success: UnitMean
    over_base: UnitMean | None
    recipe_over: UnitMean | None


def unit_of(regime: str) -> Literal["task", "seed"]:
    """What is independent of each other: tasks, unless one base policy per seed serves all of them."""
    return "seed" if regime == PRETRAINED else "task"


def compare_runs(
    table: pa.Table, regime: str, *, evaluated: Evaluated = "same", scene: str = "original", recipe: str = "apo"
) -> tuple[RunComparison, ...]:
    """Every method over its runs -> the base first, the others by their gain over it.

    A run is a seed of a task. Runs of one task are averaged first, so that every task counts alike however many seeds
    it has, and intervals are Student's over tasks: they speak of tasks like these, and for these very tasks they are
    rather too wide. In the regime ``pretrained``, where the tasks of a seed share a base policy, it is the other way
    round: the tasks of a seed are averaged, and intervals are over seeds.

    Args:
        table: evaluation episodes, as for ``score_methods``.
        regime: which one.
        evaluated: ``same``: episodes of the task refined on; ``others``: episodes of all other tasks.
        scene: of the evaluation.
        recipe: the method that the others are held against.

    Raises:
        RoboprefError: see ``read_runs``; the recipe was not run, or is the base; methods of a run were evaluated on
            different episodes.
    """
    if recipe == BASE:
        raise RoboprefError("the base cannot be the recipe: choose the method that the others are held against.")
    runs = read_runs(table, regime, evaluated, scene)
    methods = sorted({method for method, _, _ in runs})
    if recipe not in methods:
        raise RoboprefError(
            f"{where_evaluated(regime, evaluated, scene)}: no method {recipe}; there are {', '.join(methods)}."
        )
    check_paired(where_evaluated(regime, evaluated, scene), methods, runs)
    rows = []
    for method in methods:
        success = _mean({key[1:]: float(run.success.mean()) for key, run in runs.items() if key[0] == method}, regime)
        assert success is not None
        over_base = None if method == BASE else _difference(method, BASE, runs, regime)
        recipe_over = None if method == recipe else _difference(recipe, method, runs, regime)
        rows.append(RunComparison(method, success, over_base, recipe_over))
    return tuple(sorted(rows, key=lambda row: (row.method != BASE, -row.over_base.value if row.over_base else np.inf)))


def _difference(method: str, other: str, runs: Mapping[RunKey, Run], regime: str) -> UnitMean | None:
    differences = {
        (task, seed): float(run.success.mean() - runs[other, task, seed].success.mean())
        for (name, task, seed), run in runs.items()
        if name == method and (other, task, seed) in runs
    }
    return _mean(differences, regime, lowest=-1.0)


def _mean(by_run: Mapping[tuple[str, int], float], regime: str, *, lowest: float = 0.0) -> UnitMean | None:
    """The mean of values by task and seed, its interval cut where no such value lies; None of none."""
    if not by_run:
        return None
    by_unit: dict[str | int, list[float]] = defaultdict(list)
    for (task, seed), value in sorted(by_run.items()):
        by_unit[seed if unit_of(regime) == "seed" else task].append(value)
    means = [float(np.mean(values)) for values in by_unit.values()]
    if len(means) < _FEWEST_UNITS or np.ptp(means) == 0:
        return UnitMean(float(np.mean(means)), None, len(means), len(by_run))
    student = student_mean(means)
    return UnitMean(student.value, (max(lowest, student.low), min(1.0, student.high)), len(means), len(by_run))
