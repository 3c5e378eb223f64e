"""Where a policy comes from: a checkpoint directory, or a user's own ``module:factory``."""

from __future__ import annotations

import importlib
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from robopref.errors import RoboprefError
from robopref.policies.checkpoint import policy_id as checkpoint_id
from robopref.policies.checkpoint import read_description
from robopref.policies.vla.loading import is_vla, load_vla, vla_id
from robopref.policies.vla.options import PLAIN, VLAOptions

if TYPE_CHECKING:
    from robopref.protocols import TokenPolicy


def load_policy(
    name: str | Path,
    options: VLAOptions = PLAIN,
    *,
    device: str = "auto",
) -> TokenPolicy:
    """The policy in a checkpoint directory, a vision-language-action model, or what ``module:factory`` returns.

    Args:
        name: a checkpoint directory or a training run's, a Hugging Face directory or hub id, or ``module:factory``.
        options: of a vision-language-action model.
        device: where such a model goes: a GPU when there is one (``"auto"``), or the CPU (``"cpu"``).

    Raises:
        RoboprefError: nothing of that name, a factory that cannot be imported, a result that is no TokenPolicy, or
            options of a vision-language-action model for another policy.
    """
    from robopref.protocols import TokenPolicy

    if is_vla(name):
        return load_vla(name, options, device=device)
    if ":" in str(name) and not Path(name).exists():
        _refuse_options(name, options)
        policy = call_factory(str(name))
        if not isinstance(policy, TokenPolicy):
            raise RoboprefError(
                f"{name} returned a {type(policy).__name__}, which lacks some of encode, action_logits, action_logps, "
                f"act, reference, save, tokenizer, norm_stats (see robopref.protocols.TokenPolicy)."
            )
        return policy
    directory = checkpoint_directory(name)
    kind = read_description(directory).kind
    if kind == "vla":
        return load_vla(directory, options, device=device)
    _refuse_options(name, options)
    if kind != "compact":
        raise RoboprefError(f"{directory} holds a policy of kind {kind!r}, which this version cannot load.")
    from robopref.policies.compact import CompactPolicy

    return CompactPolicy.load(directory)


def checkpoint_directory(name: str | Path) -> Path:
    """The checkpoint directory that ``name`` means: itself, or the ``policy`` in a training run's directory.

    Raises:
        RoboprefError: there is no such directory.
    """
    directory = Path(name)
    if not directory.is_dir():
        raise RoboprefError(
            f"no policy at {name}: give a checkpoint directory (it holds policy.json), the directory of a training "
            f"run, a Hugging Face model (directory or hub id), or module:factory."
        )
    return directory / "policy" if (directory / "policy" / "policy.json").is_file() else directory


def policy_id(name: str | Path, options: VLAOptions = PLAIN) -> str:
    """What recordings call the policy: a content hash of a checkpoint, or the factory's name."""
    if is_vla(name):
        return vla_id(name, options)
    if ":" in str(name) and not Path(name).exists():
        return str(name)
    directory = checkpoint_directory(name)
    return vla_id(directory, options) if read_description(directory).kind == "vla" else checkpoint_id(directory)


def _refuse_options(name: str | Path, options: VLAOptions) -> None:
    given = [field.name for field in fields(options) if getattr(options, field.name) != field.default]
    if given:
        raise RoboprefError(
            f"--{given[0].replace('_', '-')} is for vision-language-action models; {name} is another kind of policy."
        )


def call_factory(name: str) -> object:
    """What ``module:factory`` returns when called without arguments.

    Raises:
        RoboprefError: it cannot be imported, or there is nothing to call.
    """
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a module may fail to import in any way; all that matters is which and why
        raise RoboprefError(
            f"cannot import the module of policy {name!r} ({type(error).__name__}: {error}). Is it on PYTHONPATH?"
        ) from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        raise RoboprefError(f"module {module_name} has no callable {attribute!r} to make a policy with.")
    return factory()
