"""One recorded episode as the viewer's page reads it: numbers as base64 float32, runs of who acted, films by camera."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopref.trajectory import Actor, Episode, is_null_action, takeover_count

_MAX_CELLS = 80  # of the small band in the list
_MAX_FPS, _USUAL_FPS = 60, 20
_MIN_PIXELS = 8


def list_row(episode: Episode) -> dict[str, Any]:
    """What the list of episodes shows of one."""
    info = episode.info
    return {
        "id": info.episode_id,
        "task": info.task,
        "instruction": info.instruction,
        "operator": info.operator_id,
        "policy": info.policy_id,
        "outcome": info.outcome.value,
        "started": info.started_at,
        "steps": len(episode),
        "takeovers": takeover_count(episode.actor),
        "human": int(np.count_nonzero(episode.actor == Actor.HUMAN)),
        "band": _cells(episode.actor),
    }


def episode_payload(episode: Episode, labels: NDArray[Any], films: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """All that the page of an episode shows, as JSON values.

    Args:
        episode: the recording.
        labels: ``Label`` values [T].
        films: ``key`` and ``file`` of the film of each camera.
    """
    info = episode.info
    times = (np.asarray(episode.t_monotonic_ns) - episode.t_monotonic_ns[0]) / 1e9
    return {
        **list_row(episode),
        "seed": info.seed,
        "extra": dict(info.extra),
        "seconds": float(times[-1]),
        "recordedHz": recorded_rate(episode),
        "fps": film_rate(episode),
        "actors": _runs(episode.actor),
        "labels": _runs(labels),
        "drives": [list(run) for run in takeovers(episode.actor)],
        "discrete": episode.action.dtype.kind in "iu",
        "size": int(np.prod(episode.action.shape[1:], dtype=np.int64)),
        "executed": _packed(episode.action),
        "proposed": _packed(_with_gaps(episode.policy_action)),
        "commanded": _packed(_with_gaps(episode.human_action)),
        "reward": _packed(episode.reward),
        "times": _packed(times),
        "films": [dict(film) for film in films],
    }


def takeovers(actor: NDArray[Any]) -> Iterator[tuple[int, int]]:
    """First step and the one after the last of each takeover in actors [T], as ``takeover_count`` counts them."""
    start = stop = -1
    for t, who in enumerate(np.asarray(actor).tolist()):
        if who == Actor.HUMAN:
            start, stop = (t if start < 0 else start), t + 1
        elif who != Actor.HOLD and start >= 0:
            yield start, stop
            start = -1
    if start >= 0:
        yield start, stop


def recorded_rate(episode: Episode) -> float:
    """Steps a second, from the times of the steps; 0 when they say nothing."""
    intervals = np.diff(episode.t_monotonic_ns)
    middle = float(np.median(intervals)) if len(intervals) else 0.0
    return 1e9 / middle if middle > 0 else 0.0


def film_rate(episode: Episode) -> int:
    """Frames a second at which an episode is shown: as recorded, but for simulations that ran faster than a film can.

    A rate that the recorder noted (``extra["hz"]``) goes before the measured one.
    """
    noted = episode.info.extra.get("hz")
    noted_rate = float(noted) if isinstance(noted, int | float) and not isinstance(noted, bool) else 0.0
    rate = noted_rate if np.isfinite(noted_rate) and noted_rate > 0 else recorded_rate(episode)
    return max(1, round(rate)) if 0 < rate <= _MAX_FPS else _USUAL_FPS


def cameras(episode: Episode) -> dict[str, NDArray[np.uint8]]:
    """The observations that are pictures, as uint8 [T, H, W, 3]; of a stack of frames the newest one.

    Pictures are uint8 [H, W, 3], [H, W, 4] (the fourth is left out), [H, W, 1], [H, W], [3, H, W], or [C, H, W] of
    stacked grey frames. Nothing is copied.
    """
    found = {}
    for key, values in episode.observation.items():
        if values.dtype == np.uint8 and (frames := _frames(values)) is not None:
            found[key] = frames
    return found


def _frames(values: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    if values.ndim == 4 and values.shape[-1] in (3, 4) and min(values.shape[1:3]) >= _MIN_PIXELS:
        return values[..., :3]
    if values.ndim == 4 and values.shape[1] == 3 and min(values.shape[2:]) >= _MIN_PIXELS:
        return values.transpose(0, 2, 3, 1)
    if values.ndim == 4 and values.shape[-1] == 1:
        grey = values[..., 0]
    elif values.ndim == 4 and values.shape[1] < _MIN_PIXELS:
        grey = values[:, -1]
    elif values.ndim == 3:
        grey = values
    else:
        return None
    if min(grey.shape[1:]) < _MIN_PIXELS:
        return None
    return np.broadcast_to(grey[..., None], (*grey.shape, 3))


def _with_gaps(actions: NDArray[Any]) -> NDArray[np.float64]:
    values = np.array(actions, np.float64)
    values[is_null_action(actions)] = np.nan
    return values


def _packed(values: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode("ascii")


def _runs(values: NDArray[Any]) -> list[list[int]]:
    """``[value, count]`` of each run."""
    return [[int(value), len(list(run))] for value, run in groupby(np.asarray(values).tolist())]


def _cells(actor: NDArray[Any]) -> list[list[int]]:
    """The runs of who acted; of a long restless episode those of cells in which a human's step shows, however short."""
    runs = _runs(actor)
    if len(runs) <= _MAX_CELLS:
        return runs
    ends = np.linspace(0, len(actor), _MAX_CELLS + 1).astype(int)
    cells = [actor[a:b] for a, b in pairwise(ends)]
    shown = [Actor.HUMAN if (cell == Actor.HUMAN).any() else cell[0] for cell in cells]
    return _runs(np.repeat(shown, np.diff(ends)))
