"""Measuring one set of states: its gradients a batch at a time, never more of them in memory than the plan allows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robopref.diagnosis.collection import (
    Attack,
    EpisodeTrace,
    Shift,
    episode_digest,
    stack_frames,
)
from robopref.diagnosis.decisions import (
    action_gaps,
    boundary_distances,
    greedy_actions,
    other_gaps,
    synonym_labels,
    value_scale,
)
from robopref.diagnosis.directions import PrincipalDirections, StreamingDirections, fitting_rank, principal_directions
from robopref.diagnosis.findings import CleanFindings, ConditionFindings, PartFindings, Played, Sensitivity
from robopref.diagnosis.gradients import Context, iter_state_gradients, state_gradients, to_pixels, working_copy
from robopref.diagnosis.instability import find_peaks
from robopref.diagnosis.plan import Plan
from robopref.diagnosis.selection import (
    Selection,
    attack_selection,
    distinct_episodes,
    select_states,
)
from robopref.diagnosis.subspace import episode_grams, episode_leakage, leading_subspace
from robopref.errors import RoboprefError
from robopref.protocols import QPolicy

Advance = Callable[[int, int], None]
Batches = Callable[[], Iterator[NDArray[Any]]]
Flips = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
ATTACKED = "attacked"
_CHANGED = 1e-6  # of a pixel in [0, 1]
_NO_ATTACK = (np.zeros((0, 4)), np.zeros(0, bool), np.zeros(0, np.int64))


def measure_clean(
    q_policy: QPolicy,
    traces: Sequence[EpisodeTrace],
    plan: Plan,
    identity: str,
    advance: Advance,
    synonyms: Sequence[Sequence[int]] = (),
) -> CleanFindings:
    """Everything about the clean episodes; ``advance`` is told states done and in all."""
    kept, played = distinct_episodes(traces)
    selection = select_states(played.lengths.tolist(), plan.max_states)
    series = [np.arange(min(len(trace), plan.series_steps)) for trace in kept]
    rest = [np.setdiff1d(all_steps, steps) for all_steps, steps in zip(series, selection.steps, strict=True)]
    total = len(selection) + sum(map(len, rest))
    shape = kept[0].states([0]).shape[1:]

    norms = [np.full(len(steps), np.nan) for steps in series]
    done = 0

    def note(values: NDArray[np.float64], at: Iterator[tuple[int, int]]) -> None:
        nonlocal done
        for value, (episode, step) in zip(values, at, strict=False):
            if step < len(norms[episode]):
                norms[episode][step] = value
        done += len(values)
        advance(min(done, total), total)

    chosen = _positions(selection.steps)
    sensitivity = _sensitivity(
        _gradient_batches(q_policy, kept, selection.steps, plan, "clean"),
        selection.episode_of,
        len(kept),
        shape,
        plan,
        None,
        lambda batch: note(_norms(batch), chosen),
    )
    others = _positions(rest)
    for batch in _gradient_batches(q_policy, kept, rest, plan, "clean", stream=1)():
        note(_norms(batch), others)

    q_values = np.concatenate([trace.q_values for trace in kept])
    distances = np.concatenate(
        [
            boundary_distances(q_policy, piece, batch_size=plan.batch_size, dtype=plan.torch_dtype, context=context)
            for piece, context in _pieces(kept, selection.steps, plan)
        ]
    ).astype(np.float32)
    peaks = find_peaks(norms, plan.peaks, plan.peak_separation)
    peak_states = np.stack([kept[e].states([s])[0] for e, s in peaks]) if peaks else np.zeros((0, *shape), np.uint8)
    gradients = np.zeros(peak_states.shape, np.float32)
    if peaks:
        context = _stacked([kept[e].context_at([s]) for e, s in peaks])
        rows = state_gradients(q_policy, peak_states, plan.temperature, dtype=plan.torch_dtype, context=context)
        gradients = rows.reshape(peak_states.shape).astype(np.float32)
    typical, median = _typical(kept, selection)
    return CleanFindings(
        identity=identity,
        played=played,
        sensitivity=sensitivity,
        norms=np.concatenate(norms),
        series_lengths=np.array([len(values) for values in norms]),
        gaps=action_gaps(q_values).astype(np.float32),
        other_gaps=other_gaps(q_values, synonym_labels(q_values.shape[1], synonyms)).astype(np.float32),
        choices=np.stack([np.bincount(t.q_values.argmax(axis=1), minlength=q_values.shape[1]) for t in kept]),
        scale=value_scale(q_values),
        distances=distances,
        distance_episodes=selection.episode_of,
        typical_state=typical,
        median_frame=median,
        peaks=np.array(peaks, np.int64).reshape(-1, 2),
        peak_states=peak_states,
        peak_gradients=gradients,
        peak_q_values=np.stack([kept[e].q_values[s] for e, s in peaks])
        if peaks
        else np.zeros((0, q_values.shape[1]), np.float32),
        shape=tuple(int(n) for n in shape),
        frame_stack=kept[0].frame_stack,
    )


def measure_null(
    q_policy: QPolicy,
    traces: Sequence[EpisodeTrace],
    clean: CleanFindings,
    clean_digests: Collection[bytes],
    plan: Plan,
    identity: str,
    advance: Advance,
) -> ConditionFindings:
    """Independent episodes against the clean ones, which are known by their ``episode_digest``.

    Those that repeat a clean one are counted and left out, unless all do.
    """
    fresh = [trace for trace in traces if episode_digest(trace) not in clean_digests]
    played, sensitivity = _played_set(q_policy, fresh or traces, "null", clean, plan, advance)
    played = replace(played, repeats=len(traces) - len(fresh) + (played.repeats if fresh else 0))
    none = np.zeros(0, np.int64)
    return ConditionFindings(identity, played, sensitivity, none, none, none, *_NO_ATTACK, None)


def measure_part(
    q_policy: QPolicy,
    traces: Sequence[EpisodeTrace],
    selection: Selection,
    noise_of: str,
    clean: CleanFindings,
    plan: Plan,
    identity: str,
    advance: Advance,
) -> PartFindings:
    """Some states of different episodes, against the clean set; ``advance`` is told states done and in all.

    ``noise_of`` names the set whose noise they get: their own, or that of a set that they are paired with.
    """
    return PartFindings(identity, _selected_set(q_policy, traces, selection, noise_of, clean, plan, advance))


def count_flips(
    q_policy: QPolicy,
    shift: Shift,
    clean_traces: Sequence[EpisodeTrace],
    plan: Plan,
    synonyms: Sequence[Sequence[int]] = (),
) -> Flips:
    """How often a shift flips the action in the clean states, how often to a synonym, and of how many: [E] each."""
    kept, _ = distinct_episodes(clean_traces)
    selection = select_states([len(trace) for trace in kept], plan.max_states)
    labels = synonym_labels(kept[0].q_values.shape[1], synonyms)
    flips = []
    for trace, steps in zip(kept, selection.steps, strict=True):
        context = trace.context_at(steps)
        before = greedy_actions(q_policy, trace.states(steps), context=context)
        shifted = stack_frames(shift(trace.frames), trace.frame_stack, steps)
        after = greedy_actions(q_policy, shifted, context=context)
        flips.append(_flipped(before, after, labels).sum(axis=1))
    counts = np.array(flips, np.int64)
    return counts[:, 0], counts[:, 1], np.array([len(steps) for steps in selection.steps])


def measure_shift(
    q_policy: QPolicy,
    traces: Sequence[EpisodeTrace],
    name: str,
    shift: Shift,
    flips: Flips,
    clean: CleanFindings,
    plan: Plan,
    identity: str,
    advance: Advance,
) -> ConditionFindings:
    """Episodes under the shift of that name against the clean ones; ``flips`` as ``count_flips`` gives them."""
    played, sensitivity = _played_set(q_policy, traces, name, clean, plan, advance)
    frame = _newest(clean)
    example = np.stack([frame, shift(frame[None])[0]])
    return ConditionFindings(identity, played, sensitivity, *flips, *_NO_ATTACK, example)


def measure_attack(
    q_policy: QPolicy,
    traces: Sequence[EpisodeTrace],
    attack: Attack,
    clean: CleanFindings,
    clean_traces: Sequence[EpisodeTrace],
    plan: Plan,
    identity: str,
    advance: Advance,
    synonyms: Sequence[Sequence[int]] = (),
) -> ConditionFindings:
    """Clean states, attacked: their gradients, the flips, the distortion; and the episodes played under the attack.

    Args:
        q_policy: the policy.
        traces: of the attack; may be empty.
        attack: pixels [B, C, H, W] -> attacked pixels; given ``context`` where the traces have one.
        clean: the clean set.
        clean_traces: its episodes.
        plan: the settings; ``attack_selection`` says which states are attacked.
        identity: to keep with the findings.
        advance: told states done and in all.
        synonyms: groups of actions that do the same.

    Raises:
        RoboprefError: the attack gives pixels of another shape, outside [0, 1] or not finite.
    """
    kept, _ = distinct_episodes(clean_traces)
    selection = attack_selection(kept, clean.shape, plan)
    labels = synonym_labels(kept[0].q_values.shape[1], synonyms)
    policy, device = working_copy(q_policy, torch.float32)
    attacked_states: list[NDArray[np.float32]] = []
    measures: list[NDArray[np.float64]] = []
    flipped: list[NDArray[np.bool_]] = []
    contexts: list[dict[str, NDArray[Any]]] = []
    for piece, context in _pieces(kept, selection.steps, plan):
        pixels = to_pixels(piece, torch.float32).to(device)
        attacked = (attack(pixels, context=context) if context else attack(pixels)).detach().to(pixels.dtype)
        _check_attacked(attacked, pixels)
        attacked_states.append(attacked.cpu().numpy())
        contexts.append(context)
        before = greedy_actions(policy, pixels.cpu().numpy(), context=context)
        flipped.append(_flipped(before, greedy_actions(policy, attacked_states[-1], context=context), labels))
        measures.append(_distortions(attacked - pixels))
        advance(sum(map(len, attacked_states)), len(selection))
    states, distortions, flips = np.concatenate(attacked_states), np.concatenate(measures), np.hstack(flipped)
    sensitivity = _sensitivity(
        _batches(q_policy, lambda: iter(attacked_states), lambda: iter(contexts), plan, ATTACKED),
        selection.episode_of,
        len(kept),
        clean.shape,
        plan,
        clean,
    )
    nearest = int(np.argmin(np.abs(states - clean.typical_state / np.float32(255)).sum(axis=(1, 2, 3))))
    steps = [(episode, int(step)) for episode, steps in enumerate(selection.steps) for step in steps]
    original = kept[steps[nearest][0]].states([steps[nearest][1]])[0]
    example = np.stack(
        [_newest_frame(picture, clean.frame_stack) for picture in (original, (255 * states[nearest]).round())]
    )
    return ConditionFindings(
        identity=identity,
        played=distinct_episodes(traces)[1] if traces else None,
        sensitivity=sensitivity,
        flips=np.bincount(selection.episode_of[flips[0]], minlength=len(kept)),
        synonym_flips=np.bincount(selection.episode_of[flips[1]], minlength=len(kept)),
        flip_states=np.array([len(steps) for steps in selection.steps]),
        distortions=distortions,
        flipped=flips[0],
        state_episodes=selection.episode_of,
        example=example.astype(np.uint8),
    )


def _played_set(
    q_policy: QPolicy, traces: Sequence[EpisodeTrace], name: str, clean: CleanFindings, plan: Plan, advance: Advance
) -> tuple[Played, Sensitivity]:
    kept, played = distinct_episodes(traces)
    selection = select_states(played.lengths.tolist(), plan.max_states)
    return played, _selected_set(q_policy, kept, selection, name, clean, plan, advance)


def _selected_set(
    q_policy: QPolicy,
    traces: Sequence[EpisodeTrace],
    selection: Selection,
    noise_of: str,
    clean: CleanFindings,
    plan: Plan,
    advance: Advance,
) -> Sensitivity:
    done = 0

    def note(batch: NDArray[Any]) -> None:
        nonlocal done
        done += len(batch)
        advance(done, len(selection))

    batches = _gradient_batches(q_policy, traces, selection.steps, plan, noise_of)
    return _sensitivity(batches, selection.episode_of, len(traces), clean.shape, plan, clean, note)


def _sensitivity(
    batches: Batches,
    episode_of: NDArray[np.int64],
    n_episodes: int,
    shape: tuple[int, ...],
    plan: Plan,
    clean: CleanFindings | None,
    note: Callable[[NDArray[Any]], None] = lambda batch: None,
) -> Sensitivity:
    """Directions, and the episodes in their span and in the clean set's; what memory cannot hold is computed twice."""
    n_states, dimension = len(episode_of), int(np.prod(shape))
    rank = min(plan.rank, dimension)
    itemsize = 8 if plan.dtype == "float64" else 4
    if n_states * dimension * itemsize <= plan.memory_limit:
        gradients = np.empty((n_states, dimension), plan.dtype)
        done = 0
        for batch in batches():
            gradients[done : done + len(batch)] = batch
            done += len(batch)
            note(batch)
        found = principal_directions(gradients, 1, further=rank - 1)

        def again() -> Iterator[NDArray[Any]]:
            return (gradients[start : start + 256] for start in range(0, n_states, 256))
    else:
        stream = StreamingDirections(dimension, fitting_rank(plan.memory_limit, dimension, rank))
        for batch in batches():
            stream.update(batch)
            note(batch)
        found = stream.result(rank)
        again = batches
    grams, traces = episode_grams(again(), episode_of, n_episodes, found.directions)
    leakage = None
    if clean is not None and found.method == "exact" and 8 * n_episodes * rank * dimension <= plan.memory_limit:
        leakage = episode_leakage(again(), episode_of, n_episodes, found.directions)
    subspace = leading_subspace(found, grams, traces, leakage)
    cross = np.zeros((0, rank, rank))
    if clean is not None:
        cross, _ = episode_grams(again(), episode_of, n_episodes, clean.sensitivity.subspace.basis)
    return _summed_up(found, subspace_and_cross=(subspace, cross), shape=shape, k=plan.directions)


def _summed_up(
    found: PrincipalDirections, subspace_and_cross: tuple[Any, NDArray[np.float64]], shape: tuple[int, ...], k: int
) -> Sensitivity:
    subspace, cross = subspace_and_cross
    images = found.directions[:k].reshape(-1, *shape).astype(np.float32)
    return Sensitivity(
        n_states=found.n_states,
        n_zero=found.n_zero,
        directions=images,
        eigenvalues=found.eigenvalues,
        trace=found.trace,
        error_bound=found.error_bound,
        method=found.method,
        subspace=subspace,
        cross_grams=cross,
    )


def _gradient_batches(
    q_policy: QPolicy,
    traces: Sequence[EpisodeTrace],
    steps: Sequence[NDArray[np.int64]],
    plan: Plan,
    noise_of: str,
    stream: int = 0,
) -> Batches:
    """The gradients at the chosen steps."""
    return _batches(
        q_policy,
        lambda: (trace.states(rows) for trace, rows in _batch_rows(traces, steps, plan)),
        lambda: (trace.context_at(rows) for trace, rows in _batch_rows(traces, steps, plan)),
        plan,
        noise_of,
        stream,
    )


def _batches(
    q_policy: QPolicy,
    pieces: Callable[[], Iterator[NDArray[Any]]],
    contexts: Callable[[], Iterator[Context]],
    plan: Plan,
    noise_of: str,
    stream: int = 0,
) -> Batches:
    """The gradients of the pieces, the same ones each time it is called.

    Each set has noise of its own, or the null control would share that of the clean set and not be independent of it.
    """
    return lambda: iter_state_gradients(
        q_policy,
        pieces(),
        plan.temperature,
        plan.jitter,
        contexts=contexts(),
        batch_size=plan.batch_size,
        dtype=plan.torch_dtype,
        seed=[plan.seed, stream, *noise_of.encode()],
    )


def _batch_rows(
    traces: Sequence[EpisodeTrace], steps: Sequence[NDArray[np.int64]], plan: Plan
) -> Iterator[tuple[EpisodeTrace, NDArray[np.int64]]]:
    """The chosen steps, a batch at a time."""
    for trace, chosen in zip(traces, steps, strict=True):
        for start in range(0, len(chosen), plan.batch_size):
            yield trace, chosen[start : start + plan.batch_size]


def _pieces(
    traces: Sequence[EpisodeTrace], steps: Sequence[NDArray[np.int64]], plan: Plan
) -> Iterator[tuple[NDArray[Any], dict[str, NDArray[Any]]]]:
    """The states of the chosen steps, a batch at a time, and what the policy takes beside them."""
    return ((trace.states(rows), trace.context_at(rows)) for trace, rows in _batch_rows(traces, steps, plan))


def _stacked(contexts: Sequence[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    return {name: np.concatenate([context[name] for context in contexts]) for name in contexts[0]}


def _positions(steps: Sequence[NDArray[np.int64]]) -> Iterator[tuple[int, int]]:
    return ((episode, int(step)) for episode, chosen in enumerate(steps) for step in chosen)


def _norms(batch: NDArray[Any]) -> NDArray[np.float64]:
    norms: NDArray[np.float64] = np.sqrt(np.einsum("nd,nd->n", batch, batch, dtype=np.float64))
    return norms


def _typical(traces: Sequence[EpisodeTrace], selection: Selection) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The state with as much going on as usual, and the median of the chosen newest frames, which shows what stays.

    How much goes on is the L1 distance of the newest frame to that median; the nearest frame would be one without
    anything that moves. States of the first steps, which hold black frames, come last.
    """
    frames = np.concatenate([trace.frames[steps] for trace, steps in zip(traces, selection.steps, strict=True)])
    median = np.median(frames, axis=0)
    away = np.array([np.abs(frame - median).sum() for frame in frames])
    unusual = np.abs(away - np.median(away))
    positions = list(_positions(selection.steps))
    begun = np.array([step >= traces[episode].frame_stack - 1 for episode, step in positions])
    if begun.any():
        unusual[~begun] = np.inf
    episode, step = positions[int(np.argmin(unusual))]
    return traces[episode].states([step])[0], median.astype(np.uint8)


def _newest(clean: CleanFindings) -> NDArray[np.uint8]:
    return _newest_frame(clean.typical_state, clean.frame_stack)


def _newest_frame(state: NDArray[Any], frame_stack: int) -> NDArray[np.uint8]:
    """[C, H, W] -> the newest frame, uint8 [H, W] or [H, W, 3]."""
    channels = len(state) // frame_stack
    frame = state[-channels:].astype(np.uint8)
    return frame[0] if channels == 1 else np.moveaxis(frame, 0, -1)


def _check_attacked(attacked: Tensor, pixels: Tensor) -> None:
    if attacked.shape != pixels.shape:
        raise RoboprefError(
            f"an attack must keep the shape of the pixels, {tuple(pixels.shape)}; got {attacked.shape}."
        )
    if not (attacked.isfinite().all() and attacked.min() >= -_CHANGED and attacked.max() <= 1 + _CHANGED):
        raise RoboprefError("an attack must give finite pixels in [0, 1].")


def _flipped(before: NDArray[np.int64], after: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """bool [2, N]: whether the action is another one, and whether that one is a synonym of the first."""
    differs = before != after
    return np.stack([differs, differs & (labels[before] == labels[after])])


def _distortions(added: Tensor) -> NDArray[np.float64]:
    """L0, L1, L2, Linf of each of [B, C, H, W] -> [B, 4]."""
    rows = added.flatten(1).double().abs()
    norms = torch.stack([(rows > _CHANGED).sum(1).double(), rows.sum(1), (rows**2).sum(1).sqrt(), rows.amax(1)], dim=1)
    values: NDArray[np.float64] = norms.cpu().numpy()
    return values
