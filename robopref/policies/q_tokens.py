"""The decisions of an action-token policy, one action dimension at a time, as Q policies.

A token policy writes its action a dimension at a time, each token given those before it:

    a_j ~ pi_j(. | s, a_1 ... a_{j-1}),    greedy: tau_j(s) = argmax of its logits given tau_1(s) ... tau_{j-1}(s).

The decision of dimension j at a state s is between the bins of a_j, with the earlier tokens held at the greedy ones of
s. Its logits are the values of a softmax policy, so that ``robopref.diagnosis`` takes it as it takes any other: what it
differentiates ("pixels") is the image, or a vector of the observation in units of its range, and everything else that
the policy reads goes along as ``context``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robopref.errors import RoboprefError
from robopref.policies.q_policy import QPolicySpec, content_id
from robopref.protocols import TokenPolicy
from robopref.trajectory import Episode

KIND = "action-tokens"
TOKENS, INSTRUCTION = "tokens", "instruction"
Varied = Literal["image", "proprio", "state"]


@dataclass(frozen=True)
class VectorRange:
    """What a vector observation [S] of the policy is measured in: its range, so that it runs from 0 to 1 as pixels do.

    A gradient with respect to it is per range of a coordinate. A coordinate that never moves (low = high) cannot be
    varied and has none.

    Raises:
        RoboprefError: the bounds are not two finite vectors of one length with low <= high.
    """

    low: NDArray[np.float32]
    high: NDArray[np.float32]

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float32))
        bounds = np.stack([self.low, self.high]) if self.low.shape == self.high.shape else np.empty(0)
        if bounds.ndim != 2 or not np.isfinite(bounds).all() or (bounds[0] > bounds[1]).any():
            raise RoboprefError("a range needs finite vectors low [S] and high [S] with low <= high.")

    @classmethod
    def of(cls, episodes: Iterable[Episode], name: Varied) -> VectorRange:
        """The least and the largest value of each coordinate in recorded episodes.

        Raises:
            RoboprefError: no episodes, or without that observation.
        """
        rows = [(episode.observation[name].min(axis=0), episode.observation[name].max(axis=0))
                for episode in episodes if _has(episode, name)]  # fmt: skip
        if not rows:
            raise RoboprefError("the range of an observation needs at least one episode.")
        lows, highs = zip(*rows, strict=True)
        return cls(np.min(lows, axis=0), np.max(highs, axis=0))


@dataclass(frozen=True)
class TokenStates:
    """Recorded states of a token policy as ``state_gradients`` takes them: ``(states, context)``.

    Attributes:
        states: uint8 [N, 3, H, W] where the image is varied, else float32 [N, 1, 1, S] in [0, 1].
        context: arrays of N rows that ``TokenQPolicy.q_values`` takes beside them: the greedy ``tokens`` [N, A], the
            ``instruction`` as padded UTF-8 bytes [N, L], and the other observations that the policy reads.
        varied: the observation that ``states`` are.
        vector_range: of a varied vector; None for the image.
        episode: int64 [N], the episode of each state, counted from 0.
        step: int64 [N], its step in that.
    """

    states: NDArray[Any]
    context: Mapping[str, NDArray[Any]]
    varied: Varied
    vector_range: VectorRange | None
    episode: NDArray[np.int64]
    step: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.states)


class TokenQPolicy(nn.Module):
    """The decision of one action dimension of a token policy: its ``q_values`` are the logits over that token's bins.

    Action j of it is token j + 1. The last two tokens decode to the same action, as in every OpenVLA tokenizer.

    Args:
        policy: kept, not copied.
        dimension: of the action, from 0.
        varied: the observation that is differentiated: "image" as pixels [B, 3, H, W] in [0, 1], or a vector as
            [B, 1, 1, S] in units of ``vector_range``.
        vector_range: of the vector.
        name: what to call the policy; default: its class.

    Raises:
        RoboprefError: no such dimension, an observation that the policy does not read, or tokens of variable number.
    """

    low: Tensor | None
    high: Tensor | None

    def __init__(
        self,
        policy: TokenPolicy,
        dimension: int,
        varied: Varied = "image",
        vector_range: VectorRange | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__()
        size = len(policy.norm_stats)
        if not 0 <= dimension < size:
            raise RoboprefError(f"the policy's actions have dimensions 0 to {size - 1}, asked for {dimension}.")
        _check_tokens(policy)
        _check_varied(policy, varied, vector_range)
        self.policy = policy
        self.dimension = dimension
        self.varied = varied
        self.name = name or type(policy).__name__
        for bound in ("low", "high"):
            values = None if vector_range is None else torch.as_tensor(getattr(vector_range, bound))
            self.register_buffer(bound, values, persistent=False)

    def forward(self, pixels: Tensor, **context: Tensor) -> Tensor:
        """As ``q_values``."""
        return self.q_values(pixels, **context)

    def q_values(self, pixels: Tensor, *, tokens: Tensor, instruction: Tensor, **others: Tensor) -> Tensor:
        """Logits [B, bins] of this dimension's token, differentiable in the pixels.

        Args:
            pixels: [B, 3, H, W] in [0, 1], or [B, 1, 1, S] in units of the range.
            tokens: int [B, A]; those before this dimension are the ones that it is given.
            instruction: uint8 [B, L], as ``encode_instructions`` writes them.
            others: the observations that the policy reads beside the varied one, [B, ...].
        """
        observations: dict[str, Any] = {**others, self.varied: self._observation(pixels)}
        batch = self.policy.encode(observations, decode_instructions(instruction))
        logits: Tensor = self.policy.action_logits(batch, tokens.long())[:, self.dimension]
        return logits

    def _observation(self, pixels: Tensor) -> Tensor:
        if self.low is None or self.high is None:
            return pixels.permute(0, 2, 3, 1)
        return self.low + pixels.flatten(1) * (self.high - self.low)

    def spec_for(self, states: TokenStates) -> QPolicySpec:
        """What this is, for states of that shape."""
        channels, height, width = states.states.shape[1:]
        size = len(self.policy.norm_stats)
        weights = self.policy.state_dict() if isinstance(self.policy, nn.Module) else {}
        unit = "pixels" if self.varied == "image" else f"{self.varied}, in units of its range"
        return QPolicySpec(
            kind=KIND,
            algorithm="",
            architecture=f"{type(self.policy).__name__}, action dimension {self.dimension + 1} of {size}",
            head="logits",
            n_actions=self.policy.tokenizer.bins,
            frame_stack=1,
            channels_per_frame=channels,
            height=height,
            width=width,
            source=self.name,
            policy_id=f"{content_id(KIND, weights)}-{self.dimension}",
            notes=(
                f"The decision of action dimension {self.dimension + 1} of {size}, given the greedy tokens of the "
                f"dimensions before it; gradients are with respect to the {unit}.",
            ),
        )


def token_states(
    policy: TokenPolicy,
    episodes: Iterable[Episode],
    *,
    varied: Varied | None = None,
    vector_range: VectorRange | None = None,
    batch_size: int = 64,
) -> TokenStates:
    """Every state of recorded episodes, with what the policy decides there.

    Two sets that are to be compared need the same ``vector_range`` (that of the base set is a good one to give, or
    ``VectorRange.of`` all episodes).

    Args:
        policy: whose greedy tokens are computed, from the observations as they were recorded.
        episodes: e.g. an ``EpisodeStore``; read once.
        varied: the observation to be differentiated; default: the image if the policy reads one, else the state, else
            proprioception.
        vector_range: of a varied vector; default: that of these episodes.
        batch_size: states per pass.

    Raises:
        RoboprefError: no episodes, an observation that the policy needs is missing or differs in shape, a varied
            vector that leaves its range, or tokens of variable number.
    """
    _check_tokens(policy)
    chosen = varied or next((name for name in get_args(Varied) if name in policy.observation_keys), None)
    if chosen is None:
        raise RoboprefError(f"the policy reads {policy.observation_keys}, none of which can be varied.")
    listed = list(episodes)
    if not listed:
        raise RoboprefError("there are no episodes to take states from.")
    columns = {name: _column(listed, name) for name in policy.observation_keys}
    if chosen != "image" and vector_range is None:
        vector_range = VectorRange.of(listed, chosen)
    _check_varied(policy, chosen, vector_range)
    lengths = [len(episode) for episode in listed]
    instructions = [episode.info.instruction for episode in listed for _ in range(len(episode))]
    tokens = [
        greedy_tokens(
            policy,
            {name: column[rows] for name, column in columns.items()},
            instructions[rows],
        )
        for rows in (slice(i, i + batch_size) for i in range(0, len(instructions), batch_size))
    ]
    context = {name: column for name, column in columns.items() if name != chosen}
    return TokenStates(
        states=_as_pixels(columns[chosen], vector_range),
        context=context | {TOKENS: np.concatenate(tokens), INSTRUCTION: encode_instructions(instructions)},
        varied=chosen,
        vector_range=vector_range,
        episode=np.repeat(np.arange(len(listed)), lengths),
        step=np.concatenate([np.arange(length) for length in lengths]),
    )


def token_q_policies(policy: TokenPolicy, states: TokenStates, name: str | None = None) -> list[TokenQPolicy]:
    """The decisions of a policy at ``states``, one per action dimension, in their order."""
    return [
        TokenQPolicy(policy, dimension, states.varied, states.vector_range, name)
        for dimension in range(len(policy.norm_stats))
    ]


@torch.no_grad()
def greedy_tokens(
    policy: TokenPolicy, observations: Mapping[str, Any], instructions: Sequence[str]
) -> NDArray[np.int64]:
    """The tokens [B, A] in 1..bins that the policy acts by, of a chunk those of the first action.

    From the protocol alone.
    """
    batch = policy.encode(observations, instructions)
    tokens = torch.ones(len(instructions), len(policy.norm_stats), dtype=torch.long)
    for position in range(tokens.shape[1]):
        tokens[:, position] = 1 + policy.action_logits(batch, tokens)[:, position].argmax(dim=1).cpu()
    return tokens.numpy()


def encode_instructions(instructions: Sequence[str]) -> NDArray[np.uint8]:
    """Instructions as UTF-8 bytes [N, L], padded with zeros: arrays travel with their states, strings do not."""
    encoded = [np.frombuffer(text.encode(), np.uint8) for text in instructions]
    rows = np.zeros((len(encoded), max((len(row) for row in encoded), default=0)), np.uint8)
    for row, text in zip(rows, encoded, strict=True):
        row[: len(text)] = text
    return rows


def decode_instructions(rows: Tensor) -> list[str]:
    """The inverse of ``encode_instructions``."""
    return [row.tobytes().rstrip(b"\0").decode() for row in rows.to("cpu", torch.uint8).numpy()]


def _check_tokens(policy: TokenPolicy) -> None:
    if policy.tokenizer.variable_length:
        raise RoboprefError(
            "this policy compresses its actions (FAST): no token of it is the decision of one action dimension, so "
            "that there is none to diagnose. Use a policy with binned tokens."
        )


def _check_varied(policy: TokenPolicy, varied: str, vector_range: VectorRange | None) -> None:
    if varied not in policy.observation_keys:
        raise RoboprefError(
            f"the policy does not read the observation {varied!r}; it reads {', '.join(policy.observation_keys)}."
        )
    if (varied == "image") != (vector_range is None):
        need = "takes no" if varied == "image" else "needs a"
        raise RoboprefError(f"differentiating {varied!r} {need} vector_range.")


def _has(episode: Episode, name: str) -> bool:
    if name not in episode.observation:
        raise RoboprefError(
            f"episode {episode.info.episode_id or '(unnamed)'} lacks the observation {name!r} that the policy reads; "
            f"it has {', '.join(sorted(episode.observation))}."
        )
    return True


def _column(episodes: Sequence[Episode], name: str) -> NDArray[Any]:
    shapes = {episode.observation[name].shape[1:] for episode in episodes if _has(episode, name)}
    if len(shapes) > 1:
        raise RoboprefError(f"the episodes have {name!r} of different shapes {sorted(shapes)}: use those of one task.")
    return np.concatenate([np.asarray(episode.observation[name]) for episode in episodes])


def _as_pixels(column: NDArray[Any], vector_range: VectorRange | None) -> NDArray[Any]:
    if vector_range is None:
        return np.ascontiguousarray(np.moveaxis(column, -1, 1))
    if column.shape[1:] != vector_range.low.shape:
        raise RoboprefError(f"a range of {len(vector_range.low)} coordinates does not fit vectors {column.shape[1:]}.")
    low, high = vector_range.low, vector_range.high
    # On the values themselves: a coordinate that is constant in the range must be so here, or it would be put back.
    outside = int((~((column >= low) & (column <= high))).any(axis=1).sum())
    if outside:
        raise RoboprefError(
            f"{outside} of {len(column)} states leave the given range: take it over all episodes that are compared."
        )
    unit = (column - low) / np.where(high > low, high - low, 1)
    return unit.astype(np.float32).clip(0, 1)[:, None, None, :]
