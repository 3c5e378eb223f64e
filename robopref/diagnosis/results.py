"""What a diagnosis found, as frozen records and as a directory: ``summary.json`` and ``arrays.npz``, nothing pickled.

Everything that the report draws is in here, and everything that a comparison of two policies resamples. An interval is
a 95 % bootstrap over whole episodes unless a field says otherwise. What could not be determined is None, never NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from robopref.diagnosis.record_files import load_record, save_record
from robopref.evaluation.statistics import Estimate, Rate

SUMMARY_FILE = "summary.json"
ARRAYS_FILE = "arrays.npz"
COMPARISON_FILE = "comparison.json"
COMPARISON_ARRAYS_FILE = "comparison.npz"

Floats = NDArray[Any]


@dataclass(frozen=True)
class Subject:
    """Who was diagnosed, on what.

    Attributes:
        policy: as the user named it (a file, a checkpoint directory, ``module:factory``).
        policy_id: content hash of its weights and settings.
        architecture: in words, e.g. "Stable-Baselines3 DQN, Nature CNN".
        task: ALE game id or robot task.
        environment: every setting of the environment (the fields of ``AtariSpec``, for a game).
        actions: names of the actions, in the order of their values.
        value_unit: what ``q_values`` counts, e.g. "discounted reward" or "logit".
        shape: of a state, (C, H, W); C = frame_stack * channels_per_frame, oldest frame first.
        frame_stack: frames in a state.
        channels_per_frame: 1 grayscale, 3 colour (the three channels of a frame are neighbours).
        head: which decision of the policy; empty when it makes only one, else e.g. "action dimension 3 of 4".
        synonyms: groups of actions, by index, that do the same in this task, all but always.
    """

    policy: str
    policy_id: str
    architecture: str
    task: str
    environment: Mapping[str, Any]
    actions: tuple[str, ...]
    value_unit: str
    shape: tuple[int, ...]
    frame_stack: int
    channels_per_frame: int
    head: str = ""
    synonyms: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Directions:
    """The principal directions of the clean set, as ``PrincipalDirections`` states them, reshaped to images.

    Attributes:
        directions: float32 [k, C, H, W], unit norm over all of (C, H, W), largest component positive; G_S is the first.
            A direction of zeros: the gradients span fewer dimensions.
        eigenvalues: float64 [r], r >= k, of L, largest first; L is a sum over the states, not a mean. Where the method
            is "exact" those after the first are good to a thousandth of it.
        trace: of L; eigenvalues / trace are shares of the squared gradient norm.
        eigengap: lambda_2 / lambda_1 with its interval; near 1 the first direction is arbitrary. None if vanished.
        share: lambda_1 / trace with its interval. None if vanished.
        n_states: states behind L.
        n_zero: of these, states whose gradient is exactly zero: the softmax is saturated, or the network constant.
        error_bound: of the first eigenvalue; for "exact" a residual norm, for "streaming" (and then of all of them)
            how far below the truth it may lie.
        method: how they were found.
        vanished: all gradients are zero; directions and eigenvalues are zeros and mean nothing.
    """

    directions: Floats
    eigenvalues: Floats
    trace: float
    eigengap: Estimate | None
    share: Estimate | None
    n_states: int
    n_zero: int
    error_bound: float
    method: Literal["exact", "streaming"]
    vanished: bool


@dataclass(frozen=True)
class Spatial:
    """Where G_S lies: a typical state to lay it over, and its 2-D Fourier power.

    Attributes:
        typical_state: uint8 [C, H, W], a state whose newest frame is as far from the median frame as usual.
        median_frame: uint8 [H, W] or [H, W, 3], the median over the newest frames, pixel by pixel.
        power: float64 [C, H, W], power spectrum of each channel of G_S with frequency zero in the middle
            (``numpy.fft.fftshift``); it sums to 1 over all of (C, H, W), or is all zero if the direction vanished.
        frequencies: float64 [n], centres of the radial bins in cycles per pixel, 0 to about .7.
        radial: float64 [C, n], mean power per frequency of the spectrum in each ring, divided so that a white channel
            would show 1 everywhere; zeros for a channel without power.
        radial_low, radial_high: float64 [C, n], its interval.
    """

    typical_state: NDArray[np.uint8]
    median_frame: NDArray[np.uint8]
    power: Floats
    frequencies: Floats
    radial: Floats
    radial_low: Floats
    radial_high: Floats


@dataclass(frozen=True)
class EpisodeSeries:
    """The gradient norm along one clean episode.

    Attributes:
        seed: of the game.
        score: sum of the rewards.
        length: steps of the episode.
        finished: the game ended by itself.
        norms: float64 [t], |g(s_t)|_2 from the first step on, t <= length (the settings say where it is cut).
    """

    seed: int
    score: float
    length: int
    finished: bool
    norms: Floats


@dataclass(frozen=True)
class Peak:
    """A state at which the gradient norm peaks.

    Attributes:
        episode, step: where; ``episode`` indexes ``Instability.episodes``.
        norm: |g(s)|_2.
        state: uint8 [C, H, W].
        gradient: float32 [C, H, W].
        q_values: float32 [n_actions].
    """

    episode: int
    step: int
    norm: float
    state: NDArray[np.uint8]
    gradient: Floats
    q_values: Floats


@dataclass(frozen=True)
class Instability:
    """How the sensitivity moves along the episodes; ``robopref.diagnosis.instability`` defines the numbers.

    Attributes:
        episodes: the clean episodes, in order.
        mean: of the norm over all states.
        variance: of the norm over all states.
        variation: standard deviation / mean: free of the scale of Q.
        oscillation: mean absolute change from step to step / mean norm. None if all norms are zero.
        high_frequency: share of the variance along time at periods below 4 steps (white noise: .5). None if constant.
        peaks: the highest, highest first, none within the suppression distance of a higher one in its episode.
        moments: float64 [E, m], per episode, what the numbers above are made of; a comparison resamples it.
    """

    episodes: tuple[EpisodeSeries, ...]
    mean: Estimate
    variance: Estimate
    variation: Estimate | None
    oscillation: Estimate | None
    high_frequency: Estimate | None
    peaks: tuple[Peak, ...]
    moments: Floats


@dataclass(frozen=True)
class Habit:
    """What a policy chooses in more than 99 % of the states that it met, so that they hardly show a boundary.

    Attributes:
        actions: the action's index, or those of several that are synonyms.
        share: of the states.
        states: how many there were.
    """

    actions: tuple[int, ...]
    share: Estimate
    states: int

    @property
    def always(self) -> bool:
        """In every single one."""
        return self.share.value == 1


@dataclass(frozen=True)
class Decisions:
    """How clear the clean decisions are.

    Attributes:
        gaps: float32 [n], Q of the best action minus Q of the second best, in ``Subject.value_unit``.
        scale: median over states of (highest - lowest Q): what a gap is measured against.
        tie_share: a gap below ``tie_share * scale`` is a near-tie.
        near_ties: share of states.
        median_gap: in value units.
        distances: float32 [n], first-order distance to the boundary with the runner-up, gap / |grad gap|_2, in the L2
            norm of pixels in [0, 1]; infinite where the gap does not move with the pixels.
        median_distance: of these.
        synonym_ties: share of states that are near-ties among synonyms only: the best action that does something else
            is no near-tie. Contained in ``near_ties``. None where no actions are synonyms.
        choices: int64 [E, n_actions], in how many states of each clean episode an action is the greedy one.
        habit: None where the policy makes use of its choice.
    """

    gaps: Floats
    scale: float
    tie_share: float
    near_ties: Estimate
    median_gap: Estimate
    distances: Floats
    median_distance: Estimate | None
    synonym_ties: Estimate | None = None
    choices: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    habit: Habit | None = None


@dataclass(frozen=True)
class Distortion:
    """What an attack added to the pixels in [0, 1], over the attacked states, resampled by episode.

    Attributes:
        l0: mean number of channels of pixels that changed by more than 1e-6.
        l1, l2, linf: mean norms.
        l2_of_successes: mean over the states whose action flipped; None if none did.
        successes: flipped of attacked states. Its Wilson interval takes them for independent, as states of an episode
            are not: ``Condition.flips`` has the one over episodes.
        by_episode: float64 [E, 7], per clean episode: attacked states, flipped ones, and sums of L0, L1, L2, Linf over
            the former and of L2 over the latter.
    """

    l0: Estimate
    l1: Estimate
    l2: Estimate
    linf: Estimate
    l2_of_successes: Estimate | None
    successes: Rate
    by_episode: Floats


@dataclass(frozen=True)
class Condition:
    """One set of states that was held against the clean one: the null control, a shift, or an attack.

    Attributes:
        name: "null", or of the shift or attack.
        kind: what it is. The states of a null control and of a shift are those that the policy met in episodes of its
            own; those of an attack are clean states, attacked.
        detail: the shift's or attack's settings as text.
        n_episodes: different episodes behind the states.
        n_states, n_zero: states whose gradients were taken, and how many of these were exactly zero.
        quotient: Lambda(this set, clean set) in [0, 1]. None if either set's gradients all vanish.
        below_null: Lambda(null) - Lambda(this), resampled together, for a null of as many states. None for the null
            itself.
        reduction_error: bound on the relative error of a resampled lambda_max that comes from resampling in the
            leading subspace (``robopref.diagnosis.quotient``).
        flips: share of clean states, seen under the shift or attack, whose greedy action differs. None for the null.
        score: mean return. None where nothing was played.
        score_difference: score minus clean score, paired by seed, over ``score_steps`` steps. None for the null.
        score_steps: steps after which episodes were cut for the score; None: whole episodes.
        scores: float64 [n], the returns behind ``score``.
        distortion: of an attack.
        example: uint8 [2, H, W] or [2, H, W, 3]: the newest frame of a clean state, and how it looks under this
            condition. None for the null.
        direction: float32 [C, H, W], the principal direction of this set.
        resamples: float64 [R], bootstrap values behind ``quotient``.
        null_states, null_quotient: of the null that this is held against: states of the independent episodes, drawn
            likewise, as many as this set has (or all, where there are fewer), and their Lambda. None for the null.
        clean_quotient: of an attack: Lambda of the same states before the attack.
        below_clean: ``clean_quotient`` minus ``quotient``, the same episodes drawn on both sides.
        synonym_flips: share of the clean states whose action flips to a synonym, which changes next to nothing;
            contained in ``flips``. None for the null and where no actions are synonyms.
        flips_by_episode: int64 [E, 3], per clean episode: states, flips, flips to a synonym. [0, 3] for the null.
    """

    name: str
    kind: Literal["null", "shift", "attack"]
    detail: str
    n_episodes: int
    n_states: int
    n_zero: int
    quotient: Estimate | None
    below_null: Estimate | None
    reduction_error: float | None
    flips: Estimate | None
    score: Estimate | None
    score_difference: Estimate | None
    score_steps: int | None
    scores: Floats
    distortion: Distortion | None
    example: NDArray[np.uint8] | None
    direction: Floats
    resamples: Floats
    null_states: int | None = None
    null_quotient: Estimate | None = None
    clean_quotient: Estimate | None = None
    below_clean: Estimate | None = None
    synonym_flips: Estimate | None = None
    flips_by_episode: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 3), np.int64))


@dataclass(frozen=True)
class Competence:
    """Whether the policy plays better than random actions do in the same environment.

    Attributes:
        score: mean return of the clean episodes.
        random_score: mean return of random actions.
        random_scores: float64 [n], the returns behind it.
        difference: score - random score, both resampled.
        p_value: of a one-sided permutation test that the policy does not score higher.
        untrained: the test does not reject at 5 %: nothing shows that the policy learned anything.
        undecided: it is untrained in that sense, though every episode scored above every one of random actions: there
            are too few episodes for any scores to show more.
    """

    score: Estimate
    random_score: Estimate
    random_scores: Floats
    difference: Estimate
    p_value: float
    untrained: bool
    undecided: bool = False


@dataclass(frozen=True)
class Subspace:
    """The clean set's gradients in their leading subspace, episode by episode, for resampling.

    Attributes:
        basis: float32 [r, d] orthonormal rows, the leading eigenvectors of L.
        grams: float64 [E, r, r], basis L_e basis^T of each episode e.
        traces: float64 [E], trace of L_e.
        rest: bound on the largest eigenvalue of L outside the subspace.
        leakage: float64 [E, E, r, r], basis L_e (I - basis^T basis) L_f basis^T, which bounds what resampling in the
            subspace leaves out; None for the clean set, and where memory did not allow it.
    """

    basis: Floats
    grams: Floats
    traces: Floats
    rest: float
    leakage: Floats | None = None


@dataclass(frozen=True)
class Diagnosis:
    """Everything that ``robopref diagnose`` finds about one policy.

    Attributes:
        subject: who and on what.
        settings: of the analysis: temperature, jitter, dtype, seeds, caps, resamples, confidence.
        versions: of the software.
        statements: what a reader must know first, loudest first (an untrained policy, vanished directions, episodes
            that repeat one another); empty when there is nothing.
        competence: against random actions.
        directions, spatial, instability, decisions: of the clean set.
        conditions: the null control first, then shifts, then attacks.
        subspace: for comparisons; the null control's beside it.
        null_subspace: None without a null control.
    """

    subject: Subject
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    statements: tuple[str, ...]
    competence: Competence
    directions: Directions
    spatial: Spatial
    instability: Instability
    decisions: Decisions
    conditions: tuple[Condition, ...]
    subspace: Subspace
    null_subspace: Subspace | None

    @property
    def null(self) -> Condition | None:
        """The null control."""
        return next((condition for condition in self.conditions if condition.kind == "null"), None)


@dataclass(frozen=True)
class Overlap:
    """How far the sensitive regions of two directions coincide, on energy maps [H, W] summed over channels.

    Attributes:
        top_share: share q of the pixels that count as sensitive: those with the most energy.
        common: intersection over union of the two sets of top pixels.
        common_by_chance: what two independent sets of that size would have, q / (2 - q).
        bhattacharyya: sum of sqrt(p q) of the two energy distributions, in [0, 1].
    """

    top_share: float
    common: Estimate
    common_by_chance: float
    bhattacharyya: Estimate


@dataclass(frozen=True)
class Comparison:
    """Two policies side by side.

    Attributes:
        names: what to call them.
        subjects: who they are.
        angle: between their principal directions, in degrees, 0 to 90 (a direction has no sign).
        own_angles: between the clean and the null direction of each policy: how large an angle is mere chance.
        principal_angles: between the subspaces of their first k directions, degrees, smallest first.
        ratios: B over A of each scale-free or plain measure of instability, by the name of the field in
            ``Instability`` ("mean", "variance", "variation", "oscillation", "high_frequency"); both resampled.
        overlap: of their sensitive regions.
        own_overlaps: between the clean and the null direction of each policy.
        quotients: by condition name (those in common, the null first): Lambda of A, of B, and B - A. None where a
            quotient is undefined.
        energies: float64 [2, H, W], energy maps of A and B, each summing to 1.
        statements: what a reader must know first.
        settings: of the comparison.
        directions: float32 [2, C, H, W], G_S of A and B, to be drawn side by side; None: not drawn.
        spatials: what each direction lies over, and its Fourier power; empty: not drawn.
    """

    names: tuple[str, ...]
    subjects: tuple[Subject, ...]
    angle: Estimate
    own_angles: tuple[Estimate | None, ...]
    principal_angles: tuple[Estimate, ...]
    ratios: Mapping[str, Estimate | None]
    overlap: Overlap
    own_overlaps: tuple[Overlap | None, ...]
    quotients: Mapping[str, tuple[Estimate | None, ...]]
    energies: Floats
    statements: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    directions: Floats | None = None
    spatials: tuple[Spatial, ...] = ()


def save_diagnosis(directory: Path, diagnosis: Diagnosis) -> None:
    """Write ``summary.json`` and ``arrays.npz``; a pair that a crash tore apart is refused when read."""
    save_record(directory / SUMMARY_FILE, directory / ARRAYS_FILE, diagnosis)


def load_diagnosis(directory: Path) -> Diagnosis:
    """What ``save_diagnosis`` wrote.

    Raises:
        RoboprefError: there is no finished diagnosis in the directory, or its files are damaged.
    """
    return load_record(directory / SUMMARY_FILE, directory / ARRAYS_FILE, Diagnosis)


def save_comparison(directory: Path, comparison: Comparison) -> None:
    """Write ``comparison.json`` and ``comparison.npz``."""
    save_record(directory / COMPARISON_FILE, directory / COMPARISON_ARRAYS_FILE, comparison)


def load_comparison(directory: Path) -> Comparison:
    """What ``save_comparison`` wrote. Raises RoboprefError as ``load_diagnosis`` does."""
    return load_record(directory / COMPARISON_FILE, directory / COMPARISON_ARRAYS_FILE, Comparison)
