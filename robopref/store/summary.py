"""What is in a data directory, in figures: an episode at a time, so that memory does not grow with the directory."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from robopref.errors import RoboprefError
from robopref.store.dataset_file import unchanging
from robopref.store.steps import StepReader
from robopref.store.store import EpisodeStore
from robopref.trajectory import Actor, EpisodeInfo, takeover_count

T = TypeVar("T")


@dataclass(frozen=True)
class EpisodeFigures:
    """One episode in figures.

    ``actors`` counts steps by who acted; ``seconds`` go from the first step to the last; ``interval`` and ``jitter``
    are the median of the times between steps and their 95th percentile's distance from it, in seconds (0 for a single
    step); ``nbytes`` is the size of the file.
    """

    info: EpisodeInfo
    steps: int
    actors: dict[Actor, int]
    takeovers: int
    seconds: float
    interval: float
    jitter: float
    nbytes: int

    @property
    def human_steps(self) -> int:
        """Steps that the operator drove."""
        return self.actors[Actor.HUMAN]


@dataclass(frozen=True)
class Damaged:
    """An episode that cannot be read, and why."""

    episode_id: str
    problem: str


@dataclass(frozen=True)
class Unfinished:
    """What lies in a data directory beside its finished episodes: ids.

    ``running`` are being recorded now; ``stuck`` are journals that no opening could recover; ``discarded`` were ended
    as unwanted.
    """

    running: tuple[str, ...]
    stuck: tuple[str, ...]
    discarded: tuple[str, ...]


def readable(
    read: Callable[[str], T], episode_ids: Sequence[str], *, damaged: Callable[[Damaged], None]
) -> Iterator[T]:
    """What ``read`` makes of each episode; those that it cannot read are told to ``damaged`` and left out."""
    for episode_id in episode_ids:
        try:
            found = read(episode_id)
        except RoboprefError as error:
            damaged(Damaged(episode_id, str(error)))
            continue
        yield found


def episode_figures(store: EpisodeStore, episode_id: str) -> EpisodeFigures:
    """The figures of an episode. Raises like ``EpisodeStore.read``."""
    header = store.header(episode_id)
    if header.video:  # whose pictures would be decoded for nothing
        reader = StepReader(store, ("actor", "t_monotonic_ns"), ids=[episode_id])
        columns = reader.read(np.arange(header.steps))
        reader.close()
        actor, times = columns["actor"], columns["t_monotonic_ns"]
    else:
        episode = store.read(episode_id)
        actor, times = episode.actor, np.asarray(episode.t_monotonic_ns)
    intervals = np.diff(times) / 1e9
    middle = float(np.median(intervals)) if len(intervals) else 0.0
    return EpisodeFigures(
        info=header.info,
        steps=header.steps,
        actors={who: int(np.count_nonzero(actor == who)) for who in Actor},
        takeovers=takeover_count(actor),
        seconds=float(times[-1] - times[0]) / 1e9,
        interval=middle,
        jitter=float(np.quantile(np.abs(intervals - middle), 0.95)) if len(intervals) else 0.0,
        nbytes=(store.path / "episodes" / f"{episode_id}.safetensors").stat().st_size,
    )


def unfinished(path: Path) -> Unfinished:
    """What lies in a data directory beside its finished episodes; nothing is written or recovered."""
    running: list[str] = []
    stuck: list[str] = []
    with unchanging(path):
        for journal in sorted((path / "journal").glob("*.journal")):
            (running if _has_writer(journal) else stuck).append(journal.name.removesuffix(".journal"))
    discarded = (file.name.removesuffix(".safetensors") for file in sorted((path / "discarded").glob("*.safetensors")))
    return Unfinished(tuple(running), tuple(stuck), tuple(discarded))


def directory_size(path: Path) -> int:
    """Bytes of all files of a data directory; a file that goes away meanwhile counts nothing."""
    total = 0
    for folder in (path, path / "episodes", path / "discarded", path / "journal"):
        for entry in os.scandir(folder) if folder.is_dir() else ():
            try:
                total += entry.stat().st_size if entry.is_file() else 0
            except FileNotFoundError:
                continue
    return total


def _has_writer(journal: Path) -> bool:
    try:
        with open(journal, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:  # finished in this moment
        return False
    return False
