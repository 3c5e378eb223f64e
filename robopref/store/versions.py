"""Schema versions: which there are, and how what an older one wrote is read.

    1   every column as it is; ``dataset.json`` may lack its checksum
    2   an episode file may hold image columns as video, and says so in its metadata (``video``)

A file has the lowest version that it can do with, and a directory the highest of its files. So a directory has version
2 only where video is used, and an older robopref goes on reading all others; where it is used, that one says that it is
too old instead of missing a column.

Older versions are migrated while they are read, from each to the next. Finished files are never written anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from robopref.errors import RoboprefError
from robopref.trajectory import SCHEMA_VERSION

RECORDED = SCHEMA_VERSION
"""What a recorder writes."""
VIDEO = 2
"""The first version with columns held as video."""
NEWEST = 2
"""What this robopref reads."""

Values = dict[str, Any]


class NewerVersion(RoboprefError):
    """A newer robopref wrote the directory."""


@dataclass(frozen=True)
class Migration:
    """What one version says in the next one's words: of ``dataset.json``, and of an episode file's metadata."""

    dataset: Callable[[Values], Values]
    metadata: Callable[[Values], Values]


def dataset_checksum(dataset: Values) -> str:
    """BLAKE2b over all that a ``dataset.json`` says besides its checksum."""
    covered = {name: value for name, value in dataset.items() if name != "checksum"}
    return hashlib.blake2b(json.dumps(covered).encode(), digest_size=16).hexdigest()


MIGRATIONS = {
    1: Migration(
        dataset=lambda values: {"checksum": dataset_checksum(values)} | values,
        metadata=lambda values: {"video": ""} | values,
    ),
}
"""By the version that they start from."""


def migrated_dataset(values: Values, version: int) -> Values:
    """What a ``dataset.json`` of an older version says. Raises KeyError: there never was such a version."""
    for older in range(version, NEWEST):
        values = MIGRATIONS[older].dataset(values)
    return values


def migrated_metadata(values: Values, version: int) -> Values:
    """The same for an episode file's metadata."""
    for older in range(version, NEWEST):
        values = MIGRATIONS[older].metadata(values)
    return values
