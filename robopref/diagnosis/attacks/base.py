"""What every attack is: settings with a name, a search on one batch, and a result that has been checked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from robopref.diagnosis.attacks.victim import Victim
from robopref.diagnosis.named_settings import settings_text
from robopref.errors import RoboprefError
from robopref.evaluation.statistics import Rate
from robopref.protocols import QPolicy

_CHANGED = 1e-6  # of a pixel in [0, 1]


@dataclass(frozen=True, eq=False)
class AttackResult:
    """What came of attacking B states; a state whose decision did not flip is returned as it was.

    Attributes:
        adversarial: [B, C, H, W] in [0, 1]; the clean state where the attack failed.
        success: bool [B]: the greedy action differs.
        l0: int64 [B], channels of pixels that changed by more than 1e-6.
        l1, l2, linf: [B], norms of what was added to the pixels in [0, 1]; 0 where the attack failed.
        original_action: int64 [B], greedy in the clean state.
        adversarial_action: int64 [B], greedy in ``adversarial``.
        gradient_evaluations: int64 [B], gradients taken of each state.
    """

    adversarial: Tensor
    success: Tensor
    l0: Tensor
    l1: Tensor
    l2: Tensor
    linf: Tensor
    original_action: Tensor
    adversarial_action: Tensor
    gradient_evaluations: Tensor

    @property
    def success_rate(self) -> Rate:
        """Share of states that flipped; the interval takes them as independent, which states of one episode are not."""
        return Rate.of(int(self.success.sum()), len(self.success))


@dataclass(frozen=True)
class Attack(ABC):
    """Settings of an attack; ``str(attack)`` is the text that ``parse_attack`` reads.

    The same arguments give the same result, and what becomes of a state does not depend on the others of its batch, up
    to the last bits that a network rounds differently in a batch of another size.
    """

    name: ClassVar[str]

    def __call__(self, q_policy: QPolicy, pixels: Tensor, *, context: Mapping[str, Any] | None = None) -> AttackResult:
        """Attack the greedy decisions of a batch.

        Args:
            q_policy: gives action values [B, n_actions], n_actions >= 2, differentiable in the pixels; treats the
                states of a batch independently. It is left as it is: a module in training mode, on another device or
                in another precision than the pixels is copied, and no parameter gets a gradient.
            pixels: [B, C, H, W] in [0, 1], float32 or float64; the result has their device and dtype.
            context: tensors or arrays [B, ...] that ``q_values`` takes beside the pixels, by name.

        Raises:
            RoboprefError: pixels of another kind, shape or range, no states, fewer than two actions, a policy that is
                not differentiable in its pixels, action values or gradients that are not finite.
        """
        # Whatever the caller has switched off: tensors made in inference mode could take part in no gradient.
        with torch.inference_mode(False), torch.no_grad():
            victim = Victim(q_policy, pixels, context)
            return _judged(victim, self._search(victim))

    @abstractmethod
    def _search(self, victim: Victim) -> Tensor:
        """The best point found for each state [B, d] in [0, 1]; the clean state where there is none."""

    def bind(self, q_policy: QPolicy) -> BoundAttack:
        """The attack on this policy, as episodes are collected under."""
        return BoundAttack(self, q_policy)

    def __str__(self) -> str:
        return settings_text(self.name, self)


@dataclass(frozen=True, eq=False)
class BoundAttack:
    """An attack on one policy: pixels [B, C, H, W] in [0, 1] -> what the policy is made to see instead."""

    attack: Attack
    q_policy: QPolicy

    @property
    def name(self) -> str:
        """Of the attack."""
        return self.attack.name

    def __call__(self, pixels: Tensor, *, context: Mapping[str, Any] | None = None) -> Tensor:
        """The attacked pixels; where the attack fails, the pixels. Raises RoboprefError as the attack does."""
        return self.attack(self.q_policy, pixels, context=context).adversarial

    def __str__(self) -> str:
        return str(self.attack)


def require(holds: bool, attack: Attack, what: str) -> None:
    """Raise RoboprefError, naming the attack, unless ``holds``."""
    if not holds:
        raise RoboprefError(f"{attack}: {what}.")


def _judged(victim: Victim, points: Tensor) -> AttackResult:
    """The result, with decisions taken once more on the whole batch: success means what the caller will see."""
    action = victim.values(victim.rows, points).argmax(1)
    success = action != victim.chosen
    adversarial = torch.where(success[:, None], points, victim.clean)
    added = (adversarial - victim.clean).abs()
    return AttackResult(
        adversarial=adversarial.view(-1, *victim.shape),
        success=success,
        l0=(added > _CHANGED).sum(1),
        l1=added.sum(1),
        l2=added.norm(dim=1),
        linf=added.amax(1),
        original_action=victim.chosen,
        adversarial_action=torch.where(success, action, victim.chosen),
        gradient_evaluations=victim.gradient_evaluations,
    )
