"""The comparison of the APO paper, on this project's tasks: one command, resumable.

    python scripts/reproduce_apo.py --out runs/apo            # six tasks, five seeds, every method: a night on 2 cores
    python scripts/reproduce_apo.py --out runs/apo --small    # 15 minutes
    python scripts/reproduce_apo.py --out runs/apo --smoke    # two minutes, to see that it works: no result

It runs ``robopref benchmark`` and holds its table against the paper's: Xia et al., "Human-assisted Robotic Policy
Refinement via Action Preference Optimization" (NeurIPS 2025, arXiv 2506.07127), mean success of four RoboMimic tasks
with 50 episodes each. Tasks, policy and operator are others here, and all methods learn a neighbourhood of each action
(``--action-smoothing 0`` of ``robopref benchmark`` does not), so only order and relative gains can be compared.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from robopref.cli.benchmark import RESULTS, Benchmark, PresetName, run_benchmark
from robopref.cli.benchmark_results import read_benchmark
from robopref.cli.console import console, say
from robopref.errors import RoboprefError
from robopref.evaluation.benchmark_scores import score_methods
from robopref.evaluation.statistics import paired_interquartile_difference
from robopref.reporting.benchmark_tables import percent_text

PUBLISHED = {"apo": 48.0, "kto": 43.5, "base": 40.5, "dagger": 39.0, "dpo": 37.0}
"""Success in percent, best first."""


@dataclass(frozen=True)
class Settings:
    """Re-run the published comparison."""

    out: Path
    small: bool = False
    """Three tasks, two seeds: 15 minutes."""
    smoke: bool = False
    """Two minutes, to see that everything works."""
    seeds: int | None = None
    workers: int = 0
    """Processes; 0 takes one per core."""
    resume: bool = False
    """Go on with an interrupted run."""


def main() -> None:
    """Run, then compare."""
    settings = tyro.cli(Settings, description=__doc__)
    try:
        finished = run_benchmark(_benchmark(settings))
        if finished:
            compare(settings.out / RESULTS)
    except RoboprefError as error:
        sys.exit(f"{Path(__file__).name}: {error}")
    sys.exit(0 if finished else 130)


def _benchmark(settings: Settings) -> Benchmark:
    if settings.small and settings.smoke:
        raise RoboprefError("--small and --smoke are two settings: choose one.")
    preset: PresetName = "small" if settings.small else "smoke" if settings.smoke else "full"
    return Benchmark(
        settings.out,
        preset,
        methods=("apo", "kto", "bc", "dagger", "dpo") if settings.smoke else (),
        seeds=settings.seeds,
        workers=settings.workers,
        resume=settings.resume,
    )


def compare(results: Path) -> None:
    """Say of each neighbouring pair of the published order whether these runs agree."""
    table, _ = read_benchmark([results])
    there = set(table.column("method").to_pylist())
    order = [name for name in PUBLISHED if name in there]
    scores = score_methods(table, "one-round", methods=order)
    console.rule("against the published comparison", align="left")
    for better, worse in itertools.pairwise(order):
        gain = paired_interquartile_difference(scores.success[better], scores.success[worse])
        verdict = "agrees" if gain.low > 0 else "disagrees" if gain.high < 0 else "undecided"
        if scores.one_run:
            verdict = "undecided"
        say(
            f"{better} over {worse}: published {PUBLISHED[better] - PUBLISHED[worse]:+.1f} points; here "
            f"{percent_text(gain, one_run=scores.one_run, difference=True)}: {verdict}"
        )
    base, ours = scores.row("base").interquartile_mean.value, scores.row("apo").interquartile_mean.value
    published = PUBLISHED["apo"] / PUBLISHED["base"] - 1
    here = f"{100 * (ours / base - 1):+.0f} %" if base > 0 else "not defined, the base never succeeds"
    say(f"relative gain of apo over the base: published {100 * published:+.0f} %; here {here}")


if __name__ == "__main__":
    main()
