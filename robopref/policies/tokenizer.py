"""Actions as tokens: each normalised action dimension falls into one of a fixed number of bins.

Source: the OpenVLA recipe (Kim et al. 2024), which goes back to RT-2: ``bins`` edges evenly spaced on [low, high],
``bins - 1`` centres, token = ``digitize(clip(a), edges)`` in 1..bins, vocabulary id = vocabulary size - token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

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
