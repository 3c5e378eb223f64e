"""How well a Q network plays, beside chance: whole games, scores unclipped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from robopref.envs.ale import AtariSpec, make_atari_vector, n_actions
from robopref.errors import RoboprefError
from robopref.evaluation.statistics import bootstrap_mean
from robopref.policies.q_network import QNetwork

_GAMES = 10  # at a time


def play(network: QNetwork | None, spec: AtariSpec, *, episodes: int, seed: int, epsilon: float = 0.01) -> list[float]:
    """Scores of whole episodes, played greedily but for a share ``epsilon`` of random actions; None plays at random.

    Every episode that begins is played to its end, so that short ones are no likelier to count; rewards are not
    clipped and lost lives end nothing, whatever the training did.

    Raises:
        RoboprefError: no episodes asked for.
    """
    if episodes < 1:
        raise RoboprefError(f"at least one episode must be played, got {episodes}.")
    spec = replace(spec, reward_clip=False, episodic_life=False)
    choose = _chooser(network, n_actions(spec), epsilon, np.random.default_rng(seed))
    scores: list[float] = []
    while len(scores) < episodes:
        count = min(_GAMES, episodes - len(scores))
        env = make_atari_vector(spec, count)
        states, _ = env.reset(seed=seed + len(scores))
        earned, over = np.zeros(count), np.zeros(count, bool)
        while not over.all():
            states, rewards, terminated, truncated, _ = env.step(choose(states))
            earned += np.where(over, 0.0, rewards)
            over |= terminated | truncated
        env.close()
        scores += earned.tolist()
    return scores


def score_summary(scores: list[float]) -> dict[str, Any]:
    """Mean score with a 95 % bootstrap interval over episodes, and the scores themselves."""
    return asdict(bootstrap_mean(scores)) | {"scores": scores}


def _chooser(
    network: QNetwork | None, actions: int, epsilon: float, rng: np.random.Generator
) -> Callable[[NDArray[np.uint8]], NDArray[np.int64]]:
    @torch.no_grad()
    def choose(states: NDArray[np.uint8]) -> NDArray[np.int64]:
        drawn = rng.integers(actions, size=len(states))
        if network is None:
            return drawn
        device = next(network.parameters()).device
        pixels = torch.as_tensor(states).to(device).float() / 255
        greedy = network(pixels).argmax(dim=1).cpu().numpy()
        return np.where(rng.random(len(states)) < epsilon, drawn, greedy)

    return choose
