"""Actions of a game that do the same: NOOP and FIRE in Pong, say, where the button hardly does anything.

Measured in the emulator. From one and the same state each action is held for the frame skip, and then NOOP for as long
again; two actions did the same if the console's memory and the screen are equal afterwards. (Right after the action the
memory often differs by a copy of the joystick alone.) Synonyms did the same in at least 98 % of the states that were
tried: FIRE in Pong matters at the moment that the ball is hit alone. FIRE in Breakout, without which no ball is served,
is no synonym of anything.
"""

from __future__ import annotations

from functools import cache

import ale_py
import numpy as np
from ale_py import roms
from numpy.typing import NDArray

from robopref.envs.ale import AtariSpec

STATES = 150
"""How many states are tried."""

SAME = 0.98
"""Share of them in which synonyms do the same, at least."""

_HELD = 8  # the most steps for which the player between the states holds an action


def action_synonyms(spec: AtariSpec, *, states: int = STATES, seed: int = 0) -> tuple[tuple[int, ...], ...]:
    """Groups of actions, by index, any two of which do the same; empty where every action does something of its own.

    Kept for the life of the process; the first call for a game takes a second or two.

    Args:
        spec: the game, its action set and its frame skip count.
        states: how many are tried, met by a random player who holds each action for a while.
        seed: of that player.
    """
    return _measured(spec.game, spec.full_action_set, spec.frame_skip, states, seed)


@cache
def _measured(game: str, full: bool, frame_skip: int, states: int, seed: int) -> tuple[tuple[int, ...], ...]:
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    ale.setInt("random_seed", seed)
    ale.setFloat("repeat_action_probability", 0.0)
    ale.loadROM(str(roms.get_rom_path(game)))
    actions = ale.getLegalActionSet() if full else ale.getMinimalActionSet()
    rng = np.random.default_rng(seed)
    ale.reset_game()
    different = np.zeros((len(actions), len(actions)), np.int64)
    allowed = int((1 - SAME) * states)
    for _ in range(states):
        _wander(ale, actions, frame_skip, rng)
        rivals = [i for i in range(len(actions)) if (different[i] <= allowed).sum() > 1]  # itself is one
        if not rivals:
            return ()
        _compare(ale, actions, rivals, frame_skip, different)
    groups: list[list[int]] = []
    for index in range(len(actions)):
        group = next((g for g in groups if (different[index, g] <= allowed).all()), None)
        if group is None:
            groups.append([index])
        else:
            group.append(index)
    return tuple(tuple(group) for group in groups if len(group) > 1)


def _wander(ale: ale_py.ALEInterface, actions: list[ale_py.Action], frame_skip: int, rng: np.random.Generator) -> None:
    """Play on at random until the next state to try."""
    for _ in range(2):
        action = actions[rng.integers(len(actions))]
        for _ in range(frame_skip * int(rng.integers(1, _HELD + 1))):
            ale.act(action)
    if ale.game_over():
        ale.reset_game()


def _compare(
    ale: ale_py.ALEInterface,
    actions: list[ale_py.Action],
    indices: list[int],
    frame_skip: int,
    different: NDArray[np.int64],
) -> None:
    """Try some actions from where the game is, which it is put back to; count the pairs that come out differently."""
    start, outcomes = ale.cloneState(), []
    for index in indices:
        ale.restoreState(start)
        for action in (actions[index], ale_py.Action.NOOP):
            for _ in range(frame_skip):
                ale.act(action)
        outcomes.append((ale.getRAM().tobytes(), ale.getScreenGrayscale().tobytes()))
    ale.restoreState(start)
    for i, ours in zip(indices, outcomes, strict=True):
        for j, theirs in zip(indices, outcomes, strict=True):
            different[i, j] += ours != theirs
