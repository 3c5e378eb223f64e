"""Instructions as hashed words, so that any sentence can be read without a vocabulary file."""

from __future__ import annotations

import itertools
import re
import zlib
from functools import lru_cache

_WORD = re.compile(r"[a-z0-9]+")


@lru_cache(maxsize=4096)
def hashed_words(instruction: str, buckets: int, length: int) -> tuple[int, ...]:
    """The words and word pairs of an instruction as numbers in 1..buckets-1, padded with 0 to ``length``.

    Pairs keep some word order ("peg into the box" is not "box into the peg"). Words beyond ``length`` are cut.
    """
    words = _WORD.findall(instruction.lower())
    pairs = [f"{first} {second}" for first, second in itertools.pairwise(words)]
    # crc32 rather than hash(): Python's own hash of a string differs from run to run
    numbers = [1 + zlib.crc32(term.encode()) % (buckets - 1) for term in words + pairs][:length]
    return tuple(numbers + [0] * (length - len(numbers)))
