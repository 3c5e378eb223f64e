"""``robopref demos``: record expert demonstrations of a task."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from robopref.cli.console import console, progress_bar
from robopref.cli.episodes import EpisodeJob, EpisodeSetup, check_task, default_workers, run_episodes
from robopref.cli.interrupt import graceful_interrupt
from robopref.cli.run_directory import start_run
from robopref.cli.seeds import episode_seeds
from robopref.envs.perturbations.options import ORIGINAL, PerturbationOptions
from robopref.errors import RoboprefError
from robopref.trajectory import Outcome


@dataclass(frozen=True)
class Demos:
    """Record expert demonstrations; attempts that the expert fails are set aside, not learned from."""

    out: Path
    """The data directory to write."""
    task: tuple[str, ...] = ("button-press",)
    """Task names, or module:factory."""
    episodes: int = 20
    """Successful demonstrations of each task."""
    image: bool = True
    """Render and record camera images; without them only state policies can learn."""
    image_size: int = 84
    """Pixels a side."""
    paraphrase: bool = True
    """Vary the wording of the instruction from episode to episode."""
    seed: int = 0
    workers: int = 0
    """Processes; 0 takes one per core, four at most."""
    resume: bool = False
    """Go on with an interrupted recording."""
    perturbation: Annotated[PerturbationOptions, tyro.conf.arg(name="")] = ORIGINAL


def run_demos(config: Demos) -> bool:
    """Record; returns False when Ctrl-C stopped it (what is recorded is valid, ``--resume`` goes on).

    Raises:
        RoboprefError: the expert fails so often that the demonstrations cannot be had.
    """
    from robopref.store.store import EpisodeStore

    for task in config.task:
        check_task(task, config.perturbation, image=config.image)
    if config.episodes < 1:
        raise RoboprefError(f"--episodes is at least 1, got {config.episodes}.")
    # A few spare seeds stand in for attempts that the expert fails.
    candidates = episode_seeds("demos", config.seed, config.episodes + max(5, config.episodes // 2))
    start_run(config.out, "demos", config, resume=config.resume)
    store = EpisodeStore.create_or_open(config.out)
    for task in config.task:
        setup = EpisodeSetup(
            role="demonstrate",
            task=task,
            observation_keys=("image", "proprio", "state") if config.image else ("proprio", "state"),
            image_size=config.image_size,
            store=config.out,
            paraphrase=config.paraphrase,
            perturbation=config.perturbation,
        )
        infos = [store.info(i) for i in store.episode_ids()]
        # An attempt that was cut off is kept, but it is no demonstration: its seed is run again.
        done = {info.seed for info in infos if info.task == task and info.outcome is Outcome.SUCCESS}
        with graceful_interrupt() as interrupt, progress_bar(f"demonstrations: {task}", config.episodes) as progress:
            have = len(done)
            progress(have, config.episodes)
            spare = [seed for seed in candidates if seed not in done]
            while have < config.episodes and spare and not interrupt():
                batch, spare = spare[: config.episodes - have], spare[config.episodes - have :]
                jobs = [EpisodeJob(seed) for seed in batch]
                for result in run_episodes(
                    setup, jobs, workers=config.workers or default_workers(), should_stop=interrupt
                ):
                    have += result.success
                    progress(have, config.episodes)
        if interrupt():
            console.print(f"stopped with {have} demonstrations of {task}; --resume goes on")
            return False
        if have < config.episodes:
            raise RoboprefError(f"the expert of {task} succeeded in only {have} of {len(candidates)} attempts.")
    console.print(f"{len(EpisodeStore.open(config.out))} demonstrations in {config.out}")
    return True
