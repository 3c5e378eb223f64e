"""How far around each recorded action a policy learns, where nothing is said (docs/results.md says why)."""

from __future__ import annotations

from robopref.errors import RoboprefError

STATE_SMOOTHING = 0.03
"""Of compact policies that see no images: standard deviation in normalised units, about four of their 256 bins."""


def default_smoothing(policy: object) -> float:
    """For a compact policy without images, one token per action and dimension; 0 for others: not tried."""
    from robopref.policies.compact import CompactPolicy

    if isinstance(policy, CompactPolicy) and sees_no_images(policy) and not policy.tokenizer.variable_length:
        return STATE_SMOOTHING
    return 0.0


def check_smoothing(smoothing: float, policy: object = None) -> None:
    """See that there can be such a smoothing, and that a policy can learn so, where there is one.

    Raises:
        RoboprefError: a standard deviation out of range, or chunks of a variable number of tokens.
    """
    if not 0 <= smoothing < 1:
        raise RoboprefError(f"--action-smoothing lies in [0, 1), in units of half an action's range, got {smoothing}.")
    if smoothing and getattr(getattr(policy, "tokenizer", None), "variable_length", False):
        raise RoboprefError(
            "--action-smoothing is for one token per action and dimension: chunks that are compressed to a variable "
            "number of tokens would grow by it. Leave it out."
        )


def sees_no_images(policy: object) -> bool:
    """Whether it is a compact policy that is told the state."""
    from robopref.policies.compact import CompactPolicy

    return isinstance(policy, CompactPolicy) and "image" not in policy.observation_keys
