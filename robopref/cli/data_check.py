"""``robopref data check`` and ``robopref data repair``: what is broken in a data directory, and putting it right."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from robopref.cli.console import say

if TYPE_CHECKING:
    from robopref.store.checking import Problem


@dataclass(frozen=True)
class DataCheck:
    """Read everything in a data directory and say what is broken; exits 1 when anything is. Changes nothing."""

    data: tyro.conf.Positional[Path]
    """The data directory."""
    json: bool = False
    """Print it as JSON."""


@dataclass(frozen=True)
class DataRepair:
    """Put right what can be put right safely; recorded data is moved aside at most, never removed."""

    data: tyro.conf.Positional[Path]
    """The data directory."""
    dry_run: bool = False
    """Only say what would be repaired, and what cannot be."""


def run_data_check(config: DataCheck) -> bool:
    """Print a line for each problem; False when there is one."""
    from robopref.store.checking import check

    problems = check(config.data)
    if config.json:
        found = [
            {
                "file": str(problem.file),
                "episode_id": problem.episode_id,
                "what": problem.what,
                "repairable": problem.repairable,
                "how": problem.how,
            }
            for problem in problems
        ]
        print(json.dumps({"path": str(config.data), "problems": found}, indent=2))
        return not problems
    for problem in problems:
        say(_line(problem))
    repairable = sum(problem.repairable for problem in problems)
    if problems:
        say(
            f"{config.data}: {len(problems)} problem{'s' if len(problems) > 1 else ''}, {repairable} of them for "
            f"robopref data repair"
        )
    else:
        say(f"{config.data}: everything is as it was recorded")
    return not problems


def run_data_repair(config: DataRepair) -> bool:
    """Repair and print what was done; False when something remains that nothing can repair."""
    from robopref.store.checking import check
    from robopref.store.repairing import repair

    if config.dry_run:
        problems = check(config.data)
        for problem in problems:
            say(f"{'would repair' if problem.repairable else 'cannot repair'} {_line(problem)}")
        if not problems:
            say(f"{config.data}: nothing to repair")
        return all(problem.repairable for problem in problems)
    done = repair(config.data)
    for sentence in done:
        say(sentence)
    remaining = check(config.data)
    for problem in remaining:
        say(f"remains: {_line(problem)}")
    if not done and not remaining:
        say(f"{config.data}: nothing to repair")
    return not remaining


def _line(problem: Problem) -> str:
    named = problem.what.startswith(str(problem.file))
    return f"{problem.what} ({problem.how}.)" if named else str(problem)
