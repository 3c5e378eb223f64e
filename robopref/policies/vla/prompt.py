"""The prompt of the OpenVLA recipe (Kim et al. 2024), the same in training as in deployment."""

from __future__ import annotations

LLAMA_EMPTY_TOKEN = 29871
"""Llama's lone space: OpenVLA was trained with it between the prompt and the first action token."""


def prompt_for(instruction: str) -> str:
    """The text before the action tokens."""
    return f"In: What action should the robot take to {instruction.lower()}?\nOut:"
