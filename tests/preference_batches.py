"""Batches, a plain-Python APO, and ranks played by threads, for the tests of the objectives."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Any

import hypothesis.strategies as st
import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """The positional arguments of ``apo_loss``."""

    policy: Tensor
    reference: Tensor
    policy_kl: Tensor
    reference_kl: Tensor
    desirable: Tensor
    error: Tensor

    def __len__(self) -> int:
        return len(self.desirable)

    def args(self) -> tuple[Tensor, ...]:
        return tuple(getattr(self, f.name) for f in fields(self))

    def __getitem__(self, index: Any) -> Batch:
        return Batch(*(a[index] for a in self.args()))

    def with_(self, **changes: Tensor) -> Batch:
        return replace(self, **changes)


def random_batch(desirable: Sequence[bool], length: int, seed: int = 0, errors: Sequence[float] | None = None) -> Batch:
    """Log-probabilities in (-3, 0), float64; errors in (0, 1) unless given."""
    generator = torch.Generator().manual_seed(seed)
    size = len(desirable)
    tables = [-3 * torch.rand(size, length, generator=generator, dtype=torch.float64) - 1e-6 for _ in range(4)]
    drawn = torch.rand(size, generator=generator, dtype=torch.float64)
    error = drawn if errors is None else torch.tensor(errors, dtype=torch.float64)
    return Batch(*tables, torch.tensor(desirable), error)


@st.composite
def batches(draw: st.DrawFn, max_size: int = 9, max_length: int = 6) -> Batch:
    desirable = draw(st.lists(st.booleans(), min_size=1, max_size=max_size))
    errors = draw(
        st.lists(st.sampled_from([0.0, 1e-5, 0.02, 0.3, 2.0]), min_size=len(desirable), max_size=len(desirable))
    )
    return random_batch(desirable, draw(st.integers(1, max_length)), draw(st.integers(0, 10**6)), errors)


def plain_apo(batch: Batch, variant: str, *, beta: float, beta_d: float, beta_u: float, low: float, high: float,
              anchor_weight: float) -> tuple[float, list[float], list[float], float]:  # fmt: skip
    """APO written out with Python floats -> (loss, per sample, weights, z0)."""
    policy, reference = batch.policy.tolist(), batch.reference.tolist()
    policy_kl, reference_kl = batch.policy_kl.tolist(), batch.reference_kl.tolist()
    desirable, error = batch.desirable.tolist(), batch.error.tolist()
    size, length = len(desirable), len(policy[0])
    faithful = variant == "reference"
    kl = 0.0
    for i in range(size):
        for t in range(length - 1 if faithful else length):
            kl += policy_kl[i][t] - reference_kl[i][t]
    z0 = min(max(kl / size, low), high)
    losses, weights = [], []
    for i in range(size):
        log_ratio = 0.0
        for t in range(length - 1 if faithful and not desirable[i] else length):
            log_ratio += policy[i][t] - reference[i][t]
        peers = [error[j] for j in range(size) if desirable[j] == desirable[i]]
        scale = sum(peers) if faithful else sum(peers) / len(peers)
        relative = (error[i] + 1e-4) / (scale + 1e-4)
        if desirable[i]:
            weight = 1 - math.exp(-beta_d * relative)
            value = 1 - 1 / (1 + math.exp(-beta * (log_ratio - z0)))
        else:
            weight = math.exp(-beta_u * relative)
            value = 1 - 1 / (1 + math.exp(-beta * (z0 - log_ratio)))
        weights.append(weight)
        losses.append(weight * value)
    places = [(i, t) for i in range(size) if desirable[i] for t in range(length)]
    tokens = [policy[i][t] for i, t in places if policy[i][t] != 0 or reference[i][t] != 0]
    anchor = -sum(tokens) / len(tokens) if tokens else 0.0
    total = sum(losses) if faithful else sum(losses) / size
    return total + anchor_weight * anchor, losses, weights, z0


def on_ranks(world_size: int, work: Callable[[int, Callable[[Tensor], Tensor]], Any]) -> list[Any]:
    """``work(rank, reduce)`` in a thread per rank; ``reduce`` is the mean over the threads."""
    barrier = threading.Barrier(world_size, timeout=30)
    shared: list[Tensor] = [torch.zeros(())] * world_size

    def run(rank: int) -> Any:
        def reduce(value: Tensor) -> Tensor:
            shared[rank] = value
            barrier.wait()
            mean = torch.stack(shared).mean(dim=0)
            barrier.wait()  # nobody overwrites before everybody has read
            return mean

        return work(rank, reduce)

    with ThreadPoolExecutor(world_size) as pool:
        return list(pool.map(run, range(world_size)))
