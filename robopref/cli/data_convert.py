"""``robopref data convert``: recordings to and from the formats of other tools, saying what does not go along."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from robopref.cli.console import progress_bar, say
from robopref.cli.data_formats import FORMATS, OWN, detect, is_data_directory
from robopref.cli.data_info import size_text
from robopref.errors import RoboprefError
from robopref.trajectory import Actor, Outcome

if TYPE_CHECKING:
    from robopref.store.formats.base import Conversion, ConversionOptions

_SHOWN = 10  # lines of what was skipped


@dataclass(frozen=True)
class DataConvert:
    """Write a data directory in the format of another tool, or bring such a one into a data directory."""

    source: tyro.conf.Positional[Path]
    """A data directory, or recordings of another tool; which is detected."""
    target: tyro.conf.Positional[Path]
    """What to make."""
    to: Literal["lerobot", "robomimic", "minari", "robopref"] | None = None
    """Format of the target; unset: lerobot for a data directory, else robopref."""
    images: Literal["png", "video"] = "png"
    """How the target holds images. From one data directory to another, video makes a twin that takes less room."""
    quality: int | None = None
    """Of a twin's video: x264's rate factor (18 is hard to tell from the original by eye); unset: lossless."""
    fps: float | None = None
    """Control steps a second; unset takes what the recording says."""
    append: bool = False
    """Go on with a target that holds episodes; those that it has already are left out."""
    trust: bool = False
    """Read files that may execute code (pickles)."""
    task: str = ""
    """For sources that do not say it."""
    instruction: str = ""
    """For sources that do not say it."""
    actor: Literal["expert", "policy", "human"] | None = None
    """Who acted, for sources that do not say it."""
    outcome: Literal["success", "failure"] | None = None
    """How episodes ended, for sources that do not say it: `refine` leaves out demonstrations that nobody judged."""


def run_data_convert(config: DataConvert) -> bool:
    """Convert and print what was lost, invented and skipped.

    Raises:
        RoboprefError: an unknown source, a taken target, a way that does not exist, and as the formats' modules.
    """
    if config.fps is not None and not (math.isfinite(config.fps) and config.fps > 0):
        raise RoboprefError(f"--fps is a positive number of steps a second, not {config.fps:g}.")
    found = detect(config.source)
    to = config.to or ("lerobot" if found == OWN else OWN)
    if OWN not in (found, to):
        raise RoboprefError(f"{config.source} is {found}: convert it to a data directory first (--to robopref).")
    if found == to and config.images != "video":
        raise RoboprefError(
            "from a data directory to another one only --images video converts anything; "
            "robopref data merge and split copy episodes as they are."
        )
    try:
        if found == to:
            _compress(config)
        else:
            _tell(config, _export(config, to) if found == OWN else _import(config, found))
    except KeyboardInterrupt:
        say(f"stopped; what is in {config.target} is whole, and --append goes on with it")
        raise
    return True


def _options(config: DataConvert) -> ConversionOptions:
    from robopref.store.formats.base import ConversionOptions

    return ConversionOptions(
        images=config.images,
        fps=config.fps,
        append=config.append,
        trust=config.trust,
        task=config.task,
        instruction=config.instruction,
        actor=None if config.actor is None else Actor[config.actor.upper()],
        outcome=None if config.outcome is None else Outcome(config.outcome),
    )


def _export(config: DataConvert, to: str) -> Conversion:
    from dataclasses import replace

    from robopref.store.store import EpisodeStore

    load = FORMATS[to].load_export
    if load is None:
        raise RoboprefError(f"robopref reads {to}, but does not write it.")
    store = EpisodeStore.open(config.source)
    with progress_bar(f"to {to}", len(store)) as progress:
        return load()(store, config.target, replace(_options(config), progress=progress))


def _import(config: DataConvert, found: str) -> Conversion:
    from dataclasses import replace

    from robopref.store.store import EpisodeStore

    load = FORMATS[found].load_import
    if load is None:
        raise RoboprefError(f"robopref writes {found}, but does not read it.")
    _check_target(config)
    store = EpisodeStore.create_or_open(config.target)
    with progress_bar(f"from {found}", 1) as progress:
        return load()(config.source, store, replace(_options(config), progress=progress))


def _check_target(config: DataConvert) -> None:
    """See that the target is new, empty, or to be gone on with."""
    from robopref.store.store import EpisodeStore

    target = config.target
    if is_data_directory(target):
        if len(EpisodeStore.open(target)) and not config.append:
            raise RoboprefError(
                f"{target} holds episodes already: choose another target, or --append to go on with it."
            )
    elif target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RoboprefError(f"{target} exists and is no data directory: choose another target.")


def _compress(config: DataConvert) -> None:
    from robopref.store.compressing import compress
    from robopref.store.store import EpisodeStore
    from robopref.store.video import VideoOptions

    options = VideoOptions(quality="lossless" if config.quality is None else config.quality)
    source = EpisodeStore.open(config.source)
    _check_target(config)
    with progress_bar("to video", len(source)) as progress:
        made = compress(source, EpisodeStore.create_or_open(config.target), options, progress=progress)
    sizes = f"{size_text(made.original_bytes)} became {size_text(made.video_bytes)}"
    say(f"{config.target}: {made.episodes} episodes, {made.steps} steps; {sizes}")
    for column, error in made.errors.items():
        lossless = error.max_error == 0
        say(f"  {column}: {'lossless' if lossless else f'{error.psnr:.1f} dB, at most {error.max_error} of 255 off'}")
    if made.left_out:
        say(f"  {len(made.left_out)} were there already")


def _tell(config: DataConvert, conversion: Conversion) -> None:
    say(f"{config.target}: {conversion.episodes} episodes, {conversion.steps} steps")
    for name, sentences in (
        ("lost", conversion.lost),
        ("invented", conversion.invented),
        ("skipped", conversion.skipped),
    ):
        for sentence in sentences[:_SHOWN]:
            say(f"  {name}: {sentence}")
        if len(sentences) > _SHOWN:
            say(f"  {name}: {len(sentences) - _SHOWN} more")
    if conversion.episodes and not (conversion.lost or conversion.invented):
        say("  nothing was lost, nothing invented")
