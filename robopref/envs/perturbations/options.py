"""Which kinds of perturbation there are, and what of them can be asked for; imports no simulator."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from robopref.errors import RoboprefError

KINDS = ("position", "background", "texture", "lighting", "camera", "distractor")
"""All kinds, in the order in which they are applied."""

VISUAL = KINDS[1:]
"""Kinds that change pictures and nothing else."""

MAX_STRENGTH = 3.0


@dataclass(frozen=True)
class PerturbationOptions:
    """How the scene differs from the one of the training, as a command takes it."""

    perturb: tuple[str, ...] = ()
    """What to change in the scene, anew at every episode: position, background, texture, lighting, camera,
    distractor; several may be given."""
    perturb_strength: float = 1.0
    """Scale of the changes, above 0 and at most 3; 1 widens the range of positions 1.5 times."""

    def to_json(self) -> dict[str, Any]:
        """What goes with recordings and results; empty for the original scene."""
        if not self.perturb:
            return {}
        return {"perturb": list(ordered(self.perturb)), "perturb_strength": self.perturb_strength}


ORIGINAL = PerturbationOptions()
"""The scene as it is."""


def ordered(kinds: Collection[str]) -> tuple[str, ...]:
    """Each kind once, in the order of ``KINDS``.

    Raises:
        RoboprefError: an unknown kind.
    """
    if isinstance(kinds, str):
        kinds = (kinds,)
    for kind in kinds:
        if kind not in KINDS:
            near = difflib.get_close_matches(str(kind), KINDS, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise RoboprefError(f"there is no perturbation {kind!r}: {hint}The known ones are {', '.join(KINDS)}.")
    return tuple(kind for kind in KINDS if kind in kinds)


def check_perturbations(kinds: Collection[str], strength: float, *, image: bool) -> tuple[str, ...]:
    """See that the kinds can be had and would change something -> ``ordered(kinds)``.

    Args:
        kinds: names of perturbations.
        strength: scale of the changes.
        image: whether an image is observed.

    Raises:
        RoboprefError: an unknown kind, a strength out of range, or a visual kind where no image is observed.
    """
    known = ordered(kinds)
    if not (math.isfinite(strength) and 0 < strength <= MAX_STRENGTH):
        raise RoboprefError(f"a perturbation of strength {strength:g}: use more than 0 and at most {MAX_STRENGTH:g}.")
    unseen = [kind for kind in known if kind in VISUAL]
    if unseen and not image:
        raise RoboprefError(
            f"the perturbation {', '.join(unseen)} would change nothing, because no image is observed: "
            "use a policy and settings with an image, or the perturbation position alone."
        )
    return known
