"""Which steps belong to the action chunk that begins at a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopref.trajectory import Episode, Label

_DESIRABLE = (Label.EXPERT, Label.HUMAN)


def chunk_lengths(episodes: Sequence[Episode], labels: NDArray[Any], horizon: int) -> NDArray[np.int64]:
    """How many steps [N] the chunk from each step on has, 1 to ``horizon``, of N steps with labels [N].

    A chunk ends with its episode; where another drives or another takeover begins (a chunk is one mind's plan, never
    policy steps that run into a correction); and where desirable steps meet undesirable ones or those that are
    neither: its tokens are pushed one way together.
    """
    labels = np.asarray(labels)
    worth = np.where(np.isin(labels, _DESIRABLE), 1, np.where(labels == Label.UNDESIRABLE, -1, 0))
    columns = [
        np.repeat(np.arange(len(episodes)), [len(episode) for episode in episodes]),
        np.concatenate([episode.actor for episode in episodes]),
        np.concatenate([episode.segment_id for episode in episodes]),
        worth,
    ]
    begins = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    ends = np.append(np.flatnonzero(begins) + 1, len(labels))
    run = np.concatenate([[0], np.cumsum(begins)])
    return np.minimum(ends[run] - np.arange(len(labels)), horizon)


def chunk_steps(indices: NDArray[Any], lengths: NDArray[Any], horizon: int) -> NDArray[np.int64]:
    """Numbers [B, horizon] of the steps of the chunks that begin at ``indices`` [B], of ``lengths`` [B] >= 1.

    Past its end a chunk repeats its last step.
    """
    offsets: NDArray[np.int64] = np.minimum(np.arange(horizon), lengths[:, None] - 1)
    return indices[:, None] + offsets
