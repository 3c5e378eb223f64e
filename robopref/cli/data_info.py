"""``robopref data info``: what a data directory holds, in figures with their intervals."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro
from rich.markup import escape
from rich.table import Table

from robopref.cli.console import console, say
from robopref.trajectory import Actor, Outcome

if TYPE_CHECKING:
    from robopref.store.summary import EpisodeFigures

_GROUPS: dict[str, Callable[[EpisodeFigures], str]] = {
    "task": lambda episode: episode.info.task,
    "operator": lambda episode: episode.info.operator_id or "(none)",
    "policy": lambda episode: episode.info.policy_id or "(none)",
}


@dataclass(frozen=True)
class DataInfo:
    """What is in a data directory: episodes, outcomes, takeovers, who drove, times, sizes, columns."""

    data: tyro.conf.Positional[Path]
    """The data directory."""
    json: bool = False
    """Print it as JSON."""


def run_data_info(config: DataInfo) -> bool:
    """Print the figures; a damaged episode is named and left out of them."""
    figures = directory_figures(config.data)
    if config.json:
        print(json.dumps(figures, indent=2))
    else:
        _print(config.data, figures)
    return True


def directory_figures(path: Path) -> dict[str, Any]:
    """The figures of a data directory as JSON values; rates and means hold ``value``, ``low``, ``high`` and ``n``.

    Raises:
        RoboprefError: there is no such data directory.
    """
    import numpy as np

    from robopref.store.dataset_file import read_dataset
    from robopref.store.store import EpisodeStore
    from robopref.store.summary import Damaged, directory_size, episode_figures, readable, unfinished

    store = EpisodeStore.open(path)
    damaged: list[Damaged] = []
    read = partial(episode_figures, store)
    episodes = list(readable(read, store.episode_ids(), damaged=damaged.append))
    dataset, rest = read_dataset(path), unfinished(path)
    steps = sum(episode.steps for episode in episodes)
    longer = [episode for episode in episodes if episode.steps > 1]
    return {
        "path": str(path),
        "schema_version": dataset.version,
        "recovered": [str(recovery) for recovery in store.recovered],
        "damaged": {episode.episode_id: episode.problem for episode in damaged},
        "running": list(rest.running),
        "stuck": list(rest.stuck),
        "discarded": list(rest.discarded),
        **_group_figures(episodes),
        "outcomes": {o.value: _outcome_rate(episodes, o) for o in Outcome} if episodes else {},
        "actors": {a.name.lower(): sum(episode.actors[a] for episode in episodes) for a in Actor},
        "by": {name: _grouped(episodes, key) for name, key in _GROUPS.items()},
        "seconds": sum(episode.seconds for episode in episodes),
        "control": {
            "hz": 1 / max(1e-9, float(np.median([episode.interval for episode in longer]))),
            "jitter_ms": 1e3 * float(np.median([episode.jitter for episode in longer])),
        }
        if longer
        else None,
        "bytes": directory_size(path),
        "bytes_per_step": sum(episode.nbytes for episode in episodes) / steps if steps else None,
        "columns": {name: {"dtype": c.dtype, "shape": list(c.shape)} for name, c in dataset.columns.items()},
    }


def _grouped(episodes: Sequence[EpisodeFigures], key: Callable[[EpisodeFigures], str]) -> dict[str, Any]:
    names = sorted({key(episode) for episode in episodes})
    return {name: _group_figures([episode for episode in episodes if key(episode) == name]) for name in names}


def _group_figures(episodes: Sequence[EpisodeFigures]) -> dict[str, Any]:
    from robopref.evaluation.statistics import bootstrap_mean, bootstrap_ratio

    steps = [episode.steps for episode in episodes]
    if not episodes:
        return {"episodes": 0, "steps": 0}
    return {
        "episodes": len(episodes),
        "steps": sum(steps),
        "success": _outcome_rate(episodes, Outcome.SUCCESS),
        "takeovers": sum(episode.takeovers for episode in episodes),
        "takeovers_per_episode": asdict(bootstrap_mean([episode.takeovers for episode in episodes])),
        "human_steps": sum(episode.human_steps for episode in episodes),
        "human_share": asdict(bootstrap_ratio([episode.human_steps for episode in episodes], steps)),
    }


def _outcome_rate(episodes: Sequence[EpisodeFigures], outcome: Outcome) -> dict[str, Any]:
    from robopref.evaluation.statistics import Rate

    return asdict(Rate.of(sum(episode.info.outcome is outcome for episode in episodes), len(episodes)))


def _print(path: Path, figures: dict[str, Any]) -> None:
    for recovery in figures["recovered"]:
        say(f"just now: {recovery}")
    for problem in figures["damaged"].values():
        say(f"damaged, left out below: {problem}", style="red")
    beside = {name: figures[name] for name in ("running", "stuck", "discarded") if figures[name]}
    told = {"running": "being recorded now", "stuck": "interrupted, not recoverable", "discarded": "discarded"}
    say(f"{path}: {figures['episodes']} episodes, {figures['steps']} steps, {size_text(figures['bytes'])}")
    for name, ids in beside.items():
        say(f"  {len(ids)} {told[name]}: {', '.join(ids[:5])}{' ...' if len(ids) > 5 else ''}")
    if not figures["episodes"]:
        say("  no finished episode: record some first (robopref collect, robopref teleop), or convert some.")
        return
    rates = ", ".join(f"{name} {percent(rate)}" for name, rate in figures["outcomes"].items() if rate["successes"])
    say(f"  outcomes: {rates}")
    say(f"  takeovers: {figures['takeovers']}, {estimate_text(figures['takeovers_per_episode'])} per episode")
    say(f"  operator's share of the steps: {percent(figures['human_share'])}")
    drove = ", ".join(f"{name} {count}" for name, count in figures["actors"].items() if count)
    say(f"  steps by who acted: {drove}")
    say(f"  time: {duration_text(figures['seconds'])}" + _control_text(figures["control"]))
    say(f"  bytes per step: {figures['bytes_per_step']:.0f}")
    say("  intervals: 95 %, Wilson for rates, bootstrap over episodes for the rest; n = episodes")
    for name, groups in figures["by"].items():
        _print_groups(name, groups)
    table = Table(title="columns of a step", title_justify="left")
    for heading in ("column", "type", "shape"):
        table.add_column(heading, overflow="fold")
    for name, column in figures["columns"].items():
        table.add_row(escape(name), column["dtype"], escape(str(column["shape"])))
    console.print(table)


def _print_groups(name: str, groups: dict[str, Any]) -> None:
    table = Table(title=f"by {name}", title_justify="left")
    table.add_column(name, overflow="fold")
    for heading in ("episodes", "steps", "success", "takeovers/episode", "operator"):
        table.add_column(heading, justify="right")
    for group, of in groups.items():
        table.add_row(
            escape(group), str(of["episodes"]), str(of["steps"]), escape(percent(of["success"], short=True)),
            escape(estimate_text(of["takeovers_per_episode"], short=True)),
            escape(percent(of["human_share"], short=True)),
        )  # fmt: skip
    console.print(table)


def percent(rate: dict[str, Any], *, short: bool = False) -> str:
    """``62.0 % [48.2, 74.1] (n=50)``; ``short``, for tables that say n elsewhere: ``62 % [48, 74]``."""
    value, low, high = (100 * rate[part] for part in ("value", "low", "high"))
    if short:
        return f"{value:.0f} % [{low:.0f}, {high:.0f}]"
    return f"{value:.1f} % [{low:.1f}, {high:.1f}] (n={rate['n']})"


def estimate_text(estimate: dict[str, Any], *, short: bool = False) -> str:
    """``1.25 [0.80, 1.70] (n=50)``; ``short``, for tables that say n elsewhere: ``1.2 [0.8, 1.7]``."""
    if short:
        return f"{estimate['value']:.1f} [{estimate['low']:.1f}, {estimate['high']:.1f}]"
    return f"{estimate['value']:.2f} [{estimate['low']:.2f}, {estimate['high']:.2f}] (n={estimate['n']})"


def size_text(nbytes: float) -> str:
    """A size as people read it, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 1000:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.1f} TB"


def duration_text(seconds: float) -> str:
    """A time as people read it."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


def _control_text(control: dict[str, float] | None) -> str:
    if control is None:
        return ""
    return f", {control['hz']:.1f} steps a second, jitter {control['jitter_ms']:.1f} ms (95th percentile)"
