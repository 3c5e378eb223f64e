"""How many steps a second a LeRobotDataset claims: one whole number for all of its episodes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from robopref.errors import RoboprefError
from robopref.store.steps import StepReader
from robopref.store.store import EpisodeStore

HIGHEST = 1000
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
    told = {store.info(episode_id).extra.get("hz") for episode_id in ids}
    if len(told) == 1 and isinstance(hz := told.pop(), int | float) and 1 <= round(hz) <= HIGHEST:
        rounded = "" if hz == round(hz) else f", rounded from {hz:g}"
        return round(hz), f"fps: {round(hz)}, the rate that the control loop kept{rounded}. {_REAL_TIMES}."
    reader = StepReader(store, ("t_monotonic_ns",), ids=ids)  # whole episodes may hold videos to be decoded
    times = reader.read(np.arange(len(reader)))["t_monotonic_ns"]
    reader.close()
    distances = np.delete(np.diff(times), reader.lengths.cumsum()[:-1] - 1)
    median = float(np.median(distances)) if len(distances) else 0.0
    fps = 1e9 / median if median > 0 else 0.0
    if not 1 <= round(fps) <= HIGHEST:
        raise RoboprefError(
            f"the steps in {store.path} are {median / 1e9:g} s apart (the median): say how many steps per second "
            f"LeRobot is to be told, a whole number from 1 to {HIGHEST}."
        )
    how = f"from the median distance of the steps, {median / 1e6:.2f} ms"
    return round(fps), f"fps: {round(fps)}, {how}. {_REAL_TIMES}."
