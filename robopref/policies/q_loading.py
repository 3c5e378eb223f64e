"""Q policies that people already have: Stable-Baselines3 zips, CleanRL models, state dicts, our own checkpoints.

What a file is, is decided by what is in it, not by its name. No code in a file is executed unless it is trusted, and
then only if it cannot be read otherwise.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from robopref.errors import RoboprefError
from robopref.policies.q_cleanrl_import import import_state_dict
from robopref.policies.q_hints import GameHint, hint_around
from robopref.policies.q_module import ModuleQPolicy, as_q_policy
from robopref.policies.q_nature import UnsupportedLayoutError
from robopref.policies.q_policy import QPolicyModule, QPolicySpec
from robopref.policies.q_sb3_import import import_sb3, is_sb3_archive, read_sb3_archive
from robopref.policies.q_weights import find_state_dict, read_file, read_safetensors, read_torch

_MODEL_SUFFIXES = (".zip", ".cleanrl_model", ".pt", ".pth", ".safetensors")
_TRUST_SB3 = (
    "If it is a DQN, PPO or A2C that reads images and you trust whoever made it, repeat with --trust (trust=True): "
    "Stable-Baselines3 then loads it, which executes code in the file. "
)


def load_q_policy(
    path: str | Path,
    *,
    trust: bool = False,
    frame_stack: int | None = None,
    input_scale: float | None = None,
    image_size: int | None = None,
    channels_last: bool = False,
) -> tuple[QPolicyModule, QPolicySpec]:
    """The policy in a file or directory, as a ``torch.nn.Module`` in evaluation mode on the CPU, and what it is.

    Read are Stable-Baselines3 zips (DQN; PPO and A2C, whose values are the actor's logits), ``.cleanrl_model`` files,
    state dicts (``torch.save`` or safetensors) of the Nature CNN, directories that ``robopref train-dqn`` wrote, the
    names of policies that come with robopref, and ``module:factory`` (a callable that returns a module).

    Args:
        path: of the model.
        trust: execute code that is pickled in the file where it cannot be read without: a whole pickled module, or a
            Stable-Baselines3 model with a network of its own.
        frame_stack: frames in a state, where the number of channels leaves it open (see ``q_policy.split_channels``).
        input_scale: what a white pixel is to the network, 1 or 255; needed for state dicts and modules that are not of
            a known format.
        image_size: side of a frame in pixels, where the weights leave it open and it is not 84.
        channels_last: a module takes [B, H, W, C].

    Raises:
        RoboprefError: nothing there, damaged, needs trust, another kind of network than can be rebuilt, weights that
            are not finite, a missing frame stack, or sizes that contradict one another. The message says what to do.
    """
    module_options = {"input_scale": input_scale, "frame_stack": frame_stack, "image_size": image_size or 84}
    module_options["channels_last"] = channels_last
    if ":" in str(path) and not Path(path).exists():
        return _from_factory(str(path), module_options)
    path = _find(path)
    if path.is_dir():
        return _from_directory(path)
    contents, hint = read_file(path), hint_around(path)
    if is_sb3_archive(contents):
        return _from_sb3(path, contents, hint, frame_stack, trust)
    if path.suffix == ".safetensors":
        loaded: Any = read_safetensors(contents, path)
    else:
        loaded = read_torch(contents, path, trust=trust)
    if isinstance(loaded, nn.Module):
        return _from_module(loaded, path, hint, module_options)
    tensors, beside = find_state_dict(loaded, path)
    try:
        return import_state_dict(
            tensors, beside, path, hint, frame_stack=frame_stack, input_scale=input_scale, image_size=image_size
        )
    except UnsupportedLayoutError as error:
        raise UnsupportedLayoutError(error.reason, path) from error


def _find(name: str | Path) -> Path:
    path = Path(name)
    if path.exists():
        return path
    with_suffix = path.with_name(f"{path.name}.zip")  # Stable-Baselines3 adds it to the name that it is given
    if with_suffix.is_file():
        return with_suffix
    from robopref.policies.shipped import shipped_policies

    shipped = shipped_policies()
    if str(name) in shipped:
        return shipped[str(name)]
    known = f", or one of the policies that come with robopref ({', '.join(shipped)})" if shipped else ""
    raise RoboprefError(f"no model at {name}: give a model file, a checkpoint directory, module:factory{known}.")


def _from_directory(path: Path) -> tuple[QPolicyModule, QPolicySpec]:
    from robopref.policies.checkpoint import policy_id, read_description
    from robopref.policies.q_checkpoint import KIND, load_q_network
    from robopref.policies.registry import checkpoint_directory

    directory = checkpoint_directory(path)
    if not (directory / "policy.json").is_file():
        inside = sorted(file.name for file in path.iterdir() if file.suffix in _MODEL_SUFFIXES)
        raise RoboprefError(
            f"{path} is a directory without a policy.json, so no checkpoint of this project"
            + (f": name the model file in it ({', '.join(inside[:5])})." if inside else ", and holds no model file.")
        )
    kind = read_description(directory).kind
    if kind != KIND:
        raise RoboprefError(
            f"{directory} holds a policy of kind {kind!r}, which writes action tokens: its decisions are diagnosed one "
            f"action dimension at a time, with robopref.policies.q_tokens.TokenQPolicy."
        )
    network, about = load_q_network(directory)
    arch = network.architecture
    heads = "dueling heads" if arch.dueling else "one head"
    spec = QPolicySpec(
        kind=KIND,
        algorithm=str(about.get("algorithm") or "").lower(),
        architecture=f"robopref {about.get('algorithm') or 'Q network'}, Nature CNN, {heads}, hidden {arch.hidden}",
        head="values",
        n_actions=arch.n_actions,
        frame_stack=arch.frame_stack,
        channels_per_frame=arch.channels_per_frame,
        height=arch.image_size,
        width=arch.image_size,
        source=str(path),
        policy_id=policy_id(directory),
        game=about.get("game"),
        environment=about.get("environment"),
        about=about,
    )
    return network, spec


def _from_sb3(
    path: Path, contents: bytes, hint: GameHint, frame_stack: int | None, trust: bool
) -> tuple[QPolicyModule, QPolicySpec]:
    archive = read_sb3_archive(contents, path, trust=trust)
    try:
        return import_sb3(archive, path, hint, frame_stack=frame_stack)
    except UnsupportedLayoutError as error:
        if not trust:
            raise UnsupportedLayoutError(error.reason, path, _TRUST_SB3) from error
    from robopref.policies.q_sb3_trusted import load_trusted_sb3

    policy = load_trusted_sb3(path, archive, hint, frame_stack=frame_stack)
    return policy, policy.spec


def _from_module(
    module: nn.Module, path: Path, hint: GameHint, options: dict[str, Any]
) -> tuple[ModuleQPolicy, QPolicySpec]:
    if options["input_scale"] is None:
        raise RoboprefError(
            f"{path} holds a whole module, which does not say whether it takes pixels from 0 to 1 or from 0 to 255: "
            f"pass input_scale=1 or input_scale=255 (--input-scale)."
        )
    policy = as_q_policy(module, game=hint.game, environment=hint.environment, name=str(path), **options)
    policy.spec = replace(policy.spec, notes=hint.notes)
    return policy, policy.spec


def _from_factory(name: str, options: dict[str, Any]) -> tuple[QPolicyModule, QPolicySpec]:
    from robopref.policies.registry import call_factory

    made = call_factory(name)
    if isinstance(made, ModuleQPolicy):
        return made, replace(made.spec, source=name)
    if not isinstance(made, nn.Module):
        raise RoboprefError(
            f"{name} returned a {type(made).__name__}: it must return a torch.nn.Module, best wrapped with "
            f"robopref.policies.q_module.as_q_policy."
        )
    if options["input_scale"] is None:
        raise RoboprefError(
            f"{name} returned a module that does not say whether it takes pixels from 0 to 1 or from 0 to 255: pass "
            f"--input-scale 1 or 255, or return robopref.policies.q_module.as_q_policy(...)."
        )
    policy = as_q_policy(made, name=name, **options)
    return policy, policy.spec
