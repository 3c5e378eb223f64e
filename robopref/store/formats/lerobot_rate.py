"""How many steps a second a LeRobotDataset claims: one whole number for all of its episodes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from robopref.errors import RoboprefError
from robopref.store.steps import StepReader
from robopref.store.store import EpisodeStore

HIGHEST = 1000
_NEAR = 0.05  # of a data set's rate: how far from it a median may be, which no two recordings have quite alike
_REAL_TIMES = "LeRobot's timestamps are frame_index / fps; the recorded times are in t_monotonic_ns"


def frame_rate(store: EpisodeStore, ids: Sequence[str], wanted: float | None) -> tuple[int, str]:
    """The rate and a sentence on where it comes from: asked for, or kept with the recording, or from its times.

    Raises:
        RoboprefError: the rate asked for is no whole number, or there is none to be found.
    """
    if wanted is not None:
        if not 1 <= wanted <= HIGHEST or wanted != round(wanted):
            raise RoboprefError(
                f"LeRobot needs a whole number of steps per second from 1 to {HIGHEST}, not {wanted:g}."
            )
        return int(wanted), f"fps: {int(wanted)}, as asked for. {_REAL_TIMES}."
    if (hz := _kept_rate(store, ids)) is not None:
        rounded = "" if hz == round(hz) else f", rounded from {hz:g}"
        return round(hz), f"fps: {round(hz)}, the rate that the control loop kept{rounded}. {_REAL_TIMES}."
    median = _median_seconds(store, ids)
    fps = 1 / median if median > 0 else 0.0
    if not 1 <= round(fps) <= HIGHEST:
        raise RoboprefError(
            f"the steps in {store.path} are {median:g} s apart (the median): say how many steps per second "
            f"LeRobot is to be told, a whole number from 1 to {HIGHEST}."
        )
    how = f"from the median distance of the steps, {median * 1e3:.2f} ms"
    return round(fps), f"fps: {round(fps)}, {how}. {_REAL_TIMES}."


def require_rate(store: EpisodeStore, ids: Sequence[str], path: Path, fps: float) -> None:
    """See that episodes which are to go on with the data set at ``path`` are of its rate.

    Raises:
        RoboprefError: they are not, or none is to be found.
    """
    found, how = frame_rate(store, ids, None)
    near = 0.0 if _kept_rate(store, ids) is not None else _NEAR * fps
    if abs(found - fps) > near:
        raise RoboprefError(
            f"{path} has {fps:g} steps per second, what is to be appended has another rate ({how.partition('. ')[0]}): "
            f"export it to another path, or ask for {fps:g} if that is what it is."
        )


def _kept_rate(store: EpisodeStore, ids: Sequence[str]) -> float | None:
    """The rate at which a control loop recorded all of them, if they say so."""
    told = {store.info(episode_id).extra.get("hz") for episode_id in ids}
    if len(told) == 1 and isinstance(hz := told.pop(), int | float) and 1 <= round(hz) <= HIGHEST:
        return hz
    return None


def _median_seconds(store: EpisodeStore, ids: Sequence[str]) -> float:
    """From a step to the next; 0 when no episode has two."""
    reader = StepReader(store, ("t_monotonic_ns",), ids=ids)  # whole episodes may hold videos to be decoded
    times = reader.read(np.arange(len(reader)))["t_monotonic_ns"]
    reader.close()
    distances = np.delete(np.diff(times), reader.lengths.cumsum()[:-1] - 1)
    return float(np.median(distances)) / 1e9 if len(distances) else 0.0
