"""``robopref diagnose``: how stable a Q policy's decisions are, in the game it was trained for."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from robopref.cli.console import console
from robopref.cli.diagnose_print import print_diagnosis, stage_bars
from robopref.cli.diagnose_status import watch_run
from robopref.cli.interrupt import graceful_interrupt
from robopref.cli.run_directory import start_run, to_json
from robopref.errors import RoboprefError
from robopref.policies.vla.options import PLAIN, VLAOptions

if TYPE_CHECKING:
    from robopref.diagnosis import Diagnosis, Plan, Subject
    from robopref.diagnosis.sources import EpisodeSource
    from robopref.envs.ale import AtariSpec

FIRE = "FIRE"
_SERVED = ("stable-baselines3", "cleanrl")  # kinds whose wrappers press FIRE for the policy, at every life
ALL = "all"
NONE = "none"
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}


@dataclass(frozen=True)
class GameSettings:
    """Settings of the game. What is left out is as the model's file says, else as in AtariSpec's own defaults."""

    frame_skip: int | None = None
    """Emulator frames for which an action is held."""
    sticky_actions: float | None = None
    """Probability that the previous action is repeated instead."""
    noop_max: int | None = None
    """Idle frames at the start of an episode, at most."""
    fire_reset: bool | None = None
    """FIRE is pressed at the start of an episode, where the game has it; for models of Stable-Baselines3 and CleanRL,
    whose wrappers do that, by default."""
    episodic_life: bool | None = None
    """A lost life ends the episode."""
    reward_clip: bool | None = None
    """Rewards are clipped to [-1, 1]."""
    full_action_set: bool | None = None
    """All 18 actions instead of the game's own."""
    max_episode_steps: int | None = None
    """Agent steps after which the game is cut."""
    frame_stack: int | None = None
    """Frames in a state; must be what the model takes."""
    image_size: int | None = None
    """Pixels a side; must be what the model takes."""
    grayscale: bool | None = None
    """One channel per frame; must be what the model takes."""

    def given(self) -> dict[str, Any]:
        """Those that are not left out."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Diagnose:
    """Find the directions in pixel space along which a policy's decisions are unstable (RA-NLD), and what moves them.

    Ten episodes of Pong with every shift and attack take about 20 minutes on two idle CPU cores, of which the attacks
    are half; --episodes 3 --attacks none is a first look in three. ``robopref diagnose compare A B --out DIR`` holds
    two finished diagnoses against one another.
    """

    out: Path
    """Where results, figures and the report go."""
    model: str | None = None
    """A checkpoint directory of train-dqn, a Stable-Baselines3 zip, a CleanRL model, a state dict, module:factory, or
    the name of a policy that comes with robopref."""
    game: str | None = None
    """E.g. Pong; needed where the model does not say it."""
    policy: str | None = None
    """Instead of --model: a policy that writes action tokens, as ``robopref train`` makes it, a Hugging Face model
    (directory or hub id), or module:factory. Each dimension of its action is a decision of its own and gets a directory
    of its own under --out."""
    task: str | None = None
    """What --policy plays, e.g. button-press."""
    dimensions: tuple[int, ...] = ()
    """Of --policy: action dimensions to diagnose, from 1; default: all."""
    trust: bool = False
    """Load model files that run code of their own when opened. Only for files whose origin you trust."""
    input_scale: float | None = None
    """What a white pixel is to the model, 1 or 255; needed for state dicts and modules of no known format."""
    channels_last: bool = False
    """A module takes [B, H, W, C]."""
    episodes: int = 10
    """Of the clean set, of the null control, and of every shift."""
    shifts: tuple[str, ...] = (ALL,)
    """E.g. rotation jpeg:quality=50; all: every one at its default strength; none."""
    attacks: tuple[str, ...] | None = None
    """E.g. deepfool carlini_wagner:steps=50; all: every one at its default settings; none. Default: all for --model,
    none for --policy, where each would be tried on every dimension and deepfool has as many rivals as bins."""
    temperature: float = 1.0
    """T of the softmax over the action values, in their units."""
    jitter: float = 0.0
    """Standard deviation of noise on the pixels in [0, 1], where the gradients are taken."""
    dtype: Literal["float32", "float64"] = "float32"
    """Precision of the gradients; float64 takes about twice as long and does not saturate before a gap of 745 T."""
    max_states: int = 2000
    """States of a set whose gradients make its directions, evenly strided; 0: all."""
    memory_limit: str = "1G"
    """What the gradients of a set may take; more of them are streamed, which takes twice as long."""
    null: bool = True
    """Play the null control, without which a quotient says little."""
    random_episodes: int = 10
    """Of random actions, to tell whether the policy learned anything."""
    epsilon: float | None = None
    """Probability of a random action in the policy's episodes, so that they differ; default: .01 for --model, 0 for
    --policy, whose episodes begin with layouts of their own."""
    max_steps: int | None = None
    """Cut episodes after so many steps."""
    attack_states: int = 300
    """Clean states that each attack is tried on."""
    attack_episodes: int = 3
    """Episodes played under each attack; 0: none."""
    attack_steps: int = 400
    """Steps after which these are cut."""
    resamples: int = 1000
    """Of the bootstrap."""
    environment: tyro.conf.OmitArgPrefixes[GameSettings] = field(default_factory=GameSettings)
    fire_after_lost_life: bool | None = None
    """FIRE is pressed in the step after a lost life too, or a policy that never had to serve plays on without a ball;
    for models of Stable-Baselines3 and CleanRL by default, unless --fire-reset False."""
    num_envs: int = 10
    """Games played at once."""
    device: Literal["auto", "cpu"] = "auto"
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    seed: int = 0
    resume: bool = False
    """Go on with an interrupted diagnosis; sets that are finished are not played again."""
    vla: Annotated[VLAOptions, tyro.conf.arg(name="")] = PLAIN


def run_diagnose(config: Diagnose) -> bool:
    """Diagnose and report; returns False when Ctrl-C stopped it (``--resume`` goes on)."""
    if (config.model is None) == (config.policy is None):
        raise RoboprefError("give --model (a policy of an Atari game) or --policy (one that writes action tokens).")
    plan = _plan(config)
    shifts = _shifts(config.shifts)
    attacks = _attacks(config.attacks or (ALL if config.model else NONE,))
    if config.policy is not None:
        return _run_tokens(config, plan, shifts, attacks)
    policy, subject, source, notes = _game(config, str(config.model))
    start_run(config.out, "diagnose", config, resume=config.resume, identity={"policy_id": subject.policy_id})
    bound = {name: attack.bind(policy) for name, attack in attacks.items()}
    return diagnose_and_report(
        config.out, policy, source, subject, plan, shifts, bound, notes, to_json(config), config.wandb
    )


def _plan(config: Diagnose) -> Plan:
    from robopref.diagnosis import Plan

    epsilon = config.epsilon if config.epsilon is not None else 0.01 if config.policy is None else 0.0
    return Plan(
        episodes=config.episodes,
        null=config.null,
        random_episodes=config.random_episodes,
        seed=config.seed,
        epsilon=epsilon,
        max_steps=config.max_steps,
        temperature=config.temperature,
        jitter=config.jitter,
        dtype=config.dtype,
        max_states=config.max_states,
        memory_limit=parse_bytes(config.memory_limit),
        attack_states=config.attack_states,
        attack_episodes=config.attack_episodes,
        attack_steps=config.attack_steps,
        n_resamples=config.resamples,
    )


def _run_tokens(config: Diagnose, plan: Plan, shifts: dict[str, Any], attacks: dict[str, Any]) -> bool:
    """Every dimension of an action-token policy; False when Ctrl-C stopped it."""
    from robopref.cli.episodes import image_size_of
    from robopref.cli.task_source import TaskSource
    from robopref.policies.q_tokens import TokenQPolicy
    from robopref.policies.registry import load_policy, policy_id

    if config.policy is None or config.task is None:
        raise RoboprefError("--policy needs --task: what it plays, e.g. button-press.")
    if config.game is not None or config.environment.given():
        raise RoboprefError("--game and the settings of a game go with --model, not with --policy.")
    policy = _placed(load_policy(config.policy, config.vla, device=config.device), config)
    size = len(policy.norm_stats)
    dimensions = config.dimensions or tuple(range(1, size + 1))
    if not set(dimensions) <= set(range(1, size + 1)):
        raise RoboprefError(f"the policy's actions have dimensions 1 to {size}, asked for {min(dimensions)}.")
    image_size = image_size_of(policy)
    kept = config.out / "episodes"
    source = TaskSource(policy, config.task, image_size, kept=kept if len(dimensions) > 1 else None)
    identity = {"policy_id": policy_id(config.policy, config.vla)}
    start_run(config.out, "diagnose", config, resume=config.resume, identity=identity)
    for dimension in dimensions:
        decision = TokenQPolicy(policy, dimension - 1, name=config.policy).eval()
        subject = _token_subject(config, decision, identity["policy_id"], image_size)
        console.print(f"{subject.head}", style="bold")
        finished = diagnose_and_report(
            config.out / f"dimension-{dimension}",
            decision,
            source,
            subject,
            plan,
            shifts,
            {name: attack.bind(decision) for name, attack in attacks.items()},
            ["Score is success. Given the greedy tokens of the dimensions before it, this dimension is one decision."],
            to_json(config),
            config.wandb,
        )
        if not finished:
            return False
    source.close()
    shutil.rmtree(kept, ignore_errors=True)  # each dimension has those that it needs
    return True


def _placed(policy: Any, config: Diagnose) -> Any:
    """The policy where --device says, if it has weights: they are where it plays and where gradients are taken."""
    import torch

    device = torch.device("cuda" if config.device == "auto" and torch.cuda.is_available() else "cpu")
    own = next(policy.parameters(), None) if isinstance(policy, torch.nn.Module) else None
    return policy if own is None or own.device.type == device.type else policy.to(device)


def _token_subject(config: Diagnose, decision: Any, policy_id: str, image_size: int) -> Subject:
    from robopref.diagnosis import Subject

    policy = decision.policy
    names = [f"{center:+.3f}" for center in policy.tokenizer.centers]
    synonyms = _equal(policy.tokenizer.centers)
    for index in (index for group in synonyms for index in group):
        names[index] += f" (bin {index + 1})"  # of one value, so that it does not tell them apart
    return Subject(
        policy=str(config.policy),
        policy_id=policy_id,
        architecture=type(policy).__name__,
        task=str(config.task),
        environment={"task": config.task, "image_size": image_size},
        actions=tuple(names),
        value_unit="logit",
        shape=(3, image_size, image_size),
        frame_stack=1,
        channels_per_frame=3,
        head=f"action dimension {decision.dimension + 1} of {len(policy.norm_stats)}",
        synonyms=synonyms,
    )


def _equal(values: Any) -> tuple[tuple[int, ...], ...]:
    """Groups of two or more indices of equal values."""
    groups: dict[float, list[int]] = {}
    for index, value in enumerate(values):
        groups.setdefault(float(value), []).append(index)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def diagnose_and_report(
    out: Path,
    policy: Any,
    source: EpisodeSource,
    subject: Subject,
    plan: Plan,
    shifts: Mapping[str, Any],
    attacks: Mapping[str, Any],
    notes: list[str],
    config: dict[str, Any],
    wandb: str,
) -> bool:
    """Diagnose one decision of a policy, print the table, write the report; False when Ctrl-C stopped it."""
    from robopref.diagnosis import diagnose
    from robopref.diagnosis.pipeline import DiagnosisStopped
    from robopref.reporting.diagnosis_report import write_diagnosis_report
    from robopref.tracking import resolve_mode

    resolve_mode(None if wandb == "auto" else wandb)  # a mode that does not exist is said now and not after the work
    with graceful_interrupt() as interrupt, watch_run(out) as status:
        try:
            with stage_bars() as bars:

                def progress(stage: str, done: int, total: int) -> None:
                    status.at(stage, done, total)
                    bars(stage, done, total)

                diagnosis = diagnose(
                    policy,
                    source,
                    subject,
                    plan,
                    shifts=shifts,
                    attacks=attacks,
                    notes=notes,
                    out=out,
                    progress=progress,
                    should_stop=interrupt,
                )
        except DiagnosisStopped:
            cause = "" if interrupt.signal is None else f" by {interrupt.signal.name}"
            status.end(f"stopped{cause}")
            console.print(
                f"stopped{cause} at {status.stage!r}, without a report; --resume goes on, and what is finished is not "
                "done again"
            )
            return False
        status.at("writing the report")
        report = write_diagnosis_report(out)
        # Before W&B, which may be slow or fail: the results are there, whatever becomes of their copy.
        print_diagnosis(diagnosis)
        console.print(f"report: {report}", soft_wrap=True)
        status.at("tracking")
        try:
            _track(out, diagnosis, config, wandb)
        except Exception as error:  # W&B may fail in any way; the results are finished, and what failed is said
            console.print(
                f"The results are complete, but tracking them failed ({type(error).__name__}: {error}); --resume tries "
                "again.",
                style="yellow",
                highlight=False,
            )
    return True


def parse_bytes(text: str) -> int:
    """``1G``, ``500M``, ``1.5GiB`` or a plain number of bytes; units are powers of 1024.

    Raises:
        RoboprefError: it is nothing of that kind, or not positive.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?)(?:i?b)?\s*", text.lower())
    size = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    if size < 1:
        raise RoboprefError(f"{text!r} is no amount of memory: write 1G or 500M.")
    return size


def _shifts(texts: tuple[str, ...]) -> dict[str, Any]:
    from robopref.diagnosis.shifts import SHIFTS, parse_shift

    return _named("shift", texts, SHIFTS, parse_shift)


def _attacks(texts: tuple[str, ...]) -> dict[str, Any]:
    from robopref.diagnosis.attacks import ATTACKS, parse_attack

    return _named("attack", texts, ATTACKS, parse_attack)


def _named(what: str, texts: tuple[str, ...], known: Mapping[str, Any], parse: Callable[[str], Any]) -> dict[str, Any]:
    """What the texts ask for, by the text that asks for it."""
    if texts == (NONE,):
        return {}
    found: dict[str, Any] = {}
    for text in texts:
        for name, thing in (known if text == ALL else {text.strip(): parse(text)}).items():
            if name in found:
                raise RoboprefError(f"the {what} {name} is asked for twice.")
            found[name] = thing
    return found


def _game(config: Diagnose, model: str) -> tuple[Any, Subject, EpisodeSource, list[str]]:
    """The policy on its device, who it is, its games, and what was assumed about them."""
    from robopref.diagnosis import GameSource, Subject
    from robopref.envs.action_synonyms import action_synonyms
    from robopref.envs.ale import action_meanings, atari_spec_for, check_policy_fits, make_atari_vector
    from robopref.policies.q_loading import load_q_policy

    given = config.environment.given()
    policy, told = load_q_policy(
        model,
        trust=config.trust,
        frame_stack=given.get("frame_stack"),
        input_scale=config.input_scale,
        image_size=given.get("image_size"),
        channels_last=config.channels_last,
    )
    said = dict(told.environment or {})
    spec = replace(atari_spec_for(replace(told, environment=said | given), config.game), **given)
    check_policy_fits(told, spec)
    policy = _placed(policy, config)
    actions = action_meanings(spec)
    fires = FIRE in actions
    if spec.fire_reset and not fires:  # ALE would not press it either, and it should not be recorded as if it had
        spec = replace(spec, fire_reset=False)
    serves = config.fire_after_lost_life
    if serves is None:
        serves = spec.fire_reset and told.kind in _SERVED
    if serves and not fires:
        raise RoboprefError(f"{spec.game} has no FIRE among its actions: leave --fire-after-lost-life out.")
    games = replace(spec, frame_stack=1)
    subject = Subject(
        policy=model,
        policy_id=told.policy_id,
        architecture=told.architecture,
        task=spec.game,
        environment=to_json(spec) | {"fire_after_lost_life": serves},
        actions=actions,
        value_unit=told.value_unit,
        shape=told.shape,
        frame_stack=told.frame_stack,
        channels_per_frame=told.channels_per_frame,
        synonyms=action_synonyms(spec),
    )
    serve = actions.index(FIRE) if serves else None
    source = GameSource(lambda: make_atari_vector(games, config.num_envs), told.frame_stack, serve=serve)
    return policy, subject, source, [*told.notes, *_notes(said, given, spec), *_serving(spec, serves)]


def _serving(spec: AtariSpec, serves: bool) -> Iterator[str]:
    if serves:
        start = "at the start of an episode and " if spec.fire_reset else ""
        yield (
            f"FIRE is pressed for the policy {start}in the step after a lost life, as the wrappers of "
            "Stable-Baselines3 and CleanRL do in training (--fire-reset False and --fire-after-lost-life False: not)."
        )


def _notes(said: Mapping[str, Any], given: Mapping[str, Any], spec: AtariSpec) -> Iterator[str]:
    contradicted = [f"{name}={value} ({said[name]})" for name, value in given.items() if said.get(name, value) != value]
    if contradicted:
        yield f"Played with other settings than the model says it was trained with: {', '.join(contradicted)}."
    assumed = {
        name: value
        for name, value in to_json(spec).items()
        if name not in ("game", "frame_stack", "image_size", "grayscale") and name not in said and name not in given
    }
    if assumed:
        settings = ", ".join(f"{name}={value}" for name, value in assumed.items())
        yield f"The model does not say how its game was set up; assumed: {settings}."


def _track(out: Path, diagnosis: Diagnosis, config: dict[str, Any], wandb: str) -> None:
    """Numbers with their intervals, the table of conditions, and the figures, as files and in W&B."""
    from robopref.reporting.diagnosis_report import diagnosis_images
    from robopref.tracking import Tracker

    mode = None if wandb == "auto" else wandb
    subject = diagnosis.subject
    name = f"diagnose {subject.task} {subject.head}".strip()
    with Tracker(out, name=name, config=config, wandb_mode=mode) as tracker:
        numbers = {
            "score": diagnosis.competence.score,
            "eigengap": diagnosis.directions.eigengap,
            "first_share": diagnosis.directions.share,
            "near_ties": diagnosis.decisions.near_ties,
            "gradient_norm/mean": diagnosis.instability.mean,
            "gradient_norm/variance": diagnosis.instability.variance,
            "gradient_norm/oscillation": diagnosis.instability.oscillation,
            **{f"quotient/{c.name}": c.quotient for c in diagnosis.conditions},
        }
        tracker.log(
            {
                f"{label}/{part}": getattr(estimate, part)
                for label, estimate in numbers.items()
                if estimate is not None
                for part in ("value", "low", "high")
            },
            step=1,
        )
        columns = (
            "quotient", "below_null", "flips", "score", "score_difference", "null_quotient", "clean_quotient",
            "below_clean", "synonym_flips",
        )  # fmt: skip
        parts = ("value", "low", "high", "n")
        tracker.log_table(
            "conditions",
            [
                "name",
                "kind",
                "detail",
                "n_states",
                *(f"{column}_{part}" for column in columns for part in parts),
                "null_states",
            ],
            [
                [
                    c.name,
                    c.kind,
                    c.detail,
                    c.n_states,
                    *(getattr(getattr(c, column), part, None) for column in columns for part in parts),
                    c.null_states,
                ]
                for c in diagnosis.conditions
            ],
        )
        for figure, path in diagnosis_images(out).items():
            tracker.log_image(figure, path)
        habit = diagnosis.decisions.habit
        tracker.summary(
            {
                "untrained": diagnosis.competence.untrained,
                "always": None if habit is None else [subject.actions[action] for action in habit.actions],
                "statements": list(diagnosis.statements),
            }
        )
