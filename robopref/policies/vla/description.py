"""Our checkpoints of a VLA: PEFT's adapter files beside the ``policy.json`` that every policy has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from robopref.errors import RoboprefError
from robopref.policies.checkpoint import PolicyDescription, write_checkpoint_files

KIND = "vla"
Normalization = Literal["actions", "vocabulary"]
"""What action log-probabilities sum to one over."""


@dataclass(frozen=True)
class BaseModel:
    """The model that an adapter belongs to: a hub id or directory, and a hash of its weights."""

    name: str
    fingerprint: str


@dataclass(frozen=True)
class VLADescription:
    """What ``policy.json`` says of the model, under ``architecture``.

    ``recorded_image_size`` is the size of the pictures that the adapter learned from, in pixels a side, before they
    were resized; ``None`` where they were not square, or where an older version wrote the description.
    """

    base: BaseModel
    family: str
    normalize_over: Normalization
    recorded_image_size: int | None = None

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> VLADescription:
        """The inverse of ``asdict``.

        Raises:
            RoboprefError: fields are missing or make no sense: damaged, or another version wrote it.
        """
        try:
            base = BaseModel(str(fields["base"]["name"]), str(fields["base"]["fingerprint"]))
            family, over = str(fields["family"]), fields["normalize_over"]
        except (KeyError, TypeError) as error:
            raise RoboprefError(f"the description of the vision-language-action policy lacks {error}.") from error
        if over not in get_args(Normalization):
            raise RoboprefError(
                f"the description of the vision-language-action policy has normalize_over {over!r}; known are "
                f"{', '.join(get_args(Normalization))}."
            )
        size = fields.get("recorded_image_size")
        if size is not None and (type(size) is not int or size < 1):
            raise RoboprefError(
                f"the description of the vision-language-action policy has recorded_image_size {size!r}, which is no "
                f"number of pixels."
            )
        return cls(base, family, over, size)


def write_vla_checkpoint(
    directory: Path,
    description: VLADescription,
    normalization: dict[str, Any],
    tokenizer: dict[str, Any],
    tasks: dict[str, str],
    write_adapter: Callable[[Path], None],
    instruction_suffix: str = "",
) -> None:
    """Write ``policy.json`` and whatever ``write_adapter`` puts into the directory that it is given, atomically."""
    write_checkpoint_files(
        directory,
        PolicyDescription(
            kind=KIND,
            architecture=asdict(description),
            normalization=normalization,
            tokenizer=tokenizer,
            tasks=tasks,
            instruction_suffix=instruction_suffix,
        ),
        write_adapter,
    )
