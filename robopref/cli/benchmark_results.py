"""The raw results of a benchmark: one row per evaluation episode, in one parquet file that everything is drawn from."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robopref.cli.benchmark_cell import Cell, refinement_seconds
from robopref.cli.collect import collection_summary
from robopref.cli.evaluate import read_results
from robopref.errors import RoboprefError

if TYPE_CHECKING:
    import pyarrow as pa

_METADATA = b"robopref_benchmark"
_EVALUATION = ("regime", "task", "seed", "method", "evaluated_on", "scene")


def gather(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """The episodes of every evaluation that is finished, as rows."""
    rows = []
    for cell in cells:
        collections: dict[str, dict[str, int]] = {}  # by task: read once for all methods
        for evaluation in cell.evaluations():
            deployed = (
                cell.interactions(evaluation.task) / "summary.json"
            ).exists()  # the base's may be another task's
            if not (deployed and cell.finished(evaluation)):
                continue
            task = evaluation.task
            collected = collections.get(task) or collection_summary(cell.interactions(task))
            collections[task] = collected
            about = {
                "regime": cell.regime,
                "task": task,
                "seed": cell.seed,
                "method": evaluation.method,
                "evaluated_on": evaluation.evaluated_on,
                "scene": evaluation.scene,
                "optimiser_steps": cell.optimiser_steps(evaluation.method),
                "deployment_episodes": collected["episodes"],
                "deployment_takeovers": collected["takeovers"],
                "deployment_human_share": collected["human_steps"] / max(1, collected["steps"]),
                "seconds": refinement_seconds(cell, evaluation),
            }
            rows += [
                about
                | {
                    "episode_seed": result.seed,
                    "success": result.success,
                    "steps": result.steps,
                    "would_intervene": result.takeovers > 0,
                }
                for result in read_results(cell.results(evaluation))
            ]
    return rows


def write_results(path: Path, rows: Sequence[dict[str, Any]], about: dict[str, Any]) -> None:
    """Write the rows, and ``about`` (settings, versions) as the file's metadata; the file is the old one or the new."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist(list(rows), schema=_schema())
    table = table.replace_schema_metadata({_METADATA: json.dumps(about).encode()})
    temporary = path.with_name(f".{path.name}.tmp")
    pq.write_table(table, temporary, compression="zstd")
    os.replace(temporary, path)


def keep_earlier(path: Path, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, and before them those of ``path`` that are of other evaluations: what an earlier call finished."""
    if not path.exists():
        return list(rows)
    now = {tuple(row[key] for key in _EVALUATION) for row in rows}
    earlier = read_benchmark([path])[0].to_pylist()
    return [row for row in earlier if tuple(row[key] for key in _EVALUATION) not in now] + list(rows)


def read_benchmark(paths: Sequence[Path]) -> tuple[pa.Table, list[dict[str, Any]]]:
    """The rows of result files one after the other, and what each file says about itself.

    Raises:
        RoboprefError: a file that is missing or none of ours, an evaluation that two of them hold, or files whose
            methods of one regime had another budget, input, operator or perturbation, and so cannot be taken together.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables, about = [], []
    for path in paths:
        if not path.is_file():
            raise RoboprefError(f"{path} does not exist: name the results.parquet of a benchmark.")
        try:
            table = pq.read_table(path)
        except pa.ArrowException as error:
            raise RoboprefError(
                f"{path} is no parquet file ({error}): name the results.parquet of a benchmark."
            ) from error
        metadata = (table.schema.metadata or {}).get(_METADATA)
        if metadata is None or not set(_schema().names) <= set(table.column_names):
            raise RoboprefError(f"{path} holds other data: name the results.parquet that robopref benchmark wrote.")
        tables.append(table.select(_schema().names).replace_schema_metadata(None))
        about.append(json.loads(metadata))
    _check_alike(paths, tables, about)
    together = pa.concat_tables(tables)
    keys = [*_EVALUATION, "episode_seed"]
    if together.group_by(keys).aggregate([]).num_rows < together.num_rows:
        raise RoboprefError(
            "the same evaluation episodes are there twice (every file has the base policy's): give files of other "
            "regimes, tasks or seeds."
        )
    return together, about


def _check_alike(paths: Sequence[Path], tables: Sequence[pa.Table], about: Sequence[dict[str, Any]]) -> None:
    """See that a method of a regime is the same thing in every file."""
    first: dict[str, tuple[Path, dict[str, Any]]] = {}
    for path, table, said in zip(paths, tables, about, strict=True):
        for regime in dict.fromkeys(table.column("regime").to_pylist()):
            settings = _settings(said, regime)
            other, expected = first.setdefault(regime, (path, settings))
            differing = sorted(k for k in {*settings, *expected} if settings.get(k) != expected.get(k))
            if differing:
                raise RoboprefError(
                    f"{path} and {other} hold results of the regime {regime} with different settings "
                    f"({', '.join(differing)}), which are no runs of the same methods: draw them apart."
                )


def _settings(about: dict[str, Any], regime: str) -> dict[str, Any]:
    """What makes the results of a regime what they are, as a file's metadata has it; unset settings are left out."""
    config = about.get("config", {})
    names = ("inputs", "operator", *(("perturbation",) if regime == "perturbed" else ()))
    settings = {name: config.get(name) for name in names} | about.get("budget", {})
    return {name: value for name, value in settings.items() if value is not None}


def _schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            ("regime", pa.string()),
            ("task", pa.string()),
            ("seed", pa.int64()),
            ("method", pa.string()),
            ("evaluated_on", pa.string()),
            ("scene", pa.string()),
            ("episode_seed", pa.int64()),
            ("success", pa.bool_()),
            ("steps", pa.int64()),
            ("would_intervene", pa.bool_()),
            ("optimiser_steps", pa.int64()),
            ("deployment_episodes", pa.int64()),
            ("deployment_takeovers", pa.int64()),
            ("deployment_human_share", pa.float64()),
            ("seconds", pa.float64()),
        ]
    )
