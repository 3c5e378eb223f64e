"""What the names around a model file say about the game that it was trained on.

The file itself never says it for Stable-Baselines3, and seldom for others; but people keep models under names such as
``runs/PongNoFrameskip-v4__dqn_atari__1__1690000000/dqn_atari.cleanrl_model``, and rl-zoo3 writes an ``args.yml``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robopref.policies.q_policy import split_channels

# PongNoFrameskip-v4, PongDeterministic-v4, ALE/Pong-v5 (also ALE-Pong-v5, as paths have it) and Pong-v5.
_ENVIRONMENT_ID = re.compile(
    r"(?<![A-Za-z0-9])(?P<ale>ALE[/_-])?(?P<game>[A-Z][A-Za-z0-9]*?)(?P<mode>NoFrameskip|Deterministic)?"
    r"-v(?P<version>\d)(?!\d)"
)
_NAMES_ABOVE = 3  # folders above the file whose names count
_STICKY_VERSIONS = ("0", "5")


@dataclass(frozen=True)
class GameHint:
    """A game's name and what else its environment id says.

    Attributes:
        game: e.g. "PongNoFrameskip-v4".
        environment: fields of ``AtariSpec``.
        where: the place that said so.
        frame_stack: as rl-zoo3's ``config.yml`` has it; None if there is none.
    """

    game: str | None = None
    environment: dict[str, Any] | None = None
    where: str = ""
    frame_stack: int | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What was assumed, for ``QPolicySpec``."""
        return (f"The game is taken from {self.where}; nothing in the weights says it.",) if self.game else ()

    def split_channels(self, channels: int, frame_stack: int | None = None) -> tuple[int, int]:
        """As ``q_policy.split_channels``; where ``frame_stack`` is not given, what rl-zoo3 says is taken if it fits."""
        if (
            frame_stack is None
            and self.frame_stack is not None
            and channels in (self.frame_stack, 3 * self.frame_stack)
        ):
            frame_stack = self.frame_stack
        return split_channels(channels, frame_stack)


def read_environment_id(text: str, where: str) -> GameHint | None:
    """The first Atari environment id in a text; ids that could be another kind of environment do not count."""
    for match in _ENVIRONMENT_ID.finditer(text):
        if match["ale"] or match["mode"] or match["version"] == "5":
            # Versions 0 and 5 repeat the previous action with probability .25; in version 4 actions never stick.
            sticky = 0.25 if match["version"] in _STICKY_VERSIONS else 0.0
            name = f"{'ALE/' if match['ale'] else ''}{match['game']}{match['mode'] or ''}-v{match['version']}"
            return GameHint(name, {"sticky_actions": sticky}, where)
    return None


def hint_around(path: Path) -> GameHint:
    """What rl-zoo3's files beside the model, its own name and those of the folders above it say; the nearest wins."""
    path = path.absolute()
    zoo = [folder for folder in (path.parent / path.stem, path.parent) if (folder / "args.yml").is_file()]
    frame_stack = None
    hint = None
    if zoo:
        frame_stack = _zoo_number(zoo[0] / "config.yml", "frame_stack")
        named = _zoo_value(zoo[0] / "args.yml", "env")
        hint = read_environment_id(named, f"args.yml beside the model ({named})") if named else None
    for name in (path.name, *(folder.name for folder in list(path.parents)[:_NAMES_ABOVE])):
        hint = hint or read_environment_id(name, f"the name {name}")
    found = hint or GameHint()
    return GameHint(found.game, found.environment, found.where, frame_stack)


def _zoo_value(path: Path, key: str) -> str | None:
    """A scalar in rl-zoo3's YAML of key-value pairs, each a list of two ("- - env" and below it "    - Pong...").

    Read as text: the files name Python classes, which only an unsafe YAML loader would build.
    """
    if not path.is_file():
        return None
    match = re.search(rf"- - {re.escape(key)}\n\s*- (\S+)", path.read_text(errors="replace"))
    return match[1] if match else None


def _zoo_number(path: Path, key: str) -> int | None:
    value = _zoo_value(path, key)
    return int(value) if value is not None and value.isdecimal() else None
