"""What a run left on disk, read from its plain result files. A file that is not there is a part that is not told."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robopref.errors import RoboprefError
from robopref.evaluation.statistics import Estimate, Rate
from robopref.tracking import METRICS_FILE, read_metrics
from robopref.trajectory import Actor

MEASURES = ("success", "intervention_rate")


@dataclass(frozen=True)
class EvaluatedEpisode:
    """One evaluation episode: how it ended, after how many control steps, and would an operator have stepped in."""

    seed: int
    success: bool
    steps: int
    takeovers: int


@dataclass(frozen=True)
class Attempt:
    """One deployment episode: (actor, steps) in order, and the [start, stop) windows labelled undesirable."""

    episode_id: str
    seed: int | None
    outcome: str
    actors: tuple[tuple[Actor, int], ...]
    undesirable: tuple[tuple[int, int], ...]

    @property
    def steps(self) -> int:
        """Control steps in all."""
        return sum(count for _, count in self.actors)


@dataclass(frozen=True)
class Film:
    """A video beside the report, with what its caption says."""

    path: Path
    title: str
    caption: str


@dataclass(frozen=True)
class RunResults:
    """Everything that a report may tell.

    ``rates`` and ``episodes`` are keyed by stage: ``before`` and ``after``, or ``evaluation`` for a lone evaluation;
    ``differences`` (after minus before, paired by seed) by measure; ``curves`` by ``train`` and ``refine``.
    """

    directory: Path
    summary: Mapping[str, Any] | None = None
    rates: Mapping[str, Mapping[str, Rate]] = field(default_factory=dict)
    differences: Mapping[str, Estimate] = field(default_factory=dict)
    episodes: Mapping[str, Sequence[EvaluatedEpisode]] = field(default_factory=dict)
    curves: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    timeline: Sequence[Attempt] = ()
    films: Sequence[Film] = ()

    @property
    def lone(self) -> bool:
        """Whether this is a single evaluation, with nothing to compare it to."""
        return "evaluation" in self.rates or "evaluation" in self.episodes


def read_results(directory: Path) -> RunResults:
    """Read the result files of a quickstart or an evaluation.

    Raises:
        RoboprefError: there is no such directory, or a file in it is damaged.
    """
    if not directory.is_dir():
        raise RoboprefError(f"there is no run directory {directory}.")
    summary, rates, differences = _summary(directory / "summary.json")
    files = {"before": "before/episodes.jsonl", "after": "after/episodes.jsonl", "evaluation": "episodes.jsonl"}
    curves = {stage: directory / stage / METRICS_FILE for stage in ("train", "refine")}
    episodes = {stage: _episodes(directory / file) for stage, file in files.items() if (directory / file).exists()}
    return RunResults(
        directory,
        summary,
        rates,
        differences,
        episodes,
        {stage: rows for stage, path in curves.items() if path.exists() and (rows := read_metrics(path))},
        _timeline(directory / "timeline.json"),
        _films(directory / "videos"),
    )


def _summary(path: Path) -> tuple[Mapping[str, Any] | None, dict[str, dict[str, Rate]], dict[str, Estimate]]:
    if not path.exists():
        return None, {}, {}
    summary = _json(path)
    if not {"result", *_COMPARED} & {*summary}:
        raise RoboprefError(
            f"{path} holds no success rates, so there is nothing to report: give the directory of a quickstart, an "
            f"evaluation or a diagnosis."
        )
    try:
        sources = {"evaluation": summary["result"]} if "result" in summary else {s: summary[s] for s in _COMPARED}
        rates = {stage: {m: Rate(**source[m]) for m in MEASURES} for stage, source in sources.items()}
        differences = {m: Estimate(**summary["difference"][m]) for m in MEASURES} if "result" not in summary else {}
    except (KeyError, TypeError) as error:
        raise RoboprefError(f"{path} is no summary of a run ({error}): let the run write it again.") from error
    return summary, rates, differences


_COMPARED = ("before", "after")


def _episodes(path: Path) -> list[EvaluatedEpisode]:
    complete = path.read_text(encoding="utf-8").split("\n")[:-1]  # a last line without its end was torn by a kill
    rows = []
    for number, line in enumerate(complete, start=1):
        try:
            row = json.loads(line)
            rows.append(EvaluatedEpisode(int(row["seed"]), bool(row["success"]), int(row["steps"]), row["takeovers"]))
        except (ValueError, TypeError, KeyError) as error:
            raise RoboprefError(f"{path}, line {number}, holds no evaluated episode: repair or remove it.") from error
    return sorted(rows, key=lambda row: row.seed)


def _timeline(path: Path) -> list[Attempt]:
    if not path.exists():
        return []
    try:
        return [
            Attempt(
                str(row["episode_id"]),
                row["seed"],
                str(row["outcome"]),
                tuple((Actor(actor), int(count)) for actor, count in row["actors"]),
                tuple((int(start), int(stop)) for start, stop in row["undesirable"]),
            )
            for row in _json(path)
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise RoboprefError(f"{path} is no timeline of episodes ({error}): let the run write it again.") from error


def _films(directory: Path) -> list[Film]:
    films = []
    for path in sorted(directory.glob("*.mp4"), key=_film_order):
        sidecar = path.with_suffix(".json")
        told = _json(sidecar) if sidecar.exists() else {}
        films.append(Film(path, str(told.get("title", path.stem)), str(told.get("caption", ""))))
    return films


def _film_order(path: Path) -> tuple[int, str]:
    """Before and after of the same seed side by side, takeovers last."""
    stage, _, rest = path.stem.partition("-")
    return (0, f"{rest}-{_COMPARED.index(stage)}") if stage in _COMPARED else (1, path.stem)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RoboprefError(f"{path} is not valid JSON ({error}): let the run write it again.") from error
