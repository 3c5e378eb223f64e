"""Columns that recordings of other tools do not have, made from those that they have."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robopref.store.formats.base import ConversionOptions
from robopref.trajectory import NULL_DISCRETE, Actor, Episode, EpisodeInfo

DEFAULT_HZ = 20.0
"""Control steps per second where nobody says how many."""


def nothing_like(action: NDArray[Any]) -> NDArray[Any]:
    """Absent actions of the shape of these [T, ...]."""
    return np.full_like(action, np.nan if action.dtype.kind == "f" else NULL_DISCRETE)


def own_actions(actor: NDArray[Any], action: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """What the policy and the human meant [T, ...]: what was executed where they acted, nothing elsewhere."""
    nothing = nothing_like(action)
    by_step = actor.reshape(-1, *[1] * (action.ndim - 1))
    return {
        "policy_action": np.where(by_step == Actor.POLICY, action, nothing),
        "human_action": np.where(by_step == Actor.HUMAN, action, nothing),
    }


def takeover_segments(actor: ArrayLike) -> NDArray[np.int32]:
    """Number of the takeover [T] at each step of actors [T], -1 outside; HOLD steps within one do not end it."""
    segments, number, driving = [], -1, False
    for who in np.asarray(actor).tolist():
        number += who == Actor.HUMAN and not driving
        driving = who == Actor.HUMAN or (driving and who == Actor.HOLD)
        segments.append(number if driving else -1)
    return np.array(segments, np.int32)


def actors(options: ConversionOptions, length: int, told: dict[str, None]) -> NDArray[np.int8]:
    """Who acted [T] in an episode that does not say it: whom the user names, else the expert, which is told."""
    if options.actor is None:
        told["actor: EXPERT throughout, unless another is named: every step counts as a demonstration."] = None
    return np.full(length, Actor.EXPERT if options.actor is None else options.actor, np.int8)


def made_episode(
    info: EpisodeInfo,
    observation: Mapping[str, NDArray[Any]],
    action: NDArray[Any],
    *,
    hz: float,
    final_observation: Mapping[str, NDArray[Any]] | None = None,
    **known: NDArray[Any],
) -> Episode:
    """An episode of what is ``known`` of its step columns, the others made.

    Unless they are given, the expert acted, nothing was rewarded, ended or succeeded, and time ran at ``hz``. Where the
    policy acted it had proposed what was executed, and where the human acted they had commanded it.
    """
    length = len(action)
    actor = known.get("actor", np.full(length, Actor.EXPERT, np.int8))
    flags = {name: np.zeros(length, np.bool_) for name in ("terminated", "truncated", "success")}
    columns: dict[str, Any] = {
        "action": action,
        **own_actions(actor, action),
        "actor": actor,
        "segment_id": takeover_segments(actor),
        "reward": np.zeros(length, np.float64),
        **flags,
        "t_monotonic_ns": np.rint(np.arange(length) * (1e9 / hz)).astype(np.int64),
    }
    return Episode(info, observation, **(columns | known), final_observation=final_observation or {})


def made_id(kind: str, name: str, *values: NDArray[Any]) -> str:
    """The same at every import of the same episode, so that importing again finds it; ``name`` gives the order."""
    digest = hashlib.blake2b(name.encode(), digest_size=6)
    for value in values:
        digest.update(np.ascontiguousarray(value).tobytes())
    return f"{kind}-{name}-{digest.hexdigest()}"
