"""``robopref relabel``: choose how recorded steps become labels, and see what comes of it.

Labels are never stored: they follow from who acted (the recording) and one small rule (``labels.json`` beside it), so
that old recordings can be read under another window at any time without being touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from robopref.cli.console import console
from robopref.cli.run_directory import read_json, write_json
from robopref.errors import RoboprefError
from robopref.labeling import LabelingRule

_FILE = "labels.json"


@dataclass(frozen=True)
class Relabel:
    """Store the labelling rule of a data directory and count the labels that follow from it."""

    data: Path
    window: int = 10
    """Policy steps right before each takeover that are undesirable."""
    include_policy_steps: Literal["none", "autonomous_success"] = "none"


def stored_rule(directories: Sequence[Path], **given: Any) -> LabelingRule:
    """The rule stored in the directories with the ``given`` fields in its place, or the default where none is.

    Raises:
        RoboprefError: the directories hold different rules, or a file that is none.
    """
    given = {name: value for name, value in given.items() if value is not None}
    rules = {d: replace(_read_rule(d / _FILE), **given) for d in directories if (d / _FILE).exists()}
    if len(set(rules.values())) > 1:
        found = "; ".join(f"{d}: {asdict(rule)}" for d, rule in rules.items())
        raise RoboprefError(
            f"the interactions are to be labelled in different ways ({found}): say how, with --window and "
            f"--include-policy-steps."
        )
    return next(iter(rules.values()), LabelingRule(**given))


def _read_rule(path: Path) -> LabelingRule:
    try:
        return LabelingRule(**read_json(path)["rule"])
    except (TypeError, KeyError) as error:
        raise RoboprefError(
            f"{path} holds no labelling rule ({error}): write it anew with robopref relabel."
        ) from error


def run_relabel(config: Relabel) -> bool:
    """Write ``labels.json`` and print the counts; the recordings are not touched."""
    from robopref.cli.fitting import label_counts, load_episodes

    episodes = load_episodes([config.data]).episodes
    rule = LabelingRule(window=config.window, include_policy_steps=config.include_policy_steps)
    counts = label_counts([rule.apply(episode) for episode in episodes])
    write_json(config.data / _FILE, {"rule": asdict(rule), "counts": counts})
    console.print(f"{config.data}: {len(episodes)} episodes; " + ", ".join(f"{k} {v}" for k, v in counts.items()))
    return True
