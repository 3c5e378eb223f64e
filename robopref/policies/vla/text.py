"""Prompts as token ids, by the ``tokenizer.json`` of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from robopref.errors import RoboprefError
from robopref.policies.vla.requirements import require


class TextTokenizer:
    """A ``tokenizers.Tokenizer`` that adds no special tokens: the backbones put them where they belong."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    @classmethod
    def from_directory(cls, directory: Path) -> TextTokenizer:
        """Read ``tokenizer.json``.

        Raises:
            RoboprefError: there is none, or it is damaged.
        """
        path = Path(directory) / "tokenizer.json"
        if not path.is_file():
            old = "; it has only the SentencePiece file of the older layout" if list(directory.glob("*.model")) else ""
            raise RoboprefError(
                f"{directory} has no tokenizer.json{old}. Write one with transformers: "
                f"AutoTokenizer.from_pretrained(DIRECTORY).save_pretrained(DIRECTORY) (this needs sentencepiece)."
            )
        try:
            return cls(require("tokenizers").Tokenizer.from_file(str(path)))
        except RoboprefError:
            raise
        except Exception as error:  # the library raises bare exceptions
            raise RoboprefError(f"{path} cannot be read as a tokenizer ({error}).") from error

    def __call__(self, text: str) -> list[int]:
        """The ids of a text, without beginning or end of sequence."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    @property
    def base_size(self) -> int:
        """How many ids the vocabulary has without what was added to it."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=False))

    def id_of(self, token: str) -> int | None:
        """The id of one token, or ``None`` when there is no such token."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    def require(self, token: str) -> int:
        """The id of one token.

        Raises:
            RoboprefError: the tokenizer does not have it.
        """
        found = self.id_of(token)
        if found is None:
            raise RoboprefError(f"the tokenizer has no token {token!r}: its tokenizer.json is of another model family.")
        return found
