"""Trained Q policies that come with robopref, by name.

Each is a directory of ``q_checkpoint`` with its learning curve (``metrics.jsonl``, as ``train-dqn`` wrote it) beside
the weights. The version in a name counts retrainings: what a name holds never changes.
"""

from __future__ import annotations

import difflib
from importlib.resources import files
from pathlib import Path

from robopref.errors import RoboprefError


def shipped_policies() -> dict[str, Path]:
    """Directories of the shipped policies by name, sorted."""
    root = Path(str(files("robopref.policies"))) / "shipped"
    return {path.parent.name: path.parent for path in sorted(root.glob("*/policy.json"))}


def shipped_policy(name: str) -> Path:
    """The directory of a shipped policy.

    Raises:
        RoboprefError: there is none of that name.
    """
    known = shipped_policies()
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=2)
    raise RoboprefError(f"no policy called {name!r} is shipped; there are {', '.join(close or known) or 'none'}.")
