"""Which action tokenizer a checkpoint's JSON describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from robopref.errors import RoboprefError
from robopref.policies.chunked_tokenizer import ChunkedActionTokenizer
from robopref.policies.fast_tokenizer import FastTokenizer
from robopref.policies.tokenizer import ActionTokenizer
from robopref.protocols import ChunkTokenizer


def tokenizer_from_json(fields: Mapping[str, Any]) -> ChunkTokenizer:
    """The tokenizer whose ``to_json`` gave the fields; without a ``kind`` it is the plain ``ActionTokenizer``.

    Raises:
        RoboprefError: an unknown kind, or fields that do not fit it.
    """
    kind = fields.get("kind")
    try:
        if kind is None:
            return ActionTokenizer.from_json(fields)
        if kind == ChunkedActionTokenizer.kind:
            return ChunkedActionTokenizer.from_json(fields)
        if kind == FastTokenizer.kind:
            return FastTokenizer.from_json(fields)
    except (KeyError, TypeError) as error:
        raise RoboprefError(f"the description of the action tokens lacks or has unknown fields ({error}).") from error
    raise RoboprefError(f"this version does not know action tokens of kind {kind!r}: upgrade robopref.")
