"""Policies for the tests of the trainer that do what the compact one does not: dropout, adapters, pairs at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from test_policies import tiny_policy
from torch import Tensor, nn

from robopref.policies.compact import EncodedBatch
from robopref.protocols import Scores


class _Wrapped(nn.Module):
    """A compact policy inside another module, with all that the trainer asks of a policy."""

    def __init__(self, **sizes: Any) -> None:
        super().__init__()
        self.inner = tiny_policy(**sizes)
        self.tokenizer, self.norm_stats = self.inner.tokenizer, self.inner.norm_stats

    @property
    def observation_keys(self) -> tuple[str, ...]:
        return self.inner.observation_keys

    def encode(self, observations: Any, instructions: Any) -> Any:
        return self.inner.encode(observations, instructions)

    def action_logits(self, batch: Any, action_tokens: Tensor) -> Tensor:
        return self.inner.action_logits(batch, action_tokens)

    def action_logps(self, batch: Any, action_tokens: Tensor) -> Tensor:
        return self.inner.action_logps(batch, action_tokens)

    def act(self, observations: Any, instructions: Any) -> Any:
        return self.inner.act(observations, instructions)

    def freeze_reference(self) -> None:
        self.inner.freeze_reference()

    def reference(self) -> Any:
        return self.inner.reference()

    def save(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        torch.save(self.state_dict(), directory / "weights.pt")


class AdapterPolicy(_Wrapped):
    """A frozen network with a trained adapter; the reference is a second, frozen adapter, behind the same dropout."""

    def __init__(self, dropout: float = 0.0, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.inner.requires_grad_(False)
        width = self.inner.architecture.width
        self.dropout = nn.Dropout(dropout)
        self.adapters = nn.ModuleDict({name: nn.Linear(width, width, bias=False) for name in ("policy", "reference")})
        self.adapters["reference"].requires_grad_(False)
        self.active = "policy"
        self.seen: list[tuple[str, Tensor]] = []  # which adapter gave which features

    def encode(self, observations: Any, instructions: Any) -> EncodedBatch:
        features = self.inner.encode(observations, instructions).features
        features = features + self.adapters[self.active](self.dropout(features))
        self.seen.append((self.active, features.detach().clone()))
        return EncodedBatch(features)

    def freeze_reference(self) -> None:
        self.adapters["reference"].load_state_dict(self.adapters["policy"].state_dict())

    @contextmanager
    def reference(self) -> Iterator[None]:
        self.active = "reference"
        try:
            with torch.no_grad():
                yield
        finally:
            self.active = "policy"


class PairScoringPolicy(_Wrapped):
    """Scores two actions after one pass over the observation, and counts what it is asked for."""

    def __init__(self, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.scored, self.passes = 0, 0

    def score(self, batch: Any, action_tokens: Tensor, second_tokens: Tensor | None) -> Scores:
        self.scored += 1
        second = None if second_tokens is None else self.inner.action_logps(batch, second_tokens)
        return Scores(
            self.inner.action_logps(batch, action_tokens), second, self.inner.action_logits(batch, action_tokens)
        )

    def action_logits(self, batch: Any, action_tokens: Tensor) -> Tensor:
        self.passes += 1
        return super().action_logits(batch, action_tokens)

    def action_logps(self, batch: Any, action_tokens: Tensor) -> Tensor:
        self.passes += 1
        return super().action_logps(batch, action_tokens)
