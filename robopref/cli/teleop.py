"""``robopref teleop``: a person watches a policy, takes over, hands back and judges; every step is recorded."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from robopref.cli.collect import collection_summary
from robopref.cli.console import console
from robopref.cli.interrupt import graceful_interrupt
from robopref.cli.run_directory import check_run, read_json, start_run, write_json
from robopref.cli.seeds import episode_seeds
from robopref.envs.perturbations.options import ORIGINAL, PerturbationOptions
from robopref.errors import RoboprefError
from robopref.human_io.scripted import ScriptedOperatorConfig
from robopref.policies.vla.options import PLAIN, VLAOptions
from robopref.trajectory import Outcome

if TYPE_CHECKING:
    from robopref.cli.teleop_session import SessionSummary
    from robopref.cli.teleop_worlds import World
    from robopref.human_io.readings import InputSource
    from robopref.protocols import Operator

_SURROUNDINGS = (
    "host",
    "port",
    "tls_cert",
    "tls_key",
    "insist",
    "open_browser",
    "camera_size",
    "cameras",
    "mapping",
    "real_time",
)
"""Settings that may differ when a session goes on: they are not in the data."""


@dataclass(frozen=True)
class Teleop:
    """Watch a policy, take over when it fails, hand back, judge: in the browser or with a device; record everything."""

    policy: str
    """A checkpoint directory, a training run's directory, a Hugging Face model (directory or hub id), or
    module:factory; with --game any Q policy that `robopref diagnose` takes, such as pong-ddqn-v2."""
    out: Path
    """The data directory to write."""
    task: str = "button-press"
    """The robot task."""
    game: str | None = None
    """An Atari game instead of a robot task, e.g. Pong."""
    operator: Literal["web", "gamepad", "keyboard", "spacemouse", "scripted"] = "web"
    """With what the operator drives; scripted is the operator of `robopref collect`, at the pace of a person."""
    episodes: int = 10
    hz: float | None = None
    """Control ticks a second; unset takes 20 for robots and the native 15 for games (frame skip 4)."""
    hold_to_run: bool = False
    """The operator drives only while the take-over control is held; else it is pressed once (toggle)."""
    abort_after: float = 10.0
    """Seconds without a sign of life from the device after which the episode ends, saved as aborted."""
    ramp: float = 0.15
    """Seconds in which a command goes from zero to full deflection."""
    autostart: bool = False
    """The policy starts at once; else the first episode waits until the operator says who drives."""
    host: str = "127.0.0.1"
    """Where the page is served; elsewhere than on this machine it needs TLS."""
    port: int = 8765
    """Of the page; 0 takes a free one."""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    insist: bool = False
    """Serve the page to other machines without TLS: whoever listens in can drive."""
    open_browser: bool = True
    """Open the page in this machine's browser; its address is printed in any case."""
    camera_size: int = 480
    """Pixels a side of the picture that the operator sees."""
    cameras: tuple[str, ...] = ()
    """Cameras of the robot's scene that are shown; unset shows the task's own."""
    mapping: Path | None = None
    """File of the keys, buttons and axes; unset takes one per device and robot or game in the user's configuration."""
    real_time: bool = True
    """Run the control loop at real-time priority where the system permits it (Linux: root, or ulimit -r)."""
    image: bool = True
    """Render and record camera images (a state policy does without)."""
    image_size: int | None = None
    """Pixels a side of the recorded image; unset takes what the policy reads."""
    paraphrase: bool = True
    trust: bool = False
    """Execute code in a Q policy's file where it cannot be read otherwise."""
    script: ScriptedOperatorConfig = field(default_factory=ScriptedOperatorConfig)
    """Of the scripted operator."""
    seed: int = 0
    resume: bool = False
    """Go on with an interrupted session."""
    perturbation: Annotated[PerturbationOptions, tyro.conf.arg(name="")] = ORIGINAL
    vla: Annotated[VLAOptions, tyro.conf.arg(name="")] = PLAIN


def run_teleop(config: Teleop, *, source: InputSource | None = None) -> bool:
    """Run the session; returns False when it was stopped early (finished episodes are kept, ``--resume`` goes on).

    Args:
        config: see there.
        source: a device to use instead of the one that ``config.operator`` names.

    Raises:
        RoboprefError: policy, task, device and settings do not fit, or the recording cannot be written.
    """
    from robopref.cli.teleop_session import TeleopSession
    from robopref.cli.teleop_worlds import check_rate
    from robopref.human_io.pacing import Pacer
    from robopref.store.store import EpisodeStore

    _share_the_cores()
    world = _make_world(config)  # what cannot be had is said before anything is written
    hz = check_rate(world, config.hz)
    seeds = episode_seeds("collect", config.seed, config.episodes)
    identity = {"policy_id": world.policy_id}
    terms: dict[str, Any] = {"resume": config.resume, "identity": identity, "changeable": _SURROUNDINGS}
    check_run(config.out, "teleop", config, **terms)  # before a page or a window opens
    with ExitStack() as stack, graceful_interrupt() as interrupt:
        # A station that cannot be had (a port in use, no display) leaves no run that the corrected command would meet.
        operator, on_scene, on_tick = _staff(config, world, hz, source, stack)
        start_run(config.out, "teleop", config, **terms)
        store = EpisodeStore.create_or_open(config.out)
        for recovery in store.recovered:
            console.print(str(recovery))
        infos = [store.info(i) for i in store.episode_ids()]
        # An episode that was cut off stays in the data; its seed is played again all the same.
        done = {info.seed for info in infos if info.outcome is not Outcome.ABORTED}
        session = TeleopSession(
            world,
            operator,
            store,
            Pacer(hz),
            on_scene=on_scene,
            on_tick=on_tick,
            should_stop=interrupt,
            before=_earlier_part(config.out),
            extra={"operator": _operator_settings(config)},
            real_time=config.real_time,
        )
        try:
            finished = session.run([s for s in seeds if s not in done], planned=config.episodes)
        finally:
            session.close()
            _summarize(config, session.summary, identity)
    return finished


def _earlier_part(out: Path) -> SessionSummary | None:
    """What is known of a session that goes on."""
    from robopref.cli.teleop_session import SessionSummary

    path = out / "summary.json"
    return SessionSummary.from_json(read_json(path)["session"]) if path.exists() else None


def _share_the_cores() -> None:
    """One core stays free for the station, and the loop's own small pictures are drawn in the loop's own thread.

    Helpers that have not the loop's priority would make it wait for them on a busy machine.
    """
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) - 1))
    os.environ.setdefault("LP_NUM_THREADS", "0")  # of Mesa's software renderer; the station has its own number


def _make_world(config: Teleop) -> World:
    from robopref.cli.teleop_worlds import game_world, robot_world

    if config.game is not None:
        if config.perturbation.perturb:
            raise RoboprefError("perturbations change MuJoCo scenes, which a game has not: leave --perturb out.")
        return game_world(config.policy, config.game, trust=config.trust)
    return robot_world(
        config.policy,
        config.task,
        config.vla,
        image=config.image,
        image_size=config.image_size,
        paraphrase=config.paraphrase,
        perturbation=config.perturbation,
    )


def _staff(
    config: Teleop, world: World, hz: float, source: InputSource | None, stack: ExitStack
) -> tuple[Operator, Callable[[], None], Callable[[], None]]:
    """The operator, what to do when the world has changed, and what to do at every tick."""
    from robopref.cli.teleop_mapping import choose_mapping
    from robopref.human_io.scripted import ScriptedOperator
    from robopref.human_io.station_operator import StationConfig, StationOperator

    if config.operator == "scripted":
        if config.game is not None:
            raise RoboprefError("a game has no expert for the scripted operator to act as: choose another --operator.")
        task: Any = world.env.unwrapped
        return ScriptedOperator(task.make_expert(), task.progress, config.script), _nothing, _nothing
    settings = StationConfig(
        hz=hz,
        hold_to_run=config.hold_to_run,
        abort_after=config.abort_after,
        ramp=config.ramp,
        autostart=config.autostart,
    )
    mapping, default, path = choose_mapping(config.operator, world.layout, config.game and world.task, config.mapping)
    if source is not None:
        return StationOperator(source, mapping, world.layout, settings), _nothing, _nothing

    from robopref.cli.teleop_scenes import make_scene
    from robopref.cli.teleop_station import Station, StationPlan, station_context
    from robopref.human_io.station.listening import Listening

    listening = Listening(config.host, config.port, config.tls_cert, config.tls_key, config.insist)
    context = station_context()
    scene = make_scene(world.env, context, config.camera_size, config.cameras)
    plan = StationPlan(config.operator, mapping, default, path, listening, config.open_browser)
    station = Station(plan, scene, context)
    stack.callback(station.close)
    if station.notice:
        console.print(station.notice)
    operator = StationOperator(station.source, mapping, world.layout, settings)

    def adopt_mapping() -> None:
        operator.mapping = station.new_mapping() or operator.mapping

    return operator, scene.capture if scene is not None else _nothing, adopt_mapping


def _nothing() -> None:
    """Where there is nothing to do."""


def _operator_settings(config: Teleop) -> dict[str, Any]:
    """What is kept with each episode about how it was driven."""
    if config.operator == "scripted":
        return asdict(config.script)
    return {"device": config.operator, "hold_to_run": config.hold_to_run, "ramp": config.ramp}


def _summarize(config: Teleop, session: SessionSummary, identity: dict[str, str]) -> None:
    summary = collection_summary(config.out) | identity | config.perturbation.to_json() | {"session": session.to_json()}
    write_json(config.out / "summary.json", summary)
    outcomes = ", ".join(f"{count} {name}" for name, count in session.outcomes.items() if count) or "none"
    jitter = session.worst_jitter
    console.print(
        f"session: {session.episodes} episodes ({outcomes}), {session.takeovers} takeovers, "
        f"{session.human_share:.0%} of {session.steps} steps driven by the operator, {session.seconds:.0f} s; "
        f"ticks late by {jitter.p50_ms:.1f} ms (median), {jitter.p99_ms:.1f} ms (99 %), {jitter.missed} missed; "
        f"steps written down after {session.journal_seconds * 1e3:.0f} ms at most"
        f"{_said_of(session.dropped)}\n"
        f"{summary['episodes']} episodes in {config.out}",
        highlight=False,
    )


def _said_of(dropped: Mapping[str, int]) -> str:
    reasons = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in dropped.items())
    return f"; of the pages' messages: {reasons}" if reasons else ""
