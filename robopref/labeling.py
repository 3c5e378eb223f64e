"""Who acted -> what a step is to the learner. Pure functions on arrays; labels are derived, never stored.

Source: methods of Xia et al., "Human-assisted Robotic Policy Refinement via Action Preference Optimization"
(NeurIPS 2025): the K policy steps right before a human takes over are undesirable, the human's own steps desirable.
Where the policy began to fail may be read from the recorded reward instead (``steps_since_improvement``), which is this
project's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError
from robopref.trajectory import Actor, Episode, Label, Outcome

IncludePolicySteps = Literal["none", "autonomous_success"]
FailurePoint = Literal["fixed", "progress"]
DEFAULT_WINDOWS: Mapping[FailurePoint, int] = {"fixed": 10, "progress": 60}
"""Undesirable steps before a takeover, or the most of them, where nobody said how many. 60 is twice the stall that the
scripted operator waits for."""
PROGRESS_TOLERANCE = 0.01
"""A smaller gain is none, as a share of the range of the episode's reward."""

_LABEL_OF_ACTOR = {
    Actor.EXPERT: Label.EXPERT,
    Actor.POLICY: Label.POLICY,
    Actor.HUMAN: Label.HUMAN,
    Actor.HOLD: Label.EXCLUDED,
}


def label_steps(
    actors: NDArray[Any] | Sequence[int], window: int, *, progress: NDArray[Any] | Sequence[float] | None = None
) -> NDArray[np.int64]:
    """Label every step of one episode.

    The ``window`` POLICY steps right before each human onset are UNDESIRABLE. The window counts recorded policy steps:
    HOLD steps inside it are EXCLUDED and not counted. It never reaches past the start of the episode, into the
    previous human segment or before it. Window 0 labels nothing undesirable.

    With ``progress`` the window is a cap: of those steps only the ones since the policy last improved, on its own way
    from the previous human segment to this onset, are UNDESIRABLE (``steps_since_improvement``). A gain counts when it
    is larger than ``PROGRESS_TOLERANCE`` times the range of the progress over the steps that somebody drove. Where the
    progress of such a way is constant it names no step, and the window alone decides.

    Args:
        actors: ``Actor`` values [T] of one episode.
        window: how many policy steps before an onset are undesirable (K in the paper, 10 in its runs), or the most.
        progress: how far along the attempt was after each step [T], in any unit; larger is better.

    Returns:
        ``Label`` values [T].

    Raises:
        RoboprefError: ``actors`` is no 1-D array of actors, the window is no integer >= 0, or the progress is not [T]
            or not finite.
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
    values, tolerance = None, 0.0
    if progress is not None:
        values = np.asarray(progress, dtype=np.float64)
        if values.shape != actors.shape or not np.isfinite(values).all():
            raise RoboprefError(
                f"the progress is a finite number for each of the {len(actors)} steps, got shape {values.shape}"
                f"{'' if np.isfinite(values).all() else ' with NaN or infinity'}."
            )
        # HOLD steps are nobody's doing, here as everywhere.
        driven = values[actors != Actor.HOLD]
        tolerance = PROGRESS_TOLERANCE * float(np.ptp(driven)) if len(driven) else 0.0
    for steps in policy_segments(actors):
        count = int(window)
        if values is not None and np.ptp(values[steps]) > 0:
            count = min(count, steps_since_improvement(values[steps], tolerance))
        labels[steps[max(0, len(steps) - count) :]] = Label.UNDESIRABLE
    return labels


def policy_segments(actors: NDArray[Any]) -> list[NDArray[np.int64]]:
    """For each human onset in actors [T] that the policy led to, the numbers of its steps since anybody else drove.

    HOLD steps are left out and end nothing.
    """
    driven = np.flatnonzero(np.asarray(actors) != Actor.HOLD)
    who = np.asarray(actors)[driven]
    found = []
    for onset in np.flatnonzero((who[1:] == Actor.HUMAN) & (who[:-1] == Actor.POLICY)) + 1:
        others = np.flatnonzero(who[:onset] != Actor.POLICY)
        found.append(driven[others[-1] + 1 if len(others) else 0 : onset])
    return found


def steps_since_improvement(progress: NDArray[Any], tolerance: float = 0.0) -> int:
    """How many steps of a segment follow the last one that improved on the best progress before it; at least 1.

    A step improves when its progress is larger than the best so far plus ``tolerance`` (in the progress's unit). Only
    then does the best move, so that slow gains add up and noise does not. The first step is the first best. So a stall
    counts from its beginning (of steps at equal progress the first is the best), and a divergence from its peak.
    Nothing is smoothed. A takeover right after an improvement still blames the last step.

    Args:
        progress: after each step [S], S >= 1; larger is better.
        tolerance: the gain that a step has to exceed.
    """
    values = np.asarray(progress, dtype=np.float64)
    best, place = values[0], 0
    for t, value in enumerate(values):
        if value > best + tolerance:
            best, place = value, t
    return max(1, len(values) - 1 - place)


def check_progress(episodes: Sequence[Episode]) -> None:
    """See that the recorded rewards can tell where the policy began to fail.

    Raises:
        RoboprefError: they are constant before every takeover, as sparse rewards and imported recordings without
            rewards are.
    """
    segments = [episode.reward[steps] for episode in episodes for steps in policy_segments(episode.actor)]
    if segments and all(np.ptp(rewards) == 0 for rewards in segments):
        raise RoboprefError(
            f"the recorded reward never changes before any of the {len(segments)} takeovers (it is sparse, or was not "
            f"recorded), so it does not say where the policy began to fail: use --failure-point fixed."
        )


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

    ``failure_point="fixed"`` marks the ``window`` policy steps before each takeover; ``"progress"`` those since the
    policy's last improvement, ``window`` at most, where the recorded reward of a step stands for progress
    (``label_steps``). That asks for a dense reward, such as Meta-World's; see ``check_progress``.
    ``include_policy_steps="autonomous_success"`` relabels the creditable policy steps (``autonomous_success_mask``) as
    EXPERT, so that they share that bucket; the default leaves every policy step out. With a ``noop_tolerance`` the
    steps of ``noop_mask`` are EXCLUDED, after the windows are set; the default keeps them all.

    Raises:
        RoboprefError: an unknown choice, a negative window or a negative tolerance.
    """

    window: int = 10
    include_policy_steps: IncludePolicySteps = "none"
    noop_tolerance: float | None = None
    failure_point: FailurePoint = "fixed"

    def __post_init__(self) -> None:
        if self.failure_point not in DEFAULT_WINDOWS:
            raise RoboprefError(f"failure_point is 'fixed' or 'progress', not {self.failure_point!r}.")
        if self.include_policy_steps not in ("none", "autonomous_success"):
            raise RoboprefError(
                f"include_policy_steps is 'none' or 'autonomous_success', not {self.include_policy_steps!r}."
            )
        label_steps(np.zeros(0, dtype=np.int64), self.window)
        if self.noop_tolerance is not None and not self.noop_tolerance >= 0:
            raise RoboprefError(f"noop_tolerance is None or a number >= 0, got {self.noop_tolerance!r}.")

    def apply(self, episode: Episode) -> NDArray[np.int64]:
        """The labels [T] of an episode."""
        progress = episode.reward if self.failure_point == "progress" else None
        labels = label_steps(episode.actor, self.window, progress=progress)
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
