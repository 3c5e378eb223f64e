"""Which episode seeds a stage uses: the streams never overlap, so nothing is evaluated on a layout it learned from."""

from __future__ import annotations

from robopref.errors import RoboprefError

_STREAMS = {"demos": 0, "collect": 1, "evaluate": 2}
_PER_STREAM = 100_000_000
_PER_SEED = 10_000


def episode_seeds(stage: str, seed: int, count: int, option: str = "--episodes") -> list[int]:
    """The ``count`` episode seeds of a stage (demos, collect, evaluate) under the run's ``seed``.

    ``option`` is what the command line calls the count.

    Raises:
        RoboprefError: more episodes or a larger seed than the streams hold.
    """
    if not 0 <= seed < _PER_STREAM // _PER_SEED:
        raise RoboprefError(f"--seed runs from 0 to {_PER_STREAM // _PER_SEED - 1}, got {seed}.")
    if not 1 <= count <= _PER_SEED:
        raise RoboprefError(f"{option} runs from 1 to {_PER_SEED}, got {count}.")
    first = _STREAMS[stage] * _PER_STREAM + seed * _PER_SEED
    return list(range(first, first + count))
