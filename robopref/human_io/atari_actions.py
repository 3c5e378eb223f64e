"""Which discrete action a set of pressed directions and buttons means: ``UP`` and ``FIRE`` together are ``UPFIRE``."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import lru_cache

PARTS = ("UP", "RIGHT", "LEFT", "DOWN", "FIRE")
"""What ALE's action names are put together from, e.g. ``DOWNLEFTFIRE``."""

_OPPOSITES = (("UP", "DOWN"), ("LEFT", "RIGHT"))
_NAME = re.compile("(UP|DOWN)?(RIGHT|LEFT)?(FIRE)?")


@lru_cache(maxsize=64)
def parts_of(label: str) -> frozenset[str] | None:
    """The parts of ALE's name of an action, none for ``NOOP``; None for a name that ALE does not use."""
    if label == "NOOP":
        return frozenset()
    found = _NAME.fullmatch(label)
    return frozenset(filter(None, found.groups())) if found and label else None


def atari_action(pressed: Collection[str], labels: Sequence[str]) -> int:
    """The index of the action that does most of what is pressed, and nothing that is not.

    Opposite directions cancel. Where the game has no action for all that is pressed, as many parts as possible are
    kept, vertical before horizontal before FIRE. A label that is itself pressed (a game-like task with names of its
    own) is taken, the first of several. When nothing is left it is ``NOOP``, or the first action where there is none.

    Args:
        pressed: parts (``UP``, ``FIRE``) or whole labels.
        labels: names of the actions, in the order of their indices; at least one.
    """
    wanted = set(pressed)
    for pair in _OPPOSITES:
        if wanted.issuperset(pair):
            wanted.difference_update(pair)
    best, best_rank = _idle(labels), (0, 0, 0, 0)
    for i, label in enumerate(labels):
        parts = parts_of(label)
        if parts is None:
            if label in pressed:
                return i
        elif parts <= wanted:
            rank = (len(parts), bool(parts & {"UP", "DOWN"}), bool(parts & {"LEFT", "RIGHT"}), "FIRE" in parts)
            if rank > best_rank:
                best, best_rank = i, rank
    return best


def _idle(labels: Sequence[str]) -> int:
    return labels.index("NOOP") if "NOOP" in labels else 0
