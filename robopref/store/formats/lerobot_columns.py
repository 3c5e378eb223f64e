"""Which columns of a recording the features of a LeRobotDataset become, and what is made up where it says nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError
from robopref.store.encoding import DTYPE_NAMES, OBSERVATION
from robopref.store.formats.base import ConversionOptions
from robopref.store.formats.foreign import nothing_like, own_actions, takeover_segments
from robopref.store.formats.lerobot_layout import DEFAULTS, DERIVED, GIVEN, STEP_NAMES, Feature
from robopref.store.formats.lerobot_source import picture_shape
from robopref.trajectory import STEP_COLUMNS, Actor, Outcome

_VECTOR_KEYS = {"observation.state": "proprio", "observation.environment_state": "state"}


@dataclass
class Plan:
    """The feature behind each observation key and each step column, and what there is to say about the others.

    ``actor`` and ``outcome`` are the user's word, where the data set does not say it.
    """

    actor: Actor | None = None
    outcome: Outcome | None = None
    observation: dict[str, Feature] = field(default_factory=dict)
    steps: dict[str, Feature] = field(default_factory=dict)
    intervention: Feature | None = None
    done: Feature | None = None
    given: dict[str, Feature] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    invented: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """The features to be read."""
        features = [
            *self.observation.values(),
            *self.steps.values(),
            *self.given.values(),
            self.intervention,
            self.done,
        ]
        return list(dict.fromkeys([feature.name for feature in features if feature is not None] + ["timestamp"]))


def make_plan(features: Mapping[str, Feature], where: str, options: ConversionOptions) -> Plan:
    """Go by what an export noted in the features, else by LeRobot's names.

    Raises:
        RoboprefError: there are no actions or no observations.
    """
    plan = Plan(actor=options.actor, outcome=options.outcome)
    for name, feature in features.items():
        if feature.column.startswith(OBSERVATION):
            plan.observation[feature.column.removeprefix(OBSERVATION)] = feature
        elif feature.column in STEP_COLUMNS:
            plan.steps[feature.column] = feature
        elif feature.column or name in (*DEFAULTS, *DERIVED, *STEP_NAMES.values()):
            continue
        elif why := _unreadable(feature):
            plan.lost.append(f"{name}: {why}.")
        elif name.startswith("observation."):
            plan.observation[_key(feature, plan)] = feature
        else:
            plan.lost.append(f"{name}: a recording has no place for it.")
    for column, name in STEP_NAMES.items():
        if column not in plan.steps and name in features and features[name].dtype in DTYPE_NAMES:
            plan.steps[column] = features[name]
    if "action" not in plan.steps:
        raise RoboprefError(f"{where} has no feature 'action': there is nothing to learn from.")
    if not plan.observation:
        raise RoboprefError(f"{where} has no observations that can be read: {'; '.join(plan.lost)}")
    plan.given = {column: features[flag] for column, flag in GIVEN.items() if flag in features and column in plan.steps}
    if "actor" not in plan.steps:
        plan.intervention = features.get("intervention")
    if "terminated" not in plan.steps:
        plan.done = features.get("next.done")
    _say_what_is_invented(plan)
    return plan


def _unreadable(feature: Feature) -> str:
    if feature.visual:
        if feature.info.get("is_depth_map") or feature.info.get("video.is_depth_map"):
            return "depth maps are not read"
        try:
            picture_shape(feature)
        except RoboprefError as error:
            return str(error).rstrip(".")
        return ""
    return "" if feature.dtype in DTYPE_NAMES else f"values of type {feature.dtype} are not read"


def _key(feature: Feature, plan: Plan) -> str:
    name = feature.name
    if name in _VECTOR_KEYS and not feature.visual:
        key = _VECTOR_KEYS[name]
        plan.invented.append(f"{name} is called {key!r} here, as the policies know it.")
        return key
    key = name.removeprefix("observation.")
    if not feature.visual:
        return key
    if "image" in plan.observation:
        return "images/" + key.removeprefix("images.")
    plan.invented.append(f"{name}, the first camera, is called 'image' here, as the policies know it.")
    return "image"


def _say_what_is_invented(plan: Plan) -> None:
    absent = [column for column in STEP_COLUMNS if column not in plan.steps]
    if "actor" in absent:
        plan.invented.append(
            "actor: HUMAN where 'intervention' is true, POLICY elsewhere; the executed action counts as theirs."
            if plan.intervention is not None
            else f"actor: {_acted_throughout(plan).name} throughout, since there is no 'intervention'"
            + (": every step counts as a demonstration." if plan.actor is None else ", as was given.")
        )
    if "terminated" in absent:
        plan.invented.append(
            "terminated: where 'next.done' is true and the episode was not cut off."
            if plan.done is not None
            else "terminated: never, since there is no 'next.done'."
        )
    outcome = "what was given" if plan.outcome else "'aborted', judged by nobody"
    nothing = {"reward": "0", "truncated": "never", "success": f"never; the outcome is {outcome}"}
    plan.invented += [f"{column}: {value}." for column, value in nothing.items() if column in absent]
    if "t_monotonic_ns" in absent:
        plan.invented.append("t_monotonic_ns: from the timestamps.")


def step_columns(plan: Plan, values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The step columns [T, ...] of an episode from the values of its features, the rest made up as the plan says."""
    columns = {column: _shaped(values[feature.name], feature) for column, feature in plan.steps.items()}
    action = columns["action"]
    length = len(action)
    for column, flag in plan.given.items():
        if columns[column].dtype.kind == "f":
            given = values[flag.name].reshape(-1, *[1] * (action.ndim - 1)).astype(np.bool_)
            columns[column] = np.where(given, columns[column], nothing_like(columns[column]))
    if "actor" not in columns:
        columns |= _acted(plan, values, action) | columns
    never = np.zeros(length, np.bool_)
    columns.setdefault("truncated", never)
    if plan.done is not None:
        columns["terminated"] = values[plan.done.name].reshape(length).astype(np.bool_) & ~columns["truncated"]
    columns.setdefault("terminated", never)
    columns.setdefault("success", never)
    columns.setdefault("reward", np.zeros(length))
    columns.setdefault("policy_action", nothing_like(action))
    columns.setdefault("human_action", nothing_like(action))
    columns.setdefault("segment_id", takeover_segments(columns["actor"]))
    if "t_monotonic_ns" not in columns:
        columns["t_monotonic_ns"] = _nanoseconds(values["timestamp"])
    return columns


def observations(plan: Plan, values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The observations [T, ...] of an episode by key."""
    return {key: _shaped(values[feature.name], feature) for key, feature in plan.observation.items()}


def outcome(plan: Plan, columns: Mapping[str, NDArray[Any]]) -> Outcome:
    """Success if a step was one, failure if none was, and the user's word or aborted where that is not told."""
    if "success" not in plan.steps:
        return plan.outcome or Outcome.ABORTED
    return Outcome.SUCCESS if columns["success"].any() else Outcome.FAILURE


def _shaped(values: NDArray[Any], feature: Feature) -> NDArray[Any]:
    if feature.spec is not None:
        shaped = values.reshape(len(values), *feature.spec.shape)
        return shaped.astype(feature.spec.dtype, copy=False)
    scalar = feature.shape == (1,) and not feature.name.startswith("observation")
    if scalar and not (feature.name.endswith("action") and values.dtype.kind == "f"):
        return values.reshape(len(values))
    return values


def _acted(plan: Plan, values: Mapping[str, NDArray[Any]], action: NDArray[Any]) -> dict[str, NDArray[Any]]:
    if plan.intervention is None:
        actor = np.full(len(action), _acted_throughout(plan), np.int8)
    else:
        human = values[plan.intervention.name].reshape(len(action)).astype(np.bool_)
        actor = np.where(human, Actor.HUMAN, Actor.POLICY).astype(np.int8)
    return {"actor": actor} | own_actions(actor, action)


def _acted_throughout(plan: Plan) -> Actor:
    return Actor.EXPERT if plan.actor is None else plan.actor


def _nanoseconds(timestamps: NDArray[Any]) -> NDArray[np.int64]:
    # To the microsecond: of float32 seconds the rest is rounding.
    return np.rint(timestamps.reshape(-1).astype(np.float64) * 1e6).astype(np.int64) * 1000
