"""Episodes of a value-based policy, recorded as it saw them.

Every episode has a seed of its own, drawn from the run's seed and the episode's number, and decides with it how the
game starts and when an action is random. Episode i is played by game i modulo the number of games, and all that begin
are recorded to their end, so that short episodes are no likelier to be recorded than long ones.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from robopref.errors import RoboprefError
from robopref.protocols import QPolicy

Shift = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
Attack = Callable[..., Tensor]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class EpisodeTrace:
    """One episode of T steps; row t holds the state in which action t was taken, and what came of it.

    Attributes:
        frames: uint8 [T, H, W] or [T, H, W, 3]: the newest frame of each state, shifted where a shift was on.
        actions: int64 [T], as executed: greedy, or random with probability ``epsilon``.
        rewards: float32 [T], unclipped where the environment does not clip.
        q_values: float32 [T, n_actions], of the state as the policy saw it, attacked where an attack was on.
        seed: of the game.
        finished: the game ended (or reached the environment's time limit); false: cut at ``max_steps``.
        frame_stack: frames in a state.
        epsilon: probability of a random action.
        shift: text of the shift, empty without one.
        perturbations: float16 [T, C, H, W], what an attack added to the pixels in [0, 1]; None without an attack.
        context: what ``q_values`` takes beside the pixels, by name, [T, ...]; for a game there is nothing.

    Raises:
        RoboprefError: no steps, or arrays that do not belong together.
    """

    frames: NDArray[np.uint8]
    actions: NDArray[np.int64]
    rewards: NDArray[np.float32]
    q_values: NDArray[np.float32]
    seed: int
    finished: bool
    frame_stack: int
    epsilon: float
    shift: str = ""
    perturbations: NDArray[np.float16] | None = None
    context: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = {name: len(value) for name in _ROWS if (value := getattr(self, name)) is not None}
        rows |= {name: len(value) for name, value in self.context.items()}
        if len(set(rows.values())) != 1 or not len(self.actions):
            raise RoboprefError(f"a trace needs at least one step and as many rows in every array, got {rows}.")
        if self.frames.dtype != np.uint8 or not (self.frames.ndim == 3 or self.frames.shape[3:] == (3,)):
            raise RoboprefError(
                "frames of a trace are uint8 [T, H, W] or [T, H, W, 3], "
                f"got {self.frames.dtype} {list(self.frames.shape)}."
            )

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def score(self) -> float:
        """The sum of the rewards."""
        return float(self.rewards.sum())

    def context_at(self, indices: ArrayLike) -> dict[str, NDArray[Any]]:
        """The context of the states at ``indices``."""
        return {name: values[np.asarray(indices)] for name, values in self.context.items()}

    def states(self, indices: ArrayLike | None = None, *, perturbed: bool = True) -> NDArray[Any]:
        """The states at ``indices`` (all of them when None) as the policy saw them.

        Returns:
            uint8 [n, C, H, W]; of an attacked episode float32 in [0, 1], unless ``perturbed`` is false: then the
            states before the attack.

        Raises:
            RoboprefError: an index outside 0..T-1.
        """
        states = stack_frames(self.frames, self.frame_stack, indices)
        if self.perturbations is None or not perturbed:
            return states
        return _perturb(states, self.perturbations if indices is None else self.perturbations[np.asarray(indices)])


_CONTEXT = "context."
_ROWS = ("frames", "actions", "rewards", "q_values", "perturbations")


def stack_frames(frames: NDArray[np.uint8], frame_stack: int, indices: ArrayLike | None = None) -> NDArray[np.uint8]:
    """States out of an episode's frames, oldest frame first; what lies before the first frame is black.

    Args:
        frames: [T, H, W] or [T, H, W, 3], the episode from its beginning.
        frame_stack: frames in a state.
        indices: which states, int [n]; None: all T.

    Returns:
        uint8 [n, frame_stack * channels, H, W].

    Raises:
        RoboprefError: an index outside 0..T-1.
    """
    newest = np.arange(len(frames)) if indices is None else np.asarray(indices, np.int64)
    if newest.size and not (newest.min() >= 0 and newest.max() < len(frames)):
        raise RoboprefError(
            f"the episode has states 0 to {len(frames) - 1}, asked for {newest.min()} to {newest.max()}."
        )
    sources = newest[:, None] + np.arange(1 - frame_stack, 1)
    stacks = frames[np.maximum(sources, 0)]
    stacks[sources < 0] = 0
    return _as_state(stacks)


def _as_state(stacks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[n, frame_stack, H, W] or [..., 3] -> [n, C, H, W]."""
    if stacks.ndim == 5:
        stacks = np.moveaxis(stacks, -1, 2)
        stacks = stacks.reshape(len(stacks), stacks.shape[1] * 3, *stacks.shape[3:])
    return stacks


def _perturb(states: NDArray[np.uint8], perturbations: NDArray[np.float16]) -> NDArray[np.float32]:
    return (_pixels(states) + perturbations.astype(np.float32)).clip(0, 1)


def _pixels(states: NDArray[np.uint8]) -> NDArray[np.float32]:
    return states.astype(np.float32) / np.float32(255)


def collect_episodes(
    q_policy: QPolicy,
    env: VectorEnv,
    *,
    episodes: int,
    seed: int,
    frame_stack: int,
    shift: Shift | None = None,
    epsilon: float = 0.01,
    attack: Attack | None = None,
    max_steps: int | None = None,
    keep_perturbations: bool = True,
    serve: int | None = None,
    progress: Progress | None = None,
) -> list[EpisodeTrace]:
    """Play ``q_policy`` greedily, save for a random action now and then, and record what it saw.

    The same arguments give the same traces. They do not depend on the number of games either, up to the last bits
    that a network rounds differently in a batch of another size.

    Args:
        q_policy: its device and dtype are those of its parameters, where it has any.
        env: games with unstacked frames, uint8 [1, H, W] or [1, H, W, 3], that reset themselves and take an array of
            seeds, as ALE's vector environment with ``stack_num=1`` does.
        episodes: how many.
        seed: of the whole collection; other seeds give independent episodes. Under the same seed a shifted collection
            is paired with a clean one: the same starts, and random actions at the same steps.
        frame_stack: frames in a state of the policy.
        shift: applied to every frame before it is stacked.
        epsilon: probability of a uniformly random action, without which a game that has no chance in it would be
            played again and again (``duplicate_episodes`` tells).
        attack: pixels [B, C, H, W] in [0, 1] -> what the policy sees instead; it comes after the shift, and what it
            adds is rounded to float16, which is how it is kept.
        max_steps: steps after which an episode is cut; None: at the environment's own limit.
        keep_perturbations: false: what the attack adds is neither rounded nor kept, and the traces hold the states
            before the attack.
        serve: the action that is taken instead of the policy's in the step after a lost life, as the wrappers that
            press FIRE for a policy do; None: the policy's own.
        progress: called with the number of finished episodes and ``episodes``.

    Returns:
        ``episodes`` traces, in the order of their numbers.

    Raises:
        RoboprefError: a number out of range, frames that are stacked already, a policy with another number of actions
            or with values that are not finite, or an environment that does not reset itself, or does not count the
            lives that ``serve`` is to watch.
    """
    _check_numbers(episodes, seed, frame_stack, epsilon, max_steps)
    _check_environment(env)
    sight = _Sight(q_policy, frame_stack, shift, attack, keep_perturbations)
    recordings = [_Recording(np.random.default_rng([seed, episode]), epsilon, max_steps) for episode in range(episodes)]
    for first in range(0, episodes, env.num_envs):
        for _ in _play(env, recordings[first : first + env.num_envs], sight, serve):
            if progress is not None:
                progress(sum(recording.over for recording in recordings), episodes)
    return [recording.trace(sight) for recording in recordings]


def _check_numbers(episodes: int, seed: int, frame_stack: int, epsilon: float, max_steps: int | None) -> None:
    for name, value in (("episodes", episodes), ("frame_stack", frame_stack), ("max_steps", max_steps)):
        if value is not None and value < 1:
            raise RoboprefError(f"{name} must be at least 1, got {value}.")
    if seed < 0:
        raise RoboprefError(f"seed must not be negative, got {seed}.")
    if not 0 <= epsilon <= 1:
        raise RoboprefError(f"epsilon is a probability, got {epsilon}.")


def _check_environment(env: VectorEnv) -> None:
    space, shape = env.single_observation_space, env.single_observation_space.shape or ()
    if space.dtype != np.uint8 or not (shape[:1] == (1,) and (len(shape) == 3 or shape[3:] == (3,))):
        raise RoboprefError(
            f"collection stacks the frames itself and needs them bare, uint8 [1, H, W] or [1, H, W, 3], not {space}: "
            "set frame_stack of the environment to 1."
        )
    if not isinstance(env.single_action_space, spaces.Discrete):
        raise RoboprefError(
            f"a Q policy chooses among discrete actions, the environment has {env.single_action_space}."
        )
    if env.metadata.get("autoreset_mode") not in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
        raise RoboprefError("collection needs a vector environment that resets itself (NEXT_STEP or SAME_STEP).")


@dataclass(frozen=True)
class _Sight:
    """How the policy sees the games and values what it sees."""

    q_policy: QPolicy
    frame_stack: int
    shift: Shift | None
    attack: Attack | None
    keep_perturbations: bool

    def values(self, states: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float16] | None]:
        """States [B, C, H, W] -> action values [B, n_actions], and what the attack added."""
        pixels, perturbations = _pixels(states), None
        if self.attack is not None:
            attacked = self.attack(self._tensor(pixels)).detach().cpu().numpy()
            if self.keep_perturbations:
                perturbations = (attacked - pixels).astype(np.float16)
                attacked = _perturb(states, perturbations)
            pixels = attacked
        with torch.no_grad():
            q_values = self.q_policy.q_values(self._tensor(pixels)).float().cpu().numpy()
        if not np.isfinite(q_values).all():
            raise RoboprefError("the policy gives action values that are not finite: check its weights for NaN.")
        return q_values, perturbations

    def _tensor(self, pixels: NDArray[np.float32]) -> Tensor:
        parameters = self.q_policy.parameters() if isinstance(self.q_policy, torch.nn.Module) else iter(())
        like = next(parameters, None)
        tensor = torch.from_numpy(pixels)
        return tensor if like is None else tensor.to(like.device, like.dtype)


class _Recording:
    """An episode while it is played; once it is over, what its game does next is no part of it."""

    def __init__(self, rng: np.random.Generator, epsilon: float, max_steps: int | None) -> None:
        self.rng, self.epsilon, self.max_steps = rng, epsilon, max_steps
        self.seed = int(rng.integers(1, 2**31))
        self.finished = self.over = False
        self.rows: dict[str, list[Any]] = {name: [] for name in _ROWS if name != "frames"}
        self.frames = np.empty((0,), np.uint8)

    def act(self, frame: NDArray[np.uint8], q_values: NDArray[np.float32], forced: int | None = None) -> int:
        at_random = self.rng.random() < self.epsilon
        action = int(self.rng.integers(len(q_values)) if at_random else q_values.argmax())
        action = action if forced is None else forced
        self._keep(frame)
        for name, value in (("q_values", q_values), ("actions", action)):
            self.rows[name].append(value)
        return action

    def _keep(self, frame: NDArray[np.uint8]) -> None:
        """Frames go into one large array: as many small ones, their memory would stay with the process for good."""
        step = len(self.rows["actions"])
        if step >= len(self.frames):
            larger = np.empty((max(256, 2 * step), *frame.shape), np.uint8)
            larger[:step] = self.frames if step else 0
            self.frames = larger
        self.frames[step] = frame

    def outcome(self, reward: float, ended: bool) -> None:
        self.rows["rewards"].append(reward)
        self.finished = ended
        self.over = ended or len(self.rows["rewards"]) == self.max_steps

    def trace(self, sight: _Sight) -> EpisodeTrace:
        rows = self.rows
        return EpisodeTrace(
            frames=self.frames[: len(rows["actions"])],
            actions=np.array(rows["actions"], np.int64),
            rewards=np.array(rows["rewards"], np.float32),
            q_values=np.stack(rows["q_values"]),
            seed=self.seed,
            finished=self.finished,
            frame_stack=sight.frame_stack,
            epsilon=self.epsilon,
            shift="" if sight.shift is None else str(sight.shift),
            perturbations=np.stack(rows["perturbations"]) if rows["perturbations"] else None,
        )


def _play(env: VectorEnv, recordings: Sequence[_Recording], sight: _Sight, serve: int | None = None) -> Iterator[None]:
    """Play each recording in a game of its own until all are over; yields whenever some have come to their end."""
    n_actions = int(env.single_action_space.n)  # type: ignore[attr-defined]
    seeds, actions = np.ones(env.num_envs, np.int64), np.zeros(env.num_envs, np.int64)
    seeds[: len(recordings)] = [recording.seed for recording in recordings]
    observations, info = env.reset(seed=seeds)  # type: ignore[arg-type]  # ALE takes a seed for each game
    lives = _lives(info, env, serve)
    lost = np.zeros(env.num_envs, bool)
    stacks = np.zeros((len(recordings), sight.frame_stack, *observations.shape[2:]), np.uint8)
    while playing := [game for game, recording in enumerate(recordings) if not recording.over]:
        frames = observations[playing, 0] if sight.shift is None else sight.shift(observations[playing, 0])
        stacks[playing, :-1] = stacks[playing, 1:]
        stacks[playing, -1] = frames
        q_values, perturbations = sight.values(_as_state(stacks[playing]))
        if q_values.shape != (len(playing), n_actions):
            raise RoboprefError(
                f"the policy values {q_values.shape[-1]} actions and the environment has {n_actions}: "
                "check the game and its action set."
            )
        for row, game in enumerate(playing):
            actions[game] = recordings[game].act(frames[row], q_values[row], serve if lost[game] else None)
            if perturbations is not None:
                recordings[game].rows["perturbations"].append(perturbations[row])
        observations, rewards, terminations, truncations, info = env.step(actions)
        before, lives = lives, _lives(info, env, serve)
        lost = lives < before
        for game in playing:
            recordings[game].outcome(float(rewards[game]), bool(terminations[game] or truncations[game]))
        if any(recordings[game].over for game in playing):
            yield


def _lives(info: Mapping[str, Any], env: VectorEnv, serve: int | None) -> NDArray[np.int64]:
    """Lives that are left in every game; zeros where nobody asks."""
    if serve is None:
        return np.zeros(env.num_envs, np.int64)
    if "lives" not in info:
        raise RoboprefError("the environment does not say how many lives are left: leave serve out.")
    return np.asarray(info["lives"], np.int64)


def duplicate_episodes(traces: Sequence[EpisodeTrace]) -> list[tuple[int, ...]]:
    """Groups of episodes, by index, that are the same to the last frame and action; each counts only once as evidence.

    Returns:
        The groups of two or more, each in ascending order; empty when every episode is its own.
    """
    groups: dict[bytes, list[int]] = defaultdict(list)
    for index, trace in enumerate(traces):
        groups[episode_digest(trace)].append(index)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def episode_digest(trace: EpisodeTrace) -> bytes:
    """Equal for two episodes that are the same to the last frame and action."""
    played = hashlib.sha256(repr(trace.frames.shape).encode())
    played.update(np.ascontiguousarray(trace.frames).data)
    played.update(np.ascontiguousarray(trace.actions).data)
    return played.digest()


def save_traces(path: Path, traces: Sequence[EpisodeTrace]) -> None:
    """Write the traces to one npz, compressed, whole or not at all; arrays only, nothing pickled.

    Raises:
        RoboprefError: there are none.
    """
    if not traces:
        raise RoboprefError("there are no traces to save.")
    arrays = {
        f"{index}/{part.name}": np.asarray(value)
        for index, trace in enumerate(traces)
        for part in fields(trace)
        if part.name != "context" and (value := getattr(trace, part.name)) is not None
    }
    for index, trace in enumerate(traces):
        arrays |= {f"{index}/{_CONTEXT}{name}": values for name, values in trace.context.items()}
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    os.replace(temporary, path)


def load_traces(path: Path) -> list[EpisodeTrace]:
    """The traces that ``save_traces`` wrote, in their order.

    Raises:
        RoboprefError: the file is missing, damaged or no file of traces.
    """
    values: dict[int, dict[str, Any]] = defaultdict(dict)
    try:
        with np.load(path, allow_pickle=False) as file:
            for key in file.files:
                index, name = key.split("/")
                array = file[key]
                if name.startswith(_CONTEXT):
                    values[int(index)].setdefault("context", {})[name.removeprefix(_CONTEXT)] = array
                else:
                    values[int(index)][name] = array if name in _ROWS else array.item()
        traces = [EpisodeTrace(**values[index]) for index in range(len(values))]
    except (OSError, ValueError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise RoboprefError(f"{path} cannot be read as traces ({type(error).__name__}: {error}).") from error
    if not traces:
        raise RoboprefError(f"{path} holds no traces.")
    return traces
