"""``robopref lifelong``: deploy, label, refine, evaluate, again; a round's reference is the policy that it deployed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from robopref.cli.collect import Collect, check_images, collection_summary, run_deployment
from robopref.cli.console import console
from robopref.cli.episodes import check_task
from robopref.cli.evaluate import Evaluate, rates_of, read_results, run_evaluate
from robopref.cli.interrupt import graceful_interrupt
from robopref.cli.refine import ObjectiveName, Refine, check_refinable, run_refine, weighs_preferences, with_recipe
from robopref.cli.run_directory import start_run, to_json, versions, write_json
from robopref.cli.seeds import episode_seeds
from robopref.envs.perturbations.options import ORIGINAL, PerturbationOptions
from robopref.errors import RoboprefError
from robopref.human_io.scripted import ScriptedOperatorConfig
from robopref.policies.vla.options import DEFAULT_LORA, PLAIN, LoraOptions, VLAOptions

if TYPE_CHECKING:
    from robopref.evaluation.statistics import Estimate, Rate

MOST_ROUNDS = 100
_EVALUATION, _IN_THE_ORIGINAL = "evaluation", "evaluation-original"


@dataclass(frozen=True)
class Lifelong:
    """Rounds of deployment, refinement and evaluation, each from where the last one ended.

    Round r deploys the policy of round r - 1 under the operator on new layouts, refines it on the demonstrations and
    the interactions (where the objective has a reference, with itself as that), and evaluates the result on the same
    layouts as every other round.
    With --perturb, deployments and evaluations are in the perturbed scene, and each policy is evaluated in the original
    one as well: what it forgot.
    """

    policy: str
    """The policy to begin with: a checkpoint directory, a training run's, or a vision-language-action model."""
    demos: tuple[Path, ...]
    """Data directories of demonstrations."""
    out: Path
    task: str = "button-press"
    rounds: int = 4
    episodes_per_round: int = 20
    """Deployment episodes of each round."""
    evaluation_episodes: int = 50
    operator: ScriptedOperatorConfig = field(default_factory=ScriptedOperatorConfig)
    """Who watches deployments and evaluations."""
    memory: Literal["all", "last"] = "all"
    """Learn from the interactions of all rounds so far, or of the last one only."""
    objective: ObjectiveName | None = None
    """As of `robopref refine`: unset takes bc from scratch for a compact policy without images, apo for every other."""
    include_policy_steps: Literal["none", "autonomous_success"] | None = None
    """Policy steps that are learned from like demonstrations: those of unaided successes, or none. Unset takes the
    former for an objective that weighs preferences, the latter for one that clones."""
    anchor_weight: float = 1.0
    from_scratch: bool = False
    """Begin each round from fresh weights, of a compact policy (the reference, if the objective has one, is the
    deployed policy all the same)."""
    steps: int | None = None
    """Optimiser steps of each round; unset takes 1000, or 5000 from scratch."""
    batch_size: int = 128
    micro_batch_size: int | None = None
    """Samples per forward pass; unset takes the whole batch. The gradient is the same."""
    learning_rate: float = 1e-3
    action_smoothing: float | None = None
    """As of `robopref refine`."""
    image: bool = True
    """Render and record camera images (a state policy does without)."""
    image_size: int | None = None
    """Pixels a side; unset takes what the policy reads."""
    target_success: float | None = None
    """Stop once the lower end of the success rate's interval reaches this."""
    patience: int | None = None
    """Stop after so many rounds in a row whose success is not above the best of the rounds before."""
    device: Literal["auto", "cpu"] = "auto"
    """Of the refinement."""
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    seed: int = 0
    workers: int = 0
    resume: bool = False
    """Go on with an interrupted run."""
    perturbation: Annotated[PerturbationOptions, tyro.conf.arg(name="")] = ORIGINAL
    vla: Annotated[VLAOptions, tyro.conf.arg(name="")] = PLAIN
    lora: Annotated[LoraOptions, tyro.conf.arg(name="")] = DEFAULT_LORA


@dataclass(frozen=True)
class Round:
    """What came of a round; round 0 is the policy that was given, which nothing was deployed for.

    ``takeover_rate`` is the share of deployment episodes in which the operator took over, ``human_share`` that of the
    deployment's steps which he drove, its interval over episodes; the rates with ``evaluation``
    are of the policy that the round ended with; ``gain`` is its success minus that of round 0 on the same layouts.
    ``original_success`` and ``original_gain`` are the same in the original scene, where deployments are perturbed.
    """

    number: int
    policy: str
    takeover_rate: Rate | None
    human_share: Estimate | None
    evaluation_success: Rate
    evaluation_intervention: Rate
    gain: Estimate | None
    original_success: Rate | None = None
    original_gain: Estimate | None = None


def run_lifelong(config: Lifelong) -> bool:
    """Run every round that is not finished; returns False when Ctrl-C stopped it (``--resume`` goes on).

    Raises:
        RoboprefError: settings out of range; see also ``run_collect``, ``run_refine`` and ``run_evaluate``.
    """
    from robopref.policies.registry import policy_id
    from robopref.tracking import Tracker

    _check(config)
    config = _loadable(config)
    identity = {"policy_id": policy_id(config.policy, config.vla)}
    start_run(
        config.out,
        "lifelong",
        config,
        resume=config.resume,
        identity=identity,
        extendable=("rounds",),
        changeable=("policy",),
    )
    rounds: list[Round] = []
    mode = None if config.wandb == "auto" else config.wandb
    with (
        graceful_interrupt() as interrupt,
        Tracker(config.out, name=f"lifelong {config.task}", config=to_json(config), wandb_mode=mode) as tracker,
    ):
        why = ""
        for number in range(config.rounds + 1):
            console.rule(f"round {number} of {config.rounds}", align="left")
            if number > 0:
                if not run_deployment(_deployment(config, number), _refinement(config, number).out) or interrupt():
                    return _interrupted()
                if not _takeovers(config, number):
                    why = "the operator never took over, so there is nothing to learn from."
                    _write(config, identity, rounds, why)
                    break
                if not run_refine(_refinement(config, number)) or interrupt():
                    return _interrupted()
            if not all(run_evaluate(evaluation) and not interrupt() for evaluation in _evaluations(config, number)):
                return _interrupted()
            rounds.append(_outcome(config, number))
            tracker.log(_metrics(rounds[-1]), step=number)
            why = _reason_to_stop(config, rounds)
            _write(config, identity, rounds, why)
            console.print(_line(rounds[-1]))
            if why:
                break
    if why:
        console.print(f"no further round: {why}")
    return True


def round_directory(out: Path, number: int) -> Path:
    """Where a round keeps ``interactions``, ``refine`` and ``evaluation``."""
    return out / f"round-{number:02d}"


def _check(config: Lifelong) -> None:
    if not 1 <= config.rounds < MOST_ROUNDS or not 0 <= config.seed < MOST_ROUNDS:
        raise RoboprefError(f"--rounds runs from 1 to {MOST_ROUNDS - 1} and --seed from 0 to {MOST_ROUNDS - 1}.")
    episode_seeds("evaluate", config.seed, config.evaluation_episodes, "--evaluation-episodes")
    episode_seeds("collect", config.seed * MOST_ROUNDS + 1, config.episodes_per_round, "--episodes-per-round")
    if config.patience is not None and config.patience < 1:
        raise RoboprefError(f"--patience is at least 1, got {config.patience}.")
    if config.target_success is not None and not 0 < config.target_success < 1:
        raise RoboprefError(f"--target-success lies between 0 and 1, got {config.target_success}.")


def _loadable(config: Lifelong) -> Lifelong:
    """The settings with what was left open decided, by the policy; it is not kept: every stage loads its own.

    What cannot be loaded, learned from or refined so is said here, before anything runs, or is written.
    """
    from robopref.cli.fitting import load_episodes
    from robopref.policies.registry import load_policy
    from robopref.training.dataset import check_same_kind

    policy = load_policy(config.policy, config.vla, device=config.device)
    check_images(config.image, policy)
    observed = getattr(policy, "observation_keys", ("image",))
    check_task(config.task, config.perturbation, image="image" in observed)
    check_same_kind(load_episodes(config.demos).episodes, observed)
    return _with_recipe(config, policy)


def _with_recipe(config: Lifelong, policy: object) -> Lifelong:
    """The settings with what was left open decided, as ``refine`` decides it."""
    chosen = with_recipe(_refinement(config, 1), policy)
    check_refinable(chosen, policy)
    assert chosen.objective is not None
    steps_learned_from = config.include_policy_steps
    if steps_learned_from is None:
        steps_learned_from = "autonomous_success" if weighs_preferences(chosen.objective) else "none"
    return replace(
        config,
        objective=chosen.objective,
        from_scratch=chosen.from_scratch,
        steps=chosen.steps,
        action_smoothing=chosen.action_smoothing,
        include_policy_steps=steps_learned_from,
    )


def _policy_after(config: Lifelong, number: int) -> tuple[str, VLAOptions]:
    """The policy that round ``number`` ended with, its weights held as those of the first."""
    if number == 0:
        return config.policy, config.vla
    return str(round_directory(config.out, number) / "refine"), VLAOptions(weights=config.vla.weights)


def _deployment(config: Lifelong, number: int) -> Collect:
    policy, vla = _policy_after(config, number - 1)
    return Collect(
        policy,
        round_directory(config.out, number) / "interactions",
        config.task,
        config.episodes_per_round,
        config.operator,
        config.image,
        config.image_size,
        # New layouts each round; evaluations have a stream of their own.
        seed=config.seed * MOST_ROUNDS + number,
        workers=config.workers,
        resume=True,
        perturbation=config.perturbation,
        vla=vla,
    )


def _refinement(config: Lifelong, number: int) -> Refine:
    policy, vla = _policy_after(config, number - 1)
    return Refine(
        policy,
        config.demos,
        _interactions(config, number),
        round_directory(config.out, number) / "refine",
        config.objective,
        include_policy_steps=config.include_policy_steps,
        from_scratch=config.from_scratch,
        anchor_weight=config.anchor_weight,
        steps=config.steps,
        batch_size=config.batch_size,
        micro_batch_size=config.micro_batch_size,
        learning_rate=config.learning_rate,
        action_smoothing=config.action_smoothing,
        device=config.device,
        wandb="disabled",  # the run of all rounds has their rates
        seed=config.seed,
        resume=True,
        vla=vla,
        lora=config.lora,
    )


def _evaluations(config: Lifelong, number: int) -> list[Evaluate]:
    """In the scene of the deployments, and in the original one where that is another."""
    policy, vla = _policy_after(config, number)
    here = round_directory(config.out, number)
    scenes = {_EVALUATION: config.perturbation}
    if config.perturbation.perturb:
        scenes[_IN_THE_ORIGINAL] = ORIGINAL
    return [
        Evaluate(
            policy,
            here / name,
            config.task,
            config.evaluation_episodes,
            config.operator,
            config.image_size,
            wandb="disabled",
            seed=config.seed,
            workers=config.workers,
            resume=True,
            perturbation=scene,
            vla=vla,
        )
        for name, scene in scenes.items()
    ]


def _interactions(config: Lifelong, number: int) -> tuple[Path, ...]:
    """What round ``number`` learns from besides the demonstrations."""
    first = 1 if config.memory == "all" else number
    return tuple(round_directory(config.out, i) / "interactions" for i in range(first, number + 1))


def _takeovers(config: Lifelong, number: int) -> int:
    return sum(collection_summary(directory)["takeovers"] for directory in _interactions(config, number))


def _interrupted() -> bool:
    console.print("stopped; the same command with --resume goes on from here")
    return False


def _outcome(config: Lifelong, number: int) -> Round:
    here = round_directory(config.out, number)
    rates = rates_of(read_results(here / _EVALUATION))
    takeover_rate, human_share = (None, None) if number == 0 else _deployment_rates(here / "interactions")
    original = None
    if config.perturbation.perturb:
        original = rates_of(read_results(here / _IN_THE_ORIGINAL))["success"]
    return Round(
        number,
        _policy_after(config, number)[0],
        takeover_rate,
        human_share,
        rates["success"],
        rates["intervention_rate"],
        _gain(config, number, _EVALUATION),
        original,
        None if original is None else _gain(config, number, _IN_THE_ORIGINAL),
    )


def _gain(config: Lifelong, number: int, scene: str) -> Estimate | None:
    """Success minus that of round 0 on the same layouts."""
    from robopref.evaluation.statistics import paired_bootstrap_difference

    if number == 0:
        return None
    base, now = ([float(r.success) for r in read_results(round_directory(config.out, i) / scene)] for i in (0, number))
    return paired_bootstrap_difference(base, now, seed=0)


def _deployment_rates(interactions: Path) -> tuple[Rate, Estimate]:
    """Share of episodes with a takeover, and share of steps that the operator drove."""
    from robopref.cli.fitting import load_episodes
    from robopref.evaluation.statistics import Rate, bootstrap_ratio
    from robopref.trajectory import Actor

    human = [episode.actor == Actor.HUMAN for episode in load_episodes([interactions]).episodes]
    took_over = Rate.of(sum(bool(h.any()) for h in human), len(human))
    return took_over, bootstrap_ratio([int(h.sum()) for h in human], [len(h) for h in human])


def _reason_to_stop(config: Lifelong, rounds: Sequence[Round]) -> str:
    """Why there should be no further round; empty when there should."""
    last = rounds[-1]
    if config.target_success is not None and last.evaluation_success.low >= config.target_success:
        return f"the success rate is {last.evaluation_success}, at least {100 * config.target_success:.1f} %."
    if config.patience is not None and last.number >= config.patience:
        values = [r.evaluation_success.value for r in rounds]
        if max(values[-config.patience :]) <= max(values[: -config.patience]):
            return f"{config.patience} rounds did not raise the success rate above {100 * max(values):.1f} %."
    return ""


def _metrics(this: Round) -> dict[str, float]:
    rates: dict[str, Rate | Estimate] = {
        "evaluation/success": this.evaluation_success,
        "evaluation/intervention_rate": this.evaluation_intervention,
    }
    if this.takeover_rate is not None:
        rates["deployment/takeover_rate"] = this.takeover_rate
    if this.human_share is not None:
        rates["deployment/human_share"] = this.human_share
    if this.original_success is not None:
        rates["evaluation_original/success"] = this.original_success
    metrics = {f"{name}/{key}": getattr(rate, key) for name, rate in rates.items() for key in ("value", "low", "high")}
    for name, gain in (("gain", this.gain), ("gain_original", this.original_gain)):
        if gain is not None:
            metrics |= {f"{name}/{key}": getattr(gain, key) for key in ("value", "low", "high")}
    return metrics


def _write(config: Lifelong, identity: dict[str, str], rounds: Sequence[Round], why: str) -> None:
    """``rounds.json`` and its figure, after every round."""
    from robopref.reporting.lifelong_figure import rounds_figure

    write_json(
        config.out / "rounds.json",
        {
            "task": config.task,
            **identity,
            **config.perturbation.to_json(),
            "method": config.objective,
            "from_scratch": config.from_scratch,
            "include_policy_steps": config.include_policy_steps,
            "rounds": [asdict(r) for r in rounds],
            "stopped": why,
            "versions": versions(),
        },
    )
    chart = rounds_figure(
        [r.number for r in rounds],
        [r.evaluation_success for r in rounds],
        [r.evaluation_intervention for r in rounds],
        [r.takeover_rate for r in rounds],
        [r.human_share for r in rounds],
    )
    (config.out / "rounds.svg").write_text(chart.svg)
    (config.out / "rounds.png").write_bytes(chart.png)


def _line(this: Round) -> str:
    text = f"success {this.evaluation_success}{_since_the_start(this.gain)}"
    if this.original_success is not None:
        text += f"; in the original scene {this.original_success}{_since_the_start(this.original_gain)}"
    if this.takeover_rate is not None:
        text += f"; the operator took over in {this.takeover_rate} of the deployment"
    if (share := this.human_share) is not None:
        text += f" and drove {100 * share.value:.1f} % [{100 * share.low:.1f}, {100 * share.high:.1f}] of its steps"
    return text


def _since_the_start(gain: Estimate | None) -> str:
    if gain is None:
        return ""
    return ", since round 0 {:+.1f} [{:+.1f}, {:+.1f}] points".format(
        *(100 * getattr(gain, key) for key in ("value", "low", "high"))
    )
