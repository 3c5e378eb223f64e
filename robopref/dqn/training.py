"""Training a deep Q policy on vectorised Atari games: dueling double DQN with prioritised replay, plain or certified.

The loop of Mnih et al. (Nature 2015) with games side by side: all games take a step, the steps go to the replay, and
every ``train_every`` steps a batch of ``batch_size`` is learnt from. What is kept fixed when games are added is the
number of samples replayed per step, batch_size / train_every (8 in the original: 32 every 4 steps). Rewards are learnt
from by their sign; scores are counted as the game gives them.
"""

from __future__ import annotations

import ast
import os
import pickle
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robopref.dqn.exploration import RepeatedRandomActions
from robopref.dqn.learner import Learner, LearnerSettings
from robopref.dqn.replay import PrioritizedReplay
from robopref.envs.ale import AtariSpec, make_atari_vector
from robopref.errors import RoboprefError
from robopref.policies.q_network import QNetwork

_RECENT_EPISODES = 20
_FIRST_RADIUS = 1e-4  # of the radius at the end
_SEEDS_PER_RUN = 1_000_003
FIRST_EVALUATION_SEED = 2_100_000_000
"""Games that are trained on have seeds below it, so that a policy can be judged on others; ALE's seeds end at 2^31."""

Log = Callable[[Mapping[str, float], int], None]


@dataclass(frozen=True)
class DQNSettings:
    """How a policy is trained; a step is one agent step of one game.

    Attributes:
        steps: agent steps over all games.
        num_envs: games side by side.
        batch_size: transitions of an update.
        train_every: steps between updates, a multiple of ``num_envs``.
        replay_capacity: steps kept.
        learning_starts: steps before the first update, enough for a whole return of ``n_step``.
        target_every: steps between copies to the target network.
        n_step: steps of a return.
        gamma: discount.
        priority_alpha: exponent of the priorities.
        priority_beta: exponent of the importance weights at the start; it rises to 1 at the end.
        epsilon_start: probability of beginning to explore, at the start.
        epsilon_end: the same from step ``epsilon_steps`` on; between them it falls linearly.
        epsilon_steps: see ``epsilon_end``.
        exploration_mu: exponent of the durations of exploration; infinity: single random actions.
        robust_radius: radius of the robust regulariser at the end, in pixel values of [0, 1] (used if kappa > 0).
        robust_start: step from which on there is a radius, at first a ten-thousandth of ``robust_radius``.
        robust_ramp: steps that it takes to grow, by the same factor at every step.
        learner: how a batch becomes an update.
        seed: of everything; from 0 to about 2000.

    Raises:
        RoboprefError: numbers out of range or that do not go together.
    """

    steps: int = 400_000
    num_envs: int = 8
    batch_size: int = 128
    train_every: int = 16
    replay_capacity: int = 100_000
    learning_starts: int = 10_000
    target_every: int = 2_000
    n_step: int = 3
    gamma: float = 0.99
    priority_alpha: float = 0.5
    priority_beta: float = 0.4
    epsilon_start: float = 1.0
    epsilon_end: float = 0.01
    epsilon_steps: int = 50_000
    exploration_mu: float = 2.0
    robust_radius: float = 1 / 255
    robust_start: int = 0
    robust_ramp: int = 100_000
    learner: LearnerSettings = field(default_factory=LearnerSettings)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "num_envs", "batch_size", "train_every", "target_every", "n_step", "robust_ramp"):
            if getattr(self, name) < 1:
                raise RoboprefError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.train_every % self.num_envs:
            raise RoboprefError(
                f"train_every ({self.train_every}) must be a multiple of num_envs ({self.num_envs}): all games step "
                "together."
            )
        if not 0 < self.gamma <= 1:
            raise RoboprefError(f"gamma is a discount in (0, 1], got {self.gamma}.")
        least = (self.n_step + 1) * self.num_envs
        if self.learning_starts < least:
            raise RoboprefError(
                f"learning_starts must be at least {least}, got {self.learning_starts}: a return of n_step "
                f"({self.n_step}) steps in num_envs ({self.num_envs}) games takes that many."
            )
        if self.learning_starts >= min(self.steps, self.replay_capacity):
            raise RoboprefError(
                f"learning_starts ({self.learning_starts}) must lie below steps ({self.steps}) and the replay's "
                f"capacity ({self.replay_capacity})."
            )
        highest = (FIRST_EVALUATION_SEED - self.num_envs - self.steps) // _SEEDS_PER_RUN
        if not 0 <= self.seed <= highest:
            raise RoboprefError(f"seed runs from 0 to {highest}, got {self.seed}.")


class DQNTrainer:
    """A training run that can be stopped at any step and gone on with.

    Going on restores weights, optimiser, replay, draws and counters; the games themselves begin anew, because ALE's
    vector environment cannot be copied, and that break is kept in the replay as a truncation.

    Args:
        network: trained in place; on its own device, where the replay is too.
        spec: the game as it is trained on.
        settings: how.
        anchor: a frozen network whose actions the robust regulariser holds, see ``dqn.learner``.
        log: called with metrics and the step, about every ``log_every`` steps.
        log_every: steps.
        should_stop: asked between steps.
        progress: called with (step, steps).
        checkpoint: called about every ``checkpoint_every`` steps, to save.
        checkpoint_every: steps.
    """

    def __init__(
        self,
        network: QNetwork,
        spec: AtariSpec,
        settings: DQNSettings,
        *,
        anchor: QNetwork | None = None,
        log: Log | None = None,
        log_every: int = 2_000,
        should_stop: Callable[[], bool] = lambda: False,
        progress: Callable[[int, int], None] | None = None,
        checkpoint: Callable[[DQNTrainer], None] | None = None,
        checkpoint_every: int = 100_000,
    ) -> None:
        self.spec, self.settings = spec, settings
        self.learner = Learner(network, settings.learner, anchor=anchor)
        self.replay = PrioritizedReplay(
            settings.replay_capacity,
            settings.num_envs,
            (1 if spec.grayscale else 3, spec.image_size, spec.image_size),
            frame_stack=spec.frame_stack,
            n_step=settings.n_step,
            gamma=settings.gamma,
            alpha=settings.priority_alpha,
            device=self.learner.device,
            seed=settings.seed,
        )
        self.explore = RepeatedRandomActions(
            settings.num_envs, network.architecture.n_actions, mu=settings.exploration_mu, seed=settings.seed
        )
        self.step = 0
        self.log, self.log_every, self.should_stop, self.progress = log, log_every, should_stop, progress
        self.checkpoint, self.checkpoint_every = checkpoint, checkpoint_every
        self._scores: deque[float] = deque(maxlen=_RECENT_EPISODES)
        self._episodes = 0

    def run(self) -> bool:
        """Train to the end; returns False when ``should_stop`` ended it earlier."""
        self.replay.cut()
        games = _Games(self.spec, self.settings.num_envs, seed=self.settings.seed * _SEEDS_PER_RUN + self.step)
        window = _Window(self.step)
        try:
            while self.step < self.settings.steps:
                if self.should_stop():
                    return False
                self._play(games)
                if self.step >= self.settings.learning_starts and self.step % self.settings.train_every == 0:
                    window.add(self._learn())
                if self.step % self.log_every < self.settings.num_envs:
                    self._report(window)
                    window = _Window(self.step)
                if self.progress is not None:
                    self.progress(self.step, self.settings.steps)
                if self.checkpoint is not None and self.step % self.checkpoint_every < self.settings.num_envs:
                    self.checkpoint(self)
        finally:
            games.close()
        return True

    def exploration(self) -> float:
        """Epsilon at the present step."""
        s = self.settings
        share = min(1.0, self.step / s.epsilon_steps) if s.epsilon_steps else 1.0
        return s.epsilon_start + share * (s.epsilon_end - s.epsilon_start)

    def robust_radius(self) -> float:
        """Radius of the robust regulariser at the present step: 0, then geometric growth over four decades.

        The interval bounds of an ordinary network are loose by orders of magnitude. Where the radius grows linearly,
        it leaps over all of them in the first few updates, and the network gives up the game to make them hold.
        """
        s = self.settings
        share = (self.step - s.robust_start) / s.robust_ramp
        return 0.0 if share < 0 else s.robust_radius * _FIRST_RADIUS ** (1 - min(1.0, share))

    def save(self, path: Path, fingerprint: str) -> None:
        """Write everything needed to go on; ``path`` holds the old state until the new one is complete."""
        state = {
            "fingerprint": fingerprint,
            "step": self.step,
            "episodes": self._episodes,
            "scores": list(self._scores),
            "exploration": repr(self.explore.rng.bit_generator.state),
            "learner": self.learner.state_dict(),
            "replay": self.replay.state_dict(),
        }
        temporary = path.with_name(path.name + ".tmp")
        with temporary.open("wb") as file:
            try:
                torch.save(state, file)
            except RuntimeError as error:  # how torch reports a full disk
                raise RoboprefError(f"cannot write {temporary} ({error}): free some space, then resume.") from error
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)

    def load(self, path: Path, fingerprint: str) -> None:
        """Go on from what ``save`` wrote.

        Raises:
            RoboprefError: the state is damaged or belongs to other settings.
        """
        try:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise RoboprefError(f"{path} is damaged ({error}): remove it to train from the start.") from error
        if state["fingerprint"] != fingerprint:
            raise RoboprefError(f"{path} was saved with other settings: repeat the original command.")
        self.step, self._episodes = int(state["step"]), int(state["episodes"])
        self._scores = deque(state["scores"], maxlen=_RECENT_EPISODES)
        self.learner.load_state_dict(state["learner"])
        self.replay.load_state_dict(state["replay"])
        self.explore.rng.bit_generator.state = ast.literal_eval(state["exploration"])

    def _play(self, games: _Games) -> None:
        with torch.no_grad():
            greedy = self.learner.greedy(torch.from_numpy(games.states)).cpu().numpy()
        actions = self.explore(greedy, self.exploration(), games.first)
        frames, first = games.newest_frames(), games.first
        rewards, terminated, truncated, acted = games.step(actions)
        self.replay.add(*map(torch.as_tensor, (frames, actions, np.sign(rewards), terminated, truncated, first, acted)))
        for score in games.finished_scores():
            self._scores.append(score)
            self._episodes += 1
        self.step += self.settings.num_envs

    def _learn(self) -> dict[str, torch.Tensor]:
        s = self.settings
        beta = s.priority_beta + (1 - s.priority_beta) * self.step / s.steps
        batch = self.replay.sample(s.batch_size, beta)
        errors, metrics = self.learner.update(batch, self.robust_radius())
        self.replay.update_priorities(batch.indices, errors)
        if self.step % s.target_every < s.train_every:
            self.learner.update_target()
        return metrics

    def _report(self, window: _Window) -> None:
        if self.log is None:
            return
        metrics = window.means() | {
            "exploration": self.exploration(),
            "robust_radius": self.robust_radius() if self.settings.learner.kappa > 0 else 0.0,
            "steps_per_second": window.speed(self.step),
            "episodes": float(self._episodes),
        }
        if self._scores:
            metrics["score/mean_of_last_20"] = float(np.mean(self._scores))
        self.log(metrics, self.step)


class _Games:
    """The games that are trained on, with what the replay needs to know about their episodes."""

    def __init__(self, spec: AtariSpec, num_envs: int, seed: int) -> None:
        self._env = make_atari_vector(spec, num_envs)
        self._channels = 1 if spec.grayscale else 3
        self.states = self._as_states(self._env.reset(seed=seed)[0])
        self.first = np.ones(num_envs, bool)
        self._over = np.zeros(num_envs, bool)
        self._earned = np.zeros(num_envs)
        self._finished: list[float] = []

    def newest_frames(self) -> Any:
        """The newest frame of every state, uint8 [num_envs, channels, H, W]."""
        return self.states[:, -self._channels :]

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any]:
        """Rewards, terminated, truncated, and whether the action counted."""
        acted = ~self._over
        observations, rewards, terminated, truncated, _ = self._env.step(actions)
        self.states, self.first = self._as_states(observations), self._over
        self._over = terminated | truncated
        self._earned += rewards
        self._finished += self._earned[self._over].tolist()
        self._earned[self._over] = 0
        return rewards, terminated, truncated, acted

    def finished_scores(self) -> list[float]:
        """Scores of the episodes that ended since the last call."""
        finished, self._finished = self._finished, []
        return finished

    def close(self) -> None:
        """End the games."""
        self._env.close()

    def _as_states(self, observations: Any) -> Any:
        """[num_envs, stack, H, W] as it is, [..., 3] with its colours as channels."""
        if observations.ndim == 5:
            observations = np.moveaxis(observations, -1, 2).reshape(len(observations), -1, *observations.shape[2:4])
        return np.ascontiguousarray(observations)


class _Window:
    """Metrics since the last report; their tensors are only read when they are reported."""

    def __init__(self, step: int) -> None:
        self._step, self._start = step, time.perf_counter()
        self._rows: list[dict[str, torch.Tensor]] = []

    def add(self, metrics: dict[str, torch.Tensor]) -> None:
        self._rows.append(metrics)

    def means(self) -> dict[str, float]:
        names = dict.fromkeys(name for row in self._rows for name in row)
        return {name: float(torch.stack([row[name] for row in self._rows if name in row]).mean()) for name in names}

    def speed(self, step: int) -> float:
        return (step - self._step) / max(1e-9, time.perf_counter() - self._start)
