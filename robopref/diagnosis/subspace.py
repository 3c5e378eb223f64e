"""A set's gradients in their leading subspace, episode by episode: a thousand bootstrap resamples in a second.

States of one episode resemble one another, so the bootstrap draws whole episodes. A resample counts episode e w_e
times, and its L is sum_e w_e L_e. In the span V [r, d] of the r leading eigenvectors of the whole set that is the small
matrix A = sum_e w_e V L_e V^T. In a basis that begins with V the whole is

    L = ( A    B )        B = sum_e w_e V L_e (I - V^T V),    lambda_max(C) <= c = max_e w_e lambda_max(L off V),
        ( B^T  C ),

so that lambda_max(A) <= lambda_max(L) <= the largest eigenvalue of the 2 x 2 matrix (lambda_max(A), |B|; |B|, c).
|B| is small, for V was chosen so that the B_e add up to nothing; it needs no more than the products B_e B_f^T [r, r].
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopref.diagnosis.directions import ROUGH, PrincipalDirections
from robopref.diagnosis.results import Subspace
from robopref.errors import RoboprefError

_COLUMNS = 4096  # summed in float64 at a time


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


def episode_leakage(
    batches: Iterable[NDArray[Any]], episode_of: NDArray[np.integer], n_episodes: int, basis: NDArray[Any]
) -> NDArray[np.float64]:
    """B_e B_f^T of every two episodes [E, E, r, r], B_e = V L_e (I - V^T V); holds E * r * d values meanwhile.

    Arguments as ``episode_grams`` takes them.
    """
    directions = basis.astype(np.float32)
    images = np.zeros((n_episodes, *directions.shape), np.float32)
    done = 0
    for batch in batches:
        episodes = episode_of[done : done + len(batch)]
        done += len(batch)
        shared = batch @ directions.T
        off = batch - shared @ directions
        for episode in np.unique(episodes):
            rows = episodes == episode
            images[episode] += shared[rows].T @ off[rows]
    flat = images.reshape(-1, directions.shape[1])
    products = np.zeros((len(flat), len(flat)))
    for start in range(0, flat.shape[1], _COLUMNS):
        block = flat[:, start : start + _COLUMNS].astype(np.float64)
        products += block @ block.T
    return products.reshape(n_episodes, len(directions), n_episodes, len(directions)).transpose(0, 2, 1, 3).copy()


def leading_subspace(
    directions: PrincipalDirections,
    grams: NDArray[np.float64],
    traces: NDArray[np.float64],
    leakage: NDArray[np.float64] | None = None,
) -> Subspace:
    """The record of a set whose leading directions span the subspace; the arrays as the functions above give them."""
    # The last eigenvalue may be one of the further ones, which are good to a thousandth of the first.
    rest = float(directions.eigenvalues[-1] + max(directions.error_bound, ROUGH * directions.eigenvalues[0]))
    return Subspace(directions.directions.astype(np.float32), grams, traces, rest, leakage)


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


def reduction_errors(
    counts: NDArray[np.integer], subspace: Subspace, largest: NDArray[np.float64]
) -> NDArray[np.float64]:
    """How far the largest eigenvalue of each resample [R] may lie above ``largest``, that in the subspace, relatively.

    Without ``leakage`` the bound is c / lambda_max(A), which is rough. Infinite where ``largest`` is zero.
    """
    outside = counts.max(axis=1) * subspace.rest
    if subspace.leakage is None:
        excess = outside
    else:
        weights = counts.astype(np.float64)
        squares = np.array(
            [
                np.linalg.eigvalsh(np.tensordot(w, np.tensordot(w, subspace.leakage, axes=1), axes=1))[-1]
                for w in weights
            ]
        )
        half = (outside - largest) / 2
        excess = half + np.sqrt(half**2 + np.maximum(squares, 0))
    return np.divide(excess, largest, out=np.full(len(largest), np.inf), where=largest > 0)
