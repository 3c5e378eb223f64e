"""Stable-Baselines3 models with custom code, loaded by Stable-Baselines3 itself: this unpickles, so only on trust."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from robopref.errors import RoboprefError
from robopref.policies.q_hints import GameHint
from robopref.policies.q_module import ModuleQPolicy, as_q_policy
from robopref.policies.q_nature import UnsupportedLayoutError
from robopref.policies.q_policy import check_finite, content_id
from robopref.policies.q_sb3_import import ATARI_WRAPPER, KIND, Sb3Archive

# What belongs to training and may need code that no longer exists; the policy does not.
_TRAINING_ONLY: dict[str, Any] = {
    "learning_rate": 0.0,
    "lr_schedule": lambda _: 0.0,
    "exploration_schedule": lambda _: 0.0,
    "clip_range": lambda _: 0.0,
    "buffer_size": 1,
    "optimize_memory_usage": False,
    "tensorboard_log": None,
}


class _Values(nn.Module):
    """Observations as Stable-Baselines3 takes them -> action values, or the logits of the actor."""

    def __init__(self, policy: nn.Module, is_dqn: bool) -> None:
        super().__init__()
        self.policy = policy
        self.is_dqn = is_dqn

    def forward(self, observations: Tensor) -> Tensor:
        policy: Any = self.policy
        values: Tensor = (
            policy.q_net(observations) if self.is_dqn else policy.get_distribution(observations).distribution.logits
        )
        return values


def load_trusted_sb3(
    path: Path, archive: Sb3Archive, hint: GameHint, *, frame_stack: int | None = None
) -> ModuleQPolicy:
    """The policy as Stable-Baselines3 builds it, whatever its network. Executes what is pickled in the file.

    It computes in float32, for Stable-Baselines3 converts its observations to that.

    Raises:
        RoboprefError: its code does not load here, or it does not choose among discrete actions by what is in an image.
    """
    from gymnasium import spaces
    from stable_baselines3 import A2C, DQN, PPO

    is_dqn = any(name.startswith("q_net.") for name in archive.tensors)
    if not is_dqn and "action_net.weight" not in archive.tensors:
        raise UnsupportedLayoutError("it is none of DQN, PPO and A2C, so that trusting it does not help", path)
    kind: Any = DQN if is_dqn else PPO if "clip_range" in archive.data else A2C
    check_finite(archive.tensors, path)
    try:
        model = kind.load(str(path), device="cpu", custom_objects=_TRAINING_ONLY)
    except Exception as error:  # the code in the file may fail in any way
        raise RoboprefError(
            f"{path} cannot be loaded as a Stable-Baselines3 {kind.__name__} although it is trusted "
            f"({type(error).__name__}: {error}): the modules that it needs must be importable here."
        ) from error
    space = model.observation_space
    if not (isinstance(space, spaces.Box) and space.shape is not None and len(space.shape) == 3):
        raise RoboprefError(f"{path} does not read images [C, H, W] but {space}, which is not supported.")
    if not isinstance(model.action_space, spaces.Discrete):
        raise RoboprefError(f"{path} has actions {model.action_space} and not Discrete, which is not supported.")
    if space.low.min() != 0 or space.high.min() != space.high.max():
        raise RoboprefError(f"{path} has observations from {space.low.min()} to {space.high.max()}, not from 0 up.")
    stack, per_frame = hint.split_channels(space.shape[0], frame_stack)
    policy = as_q_policy(
        _Values(model.policy, is_dqn),
        input_scale=float(space.high.max()),
        head="values" if is_dqn else "logits",
        frame_stack=stack,
        channels_per_frame=per_frame,
        image_size=(space.shape[1], space.shape[2]),
        game=hint.game,
        environment=ATARI_WRAPPER | (hint.environment or {}),
        name=str(path),
    )
    policy.spec = replace(
        policy.spec,
        kind=KIND,
        algorithm=kind.__name__.lower(),
        architecture=f"Stable-Baselines3 {kind.__name__}, {type(model.policy).__name__}",
        policy_id=content_id(KIND, archive.tensors),
        notes=(*hint.notes, "The network is custom code in the file, which was executed."),
        about={"stable_baselines3": archive.version},
    )
    return policy
