"""``robopref train-dqn``: train a deep Q policy on an Atari game, plain or certified."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from robopref.cli.console import console, progress_bar
from robopref.cli.interrupt import graceful_interrupt
from robopref.cli.run_directory import check_run, start_run, to_json, versions, write_json
from robopref.errors import RoboprefError

if TYPE_CHECKING:
    from robopref.dqn.training import DQNSettings
    from robopref.envs.ale import AtariSpec

CERTIFIED_KAPPA = 0.005
_SUMMARY_FILE = "summary.json"
_STATE_FILE = "state.pt"


@dataclass(frozen=True)
class TrainDqn:
    """Train a dueling double DQN with prioritised replay, or its certified counterpart SA-DDQN.

    A step is one agent step of one game. On two CPU cores 400 000 steps take about half an hour, with --robust about
    twice that; the replay needs about 7 kB of memory per step of --replay-capacity, and as much disk to resume.
    """

    game: str
    """E.g. Pong or Freeway."""
    out: Path
    """Where the policy, its curve and its state go."""
    steps: int = 400_000
    """May be raised when an interrupted run goes on."""
    robust: bool = False
    """Certified training: the SA-DQN regulariser over interval bounds (see --kappa and --radius)."""
    kappa: float = CERTIFIED_KAPPA
    """Weight of the robust regulariser."""
    hinge: float = 1.0
    """Margin between the best action and its rivals beyond which robustness earns nothing: of the order of the action
    gaps that the game itself makes, or the regulariser outbids it and the policy becomes constant."""
    radius: float = 1.0
    """Radius of the robust regulariser in grey levels of 0..255, reached smoothly."""
    robust_start: int = 0
    """Step at which the radius begins to grow."""
    robust_ramp: int = 100_000
    """Steps that it takes to grow, by the same factor at each, from a ten-thousandth."""
    init: Path | None = None
    """Start from the weights of this checkpoint instead of random ones."""
    anchor: bool = False
    """With --robust: hold the actions of --init as it was, weighted by its action gap, instead of the network's own.
    Short certified training without it tends to a constant policy."""
    num_envs: int = 8
    batch_size: int = 128
    train_every: int = 16
    """Steps between updates; batch-size / train-every samples are replayed per step."""
    replay_capacity: int = 100_000
    learning_starts: int = 10_000
    learning_rate: float = 2.5e-4
    target_every: int = 2_000
    n_step: int = 3
    gamma: float = 0.99
    epsilon_start: float = 1.0
    epsilon_end: float = 0.01
    epsilon_steps: int = 50_000
    exploration_mu: float = 2.0
    """Random actions last n steps with probability ~ n^-mu; inf: one step, plain epsilon-greedy."""
    hidden: int = 256
    """Width of the two heads' hidden layers."""
    evaluation_episodes: int = 30
    """Episodes that the final score is taken over."""
    log_every: int = 2_000
    """Steps between rows of metrics."""
    save_every: int = 100_000
    """Steps between saved states."""
    mixed_precision: bool = True
    """bfloat16 where it costs little."""
    compile: bool = False
    """torch.compile the update; on a GPU it is captured as a graph."""
    half: bool = True
    """Keep the checkpoint's weights in float16."""
    device: Literal["auto", "cpu"] = "auto"
    threads: int = 0
    """Of torch on the CPU; 0: its own choice."""
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    seed: int = 0
    resume: bool = False
    """Go on with an interrupted run."""


def run_train_dqn(config: TrainDqn) -> bool:
    """Train and evaluate; returns False when Ctrl-C stopped it (``--resume`` goes on).

    Raises:
        RoboprefError: settings that do not go together, or ``--resume`` asks for more steps of a finished run.
    """
    import torch

    from robopref.dqn.training import DQNTrainer
    from robopref.envs.ale import AtariSpec
    from robopref.policies.checkpoint import policy_id
    from robopref.policies.q_checkpoint import load_q_network
    from robopref.tracking import Tracker

    if config.anchor and not (config.robust and config.init):
        raise RoboprefError("--anchor holds the actions of --init in certified training: give --robust and --init.")
    for name in ("log_every", "save_every", "evaluation_episodes"):
        if getattr(config, name) < 1:
            raise RoboprefError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(config, name)}.")
    if config.threads:
        torch.set_num_threads(config.threads)
    spec = AtariSpec(config.game)
    settings = _settings(config)
    network = _network(config, spec)
    device = "cuda" if config.device == "auto" and torch.cuda.is_available() else "cpu"
    identity = {"init": policy_id(config.init)} if config.init else {}
    if _is_finished(config, identity):
        console.print(f"{config.out} is finished already: its policy is in {config.out / 'policy'}", soft_wrap=True)
        return True
    start_run(config.out, "train-dqn", config, resume=config.resume, identity=identity, extendable=("steps",))
    told = to_json({"settings": settings, "environment": spec, "identity": identity, "anchor": config.anchor})
    lasting = told | {"settings": {k: v for k, v in told["settings"].items() if k != "steps"}}
    fingerprint = hashlib.blake2b(json.dumps(lasting, sort_keys=True).encode(), digest_size=16).hexdigest()
    state_path = config.out / _STATE_FILE
    with graceful_interrupt() as interrupt, progress_bar(f"DQN: {spec.game}", config.steps) as progress:
        trainer = DQNTrainer(
            network.to(device),
            spec,
            settings,
            anchor=load_q_network(config.init)[0] if config.anchor and config.init else None,
            log_every=config.log_every,
            should_stop=interrupt,
            progress=progress,
            checkpoint=lambda trainer: trainer.save(state_path, fingerprint),
            checkpoint_every=config.save_every,
        )
        if state_path.exists():
            trainer.load(state_path, fingerprint)
            console.print(f"going on from step {trainer.step}")
        mode = None if config.wandb == "auto" else config.wandb
        name = f"{'SA-DDQN' if config.robust else 'DDQN'} {spec.game}"
        with Tracker(config.out, name=name, config=told, wandb_mode=mode, resume_step=trainer.step) as tracker:
            trainer.log = tracker.log
            if not trainer.run():
                trainer.save(state_path, fingerprint)
                console.print(f"stopped at step {trainer.step}; --resume goes on")
                return False
            trainer.save(state_path, fingerprint)
            scores = _evaluate(config, network, spec, name)
            tracker.summary(scores)
    _write(config, network, spec, settings, scores)
    state_path.unlink()  # the replay is most of it, and the run is over
    return True


def _is_finished(config: TrainDqn, identity: dict[str, str]) -> bool:
    """Whether the run came to its end, where its state is removed: to go on would be to train from the start.

    Raises:
        RoboprefError: it did, and is asked for more steps; or ``start_run`` would refuse it.
    """
    _, raised = check_run(
        config.out, "train-dqn", config, resume=config.resume, identity=identity, extendable=("steps",)
    )
    if not (config.out / _SUMMARY_FILE).exists() or (config.out / _STATE_FILE).exists():
        return False
    if raised:
        raise RoboprefError(
            f"{config.out} is finished, and its replay is gone: for more steps, start another run (--out) from its "
            f"weights (--init {config.out / 'policy'})."
        )
    return True


def _settings(config: TrainDqn) -> DQNSettings:
    from robopref.dqn.learner import LearnerSettings
    from robopref.dqn.training import DQNSettings

    return DQNSettings(
        steps=config.steps,
        num_envs=config.num_envs,
        batch_size=config.batch_size,
        train_every=config.train_every,
        replay_capacity=config.replay_capacity,
        learning_starts=config.learning_starts,
        target_every=config.target_every,
        n_step=config.n_step,
        gamma=config.gamma,
        epsilon_start=config.epsilon_start,
        epsilon_end=config.epsilon_end,
        epsilon_steps=config.epsilon_steps,
        exploration_mu=config.exploration_mu,
        robust_radius=config.radius / 255,
        robust_start=config.robust_start,
        robust_ramp=config.robust_ramp,
        learner=LearnerSettings(
            learning_rate=config.learning_rate,
            kappa=config.kappa if config.robust else 0.0,
            hinge=config.hinge,
            mixed_precision=config.mixed_precision,
            compile=config.compile,
        ),
        seed=config.seed,
    )


def _network(config: TrainDqn, spec: AtariSpec) -> Any:
    import torch

    from robopref.envs.ale import n_actions
    from robopref.policies.q_checkpoint import load_q_network
    from robopref.policies.q_network import QArchitecture, QNetwork

    torch.manual_seed(config.seed)
    architecture = QArchitecture(
        n_actions=n_actions(spec),
        frame_stack=spec.frame_stack,
        channels_per_frame=1 if spec.grayscale else 3,
        image_size=spec.image_size,
        hidden=config.hidden,
    )
    if config.init is None:
        return QNetwork(architecture)
    network, _ = load_q_network(config.init)
    if network.architecture != architecture:
        raise RoboprefError(
            f"{config.init} holds {network.architecture}, but {spec.game} with these settings needs {architecture}."
        )
    return network


def _evaluate(config: TrainDqn, network: Any, spec: AtariSpec, name: str) -> dict[str, Any]:
    from robopref.dqn.evaluation import play, score_summary
    from robopref.dqn.training import FIRST_EVALUATION_SEED

    network.eval()
    console.print(f"playing {config.evaluation_episodes} episodes, and as many at random ...")
    seed = FIRST_EVALUATION_SEED + config.seed
    scores = {
        "policy": score_summary(play(network, spec, episodes=config.evaluation_episodes, seed=seed)),
        "random": score_summary(play(None, spec, episodes=config.evaluation_episodes, seed=seed)),
    }
    for who, told in scores.items():
        mean, low, high, n = (told[key] for key in ("value", "low", "high", "n"))
        console.print(f"{name if who == 'policy' else 'at random'}: score {mean:.2f} [{low:.2f}, {high:.2f}] (n={n})")
    if scores["policy"]["low"] <= scores["random"]["high"]:
        console.print("[bold red]UNTRAINED: the policy cannot be told from one that plays at random.[/]")
    return scores


def _write(config: TrainDqn, network: Any, spec: AtariSpec, settings: DQNSettings, scores: dict[str, Any]) -> None:
    from robopref.policies.q_checkpoint import save_q_network

    about = to_json(
        {
            "game": spec.game,
            "environment": spec,
            "training": settings,
            "algorithm": "SA-DDQN" if config.robust else "DDQN",
            "init": str(config.init.name) if config.init else None,
            "anchored": config.anchor,
            "scores": scores,
            "versions": versions(),
        }
    )
    save_q_network(config.out / "policy", network, about, half=config.half)
    write_json(config.out / _SUMMARY_FILE, {"game": spec.game, "scores": scores, "versions": versions()})
    console.print(f"policy in {config.out / 'policy'}")
