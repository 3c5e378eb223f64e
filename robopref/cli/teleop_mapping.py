"""Which keys, buttons and axes a session begins with, and where changes of them are kept."""

from __future__ import annotations

import os
import re
from pathlib import Path

from robopref.cli.console import console
from robopref.human_io.mapping import Mapping
from robopref.human_io.mapping_defaults import default_mapping
from robopref.human_io.mapping_file import load_mapping
from robopref.human_io.station_operator import ActionLayout


def choose_mapping(
    device: str, layout: ActionLayout, game: str | None, path: Path | None
) -> tuple[Mapping, Mapping, Path]:
    """The mapping to begin with, the default one, and the file to which changes go.

    Args:
        device: as ``--operator`` names it.
        layout: what is commanded.
        game: which game, if it is one: each has actions of its own.
        path: a file that the user named, which need not exist yet; None takes the one for this device and
            these actions in the user's configuration.

    Raises:
        RoboprefError: the file is no mapping.
    """
    default = default_mapping(device, layout.labels, discrete=layout.discrete)
    if path is None:
        kind = re.sub(r"[^A-Za-z0-9]+", "-", game or "-".join(layout.labels))[:60]
        path = _configuration() / f"mapping-{device}-{kind}.json"
    if not path.exists():
        return default, default, path
    mapping = load_mapping(path)
    console.print(f"keys, buttons and axes as in {path}")
    if not layout.discrete and (idle := mapping.unbound(layout.labels)):
        console.print(f"nothing in it drives {', '.join(idle)}: remove the file to go back to the defaults")
    return mapping, default, path


def _configuration() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "robopref"
