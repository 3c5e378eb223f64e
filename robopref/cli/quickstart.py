"""``robopref quickstart``: the whole loop on one task, from demonstrations to a refined policy and its report."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from robopref.cli.collect import Collect, collection_summary, run_deployment
from robopref.cli.console import console
from robopref.cli.demos import Demos, run_demos
from robopref.cli.episodes import check_task
from robopref.cli.evaluate import Evaluate, rate_json, rates_of, read_results, run_evaluate
from robopref.cli.interrupt import graceful_interrupt
from robopref.cli.refine import Refine, run_refine
from robopref.cli.relabel import Relabel, run_relabel
from robopref.cli.run_directory import read_json, start_run, versions, write_json
from robopref.cli.seeds import episode_seeds
from robopref.cli.train import Train, run_train
from robopref.errors import RoboprefError
from robopref.human_io.scripted import ScriptedOperatorConfig
from robopref.sampling import check_batch_size


@dataclass(frozen=True)
class Quickstart:
    """Demonstrations, a cloned policy, deployment with takeovers, APO refinement, evaluation, report: one command."""

    out: Path = Path("runs/quickstart")
    task: str = "button-press"
    inputs: Literal["image", "state"] = "image"
    """What the policy sees: camera image and proprioception, or the privileged state."""
    demos: int = 4
    """Expert demonstrations."""
    episodes: int = 80
    """Deployment episodes under the operator."""
    evaluation_episodes: int = 60
    train_steps: int = 400
    refine_steps: int = 1200
    batch_size: int = 64
    learning_rate: float = 1e-3
    """Of the refinement."""
    objective: Literal["apo", "kto", "bc"] = "apo"
    include_policy_steps: Literal["none", "autonomous_success"] = "autonomous_success"
    """Policy steps that the refinement learns from like demonstrations: those of its unaided successes, or none."""
    operator: ScriptedOperatorConfig = field(default_factory=lambda: ScriptedOperatorConfig(recovery=0.2))
    """Who watches the deployment and both evaluations."""
    videos: int = 2
    """Evaluation episodes to film, before and after."""
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    seed: int = 0
    workers: int = 0
    resume: bool = False
    """Go on with an interrupted run; also starts one where there is none."""


def run_quickstart(config: Quickstart) -> bool:
    """Run every stage that is not finished yet; returns False when Ctrl-C stopped it (``--resume`` goes on).

    Raises:
        RoboprefError: settings out of range, an unknown task, or a stage that cannot be brought to an end.
    """
    out, seed, workers = config.out, config.seed, config.workers
    _check(config)
    start_run(out, "quickstart", config, resume=config.resume)
    image = config.inputs == "image"
    stages: list[tuple[str, Callable[[], bool]]] = [
        (
            "demonstrations",
            lambda: run_demos(
                Demos(out / "demos", (config.task,), config.demos, image, seed=seed, workers=workers, resume=True)
            ),
        ),
        (
            "behaviour cloning",
            lambda: run_train(
                Train(
                    (out / "demos",),
                    out / "train",
                    config.inputs,
                    config.train_steps,
                    config.batch_size,
                    wandb=config.wandb,
                    seed=seed,
                    resume=True,
                )
            ),
        ),
        ("evaluation before", lambda: run_evaluate(_evaluation(config, "before", out / "train"))),
        (
            "deployment",
            lambda: run_deployment(
                Collect(
                    str(out / "train"),
                    out / "interactions",
                    config.task,
                    config.episodes,
                    config.operator,
                    image=image,
                    seed=seed,
                    workers=workers,
                    resume=True,
                ),
                out / "refine",
            ),
        ),
        (
            "labels",
            lambda: run_relabel(Relabel(out / "interactions", include_policy_steps=config.include_policy_steps)),
        ),
        (
            "refinement",
            lambda: run_refine(
                Refine(
                    str(out / "train"),
                    (out / "demos",),
                    (out / "interactions",),
                    out / "refine",
                    config.objective,
                    include_policy_steps=config.include_policy_steps,
                    learning_rate=config.learning_rate,
                    steps=config.refine_steps,
                    batch_size=config.batch_size,
                    wandb=config.wandb,
                    seed=seed,
                    resume=True,
                )
            ),
        ),
        ("evaluation after", lambda: run_evaluate(_evaluation(config, "after", out / "refine"))),
    ]
    timing = read_json(out / "timing.json") if (out / "timing.json").exists() else {}
    with graceful_interrupt() as interrupt:
        for number, (name, stage) in enumerate(stages, start=1):
            console.rule(f"{number}/{len(stages) + 1} {name}", align="left")
            started = time.monotonic()
            finished = stage()
            timing[name] = timing.get(name, 0.0) + time.monotonic() - started
            write_json(out / "timing.json", timing)
            if not finished or interrupt():
                console.print("stopped; the same command with --resume goes on from here")
                return False
    console.rule(f"{len(stages) + 1}/{len(stages) + 1} report", align="left")
    shutil.copytree(out / "refine" / "policy", out / "policy", dirs_exist_ok=True)
    summary = summarize(config, timing)
    write_json(out / "summary.json", summary)
    _tell_report(config)
    from robopref.reporting.html import write_report

    report = write_report(out)
    _print_table(summary)
    console.print(f"summary: {out / 'summary.json'}", soft_wrap=True)
    console.print(f"report:  {report}", soft_wrap=True)
    return True


def _check(config: Quickstart) -> None:
    """See that every stage can have what is asked for, before the first one runs."""
    check_task(config.task)
    episode_seeds("demos", config.seed, config.demos, "--demos")
    episode_seeds("collect", config.seed, config.episodes)
    episode_seeds("evaluate", config.seed, config.evaluation_episodes, "--evaluation-episodes")
    if config.videos < 0:
        raise RoboprefError(f"--videos is at least 0, got {config.videos}.")
    for name in ("train_steps", "refine_steps"):
        if getattr(config, name) < 1:
            raise RoboprefError(f"--{name.replace('_', '-')} is at least 1, got {getattr(config, name)}.")
    if config.learning_rate <= 0:
        raise RoboprefError(f"--learning-rate is above 0, got {config.learning_rate}.")
    check_batch_size(config.batch_size)


def _evaluation(config: Quickstart, name: str, policy: Path) -> Evaluate:
    return Evaluate(
        str(policy),
        config.out / name,
        config.task,
        config.evaluation_episodes,
        config.operator,
        videos=config.videos,
        wandb=config.wandb,
        seed=config.seed,
        workers=config.workers,
        resume=True,
    )


def summarize(config: Quickstart, timing: dict[str, float]) -> dict[str, Any]:
    """The run in numbers, from its result files: rates before and after, paired differences, seeds, data, timing."""
    from robopref.evaluation.statistics import paired_bootstrap_difference

    out = config.out
    before, after = read_results(out / "before"), read_results(out / "after")
    measures: dict[str, Callable[[Any], bool]] = {
        "success": lambda r: r.success,
        "intervention_rate": lambda r: r.takeovers > 0,
    }
    collected = collection_summary(out / "interactions")
    labels = read_json(out / "refine" / "data.json")
    return {
        "task": config.task,
        "instruction": _instruction(out / "demos"),
        "method": config.objective,
        "before": {name: rate_json(rate) for name, rate in rates_of(before).items()},
        "after": {name: rate_json(rate) for name, rate in rates_of(after).items()},
        "difference": {
            name: asdict(
                paired_bootstrap_difference([float(of(r)) for r in before], [float(of(r)) for r in after], seed=0)
            )
            for name, of in measures.items()
        },
        "n": len(after),
        "seeds": {"run": config.seed, "training": config.seed, "evaluation": [r.seed for r in after]},
        "labels": labels["labels"],
        "data": {
            "operator": "scripted",
            "demonstrations": config.demos,
            "episodes": collected["episodes"],
            "takeovers": collected["takeovers"],
            "human_share": collected["human_steps"] / collected["steps"],
        },
        "recipe": read_json(out / "refine" / "config.json")["config"],
        "timing": timing,
        "versions": versions(),
    }


def _instruction(demos: Path) -> str:
    from robopref.store.store import EpisodeStore

    store = EpisodeStore.open(demos)
    return store.info(store.episode_ids()[0]).instruction


def _tell_report(config: Quickstart) -> None:
    """The result files that only the report reads: the timeline of the deployment, and the films with captions."""
    from robopref.cli.films import collect_films, write_timeline

    write_timeline(config.out / "interactions", config.out / "timeline.json")
    collect_films(config.out)


def _print_table(summary: dict[str, Any]) -> None:
    table = Table(title=f"{summary['task']}: {summary['n']} paired evaluation episodes, 95 % intervals")
    for column in ("", "before", "after", "difference"):
        table.add_column(column)
    for name, title in (("success", "success rate"), ("intervention_rate", "intervention rate")):
        table.add_row(
            title,
            *(
                "{:.1f} % [{:.1f}, {:.1f}]".format(*(100 * stage[key] for key in ("value", "low", "high")))
                for stage in (summary["before"][name], summary["after"][name])
            ),
            "{:+.1f} [{:+.1f}, {:+.1f}] points".format(
                *(100 * summary["difference"][name][key] for key in ("value", "low", "high"))
            ),
        )
    console.print(table)
    console.print(
        f"n = {summary['n']} seeds {summary['seeds']['evaluation'][0]} to {summary['seeds']['evaluation'][-1]}, the "
        f"same before and after; intervention rate: share of episodes in which the operator would have stepped in."
    )
    low = summary["difference"]["success"]["low"]
    verdict = "supports" if low > 0 else "does not support"
    console.print(f"The paired interval {verdict} an improvement of the success rate.")
