"""A set's gradients in their leading subspace, episode by episode: a thousand bootstrap resamples in a second.

States of one episode resemble one another, so the bootstrap draws whole episodes. A resample counts episode e w_e
times, and its L is sum_e w_e L_e. In the span V [r, d] of the r leading eigenvectors of the whole set that is the small
matrix sum_e w_e V L_e V^T. Its largest eigenvalue never lies above that of the resample's L, and below it by at most
max_e w_e times ``Subspace.rest``: off V, sum_e w_e L_e is at most max_e w_e L, and the largest eigenvalue of a positive
matrix is at most the sum of those of its two diagonal blocks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopref.diagnosis.directions import PrincipalDirections
from robopref.diagnosis.results import Subspace
from robopref.errors import RoboprefError


def episode_grams(
    batches: Iterable[NDArray[Any]], episode_of: NDArray[np.integer], n_episodes: int, basis: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """V L_e V^T of every episode, and the trace of L_e.

    Args:
        batches: gradients [n, d], in the order of ``episode_of``.
        episode_of: [N], the episode (0 to n_episodes - 1) of each state.
        n_episodes: E; an episode without states has zeros.
        basis: V [r, d], orthonormal rows.

    Returns:
        [E, r, r] and [E], float64.

    Raises:
        RoboprefError: there are more or fewer gradients than ``episode_of`` says.
    """
    grams, traces = np.zeros((n_episodes, len(basis), len(basis))), np.zeros(n_episodes)
    done = 0
    for batch in batches:
        episodes = episode_of[done : done + len(batch)]
        done += len(batch)
        if len(episodes) < len(batch):
            break
        shared = batch @ basis.T.astype(batch.dtype, copy=False)
        squares = np.einsum("nd,nd->n", batch, batch, dtype=np.float64)
        for episode in np.unique(episodes):
            rows = shared[episodes == episode].astype(np.float64)
            grams[episode] += rows.T @ rows
            traces[episode] += squares[episodes == episode].sum()
    if done != len(episode_of):
        raise RoboprefError(f"there are {len(episode_of)} states with an episode, and another number of gradients.")
    return grams, traces


def leading_subspace(
    directions: PrincipalDirections, grams: NDArray[np.float64], traces: NDArray[np.float64]
) -> Subspace:
    """The record of a set whose leading directions span the subspace; grams and traces as ``episode_grams`` gives."""
    rest = float(directions.eigenvalues[-1]) + directions.error_bound
    return Subspace(directions.directions.astype(np.float32), grams, traces, rest)


def resample_counts(n_episodes: int, n_resamples: int, seed: int | list[int]) -> NDArray[np.int64]:
    """How often each episode is drawn: [n_resamples, n_episodes], rows summing to ``n_episodes``."""
    return np.random.default_rng(seed).multinomial(n_episodes, np.full(n_episodes, 1 / n_episodes), n_resamples)


def leading_vectors(
    counts: NDArray[np.integer], grams: NDArray[np.float64], k: int = 1
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The k leading eigenpairs of every resample in the subspace.

    Args:
        counts: [R, E], how often each episode is drawn.
        grams: [E, r, r].
        k: how many, at most r.

    Returns:
        Eigenvalues [R, k], largest first, and the eigenvectors' coordinates in the subspace [R, k, r].
    """
    resampled = np.tensordot(counts.astype(np.float64), grams, axes=1)
    values, vectors = np.linalg.eigh(resampled)
    return np.maximum(values[:, : -k - 1 : -1], 0), vectors.transpose(0, 2, 1)[:, : -k - 1 : -1]
