"""The resumable state of a training run in one file, replaced atomically and loaded without executing code."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import torch

from robopref.errors import RoboprefError


def save_state(path: Path, fingerprint: str, step: int, policy: Any, optimizer: Any) -> None:
    """Write weights, optimiser and step; ``path`` holds the old state until the new one is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    state = {
        "fingerprint": fingerprint,
        "step": step,
        "policy": policy.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
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
    policy.load_state_dict(state["policy"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
