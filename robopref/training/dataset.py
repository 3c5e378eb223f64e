"""Recorded episodes as training samples: one per step, gathered by number without reading whole episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError
from robopref.protocols import ChunkTokenizer, TokenPolicy
from robopref.training.chunks import chunk_lengths, chunk_steps
from robopref.training.step_credit import StepCredit
from robopref.trajectory import Episode, Label


@dataclass(frozen=True)
class Samples:
    """B samples: stacked observations [B, ...], B instructions, action tokens [B, T] in 1..bins, then 0."""

    observations: Mapping[str, NDArray[Any]]
    instructions: tuple[str, ...]
    tokens: NDArray[np.int64]


class StepDataset:
    """Every step of the given episodes with its label; images stay on disk until they are gathered.

    Of a policy that decides chunks of H actions, a sample's tokens are those of the actions from its step on, as far as
    they belong together (``chunk_lengths``).

    Args:
        episodes: recorded attempts, demonstrations and interactions alike.
        labels: one label array [T] for each episode.
        policy: gives the tokenizer, the normalisation and the observation keys to gather.
        credit: what a critic says of the steps; default: nothing.

    Raises:
        RoboprefError: no episodes, discrete actions, another action size than the policy's, a missing observation, or a
            tokenizer that is no ``ChunkTokenizer``.
    """

    def __init__(
        self,
        episodes: Sequence[Episode],
        labels: Sequence[NDArray[Any]],
        policy: TokenPolicy,
        observation_keys: Sequence[str],
        credit: StepCredit | None = None,
    ) -> None:
        if not episodes:
            raise RoboprefError("there are no episodes to learn from.")
        if not isinstance(policy.tokenizer, ChunkTokenizer):
            raise RoboprefError(
                f"the policy's tokenizer, a {type(policy.tokenizer).__name__}, lacks some of horizon, variable_length, "
                f"bins, action_tokens, encode_chunks, decode, to_json (see robopref.protocols.ChunkTokenizer)."
            )
        for episode in episodes:
            _check_fits(episode, len(policy.norm_stats), observation_keys)
        self._episodes = list(episodes)
        self._keys = tuple(observation_keys)
        lengths = [len(episode) for episode in episodes]
        self.episode = np.repeat(np.arange(len(episodes)), lengths)
        self.step = np.concatenate([np.arange(n) for n in lengths])
        self.tasks = np.repeat([episode.info.task for episode in episodes], lengths)
        self.labels: NDArray[np.int64] = np.concatenate([np.asarray(x) for x in labels]).astype(np.int64)
        if len(self.labels) != len(self.step):
            raise RoboprefError(f"{len(self.labels)} labels for {len(self.step)} steps.")
        self.credit = credit or StepCredit.alike(len(self.step))
        if len(self.credit.weights) != len(self.step):
            raise RoboprefError(f"credit for {len(self.credit.weights)} steps; there are {len(self.step)}.")
        actions = np.concatenate([np.asarray(episode.action) for episode in episodes])
        normalized = policy.norm_stats.normalize(actions)
        self.clipped: NDArray[np.bool_] = policy.norm_stats.outside(actions)
        """Action values [N, A] outside the range of the tokens; they are learned from at its edge, never dropped."""
        self._tokenizer, self._horizon = policy.tokenizer, int(policy.tokenizer.horizon)
        self._normalized_dimensions = getattr(policy.norm_stats, "mask", np.ones(actions.shape[1], dtype=np.bool_))
        self.chunk_lengths = chunk_lengths(episodes, self.labels, self._horizon)
        """Steps [N] of the chunk from each step on, 1 to H."""
        self.tokens = self._encode(normalized, np.arange(len(self)), self.chunk_lengths)
        proposals = np.concatenate([np.asarray(episode.policy_action) for episode in episodes])
        proposed = np.isfinite(proposals).all(axis=1)
        self.has_pair: NDArray[np.bool_] = (self.labels == Label.HUMAN) & proposed
        """Steps [N] at which the human acted and the policy's own proposal is known."""
        self.rejected_tokens = np.zeros_like(self.tokens)
        paired = np.flatnonzero(self.has_pair)
        # What the policy would have done from here is known of the first step only: at each later one it proposed anew,
        # seeing where the human had gone. Those proposals, as far as they are known without a gap within the human's
        # own chunk, are what it wanted instead of each of the human's actions, at the same places.
        unknown = ~proposed[chunk_steps(paired, self.chunk_lengths[paired], self._horizon)]
        known = np.where(unknown.any(axis=1), unknown.argmax(axis=1), self._horizon)
        self._proposals = policy.norm_stats.normalize(proposals)
        self._known_proposals = np.zeros(len(self), dtype=np.int64)
        self._known_proposals[paired] = np.minimum(known, self.chunk_lengths[paired])
        self.rejected_tokens[paired] = self._encode(self._proposals, paired, self._known_proposals[paired])
        # Compared with what the greedy tokens decode to, hence in normalised units.
        self.normalized_actions = np.clip(normalized, -1, 1)
        wanted = np.clip(self._proposals[self.has_pair], -1, 1)
        self.pair_distance = np.full(len(self), np.inf)
        """Distances [N] of the policy's proposal from the human's action, mean over dimensions, in normalised units (0
        to 2); infinite where no pair was recorded. Of a chunk, that of its first action."""
        self.pair_distance[self.has_pair] = np.abs(self.normalized_actions[self.has_pair] - wanted).mean(axis=1)

    def __len__(self) -> int:
        return len(self.step)

    @property
    def chunk_values(self) -> int:
        """Numbers in a chunk of actions, H * A."""
        return self._horizon * int(self.normalized_actions.shape[1])

    def gather(self, indices: NDArray[Any], unconditioned: NDArray[np.bool_] | None = None) -> Samples:
        """The samples with these numbers [B]; those ``unconditioned`` [B] without what the critic says of them."""
        conditions = self.credit.conditions[indices]
        if unconditioned is not None:
            conditions = np.where(unconditioned, "", conditions)
        pairs = [(self._episodes[self.episode[i]], self.step[i]) for i in indices]
        return Samples(
            {key: np.stack([episode.observation[key][step] for episode, step in pairs]) for key in self._keys},
            tuple(episode.info.instruction + text for (episode, _), text in zip(pairs, conditions, strict=True)),
            self.tokens[indices],
        )

    def noisy_tokens(self, indices: NDArray[Any], noise: NDArray[np.float64]) -> NDArray[np.int64]:
        """Tokens [B, T] of the samples' actions with noise [B, H * A] added, in normalised units.

        Raises:
            RoboprefError: see ``_noisy``.
        """
        return self._noisy(self.normalized_actions, indices, self.chunk_lengths[indices], noise)

    def noisy_rejected_tokens(self, indices: NDArray[Any], noise: NDArray[np.float64]) -> NDArray[np.int64]:
        """Tokens [B, T] of the recorded proposals with noise [B, H * A] added; all must be of ``has_pair``.

        With the noise of the samples' own actions, dimensions in which both agree still agree: there is nothing to
        prefer in them.

        Raises:
            RoboprefError: see ``_noisy``.
        """
        return self._noisy(np.clip(self._proposals, -1, 1), indices, self._known_proposals[indices], noise)

    def _noisy(
        self,
        normalized: NDArray[np.float64],
        indices: NDArray[Any],
        lengths: NDArray[np.int64],
        noise: NDArray[np.float64],
    ) -> NDArray[np.int64]:
        """Tokens [B, T] of the chunks of normalised actions [N, A] that begin at ``indices`` [B], noise added.

        Raises:
            RoboprefError: chunks of a variable number of tokens, which noise would lengthen.
        """
        if self._tokenizer.variable_length:
            raise RoboprefError(
                "action smoothing is for one token per action and dimension: chunks that are compressed to a variable "
                "number of tokens would grow by it. Leave it out."
            )
        recorded = normalized[chunk_steps(indices, lengths, self._horizon)]
        valid = np.arange(self._horizon) < lengths[:, None]
        return self._unambiguous(self._tokenizer.encode_chunks(recorded + noise.reshape(recorded.shape), valid))

    def action_error(self, greedy_tokens: NDArray[Any], indices: NDArray[Any]) -> NDArray[np.float64]:
        """L1 distance [B] of the actions that tokens [B, T] decode to from those recorded at the samples ``indices``.

        Mean over dimensions, and over the steps that the recorded chunk has, in normalised units.
        """
        lengths = self.chunk_lengths[indices]
        recorded = self.normalized_actions[chunk_steps(indices, lengths, self._horizon)]
        error = np.abs(self._tokenizer.decode(greedy_tokens).reshape(recorded.shape) - recorded).mean(axis=2)
        valid = np.arange(self._horizon) < lengths[:, None]
        return np.where(valid, error, 0.0).sum(axis=1) / lengths

    def _encode(
        self, normalized: NDArray[np.float64], indices: NDArray[Any], lengths: NDArray[Any]
    ) -> NDArray[np.int64]:
        """Tokens [B, T] of the chunks of normalised actions [N, A] that begin at ``indices`` [B]."""
        valid = np.arange(self._horizon) < lengths[:, None]
        return self._unambiguous(
            self._tokenizer.encode_chunks(normalized[chunk_steps(indices, lengths, self._horizon)], valid)
        )

    def _unambiguous(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens [B, T] of which no two decode to the same value.

        In the OpenVLA recipe the last two bins share a centre, so an executed action does not tell which of them a
        policy wrote: a gripper's 1.0 is written as the last, executed as that centre, and encoded as the last but one.
        Held against the policy, that would be a token which it never wrote. Where nothing is normalised it becomes the
        last, as which 1.0 is learned; elsewhere the last but one, the bin that the range ends in.
        """
        centers = getattr(self._tokenizer, "centers", None)
        if self._tokenizer.variable_length or centers is None or centers[-1] != centers[-2]:
            return np.asarray(tokens)
        last = self._tokenizer.bins
        kept = np.where(np.tile(self._normalized_dimensions, self._horizon), last - 1, last)
        return np.where(np.asarray(tokens) >= last - 1, kept, tokens)


def check_same_kind(episodes: Sequence[Episode], keys: Sequence[str]) -> None:
    """See that the episodes can be stacked: the same continuous actions and the same observations under ``keys``.

    Raises:
        RoboprefError: there are none, or which episode differs from the first and how.
    """
    if not episodes:
        raise RoboprefError("there are no episodes to learn from.")
    for episode in episodes:
        _check_fits(episode, episodes[0].action.shape[-1], keys)
        for key in keys:
            shapes = [e.observation[key].shape[1:] for e in (episodes[0], episode)]
            if shapes[0] != shapes[1]:
                raise RoboprefError(
                    f"episode {episode.info.episode_id} (task {episode.info.task}) has {key!r} of shape {shapes[1]}, "
                    f"the first episode of shape {shapes[0]}: learn from data of one kind."
                )


def _check_fits(episode: Episode, action_size: int, keys: Sequence[str]) -> None:
    where = f"episode {episode.info.episode_id} (task {episode.info.task})"
    if np.issubdtype(episode.action.dtype, np.integer):
        raise RoboprefError(f"{where} has discrete actions; action-token policies learn continuous ones.")
    if episode.action.shape[1:] != (action_size,):
        raise RoboprefError(
            f"{where} has actions of shape {episode.action.shape[1:]}, the policy's have {action_size} dimensions: "
            f"use data of the same robot, or train a policy on these data."
        )
    missing = [key for key in keys if key not in episode.observation]
    if missing:
        raise RoboprefError(
            f"{where} lacks the observation {missing[0]!r} that the policy reads; it has {sorted(episode.observation)}."
        )
