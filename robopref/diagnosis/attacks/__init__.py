"""Attacks on a decision: the smallest change of the pixels that makes the policy act differently.

Four attacks, each a frozen dataclass of settings that is called with a policy and a batch of states:

    result = CarliniWagner(steps=50)(q_policy, pixels)      # an AttackResult
    attack = parse_attack("deepfool:overshoot=0.05").bind(q_policy)     # pixels -> pixels, as collect_episodes takes it

All are indifferent to Q -> a Q + b with a > 0, report the distortion and the gradients taken of every state, and give
a state back as it was where they fail. With trained policies for Pong and Freeway a state took 60 to 80 gradients for
Carlini-Wagner and elastic net, 3 to 10 for DeepFool, 1 to 2 for Nesterov FGSM (``scripts/bench_attacks.py``). Time
grows linearly with the batch, but a state alone costs about twice what it does in a batch of 10 or more. Memory holds
the network's activations of one batch and some ten arrays [B, d].
"""

from __future__ import annotations

from typing import Any

from robopref.diagnosis.attacks.base import Attack, AttackResult, BoundAttack
from robopref.diagnosis.attacks.carlini_wagner import CarliniWagner
from robopref.diagnosis.attacks.deepfool import DeepFool
from robopref.diagnosis.attacks.elastic_net import ElasticNet
from robopref.diagnosis.attacks.nesterov import NesterovFGSM
from robopref.diagnosis.named_settings import make_named, parse_named

ATTACKS: dict[str, Attack] = {
    attack.name: attack for attack in (CarliniWagner(), ElasticNet(), DeepFool(), NesterovFGSM())
}
"""Every attack by name, at its default settings."""


def make_attack(name: str, **settings: Any) -> Attack:
    """An attack by name, e.g. ``make_attack("deepfool", overshoot=0.05)``; what is left out keeps its default.

    Raises:
        RoboprefError: no such attack, no such setting, or a value of the wrong type or out of range.
    """
    return make_named("attack", ATTACKS, name, settings)


def parse_attack(text: str) -> Attack:
    """An attack out of text: ``deepfool``, ``carlini_wagner:steps=50,confidence=0.1`` or ``elastic_net:rule=EN``.

    Raises:
        RoboprefError: the text has another form or gives a setting twice, or as ``make_attack``.
    """
    return parse_named("attack", ATTACKS, text, "carlini_wagner:steps=50")


__all__ = [
    "ATTACKS",
    "Attack",
    "AttackResult",
    "BoundAttack",
    "CarliniWagner",
    "DeepFool",
    "ElasticNet",
    "NesterovFGSM",
    "make_attack",
    "parse_attack",
]
