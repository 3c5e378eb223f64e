"""``robopref refine``: learn from interventions, by a recipe chosen for the kind of policy unless told otherwise."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from robopref.cli.console import console, say
from robopref.cli.episodes import recorded_image_size
from robopref.cli.run_directory import start_run, to_json, write_json
from robopref.cli.smoothing import check_smoothing, default_smoothing, sees_no_images
from robopref.errors import RoboprefError
from robopref.policies.vla.options import DEFAULT_LORA, PLAIN, LoraOptions, VLAOptions
from robopref.sampling import check_batch_size
from robopref.training.credit_settings import DEFAULT_CREDIT, CreditSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from robopref.mixture import Mixture
    from robopref.policies.compact import CompactPolicy
    from robopref.training.config import TrainerConfig
    from robopref.training.dataset import StepDataset
    from robopref.trajectory import Episode

ObjectiveName = Literal[
    "apo", "kto", "bc", "dagger", "hg-dagger", "iwr", "sirius", "habc", "recap", "dpo", "tpo", "paired-takeover"
]
_PREFERENCE = ("anchor_weight", "beta")
_SETTINGS = {
    "apo": (*_PREFERENCE, "variant", "label_noise"),
    "kto": (*_PREFERENCE, "label_noise"),
    "dpo": (*_PREFERENCE, "min_pair_distance"),
    "tpo": _PREFERENCE,
    "paired-takeover": (*_PREFERENCE, "proximal_weight", "min_pair_distance"),
    "habc": ("credit",),
    "recap": ("indicator_dropout", "credit"),
}
"""Which of the command's options an objective has; the others have none."""
_CACHED_VARIANTS = 4
_STEPS, _STEPS_FROM_SCRATCH = 1000, 5000
"""Where --steps is unset; from scratch, 3000 were too few for the harder tasks (docs/results.md)."""


@dataclass(frozen=True)
class Refine:
    """Refine a policy on demonstrations and interactions; the reference is the policy that was deployed, frozen.

    With no --objective, a compact policy that sees no images is retrained by cloning demonstrations and corrections
    from scratch (docs/results.md has what that gains), and every other policy goes on from where it is with Action
    Preference Optimization.
    """

    policy: str
    """The policy that was deployed: a checkpoint directory, a training run's, or a Hugging Face model (directory or
    hub id)."""
    demos: tuple[Path, ...]
    """Data directories of demonstrations."""
    interactions: tuple[Path, ...]
    """Data directories of episodes with takeovers."""
    out: Path
    objective: ObjectiveName | None = None
    """What is learned, and from which steps (docs/objectives.md); bc clones demonstrations and corrections. Unset takes
    bc from scratch for a compact policy without images, apo for every other."""
    variant: Literal["default", "reference"] = "default"
    """The apo loss: ours, or the public trainer's arithmetic with its quirks."""
    window: int | None = None
    """Policy steps before each takeover that are undesirable; unset takes what `robopref relabel` stored, else 10 (at
    most 60 with --failure-point progress)."""
    failure_point: Literal["fixed", "progress"] | None = None
    """fixed: all steps of the window are undesirable. progress: of them those since the policy last improved on the
    recorded reward, which has to be dense. Unset takes what was stored, else fixed."""
    include_policy_steps: Literal["none", "autonomous_success"] | None = None
    """Policy steps that are learned from like demonstrations; unset takes what was stored, else none."""
    from_scratch: bool = False
    """Start from fresh weights of the policy's architecture, normalised anew; the policy that was deployed stays the
    reference. Give it the steps of the base training and of the refinement together, for a fair comparison."""
    beta: float = 0.1
    anchor_weight: float = 1.0
    """Weight of the negative log-likelihood of the desirable samples; 0 for large pretrained policies."""
    proximal_weight: float = 1.0
    """Of paired-takeover: how strongly each action's own reward is held near zero."""
    label_noise: Literal["none", "em"] = "none"
    """Of apo and kto: em doubts the undesirable label of an action that the policy has come to prefer (there may have
    been no reason to take over), and learns less from it."""
    min_pair_distance: float = 0.0
    """Of dpo and paired-takeover: a pair is a preference only where the person's action and the policy's recorded
    proposal are so far apart, mean over dimensions, in normalised units (0 to 2); nearer, only the anchor learns."""
    indicator_dropout: float = 0.3
    """Of recap: the share of samples that are read without their indicator."""
    credit: Annotated[CreditSettings, tyro.conf.arg(name="")] = DEFAULT_CREDIT
    steps: int | None = None
    """Optimiser steps; unset takes 1000, or 5000 from scratch."""
    batch_size: int = 128
    """Samples per optimiser step, of all processes together."""
    micro_batch_size: int | None = None
    """Samples per forward pass of a process; unset takes its whole part of the batch. The gradient is the same."""
    learning_rate: float = 1e-3
    image_shift: int = 4
    action_smoothing: float | None = None
    """Standard deviation of the normal distribution around each recorded action that is learned in its place, in
    normalised units (an action's range is 2); 0: the recorded action's own bin. Unset takes 0.03 for a compact policy
    without images, 0 for every other."""
    augmentation_variants: int | None = None
    """Fixed shifts per image, and draws of its action, of which each step takes one; unset takes 4 with a reference
    cache, else no limit."""
    reference_cache: Path | None = None
    """Keep the reference's log-probabilities in this directory: each is computed once (docs/many_devices.md)."""
    precompute_reference: bool = False
    """Fill the reference cache before training, and train without the reference in memory."""
    compile: bool = False
    """Compile the forward passes (torch.compile)."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass, for policies that can: less memory, more time."""
    device: Literal["auto", "cpu"] = "auto"
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    seed: int = 0
    resume: bool = False
    """Go on with an interrupted run."""
    vla: Annotated[VLAOptions, tyro.conf.arg(name="")] = PLAIN
    lora: Annotated[LoraOptions, tyro.conf.arg(name="")] = DEFAULT_LORA


def run_refine(config: Refine) -> bool:
    """Refine; returns False when Ctrl-C stopped it (``--resume`` goes on).

    Raises:
        RoboprefError: the interactions hold no takeover, or discrete actions, or do not fit the policy; their rewards
            do not say where the policy began to fail; a policy that cannot start from scratch is to.
    """
    import numpy as np
    import torch

    from robopref.cli.fitting import ReferenceCacheSettings, clipped_values, fit, label_counts, load_episodes
    from robopref.cli.judging import judged
    from robopref.cli.relabel import stored_rule
    from robopref.labeling import check_progress
    from robopref.mixture import DESIRABLE_SHARES, Mixture
    from robopref.objectives import get_objective
    from robopref.policies.registry import load_policy, policy_id
    from robopref.policies.vla.policy import HFVLAPolicy
    from robopref.training.config import IMMATERIAL
    from robopref.training.dataset import check_same_kind
    from robopref.training.step_credit import CREDIT_FILE, load_credit, save_credit
    from robopref.trajectory import takeover_count

    if config.precompute_reference and config.reference_cache is None:
        raise RoboprefError("--precompute-reference fills a reference cache: name its directory (--reference-cache).")
    _refuse_discrete((*config.demos, *config.interactions))
    policy = load_policy(config.policy, config.vla, device=config.device)
    config = with_recipe(config, policy)
    assert config.objective is not None
    assert config.steps is not None
    assert config.action_smoothing is not None
    # What the critic is like is no affair of the objective, which learns from its verdict.
    keep = {name: getattr(config, name) for name in _SETTINGS.get(config.objective, ()) if name != "credit"}
    objective = get_objective(config.objective, **keep)
    check_refinable(config, policy)
    if isinstance(policy, HFVLAPolicy):
        torch.manual_seed(config.seed)
        policy.add_adapter(config.lora)
        # Whatever its last training took: an adapter remembers that.
        public = config.objective == "apo" and config.variant == "reference"
        policy.normalize_over = "vocabulary" if public else "actions"
    interactions = load_episodes(config.interactions)
    takeovers = sum(takeover_count(episode.actor) for episode in interactions.episodes)
    if takeovers == 0:
        raise RoboprefError(
            f"none of the {len(interactions.episodes)} episodes in {', '.join(map(str, config.interactions))} holds a "
            f"takeover, so there is nothing to learn from: collect with an operator who steps in."
        )
    data = load_episodes([*config.demos, *config.interactions])
    check_same_kind(data.episodes, policy.observation_keys)
    if isinstance(policy, HFVLAPolicy):
        policy.recorded_image_size = recorded_image_size(data.episodes)
    rule = stored_rule(
        config.interactions,
        window=config.window,
        include_policy_steps=config.include_policy_steps,
        failure_point=config.failure_point,
    )
    if rule.failure_point == "progress":
        check_progress(interactions.episodes)
    labels = [rule.apply(episode) for episode in data.episodes]
    credit_file = config.out / CREDIT_FILE
    judgement = json.dumps(to_json([data.fingerprint, rule, config.objective, config.credit, config.seed]))
    # Fitted anew, with other threads say, it would differ.
    credit = load_credit(credit_file, judgement) if config.resume and credit_file.exists() else None
    if credit is None:
        credit = judged(policy, objective, data.episodes, labels, config.credit, config.seed)

    def claim(dataset: StepDataset) -> None:
        identity = {"policy_id": policy_id(config.policy, config.vla), "data": data.fingerprint}
        paths = ("policy", "demos", "interactions")  # their content has a hash
        # The training state refuses another number of variants; before there was a default it was left unset.
        changeable = (*IMMATERIAL, *paths, "reference_cache", "precompute_reference", "augmentation_variants")
        start_run(config.out, "refine", config, resume=config.resume, identity=identity, changeable=changeable)
        if credit is not None:
            save_credit(credit_file, credit, judgement)
        write_json(
            config.out / "data.json",
            {
                "rule": rule,
                "episodes": len(data.episodes),
                "takeovers": takeovers,
                "labels": label_counts(labels),
                "action_values": clipped_values(dataset),
                **({} if credit is None else {"credit": credit.summary}),
                **(_pair_counts(dataset, objective.min_pair_distance) if objective.min_pair_distance else {}),
            },
        )

    # Cloning takes what KTO and APO call desirable, in the same proportion of demonstrations to corrections.
    mixture = Mixture(DESIRABLE_SHARES) if config.objective == "bc" else Mixture()
    if objective.mixture:
        mixture = objective.mixture(np.concatenate(labels))
    recipe: dict[str, Any] = {
        "objective": config.objective,
        **keep,
        "rule": rule,
        "policy_id": policy_id(config.policy, config.vla),
    }
    if config.from_scratch:
        policy = _from_scratch(config, policy, data.episodes, labels, mixture, objective.needs_reference)
        recipe["from_scratch"] = True
    if objective.credit is not None:
        recipe["credit"] = config.credit
    cache = None
    if config.reference_cache is not None:
        cache = ReferenceCacheSettings(
            config.reference_cache, policy_id(config.policy, config.vla), config.precompute_reference
        )
    finished = fit(
        policy,
        policy.observation_keys,
        data,
        labels,
        objective,
        mixture,
        _training(config),
        config.out,
        title="refine",
        claim=claim,
        recipe=recipe,
        device=config.device,
        wandb=None if config.wandb == "auto" else config.wandb,
        reference_cache=cache,
        credit=credit,
        keep_reference=config.from_scratch,  # it has just begun anew, and holds what it was
    )
    console.print(f"refined policy in {config.out / 'policy'}" if finished else "stopped; --resume goes on")
    return finished


def with_recipe(config: Refine, policy: object) -> Refine:
    """The settings with what was left open decided, by the policy that is refined.

    Raises:
        RoboprefError: settings of other objectives than the one that is named, or chosen.
    """
    if config.objective is None:
        if sees_no_images(policy):
            if config.reference_cache is not None:
                raise RoboprefError(
                    "--reference-cache is for objectives that have a reference, and a compact policy without images is "
                    "retrained by cloning unless you say otherwise. Name the objective, such as --objective apo."
                )
            _check_settings(config, "bc")
            say("no --objective: cloning demonstrations and corrections from scratch (docs/results.md says why)")
            config = replace(config, objective="bc", from_scratch=True)
        else:
            config = replace(config, objective="apo")
    assert config.objective is not None
    _check_settings(config, config.objective)
    if config.reference_cache is not None and config.augmentation_variants is None:
        config = replace(config, augmentation_variants=_CACHED_VARIANTS)
    if config.steps is None:
        config = replace(config, steps=_STEPS_FROM_SCRATCH if config.from_scratch else _STEPS)
    if config.action_smoothing is None:
        public = config.objective == "apo" and config.variant == "reference"  # has none
        config = replace(config, action_smoothing=0.0 if public else default_smoothing(policy))
    return config


def _check_settings(config: Refine, objective: ObjectiveName) -> None:
    """See that nothing is asked for that the objective would pass over."""
    known = {name for settings in _SETTINGS.values() for name in settings}
    defaults = {f.name: f.default for f in fields(Refine)}
    lost = [n for n in sorted(known - {*_SETTINGS.get(objective, ())}) if getattr(config, n) != defaults[n]]
    if lost:
        options = ", ".join("the settings of the critic" if n == "credit" else f"--{n.replace('_', '-')}" for n in lost)
        have = sorted(name for name, settings in _SETTINGS.items() if {*lost} <= {*settings})
        chosen = "" if config.objective else ", with which a compact policy without images is refined here,"
        raise RoboprefError(
            f"{options}: {objective}{chosen} has no such setting. Leave it out"
            + (f", or name the objective (--objective {', '.join(have)})." if have else ".")
        )


def _training(config: Refine) -> TrainerConfig:
    """How the policy is trained.

    Raises:
        RoboprefError: a number out of range.
    """
    from robopref.training.config import TrainerConfig

    assert config.steps is not None
    assert config.action_smoothing is not None
    return TrainerConfig(
        steps=config.steps,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        image_shift=config.image_shift,
        action_smoothing=config.action_smoothing,
        seed=config.seed,
        micro_batch_size=config.micro_batch_size,
        augmentation_variants=config.augmentation_variants,
        compile=config.compile,
        activation_checkpointing=config.activation_checkpointing,
    )


def check_refinable(config: Refine, policy: object) -> None:
    """See that a policy can be refined so, as far as it can be told without data.

    Raises:
        RoboprefError: a policy that is no network, settings of another kind of policy, or a number out of range.
    """
    import torch

    from robopref.policies.compact import CompactPolicy
    from robopref.policies.vla.policy import HFVLAPolicy

    if not (isinstance(policy, torch.nn.Module) and hasattr(policy, "freeze_reference")):
        raise RoboprefError(
            f"{config.policy} cannot be trained here: a policy to refine is a torch.nn.Module with freeze_reference()."
        )
    if config.lora != DEFAULT_LORA and not isinstance(policy, HFVLAPolicy):
        raise RoboprefError(
            f"--lora-* is for vision-language-action models; {config.policy} is another kind of policy."
        )
    if isinstance(policy, HFVLAPolicy):
        policy.check_adapter(config.lora)
    if config.from_scratch and not isinstance(policy, CompactPolicy):
        raise RoboprefError(f"--from-scratch knows the compact policy only; {config.policy} is another kind.")
    check_smoothing(config.action_smoothing or 0.0, policy)
    assert config.steps is not None
    if config.steps < 1 or config.learning_rate <= 0:
        raise RoboprefError(
            f"--steps is at least 1 and --learning-rate above 0, got {config.steps} and {config.learning_rate}."
        )
    check_batch_size(config.batch_size)
    _training(config)


def weighs_preferences(objective: ObjectiveName) -> bool:
    """Whether an objective holds actions against each other, or against a reference, and does not only clone."""
    return "anchor_weight" in _SETTINGS.get(objective, ())


def _pair_counts(dataset: StepDataset, distance: float) -> dict[str, Any]:
    """Of how many steps the policy's proposal is known, and at how many of them it was far enough from the human's."""
    far = dataset.has_pair & (dataset.pair_distance >= distance)
    return {"pairs": {"recorded": int(dataset.has_pair.sum()), "preferences": int(far.sum())}}


def _from_scratch(
    config: Refine,
    policy: Any,
    episodes: Sequence[Episode],
    labels: Sequence[NDArray[Any]],
    mixture: Mixture,
    needs_reference: bool,
) -> CompactPolicy:
    """Fresh weights, and the statistics of the steps that are learned from; the base stays the reference."""
    import numpy as np

    from robopref.policies.compact import untrained_copy
    from robopref.training.dataset import check_same_kind

    check_same_kind(episodes, policy.observation_keys)
    drawn = [mixture.drawn(steps) for steps in labels]
    observations: dict[str, NDArray[Any]] = {
        key: np.concatenate([e.observation[key][d] for e, d in zip(episodes, drawn, strict=True)])
        for key in policy.network.vector_inputs
    }
    if needs_reference:
        policy.begin_anew(observations, config.seed)
        return policy
    return untrained_copy(
        policy,
        observations,
        np.concatenate([e.action[d] for e, d in zip(episodes, drawn, strict=True)]),
        config.seed,
    )


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
