"""Methods of a benchmark compared run by run, over whatever runs two of them share.

Scores over tables of seeds and tasks (``benchmark_scores``) need every method on every task of a seed. This needs no
more than pairs, so that runs that were made at different times count all the same, and it gives an interval where each
task was run once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from robopref.errors import RoboprefError
from robopref.evaluation.benchmark_runs import (
    BASE,
    Evaluated,
    Run,
    RunKey,
    check_paired,
    read_runs,
    where_evaluated,
)
from robopref.evaluation.statistics import Estimate, student_mean

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class RunComparison:
    """One method over its runs; values are shares from 0 to 1 or differences of such, and n counts runs.

    Attributes:
        method: its name.
        success: mean success of its runs. Methods with other runs are not to be compared by it.
        over_base: mean of its success less that of the base, over the runs of both; None for the base.
        recipe_over: mean of the recipe's success less its own, over the runs of both; None for the recipe itself.

    Each is None, too, where there are fewer than two such runs.
    """

    method: str
    success: Estimate | None
    over_base: Estimate | None
    recipe_over: Estimate | None


def compare_runs(
    table: pa.Table, regime: str, *, evaluated: Evaluated = "same", scene: str = "original", recipe: str = "apo"
) -> tuple[RunComparison, ...]:
    """Every method over its runs -> the base first, the others by their gain over it.

    A run is a seed of a task. Intervals are Student's over runs, which are taken as independent draws of a task and a
    seed together: what differs between tasks widens them, so for these very tasks they are rather too wide.

    Args:
        table: evaluation episodes, as for ``score_methods``.
        regime: which one.
        evaluated: ``same``: episodes of the task refined on; ``others``: episodes of all other tasks.
        scene: of the evaluation.
        recipe: the method that the others are held against.

    Raises:
        RoboprefError: see ``read_runs``; the recipe was not run; methods of a run were evaluated on different episodes.
    """
    runs = read_runs(table, regime, evaluated, scene)
    methods = sorted({method for method, _, _ in runs})
    if recipe not in methods:
        raise RoboprefError(
            f"{where_evaluated(regime, evaluated, scene)}: no method {recipe}; there are {', '.join(methods)}."
        )
    check_paired(where_evaluated(regime, evaluated, scene), methods, runs)
    rows = [
        RunComparison(
            method,
            _mean([float(run.success.mean()) for (name, _, _), run in sorted(runs.items()) if name == method], low=0.0),
            None if method == BASE else _difference(method, BASE, runs),
            None if method == recipe else _difference(recipe, method, runs),
        )
        for method in methods
    ]
    return tuple(sorted(rows, key=lambda row: (row.method != BASE, -row.over_base.value if row.over_base else 0.0)))


def _difference(method: str, other: str, runs: Mapping[RunKey, Run]) -> Estimate | None:
    return _mean(
        [
            float(run.success.mean() - runs[other, task, seed].success.mean())
            for (name, task, seed), run in sorted(runs.items())
            if name == method and (other, task, seed) in runs
        ],
        low=-1.0,
    )


def _mean(values: list[float], *, low: float) -> Estimate | None:
    """Their mean, its interval cut where no share (from 0) or difference of shares (from -1) lies."""
    if len(values) < 2:
        return None
    free = student_mean(values)
    return replace(free, low=max(low, free.low), high=min(1.0, free.high))
