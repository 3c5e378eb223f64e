"""How the diagnosis reports write numbers and names, and when they say that a shift is told apart from the null."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from robopref.diagnosis.results import Condition, Diagnosis
from robopref.evaluation.statistics import Estimate

_NAMES = {
    "null": "null control",
    "brightness_contrast": "brightness and contrast",
    "gaussian_blur": "Gaussian blur",
    "jpeg": "JPEG",
    "carlini_wagner": "Carlini-Wagner",
    "elastic_net": "Elastic-Net",
    "deepfool": "DeepFool",
    "nesterov_fgsm": "Nesterov FGSM",
}
KIND_NAMES = {"null": "null control", "shift": "natural shifts", "attack": "attacks"}
BELOW, ABOVE = "below the null", "above the null"
UNCHANGED = "the attack changed nothing"
NOT_APART, APART_UNCLEAR = "not told apart", "not told apart: the intervals overlap"


def number(value: float, digits: int = 3) -> str:
    """``value`` to so many significant digits, with a true minus sign: ``−0.0123``, ``41 200``, ``3.1e−9``."""
    size = abs(value)
    if size >= 10**digits and size < 1e7:
        text = f"{value:,.0f}".replace(",", "\u202f")  # narrow no-break spaces between thousands
    else:
        text = f"{value:.{digits}g}"
        if "e" in text:
            mantissa, exponent = text.split("e")
            text = f"{mantissa}e{int(exponent)}"
    return text.replace("-", "\u2212")


def estimate_text(estimate: Estimate | None, scale: float = 1.0, digits: int = 3) -> str:
    """``0.49 [0.41, 0.55]``; says so where there is no value, or no interval because one episode has none."""
    if estimate is None:
        return "not defined"
    value = number(scale * estimate.value, digits)
    if not has_interval(estimate):
        return f"{value} (no interval, n\u00a0=\u00a0{estimate.n})"
    return f"{value}\u00a0[{number(scale * estimate.low, digits)},\u00a0{number(scale * estimate.high, digits)}]"


def percent_text(estimate: Estimate | None) -> str:
    """``12.3 % [8.1, 17.0]`` of a share in [0, 1]."""
    if estimate is None:
        return "not defined"
    value = f"{100 * estimate.value:.1f}\u00a0%"
    if not has_interval(estimate):
        return f"{value} (no interval, n\u00a0=\u00a0{estimate.n})"
    return f"{value}\u00a0[{100 * estimate.low:.1f},\u00a0{100 * estimate.high:.1f}]"


def has_interval(estimate: Estimate) -> bool:
    """One unit says nothing about how others would differ, whatever the resampling returned."""
    return estimate.n > 1


def episodes_text(n: int) -> str:
    """``1 episode``, ``10 episodes``."""
    return f"{n}\u00a0episode{'' if n == 1 else 's'}"


def intervals_text(n: int, confidence: float) -> str:
    """What the lines through the marks are: ``95 % bootstrap intervals over 10 episodes``, or that there are none."""
    if n < 2:
        return f"no intervals (n\u00a0=\u00a0{n})"
    return f"{100 * confidence:g}\u00a0% bootstrap intervals over {episodes_text(n)}"


def condition_name(name: str) -> str:
    """A readable name of a condition; settings that are part of its name stay: ``rotation (degrees=3)``."""
    kind, _, settings = name.partition(":")
    readable = _NAMES.get(kind, kind.replace("_", " "))
    return f"{readable} ({settings})" if settings else readable


def condition_names(conditions: Sequence[Condition]) -> list[str]:
    """A readable name of each; with the settings where two would have the same."""
    names = [condition_name(condition.name) for condition in conditions]
    return [
        f"{name} ({settings_text(condition)})" if names.count(name) > 1 and condition.detail else name
        for name, condition in zip(names, conditions, strict=True)
    ]


def settings_text(condition: Condition) -> str:
    """The settings without the name that stands beside them: ``degrees=2.0``."""
    return condition.detail.removeprefix(f"{condition.name.partition(':')[0]}:").replace(",", ", ")


def shown_statements(statements: Sequence[str]) -> list[dict[str, Any]]:
    """What a reader must know first, and which of it makes all that follows meaningless."""
    return [{"text": text, "loud": is_loud(text)} for text in statements]


def is_loud(statement: str) -> bool:
    """Whether it takes the meaning from what follows it."""
    return any(word in statement for word in ("UNTRAINED", "ALWAYS ", "All directions vanish"))


def shortened(text: str, length: int = 28) -> str:
    """A name cut in its middle, where its ends say more (a path, say)."""
    if len(text) <= length:
        return text
    return f"{text[: length // 3]}\u2026{text[-(length - length // 3 - 1) :]}"


def null_of(condition: Condition, null: Condition | None) -> Estimate | None:
    """Lambda of the null control that a condition is held against: of as many states, where that was measured."""
    if null is None or condition.kind == "null":
        return None
    return condition.null_quotient or null.quotient


def told_apart(condition: Condition, null: Condition | None) -> str:
    """What the intervals say about a quotient beside the null's; empty where there is nothing to compare.

    It counts as told apart only if all of this holds: its interval does not overlap that of a null of as many states;
    the interval of their difference leaves zero aside; and so does, of an attack, that of its difference to the same
    states unattacked, on the same side. The first is what a figure shows, the others are sharper tests.
    """
    held = null_of(condition, null)
    if condition.quotient is None or held is None:
        return ""
    if condition.distortion is not None and condition.distortion.linf.value == 0:
        return UNCHANGED  # its states are the clean ones, fewer of them: what differs is the sample
    if not (has_interval(condition.quotient) and has_interval(held)):
        return NOT_APART
    differences = [condition.below_null]
    if condition.below_clean is not None:
        differences.append(condition.below_clean)
    if not (all(_positive(d) for d in differences) or all(_negative(d) for d in differences)):
        return NOT_APART
    if condition.quotient.high >= held.low and condition.quotient.low <= held.high:
        return APART_UNCLEAR
    return BELOW if condition.quotient.value < held.value else ABOVE


def paired_difference(condition: Condition) -> Estimate | None:
    """What decides whether a condition differs: to the same states unattacked, of an attack; else to the null."""
    return condition.below_clean if condition.below_clean is not None else condition.below_null


def _positive(difference: Estimate | None) -> bool:
    return difference is not None and difference.low > 0


def _negative(difference: Estimate | None) -> bool:
    return difference is not None and difference.high < 0


def confidence_of(diagnosis: Diagnosis) -> float:
    """Of all its intervals."""
    return float(diagnosis.settings.get("confidence", 0.95))
