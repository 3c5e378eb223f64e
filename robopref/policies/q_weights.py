"""Weights out of other people's files, without running anything that is in them.

A pickle is a program. PyTorch's ``weights_only`` reader runs only the few operations that build tensors and plain
values; whatever needs more is refused here unless the caller trusts the file.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robopref.errors import RoboprefError

_NESTED = ("model_weights", "model_state_dict", "state_dict", "policy_state_dict", "q_network", "network", "model")
_PREFIXES = ("_orig_mod.", "module.")  # torch.compile and data-parallel wrappers put them there
_LFS_POINTER = b"version https://git-lfs"


def read_file(path: Path) -> bytes:
    """The contents of a model file.

    Raises:
        RoboprefError: it is missing, unreadable, empty, or only a Git LFS pointer to the model.
    """
    try:
        contents = path.read_bytes()
    except OSError as error:
        raise RoboprefError(f"cannot read the model {path}: {error.strerror}.") from error
    if not contents:
        raise RoboprefError(f"{path} is empty: copy or download the model again.")
    if contents.startswith(_LFS_POINTER):
        raise RoboprefError(f"{path} is a Git LFS pointer and not the model itself: fetch it with git lfs pull.")
    return contents


def read_torch(contents: bytes, source: object, *, trust: bool = False) -> Any:
    """What ``torch.save`` wrote, on the CPU.

    Args:
        contents: of the file.
        source: what to call it in messages.
        trust: run the code in the file where it cannot be read without.

    Raises:
        RoboprefError: it is no torch file, it is damaged, or it holds pickled code and is not trusted.
    """
    _check_format(contents, source)
    try:
        return torch.load(io.BytesIO(contents), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file may fail in any way; all are refused alike
        needs_code = re.search(r"GLOBAL (\S+)", str(error))
        if not trust or "weights only load failed" not in str(error).lower():
            raise _refusal(source, error, needs_code) from error
    try:
        return torch.load(io.BytesIO(contents), map_location="cpu", weights_only=False)
    except Exception as error:  # the code in the file may fail in any way
        raise RoboprefError(
            f"{source} cannot be loaded although it is trusted ({type(error).__name__}: {error}): the modules that its "
            f"code needs must be importable here."
        ) from error


def _check_format(contents: bytes, source: object) -> None:
    if zipfile.is_zipfile(io.BytesIO(contents)):
        inside = {name.rpartition("/")[2] for name in zipfile.ZipFile(io.BytesIO(contents)).namelist()}
        if "constants.pkl" in inside:
            raise RoboprefError(
                f"{source} is a TorchScript archive, which is code: if you trust it, load it in Python with "
                f"torch.jit.load and pass the module to robopref.policies.q_module.as_q_policy."
            )
        if "data.pkl" not in inside:
            raise RoboprefError(
                f"{source} is a zip that is neither a Stable-Baselines3 model nor anything that torch.save wrote; it "
                f"holds {', '.join(sorted(inside)[:4]) or 'nothing'}."
            )
    elif not contents.startswith((b"\x80", b"PK")):  # a pickle, or a damaged zip
        raise RoboprefError(
            f"{source} is no model that this version reads: neither a zip archive nor anything that torch.save wrote "
            f"(a JAX model must be converted to a torch state dict first)."
        )


def _refusal(source: object, error: Exception, needs_code: re.Match[str] | None) -> RoboprefError:
    if needs_code:
        return RoboprefError(
            f"{source} cannot be loaded without executing code that is pickled in it (it calls {needs_code.group(1)}). "
            f"If you trust whoever made it, repeat with --trust (trust=True); otherwise ask for a state dict."
        )
    if "weights only load failed" in str(error).lower():
        return RoboprefError(
            f"{source} is damaged, or a pickle that cannot be read without executing code in it. If you trust whoever "
            f"made it, repeat with --trust (trust=True)."
        )
    reason = str(error).partition("\n")[0]
    return RoboprefError(f"{source} is damaged ({type(error).__name__}: {reason}): copy or download the model again.")


def read_safetensors(contents: bytes, source: object) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        RoboprefError: it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(contents)
    except SafetensorError as error:
        raise RoboprefError(f"{source} is damaged or no safetensors file ({error}).") from error


def find_state_dict(loaded: Any, source: object) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict in what was loaded, without the prefixes that wrappers put before its names, and what lies beside.

    A dict of tensors is taken itself; in a dict of other things the state dict is looked for under the usual names,
    else it is the only dict of tensors.

    Raises:
        RoboprefError: there is none, or there are several and no telling which.
    """
    if not isinstance(loaded, Mapping):
        raise RoboprefError(f"{source} holds a {type(loaded).__name__}, not a state dict (a dict of tensors by name).")
    if _is_state_dict(loaded):
        return _plain_names(loaded), {}
    nested = [name for name, value in loaded.items() if _is_state_dict(value)]
    chosen = [name for name in _NESTED if name in nested] or nested
    if not chosen or (len(chosen) > 1 and chosen[0] not in _NESTED):
        raise RoboprefError(
            f"{source} holds no state dict that can be told from the rest: its keys are {sorted(map(str, loaded))}. "
            f"Save the network's state_dict() alone, or under 'state_dict'."
        )
    return _plain_names(loaded[chosen[0]]), {str(k): v for k, v in loaded.items() if k not in nested}


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(item, Tensor) for item in value.values())


def _plain_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = {name: str(name) for name in tensors}
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in names.values()):
            names = {key: name.removeprefix(prefix) for key, name in names.items()}
    return {name: tensors[key] for key, name in names.items()}
