"""Policy checkpoints: a directory of ``policy.json`` (what it is) and ``policy.safetensors`` (the weights).

Neither file can execute code when it is loaded, and a stranger can tell from the JSON what the policy is.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robopref import __version__
from robopref.errors import RoboprefError

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "robopref-policy"
FORMAT_VERSION = 1
_DESCRIPTION = "policy.json"
_WEIGHTS = "policy.safetensors"


@dataclass(frozen=True)
class PolicyDescription:
    """Everything about a policy but its weights, as JSON values; ``about`` says where it comes from, freely.

    ``instruction_suffix`` is text that the policy reads behind every instruction.
    """

    kind: str
    architecture: dict[str, Any]
    normalization: dict[str, Any]
    tokenizer: dict[str, Any]
    tasks: dict[str, str] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    instruction_suffix: str = ""
    format: str = FORMAT
    format_version: int = FORMAT_VERSION
    written_by: str = f"robopref {__version__}"


def write_checkpoint(directory: Path, description: PolicyDescription, tensors: dict[str, Tensor]) -> None:
    """Write ``policy.json`` and ``policy.safetensors``; ``directory`` never holds half of a checkpoint."""
    from safetensors.torch import save

    def write_weights(staging: Path) -> None:
        # Through bytes, so that a full disk is an OSError like any other.
        (staging / _WEIGHTS).write_bytes(save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}))

    write_checkpoint_files(directory, description, write_weights)


def write_checkpoint_files(
    directory: Path, description: PolicyDescription, write_weights: Callable[[Path], None]
) -> None:
    """Write ``policy.json`` and what ``write_weights`` puts beside it, aside, and rename all of it into place."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        write_weights(staging)
        (staging / _DESCRIPTION).write_text(json.dumps(asdict(description), indent=2) + "\n")
        staging.chmod(0o755)
        if directory.exists():
            old = staging.with_name(staging.name + "-old")
            os.replace(directory, old)
            os.replace(staging, directory)
            shutil.rmtree(old)
        else:
            os.replace(staging, directory)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def read_description(directory: Path) -> PolicyDescription:
    """The description of the checkpoint in ``directory``.

    Raises:
        RoboprefError: there is no checkpoint, it is not one of ours, or a newer robopref wrote it.
    """
    path = directory / _DESCRIPTION
    if not path.is_file():
        raise RoboprefError(f"{directory} is no policy checkpoint: it has no {_DESCRIPTION}. Train one first.")
    try:
        fields = json.loads(path.read_text())
        version, form = int(fields["format_version"]), fields["format"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise RoboprefError(f"{path} cannot be read as a policy description ({error}).") from error
    if form != FORMAT:
        raise RoboprefError(f"{path} says format {form!r}; this is not a robopref policy.")
    if version > FORMAT_VERSION:
        raise RoboprefError(
            f"{directory} was written by a newer robopref (format {version}; this one reads up to {FORMAT_VERSION}): "
            f"upgrade robopref."
        )
    try:
        return PolicyDescription(**fields)
    except TypeError as error:
        raise RoboprefError(f"{path} lacks or has unknown fields ({error}).") from error


def read_checkpoint(directory: Path) -> tuple[PolicyDescription, dict[str, Tensor]]:
    """Description and weights of a checkpoint.

    Raises:
        RoboprefError: see ``read_description``; also when the weights are missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    description = read_description(directory)
    path = directory / _WEIGHTS
    try:
        return description, load_file(str(path))
    except FileNotFoundError as error:
        raise RoboprefError(f"{directory} has no {_WEIGHTS}: the checkpoint is incomplete.") from error
    except SafetensorError as error:
        raise RoboprefError(f"{path} is damaged ({error}).") from error


def policy_id(directory: Path) -> str:
    """A short name for exactly these weights and this text behind instructions: kind and a content hash."""
    description = read_description(directory)
    digest = hashlib.blake2b(digest_size=6)
    for path in sorted(directory.glob("*.safetensors")):
        digest.update(path.read_bytes())
    digest.update(description.instruction_suffix.encode())
    return f"{description.kind}-{digest.hexdigest()}"
