"""A LeRobotDataset v3.0 into a store: its own exports as they were recorded, those of others as far as they go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError
from robopref.store.encoding import info_from_json
from robopref.store.formats import lerobot_layout as layout
from robopref.store.formats.base import Conversion, ConversionOptions
from robopref.store.formats.foreign import made_id
from robopref.store.formats.importing import Added, already, is_new, located
from robopref.store.formats.lerobot_columns import Plan, make_plan, observations, outcome, step_columns
from robopref.store.formats.lerobot_layout import file_path
from robopref.store.formats.lerobot_metadata import EPISODE_ID, EPISODE_INFO
from robopref.store.formats.lerobot_source import EpisodeRow, Source
from robopref.store.formats.lerobot_tables import decode_image, from_arrow, read_table
from robopref.store.store import EpisodeStore
from robopref.trajectory import Episode, EpisodeInfo


def import_lerobot(path: Path, store: EpisodeStore, options: ConversionOptions) -> Conversion:
    """Add the episodes of a LeRobotDataset v3.0 to a store.

    Raises:
        RoboprefError: the path is none, it is damaged, or an episode does not fit the store. Those before it stay.
    """
    source = Source(path)
    plan = make_plan(source.features, str(path), options)
    added = Added()

    def wanted(row: EpisodeRow, episode_id: str) -> bool:
        with located(f"{path}, episode {row.index}"):
            if is_new(episode_id, store, options):
                return True
        added.skipped.append(already(episode_id, store))
        return False

    # What is there already is not even read.
    rows = [row for row in source.rows if not row.own or wanted(row, _own_info(row, path).episode_id)]
    for row, values in source.episodes(rows, plan.names, store.path):
        options.progress(row.index, len(source.rows))
        columns = step_columns(plan, values)
        info = _own_info(row, path) if row.own else _made_info(source, row, plan, columns, options)
        if not wanted(row, info.episode_id):  # a merged data set may hold an episode twice
            continue
        with located(f"{path}, episode {row.index}"):
            final = _final_observation(source, row, plan)
            store.add(Episode(info, observations(plan, values), **columns, final_observation=final))
        added.episodes, added.steps = added.episodes + 1, added.steps + row.length
    options.progress(len(source.rows), len(source.rows))
    lost = [*plan.lost]
    if several := sum(len(row.tasks) > 1 and not row.own for row in source.rows):
        lost.append(f"tasks: all but the first of {several} episodes that have several.")
    invented = plan.invented + ([] if all(row.own for row in source.rows) else [_SAID_OF_STRANGERS])
    return Conversion(added.episodes, added.steps, tuple(lost), tuple(invented), tuple(added.skipped))


_SAID_OF_STRANGERS = (
    "task, instruction: the data set's task, unless others are given; episode_id, started_at: made at the import; "
    "seed, policy_id, operator_id: empty."
)


def _own_info(row: EpisodeRow, path: Path) -> EpisodeInfo:
    with located(f"{path}, episode {row.index}"):
        return info_from_json(row.extra[EPISODE_INFO])


def _made_info(
    source: Source, row: EpisodeRow, plan: Plan, columns: dict[str, NDArray[Any]], options: ConversionOptions
) -> EpisodeInfo:
    return EpisodeInfo(
        task=options.task or row.task,
        instruction=options.instruction or row.task,
        outcome=outcome(plan, columns),
        episode_id=_made_id(row, columns),
        extra={"hz": source.fps, "lerobot": {"episode_index": row.index, "robot_type": source.info.get("robot_type")}},
    )


def _made_id(row: EpisodeRow, columns: dict[str, NDArray[Any]]) -> str:
    task = np.frombuffer(row.task.encode(), np.uint8)
    return made_id("lerobot", f"{row.index:06d}", task, columns["action"], columns["t_monotonic_ns"])


def _final_observation(source: Source, row: EpisodeRow, plan: Plan) -> dict[str, NDArray[Any]]:
    """What was seen after the last action, if an export kept it for this very episode."""
    path = source.path / file_path(layout.FINAL_PATH, row.index)
    if EPISODE_ID not in row.extra or not path.exists():
        return {}
    table = read_table(path)
    if (table.schema.metadata or {}).get(EPISODE_ID.encode()) != str(row.extra[EPISODE_ID]).encode():
        return {}  # another program has renumbered the episodes
    final = {}
    for key, feature in plan.observation.items():
        if feature.name not in table.column_names or table.num_rows != 1 or feature.spec is None:
            raise RoboprefError(f"{path} lacks the feature {feature.name!r}.")
        column = table[feature.name].combine_chunks()
        if feature.visual:
            picture = column.to_pylist()[0]
            value = decode_image(picture and picture["bytes"], feature.shape, f"{path}, {feature.name!r}")
        else:
            value = from_arrow(column, feature, str(path))[0]
        final[key] = value.reshape(feature.spec.shape).astype(feature.spec.dtype, copy=False)
    return final
