"""A LeRobotDataset v3.0 into a store: its own exports as they were recorded, those of others as far as they go."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError
from robopref.store.encoding import info_from_json
from robopref.store.formats import lerobot_layout as layout
from robopref.store.formats.base import Conversion, ConversionOptions
from robopref.store.formats.lerobot_columns import Plan, make_plan, observations, outcome, step_columns
from robopref.store.formats.lerobot_layout import file_path
from robopref.store.formats.lerobot_metadata import EPISODE_ID, EPISODE_INFO
from robopref.store.formats.lerobot_source import EpisodeRow, Source
from robopref.store.formats.lerobot_tables import decode_image, from_arrow, read_table
from robopref.store.store import EpisodeStore
from robopref.trajectory import Episode, EpisodeInfo

_SAFE_ID = re.compile(r"[^./\\\0][^/\\\0]{0,200}")


def import_lerobot(path: Path, store: EpisodeStore, options: ConversionOptions) -> Conversion:
    """Add the episodes of a LeRobotDataset v3.0 to a store.

    Raises:
        RoboprefError: the path is none, it is damaged, or an episode does not fit the store. Those before it stay.
    """
    source = Source(path)
    plan = make_plan(source.features, str(path))
    skipped: list[str] = []

    def is_new(row: EpisodeRow, episode_id: str) -> bool:
        if not store.has(episode_id):
            return True
        if not options.append:
            raise RoboprefError(f"{path}, episode {row.index}: {store.path} already has it, as {episode_id}.")
        skipped.append(f"{episode_id}: {store.path} has it already.")
        return False

    rows = [row for row in source.rows if not row.own or is_new(row, _own_info(row, path).episode_id)]
    episodes, steps = 0, 0
    for row, values in source.episodes(rows, plan.names, store.path):
        options.progress(row.index, len(source.rows))
        columns = step_columns(plan, values)
        info = _own_info(row, path) if row.own else _made_info(source, row, plan, columns, options)
        if not is_new(row, info.episode_id):  # a merged data set may hold an episode twice
            continue
        try:
            final = _final_observation(source, row, plan)
            store.add(Episode(info, observations(plan, values), **columns, final_observation=final))
        except RoboprefError as error:
            raise RoboprefError(f"{path}, episode {row.index}: {error}") from error
        episodes, steps = episodes + 1, steps + row.length
    options.progress(len(source.rows), len(source.rows))
    lost = [*plan.lost]
    if several := sum(len(row.tasks) > 1 and not row.own for row in source.rows):
        lost.append(f"tasks: all but the first of {several} episodes that have several.")
    invented = plan.invented + ([] if all(row.own for row in source.rows) else [_SAID_OF_STRANGERS])
    return Conversion(episodes, steps, tuple(lost), tuple(invented), tuple(skipped))


_SAID_OF_STRANGERS = (
    "task, instruction: the data set's task, unless others are given; episode_id, started_at: made at the import; "
    "seed, policy_id, operator_id: empty."
)


def _own_info(row: EpisodeRow, path: Path) -> EpisodeInfo:
    try:
        info = info_from_json(row.extra[EPISODE_INFO])
    except RoboprefError as error:
        raise RoboprefError(f"{path}, episode {row.index}: {error}") from error
    # The id becomes the name of a file, and a data set from elsewhere may hold anything.
    if not _SAFE_ID.fullmatch(info.episode_id):
        raise RoboprefError(f"{path}, episode {row.index}: {info.episode_id!r} is no episode id.")
    return info


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
    """The same at every import of the same episode, so that importing again finds it, and in the data set's order."""
    digest = hashlib.blake2b(row.task.encode(), digest_size=6)
    for name in ("action", "t_monotonic_ns"):
        digest.update(np.ascontiguousarray(columns[name]).tobytes())
    return f"lerobot-{row.index:06d}-{digest.hexdigest()}"


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
