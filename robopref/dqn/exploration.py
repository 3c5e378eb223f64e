"""Exploration that keeps to a direction: temporally extended epsilon-greedy.

Dabney, Ostrovski and Barreto, "Temporally-Extended epsilon-Greedy Exploration" (ICLR 2021): an exploratory action is
repeated for a number of steps drawn from a zeta distribution, P(n) ~ n^-mu. Single random actions hardly ever cross
the road of Freeway.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError


class RepeatedRandomActions:
    """Replaces greedy actions now and then by a random one that lasts.

    Args:
        num_envs: games.
        n_actions: to choose among.
        mu: exponent of the durations, above 1; infinity is plain epsilon-greedy.
        seed: of the draws.

    Raises:
        RoboprefError: ``mu`` is not above 1.
    """

    def __init__(self, num_envs: int, n_actions: int, *, mu: float = 2.0, seed: int = 0) -> None:
        if not mu > 1:
            raise RoboprefError(f"the exponent of the durations must be above 1, got {mu}.")
        self.n_actions, self.mu = n_actions, mu
        self.rng = np.random.default_rng(seed)
        self._left = np.zeros(num_envs, np.int64)
        self._action = np.zeros(num_envs, np.int64)

    def __call__(self, greedy: NDArray[np.int64], epsilon: float, ended: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Actions [num_envs] for the greedy ones [num_envs]; a repetition stops where an episode ``ended``.

        ``epsilon`` is the probability with which a game that is acting greedily begins to explore.
        """
        self._left[ended] = 0
        begin = (self._left == 0) & (self.rng.random(len(greedy)) < epsilon)
        if begin.any():
            count = int(begin.sum())
            self._action[begin] = self.rng.integers(self.n_actions, size=count)
            self._left[begin] = 1 if np.isinf(self.mu) else np.minimum(self.rng.zipf(self.mu, size=count), 10_000)
        exploring = self._left > 0
        self._left[exploring] -= 1
        return np.where(exploring, self._action, greedy)
