"""Text to token ids, from the ``tokenizer.json`` of a checkpoint."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from robopref.errors import RoboprefError

_FILE = "tokenizer.json"
_SENTENCEPIECE_FILE = "tokenizer.model"


class TextTokenizer:
    """Text -> vocabulary ids, without special tokens: who builds the sequence adds those that belong there."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def __call__(self, text: str) -> list[int]:
        """The ids of ``text``."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def __len__(self) -> int:
        """How many ids there are, added tokens included."""
        return int(self._tokenizer.get_vocab_size())

    @property
    def base_size(self) -> int:
        """How many ids there are without those that were added to the vocabulary."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=False))

    def id_of(self, token: str) -> int | None:
        """The id of one token, or ``None`` when there is no such token."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    def require(self, token: str) -> int:
        """The id of one token.

        Raises:
            RoboprefError: there is no such token.
        """
        found = self.id_of(token)
        if found is None:
            raise RoboprefError(f"the tokenizer has no token {token!r}: its {_FILE} is of another model family.")
        return found

    @classmethod
    def from_directory(cls, directory: Path) -> TextTokenizer:
        """Read ``tokenizer.json`` in ``directory``.

        Raises:
            RoboprefError: the file is missing or damaged, or there is only a SentencePiece model.
        """
        path = Path(directory) / _FILE
        if not path.is_file():
            advice = "copy it from the model that the checkpoint was fine-tuned from."
            if (path.parent / _SENTENCEPIECE_FILE).is_file():
                advice = (
                    f"there is only {_SENTENCEPIECE_FILE}; convert it once with transformers and sentencepiece: "
                    f"AutoTokenizer.from_pretrained(directory, use_fast=True).save_pretrained(directory)."
                )
            raise RoboprefError(f"{path.parent} has no {_FILE}: {advice}")
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception for a file that it cannot parse
            raise RoboprefError(f"{path} cannot be read as a tokenizer ({error}).") from error
        # Padding and truncation as the file asks for them would change the prompt.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return cls(tokenizer)

    def save(self, directory: Path) -> None:
        """Write ``tokenizer.json`` into ``directory``."""
        self._tokenizer.save(str(Path(directory) / _FILE))
