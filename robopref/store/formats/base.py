"""What a conversion is asked and what it answers. Each format has a module of its own, to import, export or both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from robopref.store.store import EpisodeStore
from robopref.trajectory import Actor, Outcome


@dataclass(frozen=True)
class ConversionOptions:
    """What a user may say about a conversion; a format uses what concerns it.

    ``fps``: control steps per second; None takes what the recording says (or the median distance of its times).
    ``append``: go on with a target that holds episodes already; those that it has are left out.
    ``trust``: run what the source may hold (a pickle executes code).
    ``instruction`` and ``task``: for sources that hold none; ``actor`` and ``outcome``: for those that do not say who
    acted, or how episodes ended.
    """

    images: Literal["png", "video"] = "png"
    fps: float | None = None
    append: bool = False
    trust: bool = False
    task: str = ""
    instruction: str = ""
    actor: Actor | None = None
    outcome: Outcome | None = None
    progress: Callable[[int, int], None] = lambda done, total: None


@dataclass(frozen=True)
class Conversion:
    """What came of one.

    ``lost`` are the fields of the source that the target cannot hold, ``invented`` those of the target that the source
    does not say, each as a sentence; ``skipped`` says which episodes were left out and why.
    """

    episodes: int
    steps: int
    lost: tuple[str, ...] = ()
    invented: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()


Export = Callable[[EpisodeStore, Path, ConversionOptions], Conversion]
"""Writes the finished episodes of a store to a path that does not exist yet, or is appended to.

Raises RoboprefError: the path is taken, the format cannot hold this, or what it needs is not installed.
"""

Import = Callable[[Path, EpisodeStore, ConversionOptions], Conversion]
"""Adds the episodes at a path to a store, with ``EpisodeStore.add``: whole or not at all.

Raises RoboprefError: the path is not of that format, or damaged (saying where).
"""
