"""The methods that ``robopref benchmark`` compares: ways of calling ``robopref refine`` on the same recordings, and
what a longer training gives without them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from robopref.cli.refine import ObjectiveName
from robopref.errors import RoboprefError

BASE = "base"
"""The policy that was deployed, unrefined: in every benchmark, and no method."""


@dataclass(frozen=True)
class Method:
    """What a row of the table is, and the settings of ``robopref refine`` that make it.

    Without an ``objective`` it is the control: ``robopref train`` on the demonstrations, which no interaction has
    taught anything. ``from_scratch`` starts from fresh weights and gets the optimiser steps of the base training as
    well, so that all policies of a table have had equally many. ``cloned_first`` is the share of its steps that clone
    demonstrations and corrections before the objective has its turn, with the clone as its reference: supervised
    first, preferences after, as language models are tuned.
    """

    about: str
    objective: ObjectiveName | None
    from_scratch: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    cloned_first: float = 0.0

    def __post_init__(self) -> None:
        assert 0 <= self.cloned_first < 1
        object.__setattr__(self, "settings", MappingProxyType(dict(self.settings)))


_SUCCESS = {"include_policy_steps": "autonomous_success"}

METHODS: Mapping[str, Method] = {
    "apo": Method("APO, its anchor, unaided successes as demonstrations", "apo", settings=_SUCCESS),
    "kto": Method("KTO with the same anchor and data", "kto", settings=_SUCCESS),
    "bc": Method("cloning demonstrations and corrections, from the base", "bc"),
    "bc-success": Method("the same, and unaided successes", "bc", settings=_SUCCESS),
    "bc-scratch": Method("cloning demonstrations and corrections, from scratch", "bc", from_scratch=True),
    "bc-success-scratch": Method("the same, and unaided successes, from scratch", "bc", True, _SUCCESS),
    "demos-scratch": Method("cloning demonstrations alone, as many steps: the control", None, from_scratch=True),
    "apo-scratch": Method("APO from scratch, the base its reference", "apo", True, _SUCCESS),
    "apo-demos-only-scratch": Method("the same without unaided successes", "apo", True),
    "dpo": Method("DPO on pairs of the same state, with the anchor", "dpo", settings=_SUCCESS),
    "dagger": Method("cloning every recorded step", "dagger"),
    "hg-dagger": Method("cloning demonstrations and corrections as they come", "hg-dagger"),
    "iwr": Method("cloning all steps, half of a batch corrections", "iwr"),
    "sirius": Method("cloning all steps, weighted by class", "sirius"),
    "tpo": Method("pairs of windows of trajectories", "tpo", settings=_SUCCESS),
    "paired-takeover": Method("the operator's action against the policy's own", "paired-takeover", settings=_SUCCESS),
    "habc": Method("cloning weighted by critics of viability and efficiency", "habc"),
    "recap": Method("cloning conditioned on a critic's verdict", "recap"),
    "apo-demos-only": Method("apo without unaided successes", "apo"),
    "apo-no-anchor": Method("apo without its anchor", "apo", settings={**_SUCCESS, "anchor_weight": 0.0}),
    "apo-paper": Method(
        "apo as published: no anchor, no unaided successes, the public trainer's arithmetic", "apo",
        settings={"anchor_weight": 0.0, "variant": "reference", "action_smoothing": 0.0},
    ),
    "apo-window-5": Method("apo, five undesirable steps before a takeover", "apo", settings={**_SUCCESS, "window": 5}),
    "apo-window-30": Method("apo, thirty of them", "apo", settings={**_SUCCESS, "window": 30}),
    "apo-progress": Method(
        "apo, undesirable since the policy's last improvement", "apo",
        settings={**_SUCCESS, "failure_point": "progress"},
    ),
    "apo-label-noise": Method(
        "apo, undesirable labels doubted", "apo", settings={**_SUCCESS, "label_noise": "em"}
    ),
    "dpo-distance": Method(
        "dpo without the pairs in which operator and policy agree", "dpo",
        settings={**_SUCCESS, "min_pair_distance": 0.4},
    ),
    "paired-takeover-distance": Method(
        "paired-takeover without them", "paired-takeover", settings={**_SUCCESS, "min_pair_distance": 0.4}
    ),
    "apo-beta-1": Method("apo with beta 1", "apo", settings={**_SUCCESS, "beta": 1.0}),
    "bc-then-apo": Method(
        "cloning from the base, then as many steps of apo with the clone its reference", "apo",
        settings=_SUCCESS, cloned_first=0.5,
    ),
    "bc-scratch-then-apo": Method(
        "cloning from scratch, then a fifth of the steps apo with the clone its reference", "apo", True,
        {**_SUCCESS, "learning_rate": 1e-4}, cloned_first=0.8,
    ),
    "bc-scratch-then-dpo": Method(
        "cloning from scratch, then a fifth of the steps dpo with the clone its reference", "dpo", True,
        {**_SUCCESS, "learning_rate": 1e-4}, cloned_first=0.8,
    ),
}  # fmt: skip
"""By the names that ``--methods`` takes."""


def check_methods(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each once.

    Raises:
        RoboprefError: no name, or an unknown one.
    """
    if not names:
        raise RoboprefError("name at least one method to compare with the base policy (--methods).")
    for name in names:
        if name not in METHODS:
            near = difflib.get_close_matches(name, METHODS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(METHODS)}."
            raise RoboprefError(
                f"the base policy is in every benchmark: leave {BASE!r} out of --methods."
                if name == BASE
                else f"there is no method {name!r}: {hint}"
            )
    return tuple(dict.fromkeys(names))
