"""Actions as tokens: each normalised action dimension falls into one of a fixed number of bins.

Source: the OpenVLA recipe (Kim et al. 2024), which goes back to RT-2: ``bins`` edges evenly spaced on [low, high],
``bins - 1`` centres, token = ``digitize(clip(a), edges)`` in 1..bins, vocabulary id = vocabulary size - token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError


@dataclass(frozen=True)
class ActionTokenizer:
    """Uniform binning of normalised actions; a token is a bin number from 1 to ``bins``.

    Raises:
        RoboprefError: fewer than two bins, or an empty range.
    """

    bins: int = 256
    low: float = -1.0
    high: float = 1.0
    horizon: ClassVar[int] = 1
    variable_length: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.bins < 2 or not self.low < self.high:
            raise RoboprefError(
                f"an action tokenizer needs at least 2 bins and low < high, got {self.bins} bins on "
                f"[{self.low}, {self.high}]."
            )

    @property
    def edges(self) -> NDArray[np.float64]:
        """Bin edges [bins]."""
        return np.linspace(self.low, self.high, self.bins)

    @property
    def centers(self) -> NDArray[np.float64]:
        """What the tokens 1..bins decode to [bins]; the last two share the last of the ``bins - 1`` centres."""
        edges = self.edges
        centers = (edges[:-1] + edges[1:]) / 2
        return np.append(centers, centers[-1])

    def encode(self, normalized_actions: NDArray[Any]) -> NDArray[np.int64]:
        """Normalised actions [..., A], clipped to the range -> tokens [..., A] in 1..bins.

        Raises:
            RoboprefError: an action is NaN.
        """
        actions = np.asarray(normalized_actions, dtype=np.float64)
        if np.isnan(actions).any():
            raise RoboprefError("cannot tokenize an action that holds NaN.")
        return np.digitize(np.clip(actions, self.low, self.high), self.edges).astype(np.int64)

    def decode(self, tokens: NDArray[Any]) -> NDArray[np.float32]:
        """Tokens [..., A] in 1..bins -> bin centres [..., A].

        Raises:
            RoboprefError: a token is outside 1..bins.
        """
        tokens = np.asarray(tokens)
        if tokens.size and (tokens.min() < 1 or tokens.max() > self.bins):
            raise RoboprefError(
                f"action tokens run from 1 to {self.bins}, got values from {tokens.min()} to {tokens.max()}."
            )
        return self.centers[tokens - 1].astype(np.float32)

    def action_tokens(self, action_size: int) -> int:
        """One per dimension; see ``ChunkTokenizer``."""
        return action_size

    def encode_chunks(self, chunks: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Chunks [N, 1, A] of one action, ``valid`` [N, 1] or not -> tokens [N, A], 0 where not.

        Raises:
            RoboprefError: other shapes, or NaN in a valid action.
        """
        chunks = checked_chunks(chunks, valid, (self.horizon, np.shape(chunks)[-1]))
        return np.where(valid, self.encode(np.where(valid[..., None], chunks, 0.0))[:, 0], 0)

    def to_vocabulary(self, tokens: NDArray[Any], vocabulary_size: int) -> NDArray[np.int64]:
        """Tokens -> ids in a language model's vocabulary, of which the last ``bins`` entries are the actions."""
        return vocabulary_size - np.asarray(tokens, dtype=np.int64)

    def from_vocabulary(self, ids: NDArray[Any], vocabulary_size: int) -> NDArray[np.int64]:
        """The inverse of ``to_vocabulary``."""
        return vocabulary_size - np.asarray(ids, dtype=np.int64)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> ActionTokenizer:
        """The inverse of ``to_json``."""
        return cls(**fields)


def checked_chunks(chunks: NDArray[Any], valid: NDArray[np.bool_], size: tuple[int, ...]) -> NDArray[np.float64]:
    """The chunks [N, H, A] as float64, for tokenizers of chunks of ``size`` (H, A).

    Raises:
        RoboprefError: another shape of them or of ``valid`` [N, H], or NaN in a valid step.
    """
    chunks = np.asarray(chunks, dtype=np.float64)
    if chunks.ndim != 3 or chunks.shape[1:] != tuple(size) or np.shape(valid) != chunks.shape[:2]:
        raise RoboprefError(
            f"expected chunks [N, {size[0]}, {size[-1]}] of valid steps [N, {size[0]}], got shapes {chunks.shape} and "
            f"{np.shape(valid)}."
        )
    if np.isnan(chunks[valid]).any():
        raise RoboprefError("cannot tokenize an action that holds NaN.")
    return chunks
