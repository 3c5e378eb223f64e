"""Operators that are programs: one that plays a person with an expert's hands, and one that only watches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError
from robopref.protocols import FOLLOW, Expert, Mode, Observation, Operator, OperatorCommand


@dataclass(frozen=True)
class ScriptedOperatorConfig:
    """How a scripted operator watches, drives and hands back.

    Tolerances are in the units of the progress that it watches (robopref's manipulation tasks: metres).

    Args:
        stall_steps: it decides to take over when progress has not improved on its best for this many steps,
        stall_tolerance: an improvement being at least this much;
        divergence_steps: or when progress has stayed below its best for this many steps
        divergence_tolerance: by more than this.
        reaction_delay: smallest and largest number of steps between deciding and driving, drawn uniformly.
        action_noise: standard deviation added to the expert's action, which is then clipped to [-1, 1].
        wrong_takeover_rate: probability at each watched step of taking over without a reason,
        wrong_takeover_steps: and how many steps that lasts.
        hand_back: whether it ever hands back; if not, it drives until the episode ends.
        recovery: it hands back when progress exceeds its level at the takeover by this much
        min_takeover_steps: and it has driven at least so long,
        max_takeover_steps: or in any case when it has driven so long (None: no limit).
        max_takeovers: it takes over at most so often in an episode (None: no limit).
        seed: of the delays, the noise and the wrong takeovers, together with the episode's own seed.

    Raises:
        RoboprefError: a value that makes no sense.
    """

    stall_steps: int = 30
    stall_tolerance: float = 0.01
    divergence_steps: int = 5
    divergence_tolerance: float = 0.05
    reaction_delay: tuple[int, int] = (1, 5)
    action_noise: float = 0.05
    wrong_takeover_rate: float = 0.0
    wrong_takeover_steps: int = 5
    hand_back: bool = True
    recovery: float = 0.05
    min_takeover_steps: int = 10
    max_takeover_steps: int | None = 150
    max_takeovers: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("stall_steps", "divergence_steps", "wrong_takeover_steps", "min_takeover_steps"):
            if getattr(self, name) < 1:
                raise RoboprefError(f"scripted operator: {name} is {getattr(self, name)}, it must be at least 1.")
        for name in ("stall_tolerance", "divergence_tolerance", "action_noise", "recovery", "seed"):
            if not getattr(self, name) >= 0:
                raise RoboprefError(f"scripted operator: {name} is {getattr(self, name)}, it must not be negative.")
        if not 0 <= self.wrong_takeover_rate <= 1:
            raise RoboprefError(f"scripted operator: wrong_takeover_rate {self.wrong_takeover_rate} is not in [0, 1].")
        if not 0 <= self.reaction_delay[0] <= self.reaction_delay[1]:
            raise RoboprefError(f"scripted operator: reaction_delay {self.reaction_delay} is no range of steps.")
        if self.max_takeover_steps is not None and self.max_takeover_steps < self.min_takeover_steps:
            raise RoboprefError("scripted operator: max_takeover_steps is below min_takeover_steps.")
        if self.max_takeovers is not None and self.max_takeovers < 0:
            raise RoboprefError(f"scripted operator: max_takeovers is {self.max_takeovers}, it must not be negative.")


class ScriptedOperator(Operator):
    """Plays a person: watches progress, takes over late and imperfectly, drives as an expert does, hands back.

    Its behaviour in an episode depends on the configuration, the episode's seed and what it observes, never on
    earlier episodes; in an episode without a seed it draws fresh randomness.

    Args:
        expert: whose hands it has; its actions are in [-1, 1].
        progress: how far along an observation is, larger is better.
        config: how it behaves.
        operator_id: the name under which recordings know it.
    """

    def __init__(
        self,
        expert: Expert,
        progress: Callable[[Observation], float],
        config: ScriptedOperatorConfig | None = None,
        *,
        operator_id: str = "scripted",
    ) -> None:
        self.operator_id = operator_id
        self.config = config or ScriptedOperatorConfig()
        self._expert = expert
        self._progress = progress
        self.reset({"seed": self.config.seed})

    def reset(self, info: Mapping[str, Any]) -> None:
        """A new episode begins; ``info["seed"]`` seeds the delays, the noise and the wrong takeovers."""
        seed = info.get("seed")
        self._random = np.random.default_rng(None if seed is None else [self.config.seed, int(seed)])
        self._expert.reset()
        self._takeovers = 0
        self._driven: int | None = None  # steps of the running takeover
        self._level_at_takeover = 0.0
        self._wrong = False  # the running takeover, or the one decided upon, has no reason
        self._watch_afresh()

    def _watch_afresh(self) -> None:
        self._best = -np.inf
        self._steps_without_gain = 0
        self._steps_below_best = 0
        self._delay: int | None = None  # steps left before it drives, once decided

    def command(self, observation: Observation, proposed_action: NDArray[Any]) -> OperatorCommand:
        """Follow or take over at this tick.

        Raises:
            RoboprefError: the progress or the expert's action is not finite.
        """
        progress = float(self._progress(observation))
        if not np.isfinite(progress):
            raise RoboprefError(f"scripted operator: the task's progress is {progress}; it must be a finite number.")
        if self._driven is not None and self._should_hand_back(progress):
            self._driven = None
            self._watch_afresh()
            if self._should_take_over(progress):
                self._delay = 1  # a step of the policy lies between two takeovers: else they would be one
            return FOLLOW
        if self._driven is None and not self._should_take_over(progress):
            return FOLLOW
        if self._driven is None:
            self._driven = 0
            self._level_at_takeover = progress
            self._takeovers += 1
        self._driven += 1
        return OperatorCommand(Mode.TAKE_OVER, self._drive(observation))

    def _should_take_over(self, progress: float) -> bool:
        """Watch one more step; true when the reaction delay of a decision has passed."""
        config = self.config
        if config.max_takeovers is not None and self._takeovers >= config.max_takeovers:
            return False
        if progress >= self._best + config.stall_tolerance:
            self._best = progress
            self._steps_without_gain = 0
        else:
            self._steps_without_gain += 1
        below = progress < self._best - config.divergence_tolerance
        self._steps_below_best = self._steps_below_best + 1 if below else 0

        if self._delay is not None:
            self._delay -= 1
        else:
            self._wrong = bool(self._random.random() < config.wrong_takeover_rate)
            stalled = self._steps_without_gain >= config.stall_steps
            diverged = self._steps_below_best >= config.divergence_steps
            if self._wrong or stalled or diverged:
                low, high = config.reaction_delay
                self._delay = int(self._random.integers(low, high + 1))
        return self._delay == 0

    def _should_hand_back(self, progress: float) -> bool:
        config, driven = self.config, self._driven
        assert driven is not None
        if self._wrong:
            return driven >= config.wrong_takeover_steps
        if not config.hand_back:
            return False
        if config.max_takeover_steps is not None and driven >= config.max_takeover_steps:
            return True
        return driven >= config.min_takeover_steps and progress >= self._level_at_takeover + config.recovery

    def _drive(self, observation: Observation) -> NDArray[np.float32]:
        action = np.asarray(self._expert(observation), dtype=np.float32)
        if not np.isfinite(action).all():
            raise RoboprefError(f"scripted operator: the expert's action {action} is not finite.")
        noisy = action + self._random.normal(0.0, self.config.action_noise, action.shape)
        return np.clip(noisy, -1.0, 1.0).astype(np.float32)


class Spectator(Operator):
    """Watches and never intervenes: what a policy does alone, through the same wrapper."""

    operator_id = "spectator"

    def reset(self, info: Mapping[str, Any]) -> None:
        """Nothing to prepare."""

    def command(self, observation: Observation, proposed_action: NDArray[Any]) -> OperatorCommand:
        """Always FOLLOW."""
        return FOLLOW
