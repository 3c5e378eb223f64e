"""What every import does with the episodes that it has made: add them, or say that they are there already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from robopref.errors import RoboprefError
from robopref.store.formats.base import ConversionOptions
from robopref.store.store import EpisodeStore, check_episode_id
from robopref.trajectory import Episode


@dataclass
class Added:
    """What came of it; see ``Conversion``."""

    episodes: int = 0
    steps: int = 0
    skipped: list[str] = field(default_factory=list)


@contextmanager
def located(where: str) -> Iterator[None]:
    """Says in what is raised where it was."""
    try:
        yield
    except RoboprefError as error:
        raise RoboprefError(f"{where}: {error}") from error


def add_all(found: Iterable[tuple[str, Episode]], store: EpisodeStore, options: ConversionOptions) -> Added:
    """Add episodes, each with the place that it comes from; those of an id that is there are left out when appending.

    Raises:
        RoboprefError: one does not fit the store, or is there and nothing was to be appended. Those before it stay.
    """
    added = Added()
    for where, episode in found:
        with located(where):
            if not is_new(episode.info.episode_id, store, options):
                added.skipped.append(already(episode.info.episode_id, store))
                continue
            store.add(episode)
        added.episodes, added.steps = added.episodes + 1, added.steps + len(episode)
    return added


def is_new(episode_id: str, store: EpisodeStore, options: ConversionOptions) -> bool:
    """Whether the store lacks the episode.

    Raises:
        RoboprefError: it has it and nothing was to be appended, or that is no id.
    """
    check_episode_id(episode_id)
    if not store.has(episode_id):
        return True
    if not options.append:
        raise RoboprefError(f"{store.path} already has it, as {episode_id}.")
    return False


def already(episode_id: str, store: EpisodeStore) -> str:
    """What is said of an episode that was left out."""
    return f"{episode_id}: {store.path} has it already."
