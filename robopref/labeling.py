"""Who acted -> what a step is to the learner. Pure functions on arrays; labels are derived, never stored.

Source: methods of Xia et al., "Human-assisted Robotic Policy Refinement via Action Preference Optimization"
(NeurIPS 2025): the K policy steps right before a human takes over are undesirable, the human's own steps desirable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError
from robopref.trajectory import Actor, Episode, Label, Outcome

IncludePolicySteps = Literal["none", "autonomous_success"]

_LABEL_OF_ACTOR = {
    Actor.EXPERT: Label.EXPERT,
    Actor.POLICY: Label.POLICY,
    Actor.HUMAN: Label.HUMAN,
    Actor.HOLD: Label.EXCLUDED,
}


def label_steps(actors: NDArray[Any] | Sequence[int], window: int) -> NDArray[np.int64]:
    """Label every step of one episode.

    The ``window`` POLICY steps right before each human onset are UNDESIRABLE. The window counts recorded policy steps:
    HOLD steps inside it are EXCLUDED and not counted. It never reaches past the start of the episode, into the
    previous human segment or before it. Window 0 labels nothing undesirable.

    Args:
        actors: ``Actor`` values [T] of one episode.
        window: how many policy steps before an onset are undesirable (K in the paper, 10 in its runs).

    Returns:
        ``Label`` values [T].

    Raises:
        RoboprefError: ``actors`` is no 1-D array of actors, or the window is no integer >= 0.
    """
    actors = np.asarray(actors)
    if actors.ndim != 1 or not (np.issubdtype(actors.dtype, np.integer) or actors.size == 0):
        raise RoboprefError(f"actors must be integers [T], got {actors.dtype} of shape {actors.shape}.")
    if isinstance(window, bool) or not isinstance(window, int | np.integer) or window < 0:
        raise RoboprefError(f"the window is a number of steps >= 0, got {window!r}.")
    labels = np.full(len(actors), -1, dtype=np.int64)
    for actor, label in _LABEL_OF_ACTOR.items():
        labels[actors == actor] = label
    if (labels < 0).any():
        raise RoboprefError(
            f"unknown actors {sorted(set(actors[labels < 0].tolist()))}: see robopref.trajectory.Actor."
        )
    # Looking back from the end: how many steps of the current window are left to mark.
    remaining = 0
    for t in range(len(actors) - 1, -1, -1):
        if actors[t] == Actor.HUMAN:
            remaining = int(window)
        elif actors[t] == Actor.EXPERT:
            remaining = 0
        elif actors[t] == Actor.POLICY and remaining > 0:
            labels[t] = Label.UNDESIRABLE
            remaining -= 1
    return labels


def autonomous_suffix(actors: NDArray[Any]) -> NDArray[np.bool_]:
    """The POLICY steps [T] after the last HUMAN step: what the policy did on its own way to the episode's end."""
    actors = np.asarray(actors)
    human = np.flatnonzero(actors == Actor.HUMAN)
    mask: NDArray[np.bool_] = (actors == Actor.POLICY) & (np.arange(len(actors)) > (human[-1] if len(human) else -1))
    return mask


def autonomous_success_mask(actors: NDArray[Any], outcome: Outcome) -> NDArray[np.bool_]:
    """The POLICY steps [T] that may be credited with a success: those after the last hand-back of a successful episode.

    A success without any takeover counts whole; a rescue by the human is never the policy's success.
    """
    # Compared by value: an outcome read from a file may be a plain string.
    return autonomous_suffix(actors) & (outcome == Outcome.SUCCESS)


@dataclass(frozen=True)
class LabelingRule:
    """How recordings become labels: the undesirable window, and which policy steps are learned from at all.

    ``include_policy_steps="autonomous_success"`` relabels the creditable policy steps (``autonomous_success_mask``) as
    EXPERT, so that they share that bucket; the default leaves every policy step out. With a ``noop_tolerance`` the
    steps of ``noop_mask`` are EXCLUDED, after the windows are set; the default keeps them all.

    Raises:
        RoboprefError: an unknown choice, a negative window or a negative tolerance.
    """

    window: int = 10
    include_policy_steps: IncludePolicySteps = "none"
    noop_tolerance: float | None = None

    def __post_init__(self) -> None:
        if self.include_policy_steps not in ("none", "autonomous_success"):
            raise RoboprefError(
                f"include_policy_steps is 'none' or 'autonomous_success', not {self.include_policy_steps!r}."
            )
        label_steps(np.zeros(0, dtype=np.int64), self.window)
        if self.noop_tolerance is not None and not self.noop_tolerance >= 0:
            raise RoboprefError(f"noop_tolerance is None or a number >= 0, got {self.noop_tolerance!r}.")

    def apply(self, episode: Episode) -> NDArray[np.int64]:
        """The labels [T] of an episode."""
        labels = label_steps(episode.actor, self.window)
        if self.include_policy_steps == "autonomous_success":
            credited = autonomous_success_mask(episode.actor, episode.info.outcome)
            labels[credited] = Label.EXPERT
        if self.noop_tolerance is not None:
            labels[noop_mask(episode.action, tolerance=self.noop_tolerance)] = Label.EXCLUDED
        return labels


def noop_mask(actions: NDArray[Any], *, gripper_index: int = -1, tolerance: float = 1e-3) -> NDArray[np.bool_]:
    """Steps [T] whose action [T, A] moves nothing: all dimensions but the gripper's within ``tolerance`` of zero.

    ``gripper_index`` is the number of the gripper's dimension. A step whose gripper command differs from the step
    before is never a no-op, nor is the first step, before which the command is unknown. Apply it after labelling: a
    window counts recorded steps.

    Raises:
        RoboprefError: ``actions`` is not [T, A], or has no such gripper dimension.
    """
    actions = np.asarray(actions, dtype=np.float64)
    if actions.ndim != 2:
        raise RoboprefError(f"actions must be [T, A], got shape {actions.shape}.")
    if not -actions.shape[1] <= gripper_index < actions.shape[1]:
        raise RoboprefError(f"actions of {actions.shape[1]} dimensions have no gripper dimension {gripper_index}.")
    still = (np.abs(np.delete(actions, gripper_index, axis=1)) <= tolerance).all(axis=1)
    grip = actions[:, gripper_index]
    changed = np.ones(len(actions), dtype=bool)
    changed[1:] = grip[1:] != grip[:-1]
    mask: NDArray[np.bool_] = still & ~changed
    return mask
