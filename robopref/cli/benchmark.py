"""``robopref benchmark``: every method on the same recordings, over tasks and seeds; a table, figures, raw results."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from robopref.cli.benchmark_cell import Budget, Cell, Regime, budget_json, check_made
from robopref.cli.benchmark_methods import check_methods
from robopref.cli.benchmark_processes import run_cells
from robopref.cli.benchmark_report import report_benchmark
from robopref.cli.benchmark_results import gather, keep_earlier, read_benchmark, write_results
from robopref.cli.console import console, progress_bar, say
from robopref.cli.episodes import check_task
from robopref.cli.interrupt import graceful_interrupt
from robopref.cli.run_directory import start_run, to_json, versions
from robopref.cli.smoothing import STATE_SMOOTHING, check_smoothing
from robopref.envs.perturbations.options import ORIGINAL, PerturbationOptions
from robopref.errors import RoboprefError
from robopref.evaluation.benchmark_runs import PRETRAINED
from robopref.human_io.scripted import ScriptedOperatorConfig

RESULTS = "results.parquet"
_ELSEWHERE = PerturbationOptions(("position",))

_COMPARED = ("apo", "kto", "bc", "bc-success", "bc-scratch", "bc-success-scratch", "dpo", "dagger", "hg-dagger", "iwr",
             "sirius", "tpo", "paired-takeover", "habc", "recap")  # fmt: skip


PresetName = Literal["full", "small", "smoke"]


@dataclass(frozen=True)
class Preset:
    """Tasks, methods, seeds and budget that go together."""

    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: int
    budget: Budget


PRESETS: Mapping[PresetName, Preset] = {
    "full": Preset(
        ("assembly", "bin-picking", "hammer", "peg-insert-side", "pick-place", "push"),
        _COMPARED,
        5,
        Budget(20, 2000, 3000, 128, 1e-3, 60, 100),
    ),
    "small": Preset(
        ("assembly", "bin-picking", "peg-insert-side"),
        ("apo", "kto", "bc", "bc-scratch", "dpo"),
        2,
        Budget(20, 500, 500, 128, 1e-3, 30, 40),
    ),
    "smoke": Preset(("button-press", "push"), ("apo", "bc", "bc-scratch"), 1, Budget(2, 30, 20, 32, 1e-3, 3, 4)),
}
"""``full``: a night on two cores; ``small``: 15 minutes; ``smoke``: two, to see that everything works."""


@dataclass(frozen=True)
class Benchmark:
    """Compare ways of refinement: base policies, deployments under the operator, and every method on the same
    recordings, evaluated on the same layouts.

    Every method has the same recordings and equally many optimiser steps; those that start from scratch get the steps
    of the base training as well. Evaluation layouts are of another stream of seeds than everything that is learned
    from. Interrupted, it goes on with --resume; more seeds, tasks, methods and regimes may be asked for then.
    """

    out: Path
    preset: PresetName = "full"
    """Sets what is left open below. full: a night on two cores; small: 15 minutes; smoke: two, and no result."""
    regimes: tuple[Regime, ...] = ("one-round",)
    """one-round: a base per task, deployed and refined on it. perturbed: the same, deployed in a changed scene with as
    many demonstrations there, and evaluated in both. pretrained: one base of all tasks, refined on one of them at a
    time and evaluated on all."""
    inputs: Literal["state", "image"] = "state"
    """What the policies see."""
    tasks: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    """What is compared with the base policy (docs/benchmark.md)."""
    recipe: str | None = None
    """The method that the others are compared with; unset takes the first of the methods."""
    refined_tasks: tuple[str, ...] = ()
    """Of pretrained: the tasks that are refined on, unset all."""
    seeds: int | None = None
    """How many runs of each task."""
    first_seed: int = 0
    demos: int | None = None
    """Demonstrations of each task."""
    train_steps: int | None = None
    refine_steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    refine_learning_rate: float | None = None
    """Of the methods that go on from the base policy; unset takes that of the base's own training."""
    action_smoothing: float | None = None
    """Of the base policy's training and of every method; unset takes what `robopref train` does: 0.03 from the state,
    0 from images."""
    chunk: int | None = None
    """Actions per inference of every policy, executed before it looks again; unset takes 1."""
    episodes: int | None = None
    """Deployment episodes."""
    evaluation_episodes: int | None = None
    operator: ScriptedOperatorConfig = field(default_factory=ScriptedOperatorConfig)
    perturbation: Annotated[PerturbationOptions, tyro.conf.arg(name="")] = _ELSEWHERE
    """Of the perturbed regime."""
    workers: int = 0
    """Processes; 0 takes one per core."""
    resume: bool = False
    """Go on with an interrupted benchmark."""


def run_benchmark(config: Benchmark) -> bool:
    """Run every cell that is not finished; returns False when Ctrl-C stopped it (``--resume`` goes on).

    Raises:
        RoboprefError: settings that make no benchmark, or cells that failed (the others are finished first).
    """
    cells = plan(config)
    in_the_budget = ("action_smoothing", "chunk")
    changeable = ("tasks", "methods", "seeds", "first_seed", "regimes", "refined_tasks", "recipe", *in_the_budget)
    # The preset's numbers, too, so that a run never goes on with those of another version.
    identity = {"budget": json.dumps(budget_json(_budget(config)))}
    start_run(config.out, "benchmark", config, resume=config.resume, identity=identity, changeable=changeable)
    evaluations = [(cell, evaluation) for cell in cells for evaluation in cell.evaluations()]
    for cell, evaluation in evaluations:  # finished ones as well, which no process looks at again
        check_made(cell, evaluation)
    workers = config.workers or os.cpu_count() or 1
    say(f"{len(cells)} base policies, {len(evaluations)} evaluations, {workers} at once; each has a log.txt")
    started = time.monotonic()
    with graceful_interrupt() as interrupt, progress_bar("benchmark", len(evaluations), 3600) as progress:
        told = 0

        def count() -> None:
            nonlocal told
            done = sum(cell.finished(evaluation) for cell, evaluation in evaluations)
            progress(done, len(evaluations))
            if not console.is_terminal and done > told:
                told = done
                say(f"{done} of {len(evaluations)} evaluations after {(time.monotonic() - started) / 60:.0f} minutes")

        failures = run_cells(cells, workers=workers, should_stop=interrupt, every_second=count)
    rows = keep_earlier(config.out / RESULTS, gather(cells))
    if rows:
        about = {
            "config": {name: value for name, value in to_json(config).items() if name != "out"},  # nobody else's path
            "budget": budget_json(_budget(config)),
            "versions": versions(),
            "minutes": (time.monotonic() - started) / 60,
        }
        write_results(config.out / RESULTS, rows, about)
        say(f"{len(rows)} evaluation episodes in {config.out / RESULTS}")
        recipe = config.recipe or cells[0].methods[0]
        results, _ = read_benchmark([config.out / RESULTS])
        if recipe in results.column("method").to_pylist():
            report_benchmark(results, config.out, recipe)
        else:
            say(f"no tables yet: {recipe}, with which the others are compared, was not evaluated so far")
    if failures:
        raise RoboprefError(
            f"{len(failures)} of {len(cells)} base policies were not brought to an end, the others were. "
            + " ".join(f"({cell.name}: {why})" for cell, why in failures)
        )
    if interrupt():
        console.print("stopped; the same command with --resume goes on from here")
        return False
    return True


def plan(config: Benchmark) -> list[Cell]:
    """The cells, all tasks of a seed before the next seed: whatever is finished can be compared.

    Raises:
        RoboprefError: unknown tasks, methods or regimes, numbers out of range, or settings that do not go together.
    """
    preset = PRESETS[config.preset]
    tasks = tuple(dict.fromkeys(config.tasks or preset.tasks))
    methods = check_methods(config.methods or preset.methods)
    seeds = preset.seeds if config.seeds is None else config.seeds
    if seeds < 1 or config.first_seed < 0:
        raise RoboprefError(f"--seeds is at least 1 and --first-seed at least 0, got {seeds} and {config.first_seed}.")
    if config.recipe not in (None, *methods):
        raise RoboprefError(f"--recipe is one of the methods {', '.join(methods)}, got {config.recipe!r}.")
    if not config.regimes:
        raise RoboprefError("name at least one of the regimes one-round, perturbed and pretrained (--regimes).")
    if config.workers < 0:
        raise RoboprefError(f"--workers is at least 1, or 0 for one per core, got {config.workers}.")
    if config.refined_tasks and not set(config.refined_tasks) <= set(tasks):
        raise RoboprefError(f"--refined-tasks are some of the tasks {', '.join(tasks)}.")
    image = config.inputs == "image"
    if "perturbed" in config.regimes and not config.perturbation.perturb:
        raise RoboprefError("the perturbed regime needs --perturb, such as --perturb position.")
    for task in tasks:
        check_task(task, config.perturbation if "perturbed" in config.regimes else ORIGINAL, image=image)
    budget = _budget(config)
    cells = []
    for seed in range(config.first_seed, config.first_seed + seeds):
        for regime in dict.fromkeys(config.regimes):
            whole = Cell(
                config.out / regime / f"seed-{seed}",
                regime,
                seed,
                tasks,
                tuple(dict.fromkeys(config.refined_tasks)) or tasks,
                methods,
                budget,
                config.inputs,
                config.operator,
                config.perturbation if regime == "perturbed" else ORIGINAL,
            )
            if regime == PRETRAINED:
                cells.append(whole)
            else:
                cells += [replace(whole, directory=whole.directory / t, base_tasks=(t,), tasks=(t,)) for t in tasks]
    return cells


def _budget(config: Benchmark) -> Budget:
    """The preset's, with what the command line sets in its place."""
    preset = PRESETS[config.preset].budget
    given = {name: getattr(config, name) for name in vars(preset)}
    if given["action_smoothing"] is None:
        given["action_smoothing"] = STATE_SMOOTHING if config.inputs == "state" else 0.0
    budget = replace(preset, **{name: value for name, value in given.items() if value is not None})
    for name in ("demos", "train_steps", "refine_steps", "batch_size", "episodes", "evaluation_episodes", "chunk"):
        if getattr(budget, name) < 1:
            raise RoboprefError(f"--{name.replace('_', '-')} is at least 1, got {getattr(budget, name)}.")
    check_smoothing(budget.action_smoothing)
    for name in ("learning_rate", "refine_learning_rate"):
        if getattr(budget, name) is not None and getattr(budget, name) <= 0:
            raise RoboprefError(f"--{name.replace('_', '-')} is above 0, got {getattr(budget, name)}.")
    return budget
