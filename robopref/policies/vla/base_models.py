"""Base models from the hub or a directory: which family they are, their weights, their normalisation statistics."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from robopref.errors import RoboprefError
from robopref.policies.normalization import NormStats
from robopref.policies.vla.backbone import Backbone
from robopref.policies.vla.description import BaseModel
from robopref.policies.vla.json_files import read_object
from robopref.policies.vla.requirements import require

_SAMPLE = 1 << 20  # bytes at each end of a weight file that its fingerprint reads
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
OPENVLA = "openvla"
STATISTICS = "dataset_statistics.json"
"""What OpenVLA's fine-tuning writes beside weights or adapter: statistics by data set."""


@dataclass(frozen=True)
class BaseFiles:
    """What is known of a base model before its weights are read.

    ``statistics`` are of the actions, by data set; none for a plain vision-language model.
    """

    base: BaseModel
    directory: Path
    family: str
    statistics: Mapping[str, Mapping[str, Any]]


def looks_like_hub_id(name: str | Path) -> bool:
    """Whether a name that is no directory may be ``organisation/model`` on the hub."""
    return not Path(name).exists() and _HUB_ID.fullmatch(str(name)) is not None


def is_model_directory(directory: Path) -> bool:
    """Whether a directory holds a Hugging Face model: our run directories have a ``config.json`` too."""
    return (directory / "config.json").is_file() and "model_type" in read_config(directory)


def base_directory(name: str | Path) -> Path:
    """The directory of a base model: itself, or the snapshot of a hub id, which is downloaded when absent.

    Raises:
        RoboprefError: no such directory, or the hub cannot be reached, does not know it or refuses it.
    """
    directory = Path(name)
    if directory.is_dir():
        if (directory / "config.json").is_file():
            return directory
        trained = sorted(path.name for path in directory.glob("**/*.pt"))
        raise RoboprefError(
            f"{directory} has no config.json, so it is no Hugging Face model."
            + (
                f" It holds {trained[0]}, a training checkpoint of the older Prismatic layout: convert it with the "
                f"convert_openvla_weights_to_hf.py of the OpenVLA project."
                if trained
                else ""
            )
        )
    if not looks_like_hub_id(name):
        raise RoboprefError(f"no model at {name}: give a directory with a config.json or a hub id like org/model.")
    try:
        hub = require("huggingface_hub")
    except RoboprefError as error:  # most often it is a path with a slip
        raise RoboprefError(
            f"there is no directory {name}. If it is a model on the Hugging Face hub: {error}"
        ) from error
    try:
        snapshot = hub.snapshot_download(str(name), allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt"])
    except Exception as error:  # the hub client raises its own errors, those of HTTP libraries, and plain ones
        raise RoboprefError(
            f"there is no directory {name}, and it cannot be got from the Hugging Face hub either "
            f"({type(error).__name__}: {_first_line(error)}). Without a network, give the directory of a copy; for a "
            f"gated model, accept its terms and run `hf auth login` first."
        ) from error
    return Path(snapshot)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "no reason given")


def find_base(name: str | Path) -> BaseFiles:
    """The files of the base model ``name`` (hub id or directory).

    Raises:
        RoboprefError: see ``base_directory``; a damaged configuration.
    """
    directory = base_directory(name)
    config = read_config(directory)
    # An adapter names its base, and is loaded from other working directories than it was trained from.
    known_as = str(Path(name).resolve()) if Path(name).is_dir() else str(name)
    base = BaseModel(known_as, fingerprint(directory))
    return BaseFiles(base, directory, str(config.get("model_type")), read_statistics(directory, config))


def load_backbone(files: BaseFiles, dtype: torch.dtype = torch.float32) -> Backbone:
    """The model itself; code that came with it is never executed.

    Raises:
        RoboprefError: a family that is not supported; files missing or damaged.
    """
    require("transformers")
    require("tokenizers")
    if files.family == OPENVLA:
        from robopref.policies.vla.openvla.backbone import OpenVLABackbone

        return OpenVLABackbone.from_directory(files.directory, dtype)
    return _load_huggingface(files.directory, files.family, dtype)


def _load_huggingface(directory: Path, family: str, dtype: torch.dtype) -> Backbone:
    transformers = require("transformers")
    from safetensors import SafetensorError

    from robopref.policies.vla.huggingface import FAMILIES
    from robopref.policies.vla.image_settings import ImageSettings
    from robopref.policies.vla.text import TextTokenizer

    if family not in FAMILIES:
        raise RoboprefError(
            f"{directory} holds a {family} model; vision-language-action policies can be built on "
            f"{', '.join([*sorted(FAMILIES), OPENVLA])}."
        )
    if not list(directory.glob("*.safetensors")):
        pickled = " It has .bin files, which are pickles and execute code: convert them to safetensors."
        raise RoboprefError(
            f"{directory} has no .safetensors weights." + (pickled if list(directory.glob("*.bin")) else "")
        )
    classes = {
        "llava": transformers.LlavaForConditionalGeneration,
        "paligemma": transformers.PaliGemmaForConditionalGeneration,
        "smolvlm": transformers.SmolVLMForConditionalGeneration,
    }
    tokenizer = TextTokenizer.from_directory(directory)
    try:
        with _without_progress_bars(transformers):
            model, report = classes[family].from_pretrained(directory, dtype=dtype, output_loading_info=True)
    except SafetensorError as error:
        raise RoboprefError(
            f"the .safetensors weights in {directory} are damaged ({error}): a copy that was cut short, or a pointer "
            f"of git LFS in its place. Run `git lfs pull` there, or copy them again."
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        raise RoboprefError(f"{directory} cannot be loaded as a {family} model ({error}).") from error
    # The library initialises what is missing at random and goes on, which would pass for a trained model.
    absent, other = sorted(report["missing_keys"]), report["mismatched_keys"]
    if absent or other:
        which = absent[0] if absent else sorted(str(key) for key in other)[0]
        raise RoboprefError(
            f"the weights in {directory} do not fit its config.json: {len(absent) + len(other)} tensors are missing or "
            f"of another shape, {which} among them. Is it an older layout, or an incomplete copy?"
        )
    settings = ImageSettings.from_directory(directory, model.config.vision_config.image_size)
    return FAMILIES[family](model.eval(), tokenizer, settings)


@contextmanager
def _without_progress_bars(transformers: Any) -> Iterator[None]:
    """The library's own bar would break ours."""
    bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            transformers.utils.logging.enable_progress_bar()


def read_config(directory: Path) -> dict[str, Any]:
    """``config.json`` of a model directory.

    Raises:
        RoboprefError: it is missing or damaged.
    """
    return read_object(
        directory / "config.json",
        absent=f"{directory} has no config.json, so it is no Hugging Face model. An adapter goes to --adapter, its "
        f"base to --policy.",
    )


def read_statistics(directory: Path, config: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """Action statistics by data set: ``norm_stats`` of the config, and ``dataset_statistics.json`` beside it.

    Raises:
        RoboprefError: the latter is damaged.
    """
    found = dict(config.get("norm_stats") or {})
    path = directory / STATISTICS
    if path.is_file():
        found |= read_object(path, absent=f"{path} is gone.")
    return found


def choose_statistics(statistics: Mapping[str, Mapping[str, Any]], key: str | None, name: str) -> NormStats | None:
    """The action statistics of one data set; ``None`` when the model has none at all and none were asked for.

    Raises:
        RoboprefError: no such data set, or several and none chosen, or the entry is incomplete.
    """
    if not statistics and key is None:
        return None
    if key is None:
        if len(statistics) > 1:
            raise RoboprefError(
                f"{name} has action statistics of {len(statistics)} data sets: choose one with --norm-key, from "
                f"{_shortened(sorted(statistics))}."
            )
        key = next(iter(statistics))
    if key not in statistics:
        raise RoboprefError(
            f"{name} has no action statistics for {key!r}; it has "
            + (_shortened(sorted(statistics)) if statistics else "none")
            + ". Choose one with --norm-key, or train an adapter on your own demonstrations, which brings its own."
        )
    try:
        action = statistics[key]["action"]
        size = len(action["q01"])
        return NormStats(action["q01"], action["q99"], action.get("mask", [True] * size))
    except (KeyError, TypeError, ValueError) as error:
        raise RoboprefError(f"the statistics of {key!r} in {name} lack {error}: q01 and q99 are needed.") from error


def _shortened(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def fingerprint(directory: Path) -> str:
    """A hash of configuration and weights: names, sizes and both ends of each weight file, so that 15 GB take no time.

    The header of a safetensors file, at its beginning, holds every tensor's name, shape and place.
    """
    digest = hashlib.blake2b(digest_size=8)
    digest.update((directory / "config.json").read_bytes())
    for path in sorted(directory.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(_SAMPLE))
            file.seek(max(0, size - _SAMPLE))
            digest.update(file.read())
    return digest.hexdigest()
