"""Transitions that SERL and HIL-SERL pickle, into a store. A pickle executes code, so it takes the user's trust.

A file is a list of ``{observations, actions, next_observations, rewards, masks, dones}``. Files of demonstrations keep
``infos`` as well, with ``intervene_action``, what was executed, where a person drove. Training takes that out before it
writes: its ``buffer/`` mixes the policy's steps with the person's, and its ``demo_buffer/`` holds the person's alone.
Such files do not say who acted, and are refused until the user does: a rollout of the policy taken for a demonstration
would be imitated.
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
from robopref.store.formats.foreign import actors, made_episode, made_id, nothing_like
from robopref.store.formats.importing import add_all, located
from robopref.store.store import EpisodeStore
from robopref.trajectory import Actor, Episode, EpisodeInfo, Outcome

SUFFIXES = (".pkl", ".pickle")
HZ = 10.0  # of the Franka arms that both were written for
INTERVENTION, SUCCEEDED = "intervene_action", "succeed"
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
    lost: dict[str, None] = {}
    added = add_all(_episodes(files, options, told, lost), store, options)
    return Conversion(added.episodes, added.steps, tuple(lost), tuple(told), tuple(added.skipped))


def _episodes(
    files: Sequence[Path], options: ConversionOptions, told: dict[str, None], lost: dict[str, None]
) -> Iterator[tuple[str, Episode]]:
    for done, file in enumerate(files):
        options.progress(done, len(files))
        transitions = _load(file)
        noted = any(INTERVENTION in _infos(entry) for entry in transitions)
        if not noted and options.actor is None:
            raise RoboprefError(
                f"{file} does not say who acted: no infos have {INTERVENTION!r}, which HIL-SERL's training takes out. "
                "Say so: --actor human for the steps of its demo_buffer, expert for demonstrations, policy for "
                "rollouts that nobody corrected. Its buffer, which mixes them, cannot be used."
            )
        for number, (first, run) in enumerate(_split(transitions)):
            where = f"{file}, transitions {first} to {first + len(run) - 1}"
            with located(where):
                episode = _episode(run, file, number, options, noted, told)
            yield where, episode
        for key in {key for entry in transitions for key in entry} - {*_NEEDED, "infos"}:
            lost[f"{key}: of the transitions."] = None
        for key in {key for entry in transitions for key in _infos(entry)} - {INTERVENTION, SUCCEEDED}:
            lost[f"infos[{key!r}]: of the transitions."] = None
    options.progress(len(files), len(files))


def _infos(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    infos = entry.get("infos")
    return infos if isinstance(infos, Mapping) else {}


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


def _split(transitions: list[Mapping[str, Any]]) -> Iterator[tuple[int, list[Mapping[str, Any]]]]:
    """Runs of transitions: they end where one is done, and where the next one does not go on from what was seen."""
    begin = 0
    for number, entry in enumerate(transitions, start=1):
        last = number == len(transitions)
        if last or _done(entry) or not _goes_on(entry, transitions[number]):
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
    noted: bool,
    told: dict[str, None],
) -> Episode:
    seen = [dict(_leaves(entry["observations"])) for entry in transitions]
    last = dict(_leaves(transitions[-1]["next_observations"]))
    stack = _stack(last, told)
    observation = {key: _stacked([one.get(key) for one in seen], f"observations/{key}", stack) for key in seen[0]}
    final = {key: value[-1] if stack else value for key, value in last.items()}
    acted = _acted(transitions, told) if noted else _as_told(transitions, options, told)
    reward = _stacked([np.asarray(entry["rewards"], np.float64).reshape(()) for entry in transitions], "rewards", 0)
    done = np.array([_done(entry) for entry in transitions])
    outcome = _outcome(transitions[-1], float(reward[-1]), options, told)
    success = np.zeros(len(transitions), np.bool_)
    success[-1] = outcome is Outcome.SUCCESS
    hz = options.fps or HZ
    told[f"t_monotonic_ns: {hz:g} steps per second, {'as asked for' if options.fps else 'assumed'}."] = None
    told["episodes: split where one is done, and where a transition does not go on from the one before."] = None
    task = options.task or path.stem
    info = EpisodeInfo(
        task=task,
        instruction=options.instruction or task,
        outcome=outcome,
        episode_id=made_id("serl", f"{path.stem}-{number:06d}", acted["action"], reward),
        extra={"hz": hz, "serl": {"file": path.name, "episode": number}},
    )
    known = acted | {"reward": reward, "terminated": done, "success": success}
    return made_episode(info, observation, hz=hz, final_observation=final, **known)


def _acted(transitions: Sequence[Mapping[str, Any]], told: dict[str, None]) -> dict[str, NDArray[Any]]:
    """Actions and who acted, where interventions were noted."""
    given = _stacked([entry["actions"] for entry in transitions], "actions", 0)
    human = np.array([INTERVENTION in _infos(entry) for entry in transitions])
    driven = [_infos(entry).get(INTERVENTION, action) for entry, action in zip(transitions, given, strict=True)]
    action = _stacked([np.asarray(one, given.dtype) for one in driven], INTERVENTION, 0)
    still = ~human & (given == 0).all(axis=tuple(range(1, given.ndim)))
    actor = np.where(human, Actor.HUMAN, np.where(still, Actor.HOLD, Actor.POLICY)).astype(np.int8)
    # The recorder overwrites what was proposed with what the person did; where both are there they differ.
    proposed = (actor == Actor.POLICY) | (human & (action != given).any(axis=tuple(range(1, given.ndim))))
    policy_action = np.where(proposed.reshape(-1, *[1] * (given.ndim - 1)), given, nothing_like(given))
    told[
        "actor: HUMAN where infos have intervene_action; HOLD, which nothing is learned from, where the action is zero "
        "without it, as between a demonstrator's movements; POLICY elsewhere."
    ] = None
    if (human & ~proposed).any():
        told["policy_action: none where the person drives and nothing else was kept."] = None
    return {"action": action, "actor": actor, "policy_action": policy_action}


def _as_told(
    transitions: Sequence[Mapping[str, Any]], options: ConversionOptions, told: dict[str, None]
) -> dict[str, NDArray[Any]]:
    action = _stacked([entry["actions"] for entry in transitions], "actions", 0)
    return {"action": action, "actor": actors(options, len(action), told)}


def _done(entry: Mapping[str, Any]) -> bool:
    return bool(np.asarray(entry["dones"]).any())


def _outcome(last: Mapping[str, Any], reward: float, options: ConversionOptions, told: dict[str, None]) -> Outcome:
    told["outcome: success where the last step is done and infos say succeed, or else is rewarded; failure where it is "
         "only done; where it is not, what was given, or 'aborted', judged by nobody."] = None  # fmt: skip
    if not _done(last):
        return options.outcome or Outcome.ABORTED
    return Outcome.SUCCESS if bool(_infos(last).get(SUCCEEDED, reward > 0)) else Outcome.FAILURE


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
