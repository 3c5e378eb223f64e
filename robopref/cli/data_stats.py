"""``robopref data stats``: distributions over a data directory, an episode at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tyro
from numpy.typing import NDArray

from robopref.cli.console import console, progress_bar
from robopref.cli.data_stats_print import print_statistics
from robopref.cli.relabel import stored_rule
from robopref.cli.run_directory import write_json
from robopref.errors import RoboprefError
from robopref.trajectory import STEP_COLUMNS, Actor, Episode, Label, Outcome, is_null_action

if TYPE_CHECKING:
    from robopref.store.summary_columns import ByteColumnPasses, ColumnPasses, ColumnStatistics

_BINS = 20
_DISTANCE = "distance of proposal and human action"
_ACTIONS = ("action", "policy_action", "human_action")


@dataclass(frozen=True)
class DataStats:
    """Distributions: lengths, actions by who acted, every column, labels, how far the human is from the policy."""

    data: tyro.conf.Positional[Path]
    """The data directory."""
    json: bool = False
    """Print it as JSON."""
    out: Path | None = None
    """Write it as JSON to this file."""


def run_data_stats(config: DataStats) -> bool:
    """Print the statistics; a damaged episode is named and left out of them."""
    statistics = directory_statistics(config.data, quiet=config.json)
    if config.out is not None:
        write_json(config.out, statistics)
    if config.json:
        print(json.dumps(statistics, indent=2))
    else:
        print_statistics(statistics)
        if config.out is not None:
            console.print(f"written to {config.out}", soft_wrap=True, highlight=False)
    return True


class _Actions:
    """Histograms and extremes of the executed actions by who acted; discrete actions have a bin for each number."""

    def __init__(self, low: NDArray[np.float64], high: NDArray[np.float64], *, discrete: bool) -> None:
        self.low, self.high, self.discrete = low, high, discrete
        if discrete:
            self.edges = np.arange(int(low.min()), int(high.max()) + 2) - np.full((len(low), 1), 0.5)
        else:
            self.edges = np.linspace(low, np.where(high > low, high, low + 1), _BINS + 1, axis=1)
        shape = (len(Actor), len(low))
        self.counts = np.zeros((*shape, self.edges.shape[1] - 1), np.int64)
        self.at_low, self.at_high = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self.values = np.zeros(len(Actor), np.int64)  # of each dimension

    def add(self, episode: Episode) -> None:
        """Count an episode's actions in."""
        for actor in np.unique(episode.actor).tolist():
            chosen = np.asarray(episode.action[episode.actor == actor], np.float64).reshape(-1, len(self.low))
            for dimension, values in enumerate(chosen.T):
                self.counts[actor, dimension] += np.histogram(values, self.edges[dimension])[0]
            self.at_low[actor] += (chosen == self.low).sum(axis=0)
            self.at_high[actor] += (chosen == self.high).sum(axis=0)
            self.values[actor] += len(chosen)

    def to_json(self) -> dict[str, Any]:
        """By dimension: edges (discrete: numbers), and by who acted the counts and the share at either extreme."""
        dimensions = []
        for d, edges in enumerate(self.edges):
            bins = {"values": (edges[:-1] + 0.5).astype(int).tolist()} if self.discrete else {"edges": edges.tolist()}
            by_actor = {}
            for actor in Actor:
                if total := int(self.values[actor]):
                    by_actor[actor.name.lower()] = {
                        "steps": total,
                        "counts": self.counts[actor, d].tolist(),
                        "at_lowest": int(self.at_low[actor, d]) / total,
                        "at_highest": int(self.at_high[actor, d]) / total,
                    }
            dimensions.append({"lowest": float(self.low[d]), "highest": float(self.high[d]), **bins, "by": by_actor})
        return {"discrete": self.discrete, "dimensions": dimensions}


def directory_statistics(path: Path, *, quiet: bool = False) -> dict[str, Any]:
    """The statistics of a data directory as JSON values.

    Raises:
        RoboprefError: there is no such data directory, no readable episode in it, or its labelling rule is damaged.
    """
    from robopref.store.store import EpisodeStore
    from robopref.store.summary import Damaged, readable
    from robopref.store.summary_columns import column_passes

    store, rule = EpisodeStore.open(path), stored_rule([path])
    ids = store.episode_ids()
    damaged: list[Damaged] = []
    lengths: dict[Outcome, list[int]] = {}
    labels = np.zeros(len(Label), np.int64)
    passes: dict[str, ColumnPasses | ByteColumnPasses] = {}
    usable: list[str] = []
    same = compared = 0
    with nullcontext(lambda done, total: None) if quiet else progress_bar("statistics", 2 * len(ids)) as progress:
        for episode in readable(store.read, ids, damaged=damaged.append):
            usable.append(episode.info.episode_id)
            lengths.setdefault(episode.info.outcome, []).append(len(episode))
            labels += np.bincount(rule.apply(episode), minlength=len(Label))
            for name, values in _columns(episode):
                if name not in passes:
                    passes[name] = column_passes(values.dtype, values.shape[1:], null=name in _ACTIONS)
                passes[name].measure(values)
            alike = _same_action(episode)
            same, compared = same + int(alike.sum()), compared + len(alike)
            progress(len(usable), 2 * len(ids))
        if not usable:
            raise RoboprefError(f"{path} holds no readable episode: there is nothing to count.")
        executed = passes["action"].result()
        discrete = store.read(usable[0]).action.dtype.kind in "iu"
        actions = _Actions(executed.minimum, executed.maximum, discrete=discrete)
        for done, episode in enumerate(readable(store.read, usable, damaged=damaged.append)):
            for name, values in _columns(episode):
                passes[name].sort_in(values)
            actions.add(episode)
            progress(len(ids) + done + 1, 2 * len(ids))
        progress(2 * len(ids), 2 * len(ids))
    distance = passes.pop(_DISTANCE, None)
    return {
        "path": str(path),
        "episodes": len(usable),
        "damaged": {episode.episode_id: episode.problem for episode in damaged},
        "lengths": _lengths_json(lengths),
        "labels": {"rule": asdict(rule), "counts": {label.name.lower(): int(labels[label]) for label in Label}},
        "actions": actions.to_json(),
        "human_against_policy": {
            "steps": compared,
            "same_action": same,
            "distance": None if distance is None or discrete else _column_json(distance.result()),
        },
        "columns": {name: _column_json(column.result()) for name, column in passes.items()},
    }


def _columns(episode: Episode) -> Iterator[tuple[str, NDArray[Any]]]:
    """The columns of the steps, and how far the human's actions are from the policy's (Euclidean) where they drive."""
    for key, values in episode.observation.items():
        yield f"observation/{key}", values
    for name in STEP_COLUMNS:
        if name != "t_monotonic_ns":  # its zero means nothing
            yield name, getattr(episode, name)
    both = _driven_beside_a_proposal(episode)
    apart = np.asarray(episode.human_action[both], np.float64) - np.asarray(episode.policy_action[both], np.float64)
    yield _DISTANCE, np.sqrt(np.square(_rows(apart)).sum(axis=1))


def _driven_beside_a_proposal(episode: Episode) -> NDArray[np.bool_]:
    absent = is_null_action(episode.human_action) | is_null_action(episode.policy_action)
    return np.asarray((episode.actor == Actor.HUMAN) & ~absent)


def _same_action(episode: Episode) -> NDArray[np.bool_]:
    """Whether the human did what the policy proposed, at each step that they drive beside a proposal."""
    both = _driven_beside_a_proposal(episode)
    same = np.asarray(episode.human_action[both] == episode.policy_action[both])
    return np.asarray(_rows(same).all(axis=1))


def _rows(values: NDArray[Any]) -> NDArray[Any]:
    return values.reshape(len(values), int(np.prod(values.shape[1:])))


def _lengths_json(lengths: Mapping[Outcome, Sequence[int]]) -> dict[str, Any]:
    together = [length for of in lengths.values() for length in of]
    edges = np.histogram_bin_edges(together, bins=min(_BINS, max(1, np.ptp(together))))
    return {
        "edges": edges.tolist(),
        "counts": {outcome.value: np.histogram(of, edges)[0].tolist() for outcome, of in sorted(lengths.items())},
        "shortest": min(together),
        "median": float(np.median(together)),
        "longest": max(together),
    }


def _column_json(statistics: ColumnStatistics) -> dict[str, Any]:
    """Lists with a value for each dimension; what nothing is known of is null."""
    from robopref.store.summary_columns import QUANTILES

    known: dict[str, Any] = {"count": statistics.count.tolist(), "missing": statistics.missing.tolist()}
    for name, values in (
        ("min", statistics.minimum),
        ("max", statistics.maximum),
        ("mean", statistics.mean),
        ("std", statistics.std),
        *((f"q{100 * share:02.0f}", statistics.quantiles[:, i]) for i, share in enumerate(QUANTILES)),
    ):
        known[name] = [float(value) if np.isfinite(value) else None for value in values]
    return known
