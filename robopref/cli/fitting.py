"""What training a base policy and refining one have in common: data in, a trained checkpoint and its curves out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopref.cli.console import console, progress_bar
from robopref.cli.interrupt import graceful_interrupt
from robopref.cli.run_directory import to_json
from robopref.errors import RoboprefError
from robopref.mixture import Mixture
from robopref.objectives.base import Objective
from robopref.sampling import BalancedSampler
from robopref.store.store import EpisodeStore
from robopref.tracking import Tracker
from robopref.training.config import IMMATERIAL, TrainerConfig
from robopref.training.dataset import StepDataset
from robopref.training.devices import make_accelerator
from robopref.training.reference import open_reference_cache
from robopref.training.step_credit import StepCredit
from robopref.training.trainer import Trainer, make_composer
from robopref.training.window_pairs import WindowPairSampler
from robopref.trajectory import Actor, Episode, Label, Outcome

_MANY_CLIPPED = 0.1


@dataclass(frozen=True)
class LoadedData:
    """Episodes of one or more data directories with a hash of exactly what was read."""

    episodes: list[Episode]
    fingerprint: str


def load_episodes(directories: Sequence[Path]) -> LoadedData:
    """All finished episodes of the directories, those of a directory by seed, others after them as recorded.

    Samples are drawn by number. As recorded, the order would be that in which several processes finished, and the same
    seeds would give another policy every time.

    Raises:
        RoboprefError: a directory is no data directory, or holds no finished episode; or all episodes are left out.
    """
    episodes: list[Episode] = []
    digest = hashlib.blake2b(digest_size=16)
    for directory in directories:
        store = EpisodeStore.open(directory)
        if len(store) == 0:
            raise RoboprefError(f"{directory} holds no finished episode: record some first.")
        recorded = list(store)
        found = sorted(recorded, key=_by_seed)
        usable = [episode for episode in found if not _is_failed_demonstration(episode)]
        if len(usable) < len(found):
            console.print(f"{directory}: {len(found) - len(usable)} demonstrations that did not succeed are left out")
        episodes += usable
        digest.update(store.fingerprint().encode())
        if any(a is not b for a, b in zip(found, recorded, strict=True)):  # no run of another order goes on with this
            digest.update(b" by seed")
    if not episodes:
        raise RoboprefError(
            f"{' and '.join(map(str, directories))} hold nothing to learn from: record demonstrations that succeed."
        )
    return LoadedData(episodes, digest.hexdigest())


def _by_seed(episode: Episode) -> tuple[bool, int, str]:
    return episode.info.seed is None, episode.info.seed or 0, episode.info.task


def _is_failed_demonstration(episode: Episode) -> bool:
    """Cut off by a crash, say: kept on disk, but its steps are no examples to follow."""
    return bool((episode.actor == Actor.EXPERT).all()) and episode.info.outcome is not Outcome.SUCCESS


@dataclass(frozen=True)
class ReferenceCacheSettings:
    """Where the reference's log-probabilities are kept, whose they are, and whether all are computed beforehand."""

    directory: Path
    policy_id: str
    precompute: bool = False


def label_counts(labels: Sequence[NDArray[Any]]) -> dict[str, int]:
    """How many steps carry each label."""
    flat = np.concatenate([np.asarray(x) for x in labels])
    return {label.name: int((flat == label).sum()) for label in Label}


def clipped_values(dataset: StepDataset) -> dict[str, int]:
    """How many action values lie outside the range of the action tokens, and of how many."""
    return {"clipped": int(dataset.clipped.sum()), "of": int(dataset.clipped.size)}


def say_clipped(dataset: StepDataset) -> None:
    """Tell the share of clipped action values; a large one means statistics of other data than these."""
    share = dataset.clipped.mean()
    if share > 0:
        by_dimension = ", ".join(f"{x:.0%}" for x in dataset.clipped.mean(axis=0))
        console.print(
            f"{dataset.clipped.sum()} of {dataset.clipped.size} action values lie outside the range of the action "
            f"tokens and are clipped ({share:.1%}; by dimension {by_dimension})"
        )
    if share > _MANY_CLIPPED:
        console.print(
            "that is much more than the 2 % that lie outside the quantiles of a policy's own data: is the policy's "
            "normalisation (its demonstrations, or --norm-key) that of these data?"
        )


def fit(
    policy: Any,
    observation_keys: Sequence[str],
    data: LoadedData,
    labels: Sequence[NDArray[Any]],
    objective: Objective,
    mixture: Mixture,
    config: TrainerConfig,
    out: Path,
    *,
    title: str,
    claim: Callable[[StepDataset], None],
    recipe: dict[str, Any],
    device: str = "auto",
    wandb: str | None = None,
    reference_cache: ReferenceCacheSettings | None = None,
    credit: StepCredit | None = None,
    keep_reference: bool = False,
) -> bool:
    """Train ``policy`` in place and write ``out/policy``; returns False when Ctrl-C stopped it (resumable).

    ``claim`` is called by the main process once data, mixture, settings and reference cache are known to be right, and
    before anything is written to ``out``: it makes that this run's, and notes what of the samples is worth noting.
    """
    accelerator = make_accelerator(config.precision, device)
    dataset = StepDataset(data.episodes, labels, policy, observation_keys, credit)
    place = {"seed": config.seed, "rank": accelerator.process_index, "world_size": accelerator.num_processes}
    sampler = (
        WindowPairSampler(dataset, config.batch_size, objective.window, **place)
        if objective.window
        else BalancedSampler(dataset.labels, config.batch_size, shares=mixture.shares, buckets=mixture.buckets, **place)
    )
    settings = to_json({"trainer": config, "recipe": recipe, "data": data.fingerprint})
    trainer_settings = {k: v for k, v in settings["trainer"].items() if k not in IMMATERIAL}
    if not config.action_smoothing:  # so states of before there was such a setting are gone on with
        del trainer_settings["action_smoothing"]
    material = settings | {"trainer": trainer_settings}
    fingerprint = hashlib.blake2b(json.dumps(material, sort_keys=True).encode(), digest_size=16).hexdigest()
    cache = None
    if reference_cache is not None:
        # The same weights in another precision say something else.
        types = sorted({str(parameter.dtype).removeprefix("torch.") for parameter in policy.parameters()})
        cache = open_reference_cache(
            reference_cache.directory,
            make_composer(dataset, sampler, objective, config),
            config,
            accelerator,
            data=data.fingerprint,
            policy=f"{reference_cache.policy_id} in {' and '.join(types)}",
        )
    if accelerator.is_main_process:
        claim(dataset)
        say_clipped(dataset)
    accelerator.wait_for_everyone()
    with graceful_interrupt() as interrupt:
        trainer = Trainer(
            policy,
            dataset,
            sampler,
            objective,
            config,
            accelerator=accelerator,
            state_path=out / "state.pt",
            fingerprint=fingerprint,
            should_stop=interrupt,
            reference_cache=cache,
            keep_reference=keep_reference,
        )
        if trainer.resume() and accelerator.is_main_process:
            console.print(f"going on from step {trainer.step}")
        if reference_cache is not None and reference_cache.precompute:
            with progress_bar("reference", 1) as trainer.progress:
                if not trainer.precompute_reference():
                    return False
        with ExitStack() as stack:
            trainer.progress = stack.enter_context(progress_bar(title, config.steps))
            if accelerator.is_main_process:  # one process keeps the numbers
                tracker = Tracker(out, name=title, config=settings, wandb_mode=wandb, resume_step=trainer.step)
                trainer.log = stack.enter_context(tracker).log
            finished = trainer.run()
            if finished:  # before the tracker is closed, which waits for W&B
                trainer.save_policy(out / "policy")
    return finished
