"""``robopref evaluate``: how often a policy succeeds alone, and how often a person would have stepped in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from robopref.cli.console import console, progress_bar
from robopref.cli.episodes import EpisodeJob, EpisodeSetup, check_task, default_workers, image_size_of, run_episodes
from robopref.cli.interrupt import graceful_interrupt
from robopref.cli.run_directory import start_run, to_json, versions, write_json
from robopref.cli.seeds import episode_seeds
from robopref.envs.perturbations.options import ORIGINAL, PerturbationOptions
from robopref.errors import RoboprefError
from robopref.evaluation.rollouts import EpisodeResult
from robopref.human_io.scripted import ScriptedOperatorConfig
from robopref.policies.vla.options import PLAIN, VLAOptions


@dataclass(frozen=True)
class Evaluate:
    """Run a policy alone on seeded layouts. Runs with the same --seed meet the same layouts, so results pair up."""

    policy: str
    """A checkpoint directory, a training run's directory, a Hugging Face model (directory or hub id), or
    module:factory."""
    out: Path
    task: str = "button-press"
    episodes: int = 50
    operator: ScriptedOperatorConfig = field(default_factory=ScriptedOperatorConfig)
    """Who watches; an intervention is counted where this operator would first have taken over."""
    image_size: int | None = None
    """Pixels a side; unset takes what the policy learned from, else what it reads."""
    videos: int = 0
    """Film the first so many episodes."""
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    seed: int = 0
    workers: int = 0
    """Processes; 0 takes one per core, four at most."""
    resume: bool = False
    """Go on with an interrupted evaluation."""
    perturbation: Annotated[PerturbationOptions, tyro.conf.arg(name="")] = ORIGINAL
    vla: Annotated[VLAOptions, tyro.conf.arg(name="")] = PLAIN


def run_evaluate(config: Evaluate) -> bool:
    """Evaluate; returns False when Ctrl-C stopped it (``--resume`` goes on)."""
    from robopref.policies.registry import load_policy, policy_id

    policy = load_policy(config.policy, config.vla)
    observed = tuple({"state", "proprio", *getattr(policy, "observation_keys", ("image",))})
    check_task(config.task, config.perturbation, image="image" in observed)
    if config.videos < 0:
        raise RoboprefError(f"--videos is at least 0, got {config.videos}.")
    seeds = episode_seeds("evaluate", config.seed, config.episodes)
    identity = {"policy_id": policy_id(config.policy, config.vla)}
    start_run(config.out, "evaluate", config, resume=config.resume, identity=identity, changeable=("policy",))
    _cut_torn_line(config.out / "episodes.jsonl")
    results = read_results(config.out)
    done = {result.seed for result in results}
    filmed = set(seeds[: config.videos])
    jobs = [
        EpisodeJob(seed, config.out / "videos" / f"seed-{seed}.mp4" if seed in filmed else None)
        for seed in seeds
        if seed not in done
    ]
    setup = EpisodeSetup(
        role="evaluate",
        task=config.task,
        observation_keys=observed,
        image_size=config.image_size or image_size_of(policy),
        policy=config.policy,
        vla=config.vla,
        operator=asdict(config.operator),
        perturbation=config.perturbation,
    )
    workers = config.workers or default_workers(policy)
    with (
        graceful_interrupt() as interrupt,
        progress_bar(f"evaluation: {config.task}", config.episodes) as progress,
        (config.out / "episodes.jsonl").open("a") as file,
    ):
        progress(len(results), config.episodes)
        for result in run_episodes(setup, jobs, workers=workers, should_stop=interrupt, policy=policy):
            results.append(result)
            file.write(json.dumps(result.to_json()) + "\n")
            file.flush()
            progress(len(results), config.episodes)
    if len(results) < config.episodes:
        console.print(f"stopped after {len(results)} of {config.episodes} episodes; --resume goes on")
        return False
    rates = rates_of(results)
    summary = {
        "task": config.task,
        **identity,
        **config.perturbation.to_json(),
        "result": {name: rate_json(rate) for name, rate in rates.items()},
        "seeds": {"evaluation": seeds},
        "versions": versions(),
    }
    write_json(config.out / "summary.json", summary)
    _track(config, summary, results)
    console.print(f"success {rates['success']}; an operator would have stepped in: {rates['intervention_rate']}")
    return True


def _track(config: Evaluate, summary: dict[str, Any], results: Sequence[EpisodeResult]) -> None:
    """Rates with their intervals, a table of the episodes, and the films, as files and in W&B."""
    from robopref.tracking import Tracker

    mode = None if config.wandb == "auto" else config.wandb
    with Tracker(config.out, name=f"evaluate {config.task}", config=to_json(config), wandb_mode=mode) as tracker:
        tracker.log(
            {
                f"{name}/{key}": rate[key]
                for name, rate in summary["result"].items()
                for key in ("value", "low", "high")
            },
            step=1,
        )
        rows = [result.to_json() for result in results]
        tracker.log_table("episodes", list(rows[0]), [list(row.values()) for row in rows])
        for film in sorted((config.out / "videos").glob("*.mp4")):
            tracker.log_video(film.stem, film)
        tracker.summary(summary["result"])


def read_results(directory: Path) -> list[EpisodeResult]:
    """The finished episodes of an evaluation, in order of their seeds; a line torn by a crash does not count.

    Raises:
        RoboprefError: a complete line holds no result.
    """
    path = directory / "episodes.jsonl"
    if not path.exists():
        return []
    complete = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    results = []
    for number, line in enumerate(complete, start=1):
        try:
            results.append(EpisodeResult(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise RoboprefError(
                f"line {number} of {path} holds no episode ({error}): remove the line, and --resume runs it again."
            ) from error
    return sorted(results, key=lambda r: r.seed)


def _cut_torn_line(path: Path) -> None:
    """Remove what a crash left of a last line, so that the next one begins afresh."""
    if path.exists() and (text := path.read_text()) and not text.endswith("\n"):
        with path.open("r+b") as file:
            file.truncate(len(text[: text.rfind("\n") + 1].encode()))


def rates_of(results: Sequence[EpisodeResult]) -> dict[str, Any]:
    """Success rate, and the share of episodes in which the operator would have stepped in, as ``Rate``."""
    from robopref.evaluation.statistics import Rate

    if not results:
        raise RoboprefError("there are no evaluation episodes to take rates of.")
    return {
        "success": Rate.of(sum(r.success for r in results), len(results)),
        "intervention_rate": Rate.of(sum(r.takeovers > 0 for r in results), len(results)),
    }


def rate_json(rate: Any) -> dict[str, Any]:
    """A rate with its interval as JSON values."""
    return asdict(rate)
