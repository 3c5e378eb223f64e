"""``robopref refine``: learn from interventions, with Action Preference Optimization unless told otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from robopref.cli.console import console
from robopref.cli.run_directory import start_run, write_json
from robopref.errors import RoboprefError


@dataclass(frozen=True)
class Refine:
    """Refine a policy on demonstrations and interactions; the reference is the policy it starts from, frozen."""

    policy: str
    """The policy that was deployed: a checkpoint directory or a training run's."""
    demos: tuple[Path, ...]
    """Data directories of demonstrations."""
    interactions: tuple[Path, ...]
    """Data directories of episodes with takeovers."""
    out: Path
    objective: Literal["apo", "kto", "bc"] = "apo"
    """The loss; bc clones demonstrations and corrections."""
    variant: Literal["default", "reference"] = "default"
    """The apo loss: ours, or the public trainer's arithmetic with its quirks."""
    window: int | None = None
    """Policy steps before each takeover that are undesirable; unset takes what `robopref relabel` stored, else 10."""
    include_policy_steps: Literal["none", "autonomous_success"] | None = None
    """Policy steps that are learned from like demonstrations; unset takes what was stored, else none."""
    beta: float = 0.1
    anchor_weight: float = 1.0
    """Weight of the negative log-likelihood of the desirable samples; 0 for large pretrained policies."""
    steps: int = 1000
    batch_size: int = 128
    learning_rate: float = 1e-3
    image_shift: int = 4
    device: Literal["auto", "cpu"] = "auto"
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    seed: int = 0
    resume: bool = False
    """Go on with an interrupted run."""


def run_refine(config: Refine) -> bool:
    """Refine; returns False when Ctrl-C stopped it (``--resume`` goes on).

    Raises:
        RoboprefError: the interactions hold no takeover, or discrete actions, or do not fit the policy.
    """
    import torch

    from robopref.cli.fitting import fit, label_counts, load_episodes
    from robopref.cli.relabel import stored_rule
    from robopref.objectives import get_objective
    from robopref.policies.registry import load_policy, policy_id
    from robopref.training.trainer import TrainerConfig
    from robopref.trajectory import takeover_count

    _refuse_discrete((*config.demos, *config.interactions))
    policy = load_policy(config.policy)
    if not (isinstance(policy, torch.nn.Module) and hasattr(policy, "freeze_reference")):
        raise RoboprefError(
            f"{config.policy} cannot be trained here: a policy to refine is a torch.nn.Module with freeze_reference()."
        )
    interactions = load_episodes(config.interactions)
    takeovers = sum(takeover_count(episode.actor) for episode in interactions.episodes)
    if takeovers == 0:
        raise RoboprefError(
            f"none of the {len(interactions.episodes)} episodes in {', '.join(map(str, config.interactions))} holds a "
            f"takeover, so there is nothing to learn from: collect with an operator who steps in."
        )
    data = load_episodes([*config.demos, *config.interactions])
    rule = stored_rule(config.interactions, window=config.window, include_policy_steps=config.include_policy_steps)
    labels = [rule.apply(episode) for episode in data.episodes]

    def claim() -> None:
        identity = {"policy_id": policy_id(config.policy), "data": data.fingerprint}
        start_run(config.out, "refine", config, resume=config.resume, identity=identity)
        write_json(
            config.out / "data.json",
            {"rule": rule, "episodes": len(data.episodes), "takeovers": takeovers, "labels": label_counts(labels)},
        )

    options = {"anchor_weight": config.anchor_weight, "beta": config.beta, "variant": config.variant}
    keep = {"apo": options, "kto": {k: options[k] for k in ("anchor_weight", "beta")}, "bc": {}}[config.objective]
    # Cloning takes what KTO and APO call desirable, in the same proportion of demonstrations to corrections.
    shares = (2 / 3, 1 / 3, 0.0) if config.objective == "bc" else (0.5, 0.25, 0.25)
    finished = fit(
        policy,
        policy.observation_keys,
        data,
        labels,
        get_objective(config.objective, **keep),
        shares,
        TrainerConfig(
            steps=config.steps,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            image_shift=config.image_shift,
            seed=config.seed,
        ),
        config.out,
        title="refine",
        claim=claim,
        recipe={"objective": config.objective, **keep, "rule": rule, "policy_id": policy_id(config.policy)},
        device=config.device,
        wandb=None if config.wandb == "auto" else config.wandb,
    )
    console.print(f"refined policy in {config.out / 'policy'}" if finished else "stopped; --resume goes on")
    return finished


def _refuse_discrete(directories: tuple[Path, ...]) -> None:
    """Atari recordings cannot be learned from yet, and that is said before anything else about them."""
    import numpy as np

    from robopref.store.store import EpisodeStore

    for directory in directories:
        store = EpisodeStore.open(directory)
        for episode_id in store.episode_ids():
            if np.issubdtype(store.read(episode_id).action.dtype, np.integer):
                raise RoboprefError(
                    f"{directory} holds discrete actions (an Atari game): Q policies cannot be refined yet, so give "
                    f"recordings of a robot task. Nothing in it is lost; it can be refined from when they can."
                )
