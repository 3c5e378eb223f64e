"""Whether what an episode says is possible: values in range, times in order, actors and actions that agree.

Checksums tell that a file is as it was written; this tells that what was written makes sense. The rules are those
that every recorder and importer of robopref keeps, and no more: an operator may judge an episode as he likes, and a
recording from elsewhere may lack proposals altogether.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopref.trajectory import NULL_DISCRETE, Actor, Episode, Outcome, is_null_action

_SLICE = 1 << 24  # bytes looked at together: an episode may be larger than the memory


def contradictions(episode: Episode) -> Iterator[str]:
    """One sentence for each thing that is wrong in an episode, naming the column and the first step at fault."""
    yield from _values(episode)
    yield from _actions(episode)
    yield from _segments(episode)
    yield from _end(episode)


def _values(episode: Episode) -> Iterator[str]:
    columns = {f"observation/{key}": values for key, values in episode.observation.items()} | {"reward": episode.reward}
    for name, values in columns.items():
        yield from _first(_not_finite(values), f"column {name!r} holds NaN or infinity")
    for name in ("terminated", "truncated", "success"):
        raw = getattr(episode, name).view(np.uint8)
        yield from _first(raw > 1, f"column {name!r} is neither true nor false")
    for key, value in episode.final_observation.items():
        if _not_finite(value[None]).any():
            yield f"the final observation {key!r} holds NaN or infinity."
    yield from _first(episode.t_monotonic_ns < 0, "column 't_monotonic_ns' is negative")
    yield from _first(episode.segment_id < -1, "column 'segment_id' is below -1")


def _actions(episode: Episode) -> Iterator[str]:
    proposed, commanded = ~is_null_action(episode.policy_action), ~is_null_action(episode.human_action)
    for name in ("action", "policy_action", "human_action"):
        values = getattr(episode, name)
        if values.dtype.kind in "iu":
            yield from _first(values < NULL_DISCRETE, f"column {name!r} is below {NULL_DISCRETE}")
        else:
            partly = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
            absent = np.isnan(values).reshape(len(values), -1).all(axis=1)
            yield from _first(partly & ~absent, f"column {name!r} is there in part only")
    policy, human = episode.actor == Actor.POLICY, episode.actor == Actor.HUMAN
    if commanded.any():  # else it is from where a person's command and what was executed are not told apart
        yield from _first(human & ~commanded, "a person drives, and column 'human_action' is absent")
    if proposed.any():  # else it is from where proposals are not kept
        yield from _first(policy & ~proposed, "the policy drives, and column 'policy_action' is absent")
    yield from _first((episode.actor == Actor.EXPERT) & (episode.segment_id >= 0), "a demonstration is in a takeover")


def _segments(episode: Episode) -> Iterator[str]:
    human, policy = episode.actor == Actor.HUMAN, episode.actor == Actor.POLICY
    yield from _first(human & (episode.segment_id < 0), "a person drives outside of a takeover (segment_id is -1)")
    yield from _first(policy & (episode.segment_id >= 0), "the policy drives within a takeover (segment_id is not -1)")
    numbers = episode.segment_id[episode.segment_id >= 0]
    if len(numbers) and (numbers[0] != 0 or not np.isin(np.diff(numbers), (0, 1)).all()):
        yield f"the takeovers are numbered {list(dict.fromkeys(numbers.tolist()))[:8]}, not 0, 1, 2 in their order."


def _end(episode: Episode) -> Iterator[str]:
    ended = episode.terminated | episode.truncated
    yield from _first(ended[:-1], "the episode goes on after it was terminated or truncated")
    if episode.info.outcome is Outcome.FAILURE and not episode.info.operator_id and episode.success.any():
        yield "it succeeded, yet its outcome is failure, and no operator is named who judged so."
    observed, final = episode.observation, episode.final_observation
    if final and set(final) != set(observed):
        yield f"the final observation has {sorted(final)}, the steps have {sorted(observed)}."
    for key in set(final) & set(observed):
        if (final[key].dtype, final[key].shape) != (observed[key].dtype, observed[key].shape[1:]):
            yield f"the final observation {key!r} is not like those of the steps."


def _not_finite(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Which of the values [T, ...] hold NaN or infinity -> bool [T]."""
    bad = np.zeros(len(values), np.bool_)
    if values.dtype.kind == "f" and values.size:
        at_once = max(1, _SLICE // values[0].nbytes)
        for begin in range(0, len(values), at_once):
            part = values[begin : begin + at_once]
            bad[begin : begin + at_once] = ~np.isfinite(part).reshape(len(part), -1).all(axis=1)
    return bad


def _first(bad: NDArray[np.bool_], what: str) -> Iterator[str]:
    """The sentence, if any step [T] (or any part of one [T, A]) is bad."""
    if not bad.size:
        return
    steps = np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1))
    if len(steps):
        more = f" and {len(steps) - 1} more" if len(steps) > 1 else ""
        yield f"{what} at step {steps[0]}{more}."
