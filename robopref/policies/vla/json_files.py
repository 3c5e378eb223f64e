"""The JSON files of a model's directory, read with errors that name them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from robopref.errors import RoboprefError


def read_object(path: Path, *, absent: str) -> dict[str, Any]:
    """The JSON object in ``path``.

    Args:
        absent: what to say when there is no such file.

    Raises:
        RoboprefError: there is none, or it is damaged.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise RoboprefError(absent) from error
    except ValueError as error:  # of the encoding and of the syntax
        raise RoboprefError(f"{path} is damaged ({error}).") from error
    if not isinstance(content, dict):
        raise RoboprefError(f"{path} is damaged (it holds no JSON object).")
    return content
