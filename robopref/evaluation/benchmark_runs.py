"""Runs of a benchmark, read from its table of evaluation episodes: what every comparison of methods begins with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError

if TYPE_CHECKING:
    import pyarrow as pa

BASE = "base"
PRETRAINED = "pretrained"
"""The regime in which one base policy per seed serves all tasks."""
Evaluated = Literal["same", "others"]
RunKey = tuple[str, str, int]
"""Method, task refined on, seed."""

_COLUMNS = (
    "regime",
    "task",
    "seed",
    "method",
    "evaluated_on",
    "scene",
    "episode_seed",
    "success",
    "optimiser_steps",
    "deployment_takeovers",
)


@dataclass(frozen=True)
class Run:
    """The evaluation of one method after one run: which episodes (task, scene seed), in order, and how they ended.

    ``success`` is [episodes], 0 or 1.
    """

    episodes: tuple[tuple[str, int], ...]
    success: NDArray[np.float64]
    optimiser_steps: int
    takeovers: int


def views(table: pa.Table, regime: str) -> tuple[tuple[Evaluated, str], ...]:
    """How the runs of a regime were evaluated: (``same`` or ``others``, scene), as many as there are, ``same`` first.

    Raises:
        RoboprefError: the table lacks columns, or nothing of the regime.
    """
    columns = _columns(table, regime)
    found = {
        ("same" if task == on else "others", scene)
        for task, on, scene in zip(columns["task"], columns["evaluated_on"], columns["scene"], strict=True)
    }
    kinds: tuple[Evaluated, ...] = ("same", "others")
    return tuple((kind, scene) for kind in kinds for scene in sorted({s for k, s in found if k == kind}))


def where_evaluated(regime: str, evaluated: Evaluated, scene: str) -> str:
    """A view in words."""
    on = "the task refined on" if evaluated == "same" else "other tasks"
    return f"regime {regime}, evaluated on {on} in the {scene} scene"


def _columns(table: pa.Table, regime: str) -> dict[str, list[Any]]:
    """The columns that scores need, of the regime's rows alone."""
    absent = [name for name in _COLUMNS if name not in table.column_names]
    if absent:
        raise RoboprefError(f"the table of evaluation episodes lacks the columns {', '.join(absent)}.")
    columns = {name: table.column(name).to_pylist() for name in _COLUMNS}
    chosen = [i for i, name in enumerate(columns["regime"]) if name == regime]
    if not chosen:
        known = sorted({str(name) for name in columns["regime"]})
        raise RoboprefError(f"the table holds nothing of the regime {regime!r}; it holds {', '.join(known) or 'none'}.")
    return {name: [values[i] for i in chosen] for name, values in columns.items()}


def read_runs(table: pa.Table, regime: str, evaluated: Evaluated, scene: str) -> dict[RunKey, Run]:
    """The runs of one view that are evaluated completely.

    Raises:
        RoboprefError: the table lacks columns, values, or anything of the view; or an episode is there twice.
    """
    columns = _columns(table, regime)
    collected: dict[RunKey, dict[tuple[str, int], tuple[bool, int, int]]] = {}
    for row in zip(*(columns[name] for name in _COLUMNS), strict=True):
        _, task, seed, method, on, scene_here, episode_seed, success, steps, takeovers = row
        if scene_here != scene or (task == on) != (evaluated == "same"):
            continue
        empty = [name for name, value in zip(_COLUMNS, row, strict=True) if value is None]
        if empty:
            raise RoboprefError(f"{method} on {task}, seed {seed}: no value for {', '.join(empty)} in an episode.")
        episodes = collected.setdefault((method, task, seed), {})
        if (on, episode_seed) in episodes:
            raise RoboprefError(
                f"{method} on {task}, seed {seed}: the episode of {on} with seed {episode_seed} is there twice; "
                "the table must hold each evaluation once."
            )
        episodes[on, episode_seed] = (success, steps, takeovers)
    # An evaluation on several tasks that was stopped between two of them is not there yet.
    on_all: dict[tuple[str, int], set[str]] = {}
    for (_, task, seed), episodes in collected.items():
        on_all.setdefault((task, seed), set()).update(on for on, _ in episodes)
    runs = {
        key: _run(episodes)
        for key, episodes in collected.items()
        if {on for on, _ in episodes} == on_all[key[1], key[2]]
    }
    if not runs:
        raise RoboprefError(f"{where_evaluated(regime, evaluated, scene)}: the table holds no such evaluation.")
    return runs


def _run(episodes: Mapping[tuple[str, int], tuple[bool, int, int]]) -> Run:
    order = tuple(sorted(episodes))
    _, steps, takeovers = episodes[order[0]]  # the run's, the same in each of its episodes
    return Run(order, np.array([episodes[key][0] for key in order], dtype=np.float64), steps, takeovers)


def check_choice(where: str, kind: str, chosen: Sequence[str], there: set[str]) -> None:
    """Raises RoboprefError when nothing was chosen, or something that is not there."""
    unknown = [name for name in chosen if name not in there]
    if unknown or not chosen:
        raise RoboprefError(
            f"{where}: no {kind} {', '.join(unknown) or 'was chosen'}; there are {', '.join(sorted(there))}."
        )


def check_paired(where: str, methods: Sequence[str], runs: Mapping[RunKey, Run]) -> None:
    """Raises RoboprefError when methods of a task and seed were evaluated on different episodes."""
    for task, seed in sorted({(task, seed) for _, task, seed in runs}):
        present = [m for m in methods if (m, task, seed) in runs]
        if not present:
            continue
        expected = runs[present[0], task, seed].episodes
        for method in present[1:]:
            got = runs[method, task, seed].episodes
            if got != expected:
                shared = len(set(got) & set(expected))
                raise RoboprefError(
                    f"{where}: on {task}, seed {seed}, {method} was evaluated on other episodes than {present[0]} "
                    f"({len(got)} and {len(expected)}, {shared} of them shared); evaluate both on the same episode "
                    "seeds, for a paired comparison needs them."
                )
