"""Action chunks by uniform binning: the tokens of one action after those of the one before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError
from robopref.policies.tokenizer import ActionTokenizer, checked_chunks


@dataclass(frozen=True)
class ChunkedActionTokenizer:
    """The binned ``ActionTokenizer`` over ``horizon`` H actions of ``action_size`` A dimensions, time-major.

    A chunk has H * A tokens; those of actions that it lacks are 0.

    Raises:
        RoboprefError: a horizon or an action size below 1.
    """

    horizon: int
    action_size: int
    binning: ActionTokenizer = field(default_factory=ActionTokenizer)
    variable_length: ClassVar[bool] = False
    kind: ClassVar[str] = "chunked"

    def __post_init__(self) -> None:
        if self.horizon < 1 or self.action_size < 1:
            raise RoboprefError(
                f"a chunk has at least one action of one dimension, got {self.horizon} x {self.action_size}."
            )

    @property
    def bins(self) -> int:
        """The largest token."""
        return self.binning.bins

    @property
    def centers(self) -> NDArray[np.float64]:
        """What the tokens 1..bins decode to [bins]."""
        return self.binning.centers

    def action_tokens(self, action_size: int) -> int:
        """H * A; see ``ChunkTokenizer``."""
        if action_size != self.action_size:
            raise RoboprefError(f"these tokens are of actions of {self.action_size} dimensions, not {action_size}.")
        return self.horizon * self.action_size

    def encode_chunks(self, chunks: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Normalised chunks [N, H, A], of which the steps ``valid`` [N, H] count -> tokens [N, H * A], else 0.

        Raises:
            RoboprefError: other shapes, or NaN in a valid step.
        """
        chunks = checked_chunks(chunks, valid, (self.horizon, self.action_size))
        tokens = self.binning.encode(np.where(valid[..., None], chunks, 0.0))
        return np.where(valid[..., None], tokens, 0).reshape(len(chunks), self.horizon * self.action_size)

    def decode(self, tokens: NDArray[Any]) -> NDArray[np.float32]:
        """Tokens [..., H * A] in 0..bins -> bin centres [..., H, A], NaN where there is no token.

        Raises:
            RoboprefError: another number of tokens, or a token outside 0..bins.
        """
        tokens = np.asarray(tokens)
        if tokens.shape[-1:] != (self.horizon * self.action_size,):
            raise RoboprefError(f"a chunk has {self.horizon * self.action_size} tokens, got shape {tokens.shape}.")
        centers = self.binning.decode(np.where(tokens == 0, 1, tokens))
        return np.where(tokens == 0, np.float32(np.nan), centers).reshape(
            *tokens.shape[:-1], self.horizon, self.action_size
        )

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {
            "kind": self.kind,
            "horizon": self.horizon,
            "action_size": self.action_size,
            "binning": self.binning.to_json(),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> ChunkedActionTokenizer:
        """The inverse of ``to_json``."""
        return cls(fields["horizon"], fields["action_size"], ActionTokenizer.from_json(fields["binning"]))
