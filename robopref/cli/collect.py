"""``robopref collect``: deploy a policy under an operator who takes over, and record every step."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from robopref.cli.console import console, progress_bar
from robopref.cli.episodes import EpisodeJob, EpisodeSetup, check_task, default_workers, image_size_of, run_episodes
from robopref.cli.interrupt import graceful_interrupt
from robopref.cli.run_directory import start_run, write_json
from robopref.cli.seeds import episode_seeds
from robopref.envs.perturbations.options import ORIGINAL, PerturbationOptions
from robopref.errors import RoboprefError
from robopref.human_io.scripted import ScriptedOperatorConfig
from robopref.policies.vla.options import PLAIN, VLAOptions
from robopref.trajectory import Actor, Outcome, takeover_count


@dataclass(frozen=True)
class Collect:
    """Deploy a policy under a scripted operator who takes over when it fails; record everything."""

    policy: str
    """A checkpoint directory, a training run's directory, a Hugging Face model (directory or hub id), or
    module:factory."""
    out: Path
    """The data directory to write."""
    task: str = "button-press"
    episodes: int = 40
    operator: ScriptedOperatorConfig = field(default_factory=ScriptedOperatorConfig)
    image: bool = True
    """Render and record camera images (a state policy does without)."""
    image_size: int | None = None
    """Pixels a side; unset takes what the policy learned from, else what it reads."""
    paraphrase: bool = True
    seed: int = 0
    workers: int = 0
    """Processes; 0 takes one per core, four at most."""
    resume: bool = False
    """Go on with an interrupted collection."""
    perturbation: Annotated[PerturbationOptions, tyro.conf.arg(name="")] = ORIGINAL
    vla: Annotated[VLAOptions, tyro.conf.arg(name="")] = PLAIN


def run_collect(config: Collect) -> bool:
    """Collect; returns False when Ctrl-C stopped it (finished episodes are kept, ``--resume`` goes on)."""
    from robopref.policies.registry import load_policy, policy_id
    from robopref.store.store import EpisodeStore

    policy = load_policy(config.policy, config.vla)  # what cannot be loaded is said before anything is written
    check_task(config.task, config.perturbation, image=config.image)
    check_images(config.image, policy)
    seeds = episode_seeds("collect", config.seed, config.episodes)
    identity = {"policy_id": policy_id(config.policy, config.vla)}
    start_run(config.out, "collect", config, resume=config.resume, identity=identity, changeable=("policy",))
    store = EpisodeStore.create_or_open(config.out)
    infos = [store.info(i) for i in store.episode_ids()]
    # An episode that was cut off stays in the data; its seed is run again all the same.
    done = {info.seed for info in infos if info.outcome is not Outcome.ABORTED}
    jobs = [EpisodeJob(s) for s in seeds if s not in done]
    setup = EpisodeSetup(
        role="collect",
        task=config.task,
        observation_keys=("image", "proprio", "state") if config.image else ("proprio", "state"),
        image_size=config.image_size or image_size_of(policy),
        policy=config.policy,
        vla=config.vla,
        operator=asdict(config.operator),
        store=config.out,
        paraphrase=config.paraphrase,
        perturbation=config.perturbation,
    )
    workers = config.workers or default_workers(policy)
    with graceful_interrupt() as interrupt, progress_bar(f"deployment: {config.task}", config.episodes) as progress:
        finished = len(done)
        progress(finished, config.episodes)
        for _ in run_episodes(setup, jobs, workers=workers, should_stop=interrupt, policy=policy):
            finished += 1
            progress(finished, config.episodes)
    summary = collection_summary(config.out) | identity | config.perturbation.to_json()
    write_json(config.out / "summary.json", summary)
    console.print(
        f"{summary['episodes']} episodes in {config.out}: {summary['takeovers']} takeovers, "
        f"{summary['human_steps']} of {summary['steps']} steps driven by the operator"
    )
    return finished == config.episodes


def run_deployment(config: Collect, refinement: Path | None = None) -> bool:
    """``run_collect`` as a stage of a longer run, which then learns from each layout once.

    An episode that a crash cut off was played again: what there is of it is set aside, and stays on disk. It is left
    where the run in ``refinement`` has begun to learn from it: that one goes on with the same data only.
    """
    from robopref.store.store import EpisodeStore

    finished = run_collect(config)
    learned = refinement is not None and (refinement / "config.json").exists()
    store = EpisodeStore.open(config.out)
    for episode_id in store.episode_ids():
        if finished and not learned and store.info(episode_id).outcome is Outcome.ABORTED:
            store.set_aside(episode_id)
    return finished


def check_images(rendered: bool, policy: object) -> None:
    """See that a policy gets what it looks at.

    Raises:
        RoboprefError: it reads images, and none are rendered.
    """
    if not rendered and "image" in getattr(policy, "observation_keys", ()):
        raise RoboprefError("the policy reads camera images: leave --no-image out.")


def collection_summary(directory: Path) -> dict[str, int]:
    """Counts of episodes, steps, human steps, takeovers and outcomes of a data directory."""
    from robopref.store.store import EpisodeStore

    store = EpisodeStore.open(directory)
    counts = {"episodes": 0, "steps": 0, "human_steps": 0, "takeovers": 0} | {o.value: 0 for o in Outcome}
    for episode in map(store.read, store.episode_ids()):
        counts["episodes"] += 1
        counts["steps"] += len(episode)
        counts["human_steps"] += int((episode.actor == Actor.HUMAN).sum())
        counts["takeovers"] += takeover_count(episode.actor)
        counts[episode.info.outcome.value] += 1
    return counts
