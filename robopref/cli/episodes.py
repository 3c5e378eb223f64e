"""Seeded episodes over several processes: each builds its own environment, policy and recorder from names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from robopref.cli.interrupt import starting_processes
from robopref.envs.perturbations.options import ORIGINAL, PerturbationOptions
from robopref.errors import RoboprefError
from robopref.policies.vla.options import PLAIN, VLAOptions

if TYPE_CHECKING:
    from robopref.cli.episode_environment import EpisodeRunner
    from robopref.evaluation.rollouts import EpisodeResult
    from robopref.trajectory import Episode

Role = Literal["demonstrate", "collect", "evaluate"]
_LARGE = 1_000_000_000  # parameters


@dataclass(frozen=True)
class EpisodeSetup:
    """Everything a worker needs to build its environment; names and plain values, so that it can cross a process.

    ``observation_keys`` are what is produced (and recorded); without ``image`` nothing is rendered.
    ``operator`` holds the fields of ``ScriptedOperatorConfig``.
    """

    role: Role
    task: str
    observation_keys: tuple[str, ...]
    image_size: int = 84
    policy: str | None = None
    vla: VLAOptions = PLAIN
    operator: dict[str, Any] = field(default_factory=dict)
    store: Path | None = None
    paraphrase: bool = False
    perturbation: PerturbationOptions = ORIGINAL


@dataclass(frozen=True)
class EpisodeJob:
    """One episode to run; ``video`` is where its film goes."""

    seed: int
    video: Path | None = None


def run_episodes(
    setup: EpisodeSetup,
    jobs: Sequence[EpisodeJob],
    *,
    workers: int,
    should_stop: Callable[[], bool] = lambda: False,
    policy: Any = None,
) -> Iterator[EpisodeResult]:
    """Results as the episodes finish, in any order; after ``should_stop`` only what is under way is finished.

    ``policy`` is that of ``setup`` where the caller has it: episodes in this process then do without a second copy.
    """
    if not jobs:
        return
    if workers <= 1 or len(jobs) <= 1:
        yield from _run_here(setup, jobs, should_stop, policy)
    else:
        yield from _run_in_processes(setup, jobs, min(workers, len(jobs)), should_stop)


def _run_here(
    setup: EpisodeSetup, jobs: Sequence[EpisodeJob], should_stop: Callable[[], bool], policy: Any
) -> Iterator[EpisodeResult]:
    worker = _make_runner(setup, policy)
    try:
        for job in jobs:
            if should_stop():
                return
            yield worker.run(job)
    finally:
        worker.close()


def _run_in_processes(
    setup: EpisodeSetup, jobs: Sequence[EpisodeJob], workers: int, should_stop: Callable[[], bool]
) -> Iterator[EpisodeResult]:
    # Spawned, not forked: OpenGL contexts and torch's thread pools do not survive a fork.
    context = get_context("spawn")
    threads = max(1, (os.cpu_count() or 1) // workers)
    with starting_processes():
        executor = ProcessPoolExecutor(workers, context, _start_worker, (setup, threads))
    with executor as pool:
        waiting = list(reversed(jobs))
        running: set[Future[EpisodeResult]] = set()
        while waiting or running:
            while waiting and len(running) < workers and not should_stop():
                with starting_processes():
                    running.add(pool.submit(_run_in_worker, waiting.pop()))
            if not running:
                return
            finished, running = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in finished:
                try:
                    yield future.result()
                except BrokenProcessPool as error:
                    if should_stop():  # a SIGTERM to the whole group: what was under way is run again by --resume
                        return
                    raise RoboprefError(
                        "an episode process was killed (out of memory?): use fewer --workers and repeat with --resume."
                    ) from error


def _make_runner(setup: EpisodeSetup, policy: Any = None) -> EpisodeRunner:
    # Imported here: it pulls in torch and the simulator, which the commands' --help should not.
    from robopref.cli.episode_environment import EpisodeRunner

    return EpisodeRunner(setup, policy)


_worker: EpisodeRunner | None = None
_worker_setup: EpisodeSetup | None = None


def _start_worker(setup: EpisodeSetup, threads: int) -> None:
    global _worker_setup
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.setdefault("LP_NUM_THREADS", str(threads))
    import torch

    torch.set_num_threads(threads)
    _worker_setup = setup


def _run_in_worker(job: EpisodeJob) -> EpisodeResult:
    global _worker
    if _worker is None:
        if _worker_setup is None:
            raise RuntimeError("the worker process was not started by _start_worker")
        # Built with the first job, not in the initializer: an error there would break the pool without a reason.
        _worker = _make_runner(_worker_setup)
    return _worker.run(job)


def check_task(name: str, perturbation: PerturbationOptions = ORIGINAL, *, image: bool = True) -> None:
    """See that a task can be had, and be perturbed so, before anything is written.

    Raises:
        RoboprefError: no such task, its factory does not work, or the perturbations do not fit it.
    """
    from robopref.envs.registry import TASKS, check_task_perturbations, make_task

    check_task_perturbations(name, perturbation.perturb, perturbation.perturb_strength, image=image)
    if name not in TASKS:  # a known name is taken at its word: making it would load a simulator here
        make_task(name, image=False).close()


def image_size_of(policy: Any) -> int:
    """The image size that a policy learned from, else that which it reads, where it says so; else 84 pixels.

    A vision-language-action model resizes every picture to what its vision tower reads; but an enlarged small picture
    is not what a large one shows.
    """
    if (recorded := getattr(policy, "recorded_image_size", None)) is not None:
        return int(recorded)
    said = getattr(policy, "image_size", getattr(getattr(policy, "architecture", None), "image_size", 84))
    return int(said)


def recorded_image_size(episodes: Sequence[Episode]) -> int | None:
    """Pixels a side of the images in recordings of one kind; ``None`` where they are not square."""
    height, width = episodes[0].observation["image"].shape[1:3]
    return int(height) if height == width else None


def default_workers(policy: Any = None) -> int:
    """One episode process per core, four at most: beyond that rendering on the CPU gains little.

    A policy of a billion parameters gets one process: each has a copy of it.
    """
    parameters = getattr(policy, "parameters", None)
    if callable(parameters) and sum(p.numel() for p in parameters()) > _LARGE:
        return 1
    return max(1, min(4, os.cpu_count() or 1))
