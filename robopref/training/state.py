"""The resumable state of a training run in one file, replaced atomically and loaded without executing code."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import torch

from robopref.errors import RoboprefError
from robopref.training.sharding import (
    load_whole_optimizer_state,
    load_whole_state,
    whole_optimizer_state,
    whole_state,
)


def save_state(path: Path, fingerprint: str, step: int, policy: Any, optimizer: Any, *, writes: bool = True) -> None:
    """Write weights, optimiser and step; ``path`` holds the old state until the new one is complete.

    The state is whole however the weights are sharded, so any number of processes can go on from it. All of them call
    this; the one that ``writes`` does.
    """
    state = {
        "fingerprint": fingerprint,
        "step": step,
        "policy": whole_state(policy, writes),
        "optimizer": whole_optimizer_state(policy, optimizer, writes),
    }
    if not writes:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    buffer = io.BytesIO()  # torch.save to a full disk is a RuntimeError without a reason; a plain write says it
    torch.save(state, buffer)
    with temporary.open("wb") as file:
        file.write(buffer.getbuffer())
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load_state(path: Path, fingerprint: str, policy: Any, optimizer: Any) -> int:
    """Restore what ``save_state`` wrote into ``policy`` and ``optimizer``; returns the step to go on from.

    Raises:
        RoboprefError: the state is damaged, or belongs to other data or settings.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise RoboprefError(f"{path} is damaged ({error}): remove it to train from the start.") from error
    if state["fingerprint"] != fingerprint:
        raise RoboprefError(
            f"{path} was saved with other data or settings, so going on from it would not be the same run: "
            f"repeat the original command, or start afresh in another output directory."
        )
    load_whole_state(policy, state["policy"])
    load_whole_optimizer_state(policy, optimizer, state["optimizer"])
    return int(state["step"])
