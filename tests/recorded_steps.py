"""Steps, by rule or at random, and stores that they are recorded into."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from robopref.store import EpisodeStore
from robopref.trajectory import Actor, EpisodeInfo, Outcome, Step

INFO = EpisodeInfo(task="reach", instruction="reach the goal", seed=4, policy_id="p", operator_id="o", extra={"k": [1]})


def make_step(t: int, **changes: Any) -> Step:
    base = Step(
        observation={"image": np.full((4, 5, 3), t % 256, np.uint8), "proprio": np.full(2, t, np.float32)},
        action=np.full(2, 0.25, np.float32),
        actor=Actor.POLICY,
        policy_action=np.full(2, 0.25, np.float32),
        reward=float(t),
        t_monotonic_ns=1000 + t,
    )
    return replace(base, **changes)


def record(
    store: EpisodeStore, steps: int = 3, outcome: Outcome = Outcome.SUCCESS, step: Callable[[int], Step] = make_step
) -> str:
    with store.begin(INFO) as writer:
        for t in range(steps):
            writer.append(step(t))
        return writer.finish(outcome, step(steps).observation)


@pytest.fixture
def store(tmp_path: Path) -> EpisodeStore:
    return EpisodeStore.create_or_open(tmp_path / "data")


def state_step(t: int) -> Step:
    return make_step(t, observation={"state": np.full(3, t, np.float64)})


FLOATS = {"allow_nan": False, "allow_infinity": False}
DTYPES = st.sampled_from(["uint8", "float32", "float64", "float16", "int64", "bool", "int8", "uint16"])


@st.composite
def recordings(draw: st.DrawFn) -> list[Step]:
    """Steps of one random schema, continuous or discrete, with absent actions here and there."""
    length = draw(st.integers(1, 5))
    keys = draw(st.lists(st.sampled_from(["image", "state", "proprio", "a/b", "ä"]), min_size=1, unique=True))
    observed: dict[str, Any] = {}
    for key in keys:
        dtype = np.dtype(draw(DTYPES))
        shape = (length, *draw(hnp.array_shapes(min_dims=0, max_dims=3, max_side=4)))
        elements = FLOATS if dtype.kind == "f" else None
        observed[key] = draw(hnp.arrays(dtype, shape, elements=elements))
    discrete = draw(st.booleans())
    if discrete:
        actions = draw(hnp.arrays(np.int64, (3, length), elements=st.integers(0, 17)))
    else:
        size = draw(st.integers(1, 7))
        actions = draw(hnp.arrays(np.float32, (3, length, size), elements=st.floats(-1, 1, width=32)))
    absent = draw(hnp.arrays(np.bool_, (2, length)))
    return [
        Step(
            observation={key: values[t] for key, values in observed.items()},
            action=actions[0, t],
            actor=draw(st.sampled_from(Actor)),
            policy_action=None if absent[0, t] else actions[1, t],
            human_action=None if absent[1, t] else actions[2, t],
            segment_id=draw(st.integers(-1, 5)),
            reward=draw(st.floats(**FLOATS)),
            terminated=draw(st.booleans()),
            truncated=draw(st.booleans()),
            success=draw(st.booleans()),
            t_monotonic_ns=t * 10,
        )
        for t in range(length)
    ]
