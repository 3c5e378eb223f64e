"""``robopref relabel``: choose how recorded steps become labels, and see what comes of it.

Labels are never stored: they follow from who acted (the recording) and one small rule (``labels.json`` beside it), so
that old recordings can be read under another window at any time without being touched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from robopref.cli.console import console
from robopref.cli.run_directory import read_json, write_json
from robopref.errors import RoboprefError
from robopref.labeling import DEFAULT_WINDOWS, LabelingRule, check_progress

_FILE = "labels.json"


@dataclass(frozen=True)
class Relabel:
    """Store the labelling rule of a data directory and count the labels that follow from it."""

    data: Path
    window: int | None = None
    """Policy steps right before each takeover that are undesirable; unset 10, with --failure-point progress at most
    60."""
    failure_point: Literal["fixed", "progress"] = "fixed"
    """fixed: all steps of the window. progress: of them those since the policy last improved on
    the recorded reward, which has to be dense."""
    include_policy_steps: Literal["none", "autonomous_success"] = "none"


def stored_rule(directories: Sequence[Path], **given: Any) -> LabelingRule:
    """The rule stored in the directories with the ``given`` fields in its place, or the default where none is.

    A window that was stored for another failure point is not taken: a length is no cap.

    Raises:
        RoboprefError: the directories hold different rules, or a file that is none.
    """
    given = {name: value for name, value in given.items() if value is not None}
    rules = {d: _replaced(_read_rule(d / _FILE), given) for d in directories if (d / _FILE).exists()}
    if len(set(rules.values())) > 1:
        found = "; ".join(f"{d}: {asdict(rule)}" for d, rule in rules.items())
        raise RoboprefError(
            f"the interactions are to be labelled in different ways ({found}): say how, with --window, "
            f"--failure-point and --include-policy-steps."
        )
    return next(iter(rules.values()), _replaced(LabelingRule(), given))


def _replaced(rule: LabelingRule, given: Mapping[str, Any]) -> LabelingRule:
    failure_point = given.get("failure_point", rule.failure_point)
    if failure_point != rule.failure_point:
        given = {"window": DEFAULT_WINDOWS.get(failure_point, rule.window), **given}
    return replace(rule, **given)


def _read_rule(path: Path) -> LabelingRule:
    try:
        return LabelingRule(**read_json(path)["rule"])
    except (TypeError, KeyError) as error:
        raise RoboprefError(
            f"{path} holds no labelling rule ({error}): write it anew with robopref relabel."
        ) from error


def run_relabel(config: Relabel) -> bool:
    """Write ``labels.json`` and print the counts; the recordings are not touched.

    Raises:
        RoboprefError: no data, a negative window, or rewards that do not say where the policy began to fail.
    """
    from robopref.cli.fitting import label_counts, load_episodes

    episodes = load_episodes([config.data]).episodes
    rule = LabelingRule(
        window=DEFAULT_WINDOWS[config.failure_point] if config.window is None else config.window,
        include_policy_steps=config.include_policy_steps,
        failure_point=config.failure_point,
    )
    if rule.failure_point == "progress":
        check_progress(episodes)
    counts = label_counts([rule.apply(episode) for episode in episodes])
    write_json(config.data / _FILE, {"rule": asdict(rule), "counts": counts})
    console.print(f"{config.data}: {len(episodes)} episodes; " + ", ".join(f"{k} {v}" for k, v in counts.items()))
    return True
