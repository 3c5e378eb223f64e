"""What is measured on one set of episodes, small enough to keep: the finished parts of a diagnosis that goes on later.

Sets are measured one at a time, kept under ``sets/`` of the result directory, and put together at the end.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from robopref.diagnosis.record_files import load_record, save_record
from robopref.diagnosis.results import Subspace
from robopref.errors import RoboprefError


@dataclass(frozen=True)
class Played:
    """How the episodes of a set went.

    Attributes:
        seeds: int64 [E].
        scores: float64 [E].
        lengths: int64 [E], in steps.
        finished: bool [E], ended by themselves.
        repeats: episodes played that repeat another (of the null control: or a clean one) to the last frame, and so
            are left out above.
    """

    seeds: NDArray[np.int64]
    scores: NDArray[np.float64]
    lengths: NDArray[np.int64]
    finished: NDArray[np.bool_]
    repeats: int


@dataclass(frozen=True)
class Sensitivity:
    """The gradients of a set, summed up.

    Attributes:
        n_states, n_zero: whose gradients were taken; of these, exactly zero.
        directions: float32 [k, C, H, W].
        eigenvalues: float64 [r].
        trace, error_bound, method: as in ``PrincipalDirections``.
        subspace: for resampling.
        cross_grams: float64 [E, r, r], the episodes in the clean set's subspace; [0] for the clean set itself.
    """

    n_states: int
    n_zero: int
    directions: NDArray[Any]
    eigenvalues: NDArray[np.float64]
    trace: float
    error_bound: float
    method: str
    subspace: Subspace
    cross_grams: NDArray[np.float64]

    @property
    def vanished(self) -> bool:
        """Every gradient is zero, or too small to be told from it."""
        return not self.eigenvalues.any()


@dataclass(frozen=True)
class RandomFindings:
    """What random actions score."""

    identity: str
    played: Played


@dataclass(frozen=True)
class PartFindings:
    """Some states of a set, as many as another set has that is to be held against them."""

    identity: str
    sensitivity: Sensitivity


@dataclass(frozen=True)
class CleanFindings:
    """The clean set. Arrays over steps are of all its episodes, one after the other.

    Attributes:
        identity: of the policy and the settings that this was measured with.
        played, sensitivity: of the set.
        norms: float64, along the first ``series_lengths`` steps of each episode.
        series_lengths: int64 [E].
        gaps: float32, of every step.
        other_gaps: float32, of every step: best Q minus that of the best action that is no synonym of it.
        choices: int64 [E, n_actions], in how many states of each episode an action is the greedy one.
        scale: of the values.
        distances: float32 [n_states], and ``distance_episodes`` int64 [n_states] whose they are.
        typical_state, median_frame: as in ``Spatial``.
        peaks: int64 [P, 2], (episode, step).
        peak_states: uint8 [P, C, H, W].
        peak_gradients: float32 [P, C, H, W].
        peak_q_values: float32 [P, n_actions].
        shape: (C, H, W).
        frame_stack: frames in a state.
    """

    identity: str
    played: Played
    sensitivity: Sensitivity
    norms: NDArray[np.float64]
    series_lengths: NDArray[np.int64]
    gaps: NDArray[Any]
    other_gaps: NDArray[Any]
    choices: NDArray[np.int64]
    scale: float
    distances: NDArray[Any]
    distance_episodes: NDArray[np.int64]
    typical_state: NDArray[np.uint8]
    median_frame: NDArray[np.uint8]
    peaks: NDArray[np.int64]
    peak_states: NDArray[np.uint8]
    peak_gradients: NDArray[Any]
    peak_q_values: NDArray[Any]
    shape: tuple[int, ...]
    frame_stack: int


@dataclass(frozen=True)
class ConditionFindings:
    """The null control, a shift or an attack.

    Attributes:
        identity: as above.
        played: its own episodes; of an attack, those played under it, and None if there are none.
        sensitivity: of its states.
        flips, synonym_flips, flip_states: int64 [E0], per clean episode: states whose action flipped, those of them
            that flipped to a synonym, and states in all. [0] for the null.
        distortions: of an attack, float64 [N, 4]: L0, L1, L2, Linf of what was added to each state. [0, 4] else.
        flipped, state_episodes: of an attack, bool [N] and int64 [N]: whether a state's action flipped, and the clean
            episode that it is of. [0] else.
        example: uint8 [2, H, W] or [2, H, W, 3]; None for the null.
    """

    identity: str
    played: Played | None
    sensitivity: Sensitivity
    flips: NDArray[np.int64]
    synonym_flips: NDArray[np.int64]
    flip_states: NDArray[np.int64]
    distortions: NDArray[np.float64]
    flipped: NDArray[np.bool_]
    state_episodes: NDArray[np.int64]
    example: NDArray[np.uint8] | None


Findings = TypeVar("Findings", RandomFindings, CleanFindings, ConditionFindings, PartFindings)


def identity_of(*parts: Any) -> str:
    """A digest of JSON-compatible values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


class KeptFindings:
    """Findings on disk, one pair of files a set; without a directory nothing is kept.

    Args:
        directory: where; created when the first set is done.
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory

    def get(self, name: str, kind: type[Findings], identity: str, measure: Callable[[str], Findings]) -> Findings:
        """The set's findings: as kept, or measured now (with the identity to keep beside them) and kept.

        Raises:
            RoboprefError: the kept ones have another identity or are damaged.
        """
        if self._directory is None:
            return measure(identity)
        stem = re.sub(r"[^\w.,=-]+", "-", name)
        json_path, npz_path = self._directory / f"{stem}.json", self._directory / f"{stem}.npz"
        if json_path.exists():
            kept = load_record(json_path, npz_path, kind)
            if kept.identity != identity:
                raise RoboprefError(
                    f"{json_path} was measured with another policy or other settings: remove it, or choose another "
                    "directory."
                )
            return kept
        findings = measure(identity)
        save_record(json_path, npz_path, findings)
        return findings
