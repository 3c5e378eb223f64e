"""The control loop of a session with an operator: it owns time, and everything else comes to it."""

from __future__ import annotations

import gc
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from robopref.cli.teleop_worlds import World
from robopref.envs.intervention import InterventionEnv
from robopref.evaluation.rollouts import driven_by_others
from robopref.human_io.handover import State
from robopref.human_io.pacing import Jitter, Pacer
from robopref.human_io.priority import real_time_priority
from robopref.human_io.readings import DropsMessages
from robopref.human_io.station_operator import StationOperator
from robopref.protocols import OPERATOR_EVENT, STEP_RECORD, Operator, OperatorEvent
from robopref.store.background import BackgroundStore
from robopref.store.recorder import RecordEpisodes
from robopref.store.store import EpisodeStore
from robopref.trajectory import Actor, Outcome

DISCARDED = "discarded"
_IDLE_TICKS_PER_PICTURE = 4


@dataclass
class SessionSummary:
    """What came of a session, as far as it got: counts over its episodes, discarded ones included.

    ``seconds`` is the time from its beginning to the end of its last episode; ``worst_jitter`` that of the episode with
    the largest 99th percentile; ``journal_seconds`` the longest that a step waited to be written down; ``dropped`` are
    messages of pages that did not count, by reason. A session that was resumed counts on.
    """

    episodes: int = 0
    steps: int = 0
    human_steps: int = 0
    takeovers: int = 0
    seconds: float = 0.0
    outcomes: dict[str, int] = field(default_factory=lambda: {o.value: 0 for o in Outcome} | {DISCARDED: 0})
    worst_jitter: Jitter = field(default_factory=Jitter)
    journal_seconds: float = 0.0
    dropped: dict[str, int] = field(default_factory=dict)

    @property
    def human_share(self) -> float:
        """Share of the steps that the operator drove, in [0, 1]."""
        return self.human_steps / self.steps if self.steps else 0.0

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self) | {"human_share": self.human_share}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SessionSummary:
        """The inverse of ``to_json``."""
        known = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        return cls(**known | {"worst_jitter": Jitter(**values["worst_jitter"])})


class TeleopSession:
    """Plays episodes at a fixed rate under an operator, every step recorded.

    Args:
        world: what is played.
        operator: who watches; a ``StationOperator`` is also told of the session, and may pause it.
        store: where to.
        pacer: the clock.
        on_scene: called when the world has changed, to have it shown; it must not take time.
        on_tick: called at every tick, likewise.
        should_stop: whether to end, at the next tick if the operator is a person, else after the episode.
        before: what came of an earlier part of the session.
        extra: values to keep with each episode.
        real_time: ask the system to let this loop go first.
    """

    def __init__(
        self,
        world: World,
        operator: Operator,
        store: EpisodeStore,
        pacer: Pacer,
        *,
        on_scene: Callable[[], None] = lambda: None,
        on_tick: Callable[[], None] = lambda: None,
        should_stop: Callable[[], bool] = lambda: False,
        before: SessionSummary | None = None,
        extra: dict[str, Any] | None = None,
        real_time: bool = True,
    ) -> None:
        self.summary = before or SessionSummary()
        self._dropped_before, self._journal = dict(self.summary.dropped), BackgroundStore(store)
        self._warm = self._real_time = False
        self._asks_for_priority = real_time
        self._priority = ExitStack()
        self._world, self._operator, self._store, self._pacer = world, operator, store, pacer
        self._station = operator if isinstance(operator, StationOperator) else None
        self._on_scene, self._on_tick, self._should_stop = on_scene, on_tick, should_stop
        self._env = RecordEpisodes(
            InterventionEnv(world.env, operator),
            self._journal,
            task=world.task,
            policy_id=world.policy_id,
            operator_id=operator.operator_id,
            extra={**world.extra, **(extra or {}), "hz": pacer.hz},
            extra_at_end=lambda: {"jitter": pacer.jitter().to_json(), "real_time": self._real_time},
        )

    def run(self, seeds: Sequence[int], *, planned: int) -> bool:
        """One episode for each seed, the last of ``planned`` -> False when it was stopped before the end."""
        began = time.monotonic() - self.summary.seconds
        with ExitStack() as self._priority, _old_objects_left_alone():
            for number, seed in enumerate(seeds, start=planned - len(seeds) + 1):
                if self._stopping():
                    break
                self._tell(episode=number, episodes_planned=planned)
                self._episode(seed)
                self.summary.seconds = time.monotonic() - began
        return not self._stopping()

    def close(self) -> None:
        """Keep a running episode as aborted, and free the environment."""
        self._env.close()
        self._count_losses()

    def _stopping(self) -> bool:
        return self._should_stop() or (self._station is not None and self._station.stop_requested)

    def _tell(self, **changes: Any) -> None:
        if self._station is not None:
            self._station.session = replace(self._station.session, **changes)

    def _episode(self, seed: int) -> None:
        instruction = self._world.instruction(seed)
        self._env.instruction = instruction
        self._tell(task=self._world.task, instruction=instruction)
        observation, _ = self._env.reset(seed=seed)
        self._on_scene()
        if not self._warm:
            # The first time takes longer than a tick, and starts the threads of the policy, which are to be ordinary
            # ones: they could keep the station's process from running.
            self._world.runner(observation, instruction)
            self._real_time = self._asks_for_priority and self._priority.enter_context(real_time_priority())
            self._warm = True
        self._world.runner.reset()
        self._pacer.start()
        tally = _Tally()
        waited = False
        for tick in itertools.count():
            self._pacer.wait()
            self._attend(tick)
            if self._waits():
                waited = True
                if tick % _IDLE_TICKS_PER_PICTURE == 0:
                    self._on_scene()  # nothing moves, and the operator sees that the picture is not an old one
                continue
            if waited:
                self._world.runner.reset()
                waited = False
            action = self._world.runner(observation, instruction)
            observation, _, terminated, truncated, info = self._env.step(action)
            self._on_scene()
            if driven_by_others(info):
                # While others drive, what the policy proposes comes from what is seen now, and so does the first
                # action after they hand back. Only the proposal that they took over from is a step of the old plan:
                # it is what would have been executed.
                self._world.runner.reset()
            tally.take(info)
            if terminated or truncated:
                self._count(tally, info)
                return

    def _count_losses(self) -> None:
        self.summary.journal_seconds = max(self.summary.journal_seconds, self._journal.delays[0])
        source = self._station.source if self._station is not None else None
        if isinstance(source, DropsMessages):
            self.summary.dropped = dict(Counter(self._dropped_before) + Counter(source.dropped))

    def _attend(self, tick: int) -> None:
        """What else is due at a tick."""
        self._on_tick()
        if tick % max(1, round(self._pacer.hz)) == 0:
            self._tell(jitter_p99_ms=self._pacer.jitter().p99_ms)
        if self._station is not None and self._should_stop():
            self._station.request_stop()

    def _waits(self) -> bool:
        """Whether the operator has paused; the device is read here then, because no step asks for it."""
        station = self._station
        return station is not None and station.state is State.PAUSED and station.poll() is State.PAUSED

    def _count(self, tally: _Tally, info: dict[str, Any]) -> None:
        if not tally.steps:
            return
        summary, jitter = self.summary, self._pacer.jitter()
        summary.episodes += 1
        summary.steps += tally.steps
        summary.human_steps += tally.human_steps
        summary.takeovers += len(tally.segments)
        if jitter.p99_ms >= summary.worst_jitter.p99_ms:
            summary.worst_jitter = jitter
        summary.outcomes[self._outcome(info)] += 1
        self._tell(outcomes=tuple(summary.outcomes.items()), jitter_p99_ms=jitter.p99_ms)

    def _outcome(self, info: dict[str, Any]) -> str:
        if info.get(OPERATOR_EVENT) is OperatorEvent.DISCARD:
            return DISCARDED
        return self._store.info(info["episode_id"]).outcome.value


@dataclass
class _Tally:
    """Steps of the running episode."""

    steps: int = 0
    human_steps: int = 0
    segments: set[int] = field(default_factory=set)

    def take(self, info: dict[str, Any]) -> None:
        """Count a step by what the supervised environment reports; an episode's stop is none."""
        record = info.get(STEP_RECORD)
        if record is None:
            return
        self.steps += 1
        if record["actor"] is Actor.HUMAN:
            self.human_steps += 1
            self.segments.add(record["segment_id"])


@contextmanager
def _old_objects_left_alone() -> Iterator[None]:
    """Inside it the garbage collector looks at new objects only: going over torch's and the simulator's takes ticks."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
