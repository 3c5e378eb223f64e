"""FAST: action chunks compressed by a discrete cosine transform and byte-pair encoding.

Source: Pertsch et al., "FAST: Efficient Action Tokenization for Vision-Language-Action Models", 2025, arXiv
2501.09747. Per action dimension, the orthonormal DCT-II of the chunk over time; coefficients times ``scale``, rounded;
flattened with low frequencies first, across dimensions; byte-pair encoding of that row of integers, trained on the
user's own data. Smooth chunks have few coefficients that are not zero, hence few tokens.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError
from robopref.policies.tokenizer import checked_chunks

_FIRST_SYMBOL = 0xF0000  # a plane of characters for private use: no text processing touches them
_SYMBOLS = 0xFFFD  # in that plane
_FEWEST_CHUNKS = 2  # a pair of symbols is merged when it was seen twice
_BLOCK = 8192  # chunks encoded at once, so that the library's objects of a large data set need no memory together


@dataclass(frozen=True)
class FastTokenizer:
    """Chunks [H, A] of normalised actions in [-1, 1] <-> up to H * A tokens in 1..bins, padded with 0 at the end.

    Decoding needs no library; encoding and fitting need ``tokenizers``.

    Attributes:
        horizon: H, actions per chunk.
        action_size: A, dimensions per action.
        scale: steps per unit of a DCT coefficient: each is off by at most 0.5 / scale, and so is, in the root mean
            square over the chunk, each dimension of the action.
        model: the trained byte-pair encoding as the JSON string of the ``tokenizers`` library.

    Raises:
        RoboprefError: sizes below 1, a scale that is not positive, or a model that is none or lacks a coefficient.
    """

    horizon: int
    action_size: int
    scale: float
    model: str
    variable_length: ClassVar[bool] = True
    kind: ClassVar[str] = "fast"

    def __post_init__(self) -> None:
        limit = _largest_coefficient(self.horizon, self.action_size, self.scale)
        try:
            vocabulary = json.loads(self.model)["model"]["vocab"]
            known = set(vocabulary) >= set(_symbols(np.arange(-limit, limit + 1), limit))
            complete = sorted(vocabulary.values()) == list(range(len(vocabulary)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RoboprefError(f"the action tokens' model cannot be read ({error!r}).") from error
        if not (known and complete):
            raise RoboprefError("the action tokens' model does not cover all coefficients of such chunks: fit it anew.")

    @classmethod
    def fit(cls, chunks: NDArray[Any], *, vocabulary_size: int = 1024, scale: float = 10.0) -> FastTokenizer:
        """Train on normalised chunks [N, H, A], clipped to [-1, 1]; the same chunks give the same tokenizer.

        Args:
            chunks: what is to be compressed, or a large sample of it.
            vocabulary_size: the most tokens that there may be; fewer when the data hold no more repeated pairs.
            scale: see the class.

        Raises:
            RoboprefError: not [N, H, A] with N >= 2, NaN, a vocabulary smaller than the alphabet of coefficients, a
                scale that is not positive, or ``tokenizers`` is not installed.
        """
        chunks = np.asarray(chunks, dtype=np.float64)
        if chunks.ndim != 3 or len(chunks) < _FEWEST_CHUNKS:
            raise RoboprefError(
                f"action tokens are trained on at least {_FEWEST_CHUNKS} chunks [N, H, A], got shape {chunks.shape}."
            )
        checked_chunks(chunks, np.ones(chunks.shape[:2], dtype=bool), chunks.shape[1:])
        horizon, action_size = chunks.shape[1:]
        limit = _largest_coefficient(horizon, action_size, scale)
        alphabet = _symbols(np.arange(-limit, limit + 1), limit)
        if vocabulary_size < len(alphabet):
            raise RoboprefError(
                f"chunks of {horizon} actions at scale {scale:g} have {len(alphabet)} different coefficients, more "
                f"than a vocabulary of {vocabulary_size}: enlarge the vocabulary or lower the scale."
            )
        library = _library()
        tokenizer = library.Tokenizer(library.models.BPE())
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocabulary_size,
            min_frequency=2,
            initial_alphabet=list(alphabet),
            special_tokens=[],
            show_progress=False,
        )
        coefficients = _quantised(chunks, scale, limit)
        tokenizer.train_from_iterator((_symbols(row, limit) for row in coefficients), trainer)
        return cls(horizon, action_size, float(scale), tokenizer.to_str())

    @cached_property
    def bins(self) -> int:
        """The largest token: the size of the trained vocabulary."""
        return len(self._pieces) - 1

    @property
    def max_tokens(self) -> int:
        """The longest possible encoding, H * A."""
        return self.horizon * self.action_size

    def action_tokens(self, action_size: int) -> int:
        """H * A, the longest encoding; see ``ChunkTokenizer``."""
        if action_size != self.action_size:
            raise RoboprefError(f"these tokens are of actions of {self.action_size} dimensions, not {action_size}.")
        return self.max_tokens

    def encode(self, chunk: NDArray[Any]) -> NDArray[np.int64]:
        """Normalised chunks [..., H, A], clipped to [-1, 1] -> tokens [..., H * A] in 1..bins, then 0.

        Raises:
            RoboprefError: another H or A, NaN, or ``tokenizers`` is not installed.
        """
        chunk = np.asarray(chunk, dtype=np.float64)
        lead, rows = chunk.shape[:-2], chunk.reshape(-1, *chunk.shape[-2:]) if chunk.ndim >= 2 else chunk
        tokens = self.encode_chunks(rows, np.ones(rows.shape[:2], dtype=bool))
        return tokens.reshape(*lead, self.max_tokens)

    def encode_chunks(self, chunks: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Normalised chunks [N, H, A] of which the first steps are ``valid`` [N, H] -> tokens [N, H * A].

        The last valid action takes the place of those after it: a transform needs them all, and to hold the last one
        is smooth. A chunk without a valid step has no tokens.

        Raises:
            RoboprefError: as ``encode``.
        """
        chunks = checked_chunks(chunks, valid, (self.horizon, self.action_size))
        count = valid.sum(axis=1)
        source = np.minimum(np.arange(self.horizon), np.maximum(count - 1, 0)[:, None])
        tokens = np.zeros((len(chunks), self.max_tokens), dtype=np.int64)
        limit = _largest_coefficient(self.horizon, self.action_size, self.scale)
        some = np.flatnonzero(count)
        for start in range(0, len(some), _BLOCK):
            block = some[start : start + _BLOCK]
            held = np.take_along_axis(chunks[block], source[block, :, None], axis=1)
            texts = [_symbols(row, limit) for row in _quantised(held, self.scale, limit)]
            for row, encoding in zip(block, self._encoder.encode_batch(texts), strict=True):
                tokens[row, : len(encoding.ids)] = np.asarray(encoding.ids) + 1
        return tokens

    def decode(self, tokens: NDArray[Any]) -> NDArray[np.float32]:
        """Tokens [..., L] in 0..bins, of any number -> chunks [..., H, A], finite and clipped to [-1, 1].

        The first 0 ends a chunk. Whatever a model writes means something: coefficients that are missing are zero, and
        those beyond the last are left out.

        Raises:
            RoboprefError: a token outside 0..bins.
        """
        tokens = np.asarray(tokens, dtype=np.int64)
        if tokens.size and (tokens.min() < 0 or tokens.max() > self.bins):
            raise RoboprefError(
                f"action tokens run from 1 to {self.bins}, got values from {tokens.min()} to {tokens.max()}."
            )
        rows = tokens.reshape(math.prod(tokens.shape[:-1]), tokens.shape[-1])
        coefficients = np.zeros((len(rows), self.max_tokens))
        for row, written in zip(coefficients, rows, strict=True):
            ends = np.flatnonzero(written == 0)
            pieces = [self._pieces[t] for t in written[: ends[0] if len(ends) else None]]
            values = np.concatenate([self._pieces[0], *pieces])[: self.max_tokens]
            row[: len(values)] = values
        spectra = coefficients.reshape(-1, self.horizon, self.action_size) / self.scale
        chunks = np.einsum("kt,nka->nta", dct_matrix(self.horizon), spectra)
        shape = (*tokens.shape[:-1], self.horizon, self.action_size)
        return np.clip(chunks, -1, 1).astype(np.float32).reshape(shape)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {"kind": self.kind, **asdict(self)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> FastTokenizer:
        """The inverse of ``to_json``."""
        return cls(fields["horizon"], fields["action_size"], fields["scale"], fields["model"])

    @cached_property
    def _pieces(self) -> list[NDArray[np.int64]]:
        """The coefficients, times ``scale``, that each token stands for; none for token 0."""
        limit = _largest_coefficient(self.horizon, self.action_size, self.scale)
        vocabulary = json.loads(self.model)["model"]["vocab"]
        texts = sorted(vocabulary, key=vocabulary.__getitem__)
        return [np.array([ord(c) - _FIRST_SYMBOL - limit for c in text], dtype=np.int64) for text in ("", *texts)]

    @cached_property
    def _encoder(self) -> Any:
        return _library().Tokenizer.from_str(self.model)


def dct_matrix(size: int) -> NDArray[np.float64]:
    """The orthonormal DCT-II as a matrix [frequency, time]; its transpose is its inverse."""
    frequency, time = np.arange(size)[:, None], np.arange(size)
    matrix = np.sqrt(2 / size) * np.cos(np.pi * frequency * (2 * time + 1) / (2 * size))
    matrix[0] = np.sqrt(1 / size)
    return matrix


def _largest_coefficient(horizon: int, action_size: int, scale: float) -> int:
    """The largest quantised coefficient that actions within [-1, 1] can have."""
    if horizon < 1 or action_size < 1 or not 0 < scale < math.inf:
        raise RoboprefError(
            f"action tokens need chunks of at least 1 x 1 and a positive scale, got {horizon} x {action_size} at "
            f"{scale}."
        )
    # The rows of the transform are unit vectors, whose absolute values sum to sqrt(H) at most.
    limit = math.ceil(scale * math.sqrt(horizon))
    if 2 * limit + 1 > _SYMBOLS:
        raise RoboprefError(f"a scale of {scale:g} is too fine for chunks of {horizon} actions: lower it.")
    return limit


def _quantised(chunks: NDArray[np.float64], scale: float, limit: int) -> NDArray[np.int64]:
    """Chunks [N, H, A] -> integers [N, H * A], all dimensions of the lowest frequency first."""
    spectra = np.einsum("kt,nta->nka", dct_matrix(chunks.shape[1]), np.clip(chunks, -1, 1))
    return np.clip(np.rint(spectra * scale), -limit, limit).astype(np.int64).reshape(len(chunks), -1)


def _symbols(coefficients: NDArray[np.int64], limit: int) -> str:
    """Integers [n] within the limit -> one character each."""
    return "".join(map(chr, (coefficients + (limit + _FIRST_SYMBOL)).tolist()))


def _library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise RoboprefError("FAST action tokens need the library tokenizers: pip install robopref[vla]") from error
    return tokenizers
