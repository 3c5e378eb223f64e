"""The weight files of a published checkpoint: safetensors, whole or in shards."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from robopref.errors import RoboprefError
from robopref.policies.vla.json_files import read_object

CONFIG = "config.json"
_WHOLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_CONVERT = (
    "convert it to the published layout with vla-scripts/extern/convert_openvla_weights_to_hf.py of the OpenVLA "
    "repository."
)


def check_directory(directory: Path) -> None:
    """Say what is wrong with a directory that holds no published checkpoint.

    Raises:
        RoboprefError: there is no such directory, it is of an older layout, or files are missing.
    """
    if not directory.is_dir():
        raise RoboprefError(f"{directory} is no directory: give the folder of a downloaded OpenVLA checkpoint.")
    if any(directory.glob("*.pt")) or any((directory / "checkpoints").glob("*.pt")):
        raise RoboprefError(f"{directory} holds a Prismatic training checkpoint (.pt), an older layout: {_CONVERT}")
    if not (directory / CONFIG).is_file():
        raise RoboprefError(f"{directory} is no OpenVLA checkpoint: it has no {CONFIG}.")


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a checkpoint, in order.

    Raises:
        RoboprefError: there are none, a shard is missing, or the weights are pickled.
    """
    if (directory / _WHOLE).is_file():
        return [directory / _WHOLE]
    if (directory / _INDEX).is_file():
        names = read_object(directory / _INDEX, absent=f"{directory} has no {_INDEX}.").get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise RoboprefError(f"{directory / _INDEX} has no weight_map from tensors to files.")
        paths = [directory / Path(name).name for name in sorted(set(names.values()))]
        missing = [path.name for path in paths if not path.is_file()]
        if missing:
            raise RoboprefError(f"{directory} lacks the shards {', '.join(missing)}: download them again.")
        return paths
    if any(directory.glob("*.bin")):
        raise RoboprefError(
            f"the weights in {directory} are pickled (.bin), which can execute code when read: use a revision with "
            f"safetensors, or convert them with safetensors.torch.save_file where you trust their origin."
        )
    raise RoboprefError(f"{directory} has neither {_WHOLE} nor {_INDEX}: the checkpoint is incomplete.")


def read_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of one file, one at a time.

    Raises:
        RoboprefError: the file is damaged, or its names are those of an older layout.
    """
    try:
        with safe_open(str(path), framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (no mapping: it cannot be iterated)
                if name.startswith(("model.", "llm_backbone.", "vision_backbone.dino_featurizer.")):
                    raise RoboprefError(
                        f"{path} holds {name!r}: a Prismatic training checkpoint, an older layout; {_CONVERT}"
                    )
                yield name, tensors.get_tensor(name)
    except SafetensorError as error:
        raise RoboprefError(
            f"{path} is damaged ({error}): a copy that was cut short, or a pointer of git LFS in its place. Run `git "
            f"lfs pull` there, or copy it again."
        ) from error


def write_directory(
    directory: Path,
    tensors: Mapping[str, Tensor],
    documents: Mapping[str, Any],
    max_shard_bytes: int,
) -> None:
    """Write weights and JSON documents, each file aside and then renamed into place, the documents last.

    Args:
        directory: made if needed; other files in it stay, weights of an earlier save do not.
        tensors: name -> tensor.
        documents: file name -> JSON value.
        max_shard_bytes: files hold at most that much, or one tensor.
    """
    directory.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        shards = _shards(tensors, max_shard_bytes)
        files = [_WHOLE] if len(shards) == 1 else [_shard_name(i, len(shards)) for i in range(len(shards))]
        for file, names in zip(files, shards, strict=True):
            content = {name: tensors[name].detach().cpu().contiguous() for name in names}
            try:
                save_file(content, str(staging / file), metadata={"format": "pt"})
            except SafetensorError as error:  # a full disk, above all
                raise OSError(f"{directory / file} could not be written ({error}).") from error
        if len(shards) > 1:
            where = {name: file for file, names in zip(files, shards, strict=True) for name in names}
            total = sum(_size(tensor) for tensor in tensors.values())
            documents = {_INDEX: {"metadata": {"total_size": total}, "weight_map": where}, **documents}
        for file, document in documents.items():
            (staging / file).write_text(json.dumps(document, indent=2) + "\n")
        for stale in [*directory.glob("model*.safetensors"), directory / _INDEX]:
            stale.unlink(missing_ok=True)
        for file in [*files, *documents]:
            os.replace(staging / file, directory / file)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _shards(tensors: Mapping[str, Tensor], max_shard_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    filled = 0
    for name, tensor in tensors.items():
        if shards[-1] and filled + _size(tensor) > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += _size(tensor)
    return shards


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _shard_name(index: int, count: int) -> str:
    return f"model-{index + 1:05d}-of-{count:05d}.safetensors"
