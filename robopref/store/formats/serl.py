"""Transitions that SERL and HIL-SERL pickle, into a store. A pickle executes code, so it takes the user's trust.

A file is a list of ``{observations, actions, next_observations, rewards, masks, dones}``, with ``infos`` where they
were kept; ``infos["intervene_action"]`` is there where a person drove, and ``actions`` is what was executed.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError
from robopref.store.formats.base import Conversion, ConversionOptions
from robopref.store.formats.foreign import made_episode, made_id
from robopref.store.store import EpisodeStore
from robopref.trajectory import Actor, Episode, EpisodeInfo, Outcome

SUFFIXES = (".pkl", ".pickle")
HZ = 10.0  # of the Franka arms that both were written for
INTERVENTION = "intervene_action"
_NEEDED = ("observations", "actions", "next_observations", "rewards", "dones")


def import_serl(path: Path, store: EpisodeStore, options: ConversionOptions) -> Conversion:
    """Add the episodes of a pickle, or of every pickle in a folder, to a store.

    Raises:
        RoboprefError: no trust was given, a file is no list of such transitions, or a transition lacks something,
            saying where. Episodes before it stay.
    """
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
    if not files:
        raise RoboprefError(f"{path} holds no pickle.")
    if not options.trust:
        raise RoboprefError(
            f"{path} is pickled: reading it executes whatever code it holds. If you know where it comes from, say so "
            "with --trust."
        )
    told: dict[str, None] = {}
    skipped, steps, episodes = [], 0, 0
    for done, file in enumerate(files):
        options.progress(done, len(files))
        for number, (first, transitions) in enumerate(_split(_load(file), file)):
            where = f"{file}, transitions {first} to {first + len(transitions) - 1}"
            try:
                episode = _episode(transitions, file, number, options, told)
                if store.has(episode.info.episode_id):
                    if not options.append:
                        raise RoboprefError(f"{store.path} already has it, as {episode.info.episode_id}.")
                    skipped.append(f"{episode.info.episode_id}: {store.path} has it already.")
                    continue
                store.add(episode)
            except RoboprefError as error:
                raise RoboprefError(f"{where}: {error}") from error
            episodes, steps = episodes + 1, steps + len(episode)
    options.progress(len(files), len(files))
    lost = ("masks, and what infos hold besides intervene_action and succeed.",)
    return Conversion(episodes, steps, lost, tuple(told), tuple(skipped))


def _load(path: Path) -> list[Mapping[str, Any]]:
    try:
        with open(path, "rb") as file:
            found = pickle.load(file)
    except Exception as error:  # a pickle may raise anything
        raise RoboprefError(
            f"{path} cannot be read ({type(error).__name__}: {error}): it is damaged, or needs a package that is not "
            "installed."
        ) from error
    if not isinstance(found, list) or not found or not all(isinstance(entry, Mapping) for entry in found):
        raise RoboprefError(f"{path} holds {_kind(found)}, not a list of transitions.")
    for number, entry in enumerate(found):
        if missing := [name for name in _NEEDED if name not in entry]:
            raise RoboprefError(f"{path}, transition {number} lacks {missing[0]!r}.")
    return found


def _kind(found: Any) -> str:
    if isinstance(found, list):
        inside = type(found[0]).__name__ if found else "nothing"
        return f"a list of {inside}"
    return f"an object of {type(found).__name__}"


def _split(transitions: list[Mapping[str, Any]], path: Path) -> Iterator[tuple[int, list[Mapping[str, Any]]]]:
    """Runs of transitions: they end where one is done, and where the next one does not go on from what was seen."""
    begin = 0
    for number, entry in enumerate(transitions, start=1):
        last = number == len(transitions)
        if last or bool(np.asarray(entry["dones"]).any()) or not _goes_on(entry, transitions[number]):
            yield begin, transitions[begin:number]
            begin = number


def _goes_on(entry: Mapping[str, Any], following: Mapping[str, Any]) -> bool:
    before, after = dict(_leaves(entry["next_observations"])), dict(_leaves(following["observations"]))
    return before.keys() == after.keys() and all(np.array_equal(before[key], after[key]) for key in before)


def _leaves(observation: Any, prefix: str = "") -> Iterator[tuple[str, NDArray[Any]]]:
    if not isinstance(observation, Mapping):
        yield prefix.removesuffix("/") or "state", np.asarray(observation)
        return
    for key, value in observation.items():
        yield from _leaves(value, f"{prefix}{key}/")


def _episode(
    transitions: Sequence[Mapping[str, Any]],
    path: Path,
    number: int,
    options: ConversionOptions,
    told: dict[str, None],
) -> Episode:
    seen = [dict(_leaves(entry["observations"])) for entry in transitions]
    last = dict(_leaves(transitions[-1]["next_observations"]))
    stack = _stack(last, told)
    observation = {key: _stacked([one.get(key) for one in seen], f"observations/{key}", stack) for key in seen[0]}
    final = {key: value[-1] if stack else value for key, value in last.items()}
    infos = [entry.get("infos") or {} for entry in transitions]
    action = _stacked([entry["actions"] for entry in transitions], "actions", 0)
    actor = np.full(len(transitions), Actor.EXPERT, np.int8)
    if any(INTERVENTION in info for info in infos):
        actor = np.array([Actor.HUMAN if INTERVENTION in info else Actor.POLICY for info in infos], np.int8)
        told["actor: HUMAN where infos have intervene_action, POLICY elsewhere in an episode that has it."] = None
        told["policy_action: none while the human drives, since it was not kept."] = None
    else:
        told["actor: EXPERT in episodes whose infos nowhere have intervene_action (training removes it)."] = None
    reward = _stacked([np.asarray(entry["rewards"], np.float64).reshape(()) for entry in transitions], "rewards", 0)
    done = np.array([bool(np.asarray(entry["dones"]).any()) for entry in transitions])
    hz = options.fps or HZ
    told[f"t_monotonic_ns: {hz:g} steps per second, {'as asked for' if options.fps else 'assumed'}."] = None
    told["outcome: success where the last step is done and infos say succeed, or else is rewarded; failure where it is "
         "done only; 'aborted' where nothing is."] = None  # fmt: skip
    told["episodes: split where one is done, and where a transition does not go on from the one before."] = None
    succeeded = bool(infos[-1].get("succeed", reward[-1] > 0))
    outcome = (Outcome.SUCCESS if succeeded else Outcome.FAILURE) if done[-1] else Outcome.ABORTED
    success = np.zeros(len(transitions), np.bool_)
    success[-1] = outcome is Outcome.SUCCESS
    task = options.task or path.stem
    info = EpisodeInfo(
        task=task,
        instruction=options.instruction or task,
        outcome=outcome,
        episode_id=made_id("serl", f"{path.stem}-{number:06d}", action, reward),
        extra={"hz": hz, "serl": {"file": path.name, "episode": number}},
    )
    return made_episode(
        info,
        observation,
        action,
        hz=hz,
        final_observation=final,
        actor=actor,
        reward=reward,
        terminated=done,
        success=success,
    )


def _stack(observation: Mapping[str, NDArray[Any]], told: dict[str, None]) -> int:
    """How many past observations lie in front of every array; 0 when there is no such axis."""
    lengths = {value.shape[0] if value.ndim else 0 for value in observation.values()}
    pictures = any(value.ndim == 4 and value.dtype == np.uint8 for value in observation.values())
    if len(lengths) != 1 or not (pictures or lengths == {1}):
        return 0
    (depth,) = lengths
    if depth > 1:
        told[f"observations: the newest of {depth} stacked ones; the others are those of the steps before."] = None
    return int(depth)


def _stacked(values: list[Any], name: str, stack: int) -> NDArray[Any]:
    arrays = []
    for step, value in enumerate(values):
        if value is None:
            raise RoboprefError(f"step {step} lacks {name}.")
        array = np.asarray(value)
        arrays.append(array[-1] if stack else array)
        if (arrays[-1].shape, arrays[-1].dtype) != (arrays[0].shape, arrays[0].dtype):
            raise RoboprefError(
                f"step {step}: {name} is {arrays[-1].dtype} {list(arrays[-1].shape)}, the first is {arrays[0].dtype} "
                f"{list(arrays[0].shape)}."
            )
    return np.stack(arrays)
