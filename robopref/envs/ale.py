"""Atari games with every setting written down.

The preprocessing is that of Mnih et al., "Human-level control through deep reinforcement learning" (Nature 2015), as
the NoFrameskip environments of Gym had it: an action is held for ``frame_skip`` emulator frames, the last two are
max-pooled, turned grey and resized (area interpolation), and the newest ``frame_stack`` of them make a state whose
older frames are black at the start of an episode. ``ALE/<Game>-v5`` differs (sticky actions .25), and so do the
defaults of ``AtariVectorEnv`` (rewards clipped, FIRE pressed at reset); here nothing is left to a default.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Protocol

import ale_py
import gymnasium
from ale_py import roms
from ale_py.env import AtariEnv
from gymnasium import wrappers
from gymnasium.vector import AutoresetMode, VectorEnv

from robopref.errors import RoboprefError

gymnasium.register_envs(ale_py)

FULL_ACTIONS = 18
# Named in messages as games that a model may come from.
_WELL_KNOWN = (
    "pong",
    "breakout",
    "space_invaders",
    "qbert",
    "freeway",
    "beam_rider",
    "enduro",
    "ms_pacman",
    "assault",
    "gopher",
    "amidar",
    "boxing",
    "seaquest",
    "road_runner",
)


@cache
def games() -> tuple[str, ...]:
    """The ids of the single-player games that ALE has, sorted (a ROM for two players ends the process when opened)."""
    v5 = (spec for name, spec in gymnasium.registry.items() if re.fullmatch(r"ALE/\w+-v5", name))
    return tuple(sorted({spec.kwargs["game"] for spec in v5}))


def game_id(name: str) -> str:
    """The ALE id of a game: "PongNoFrameskip-v4", "ALE/Pong-v5", "Pong" and "pong" are all ``pong``.

    Only the game is taken from the name; frame skip and sticky actions that it stands for are fields of ``AtariSpec``.

    Raises:
        RoboprefError: there is no such game.
    """
    bare = re.sub(r"-v\d+$", "", name.strip().removeprefix("ALE/"))
    key = _key(re.sub(r"(NoFrameskip|Deterministic)$", "", bare))
    known = {_key(game): game for game in games()}
    if key in known:
        return known[key]
    close = [known[match] for match in difflib.get_close_matches(key, known, n=3)]
    hint = f"did you mean {' or '.join(close)}?" if close else f"some that it has: {', '.join(_WELL_KNOWN[:6])}."
    raise RoboprefError(f"ALE has no game {name!r}; {hint}")


def _key(name: str) -> str:
    return name.replace("_", "").replace(" ", "").lower()


@dataclass(frozen=True)
class AtariSpec:
    """What is played and how it is seen; ``game`` may be given in any form that ``game_id`` reads.

    Attributes:
        game: ALE id.
        frame_skip: emulator frames (60 a second) for which an action is held: one agent step.
        sticky_actions: probability, per emulator frame, that the previous action is repeated instead.
        frame_stack: frames in a state.
        image_size: height and width of a frame in pixels.
        grayscale: one channel per frame, else three.
        noop_max: an episode begins with a random number of idle emulator frames, at most this.
        fire_reset: FIRE is pressed at the start of an episode, where the game has it.
        episodic_life: a lost life ends the episode, and the next one is a new game.
        reward_clip: rewards are clipped to [-1, 1].
        full_action_set: all 18 actions, else the game's minimal set.
        max_episode_steps: agent steps after which an episode is truncated; 27000 is half an hour at frame skip 4.

    Raises:
        RoboprefError: an unknown game or a value out of range.
    """

    game: str
    frame_skip: int = 4
    sticky_actions: float = 0.0
    frame_stack: int = 4
    image_size: int = 84
    grayscale: bool = True
    noop_max: int = 30
    fire_reset: bool = False
    episodic_life: bool = False
    reward_clip: bool = False
    full_action_set: bool = False
    max_episode_steps: int = 27000

    def __post_init__(self) -> None:
        object.__setattr__(self, "game", game_id(self.game))
        for name in ("frame_skip", "frame_stack", "image_size", "max_episode_steps"):
            if getattr(self, name) < 1:
                raise RoboprefError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.noop_max < 0:
            raise RoboprefError(f"noop_max must not be negative, got {self.noop_max}.")
        if not 0 <= self.sticky_actions < 1:
            raise RoboprefError(f"sticky_actions is a probability below 1, got {self.sticky_actions}.")


def make_atari_vector(
    spec: AtariSpec, num_envs: int, *, threads: int = 0, autoreset: AutoresetMode = AutoresetMode.NEXT_STEP
) -> VectorEnv:
    """``num_envs`` games stepped together by ALE's own threads.

    Args:
        spec: what is played.
        num_envs: games in parallel.
        threads: worker threads; 0: one per game, at most one per core.
        autoreset: NEXT_STEP (the step after the end resets and ignores its action) or SAME_STEP (the end is followed
            by the reset in the same step, with the last state in ``info["final_obs"]``).

    Returns:
        Observations uint8 [num_envs, frame_stack, H, W], or [..., 3] in colour; rewards int32.

    Raises:
        RoboprefError: no game asked for, or automatic resets switched off, which ALE does not offer.
    """
    if num_envs < 1:
        raise RoboprefError(f"num_envs must be at least 1, got {num_envs}.")
    if autoreset is AutoresetMode.DISABLED:
        raise RoboprefError("ALE's vector environment always resets itself: choose autoreset NEXT_STEP or SAME_STEP.")
    return ale_py.AtariVectorEnv(
        spec.game,
        num_envs,
        num_threads=threads,
        max_num_frames_per_episode=spec.max_episode_steps * spec.frame_skip,
        repeat_action_probability=spec.sticky_actions,
        full_action_space=spec.full_action_set,
        autoreset_mode=autoreset,
        img_height=spec.image_size,
        img_width=spec.image_size,
        grayscale=spec.grayscale,
        stack_num=spec.frame_stack,
        frameskip=spec.frame_skip,
        maxpool=True,
        noop_max=spec.noop_max,
        episodic_life=spec.episodic_life,
        life_loss_info=False,
        reward_clipping=spec.reward_clip,
        use_fire_reset=spec.fire_reset,
    )


def make_atari(spec: AtariSpec) -> gymnasium.Env:
    """One game with the preprocessing of ``make_atari_vector``, out of Gymnasium's wrappers.

    Frames are the same to the bit for the same actions from the same start; the random number of idle frames is drawn
    differently (Gymnasium: 1 to ``noop_max``; ALE's vector: 0 to ``noop_max`` - 1), so seeds do not carry over.

    Returns:
        Observations uint8 [frame_stack, H, W] (or [..., 3]); with ``frame_stack`` 1, bare frames [H, W] (or [..., 3]),
        ready for wrappers that come before a ``FrameStackObservation(..., padding_type="zero")``.
    """
    env: gymnasium.Env = AtariEnv(
        spec.game,
        frameskip=1,
        repeat_action_probability=spec.sticky_actions,
        full_action_space=spec.full_action_set,
        max_num_frames_per_episode=None,
    )
    if spec.fire_reset:
        env = _FireReset(env)
    env = wrappers.AtariPreprocessing(
        env,
        noop_max=spec.noop_max,
        frame_skip=spec.frame_skip,
        screen_size=spec.image_size,
        terminal_on_life_loss=spec.episodic_life,
        grayscale_obs=spec.grayscale,
    )
    env = wrappers.TimeLimit(env, spec.max_episode_steps)
    if spec.reward_clip:
        env = wrappers.ClipReward(env, -1, 1)
    if spec.frame_stack > 1:
        env = wrappers.FrameStackObservation(env, spec.frame_stack, padding_type="zero")
    return env


class _FireReset(gymnasium.Wrapper):
    """Presses FIRE for one emulator frame after a reset, where the game has FIRE."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        meanings = self.unwrapped.get_action_meanings()  # type: ignore[attr-defined]
        if "FIRE" in meanings:
            observation, *_, info = self.env.step(meanings.index("FIRE"))
        return observation, info


def action_meanings(spec: AtariSpec) -> tuple[str, ...]:
    """ALE's names of the actions, e.g. ``("NOOP", "UP", "DOWN")`` for Freeway, in the order of their indices."""
    return _action_names(spec.game, spec.full_action_set)


def n_actions(spec: AtariSpec) -> int:
    """How many actions there are."""
    return len(action_meanings(spec))


@cache
def _action_names(game: str, full: bool) -> tuple[str, ...]:
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    ale.loadROM(str(roms.get_rom_path(game)))
    return tuple(action.name for action in (ale.getLegalActionSet() if full else ale.getMinimalActionSet()))


class PolicyShape(Protocol):
    """What a policy says about the states that it takes; ``QPolicySpec`` does."""

    @property
    def n_actions(self) -> int:
        """How many actions it chooses among."""

    @property
    def frame_stack(self) -> int:
        """Frames in a state."""

    @property
    def channels_per_frame(self) -> int:
        """1 grayscale, 3 colour."""

    @property
    def height(self) -> int:
        """Pixels."""

    @property
    def width(self) -> int:
        """Pixels."""

    @property
    def game(self) -> str | None:
        """The game that it was trained on, if it says so."""

    @property
    def environment(self) -> Mapping[str, Any] | None:
        """Fields of ``AtariSpec`` that it says it was trained with."""


def atari_spec_for(policy: PolicyShape, game: str | None = None) -> AtariSpec:
    """The environment that a policy was made for, as far as it says, and this module's defaults otherwise.

    Args:
        policy: shapes, and possibly game and environment, as its file says them.
        game: what to play; may be left out where the policy says it.

    Raises:
        RoboprefError: no game is known, or none of the game's settings can fit the policy.
    """
    game = game or policy.game
    if game is None:
        raise RoboprefError("the model does not say which game it plays: name one, e.g. Pong.")
    if policy.height != policy.width:
        raise RoboprefError(f"the model takes {policy.height} x {policy.width} frames; Atari frames here are square.")
    known = {field.name for field in fields(AtariSpec)}
    said = {name: value for name, value in (policy.environment or {}).items() if name in known and name != "game"}
    settings = said | {
        "frame_stack": policy.frame_stack,
        "image_size": policy.height,
        "grayscale": policy.channels_per_frame == 1,
    }
    if "full_action_set" not in said:
        minimal = n_actions(AtariSpec(game))
        settings["full_action_set"] = policy.n_actions == FULL_ACTIONS != minimal
    spec = AtariSpec(game=game, **settings)
    check_policy_fits(policy, spec)
    return spec


def check_policy_fits(policy: PolicyShape, spec: AtariSpec) -> None:
    """That the policy can play ``spec``.

    Raises:
        RoboprefError: it was trained on another game, or its actions, frame stack, channels or image size differ; the
            message says what would fit.
    """
    if policy.game is not None and game_id(policy.game) != spec.game:
        raise RoboprefError(
            f"the model was trained on {game_id(policy.game)} and the game is {spec.game}: play {game_id(policy.game)}."
        )
    if policy.n_actions != n_actions(spec):
        raise RoboprefError(_action_mismatch(policy.n_actions, spec))
    if policy.frame_stack != spec.frame_stack:
        raise RoboprefError(
            f"the model takes {policy.frame_stack} stacked frames and the environment gives {spec.frame_stack}: "
            f"set frame_stack to {policy.frame_stack}."
        )
    if policy.channels_per_frame != (channels := 1 if spec.grayscale else 3):
        raise RoboprefError(
            f"the model takes {policy.channels_per_frame} channels per frame and the environment gives {channels}: "
            f"set grayscale to {policy.channels_per_frame == 1}."
        )
    if (policy.height, policy.width) != (spec.image_size, spec.image_size):
        raise RoboprefError(
            f"the model takes {policy.height} x {policy.width} pixels and the environment gives "
            f"{spec.image_size} x {spec.image_size}: set image_size to what the model takes."
        )


def _action_mismatch(wanted: int, spec: AtariSpec) -> str:
    minimal, full = len(_action_names(spec.game, False)), FULL_ACTIONS
    if wanted in (minimal, full):
        return (
            f"the model has {wanted} actions and {spec.game} with full_action_set={spec.full_action_set} has "
            f"{n_actions(spec)}: set full_action_set to {not spec.full_action_set}."
        )
    fitting = [game for game in _WELL_KNOWN if len(_action_names(game, False)) == wanted]
    hint = f", such as {', '.join(fitting)}" if fitting else ""
    return (
        f"the model has {wanted} actions, but {spec.game} has {minimal} (minimal set) or {full} (full set): "
        f"it was trained on another game with {wanted} actions{hint}."
    )
