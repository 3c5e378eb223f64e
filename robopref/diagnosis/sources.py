"""Where the episodes of a diagnosis come from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gymnasium.vector import VectorEnv

from robopref.diagnosis.collection import Attack, EpisodeTrace, Progress, Shift, collect_episodes
from robopref.protocols import QPolicy


class EpisodeSource(Protocol):
    """Plays a policy; the same arguments give the same episodes, and episode i of a seed begins alike for everybody."""

    def play(
        self,
        q_policy: QPolicy,
        *,
        episodes: int,
        seed: int,
        epsilon: float,
        shift: Shift | None = None,
        attack: Attack | None = None,
        max_steps: int | None = None,
        progress: Progress | None = None,
    ) -> list[EpisodeTrace]:
        """``episodes`` traces, with a random action at a share ``epsilon`` of the steps.

        What an attack adds is not kept: the traces hold the states before it.
        """


class GameSource:
    """Episodes of a vectorised game with bare frames.

    Args:
        make_env: as ``collect_episodes`` takes it, frames unstacked; made once, at the first episode.
        frame_stack: frames in a state of the policy.
        serve: as ``collect_episodes`` takes it.
    """

    def __init__(self, make_env: Callable[[], VectorEnv], frame_stack: int, *, serve: int | None = None) -> None:
        self._make_env, self._frame_stack, self._serve = make_env, frame_stack, serve
        self._env: VectorEnv | None = None

    def play(
        self,
        q_policy: QPolicy,
        *,
        episodes: int,
        seed: int,
        epsilon: float,
        shift: Shift | None = None,
        attack: Attack | None = None,
        max_steps: int | None = None,
        progress: Progress | None = None,
    ) -> list[EpisodeTrace]:
        """As ``EpisodeSource`` says. Raises RoboprefError as ``collect_episodes`` does."""
        if self._env is None:
            self._env = self._make_env()
        return collect_episodes(
            q_policy,
            self._env,
            episodes=episodes,
            seed=seed,
            frame_stack=self._frame_stack,
            shift=shift,
            epsilon=epsilon,
            attack=attack,
            max_steps=max_steps,
            keep_perturbations=False,
            serve=self._serve,
            progress=progress,
        )

    def close(self) -> None:
        """End the games."""
        if self._env is not None:
            self._env.close()
            self._env = None
