"""Who is to be credited with how an episode ended: attempts, cut where a human had to step in.

A human's rescue is never the policy's success: a takeover ends the policy's attempt as a failure, and with the human's
first step another attempt begins. Only the last one ends as the episode did.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopref.trajectory import Actor, Outcome


@dataclass(frozen=True)
class Attempt:
    """Steps ``start`` to ``stop`` (exclusive) of an episode; ``failed`` is ``None`` where nobody judged them."""

    start: int
    stop: int
    failed: bool | None


def attempts(actors: NDArray[Any], outcome: Outcome) -> list[Attempt]:
    """The attempts of an episode, in order, from its actors [T] and its outcome.

    HOLD steps belong to the attempt that they interrupt, those right before a takeover to the one that it ends.
    """
    actors = np.asarray(actors)
    cuts, policy_drove = [0], False
    for t, actor in enumerate(actors):
        if actor == Actor.HUMAN and policy_drove:
            cuts.append(t)
        if actor != Actor.HOLD:
            policy_drove = actor == Actor.POLICY
    # Compared by value: an outcome read from a file may be a plain string.
    last = None if outcome == Outcome.ABORTED else outcome == Outcome.FAILURE
    stops = [*cuts[1:], len(actors)]
    return [Attempt(start, stop, True if stop < len(actors) else last) for start, stop in zip(cuts, stops, strict=True)]
