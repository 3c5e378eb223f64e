"""How far around each recorded action a policy learns, where nothing is said (docs/results.md says why)."""

from __future__ import annotations

STATE_SMOOTHING = 0.03
"""Of compact policies that see no images: standard deviation in normalised units, about four of their 256 bins."""


def default_smoothing(policy: object) -> float:
    """For a compact policy without images, one token per action and dimension; 0 for others: not tried."""
    from robopref.policies.compact import CompactPolicy

    if isinstance(policy, CompactPolicy) and sees_no_images(policy) and not policy.tokenizer.variable_length:
        return STATE_SMOOTHING
    return 0.0


def sees_no_images(policy: object) -> bool:
    """Whether it is a compact policy that is told the state."""
    from robopref.policies.compact import CompactPolicy

    return isinstance(policy, CompactPolicy) and "image" not in policy.observation_keys
