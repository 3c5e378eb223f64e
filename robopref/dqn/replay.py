"""Prioritised replay of vectorised games, on the device that learns.

Each frame is kept once; states of stacked frames and n-step returns are put together when they are sampled.
Priorities as in Schaul et al., "Prioritized Experience Replay" (ICLR 2016): P(i) = p_i^alpha / sum p^alpha, importance
weights (N P(i))^-beta over the largest of the batch. The proportional draw is a cumulative sum and a binary search:
at a million transitions still a fraction of an update, and the same on a GPU, where a sum tree is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robopref.errors import RoboprefError

_PRIORITY_FLOOR = 1e-6  # what was predicted exactly may still be drawn


@dataclass(frozen=True)
class Transitions:
    """A batch of B n-step transitions.

    Attributes:
        states: uint8 [B, C, H, W].
        actions: int64 [B].
        returns: float32 [B], sum_k gamma^k r_{t+k} over the n steps or up to the episode's end.
        next_states: uint8 [B, C, H, W], n steps later or the episode's last.
        discounts: float32 [B], gamma^n (or a lower power at the end) for bootstrapping; 0 where the game was over.
        weights: float32 [B], importance weights in (0, 1].
        indices: int64 [B], for ``update_priorities``.
    """

    states: Tensor
    actions: Tensor
    returns: Tensor
    next_states: Tensor
    discounts: Tensor
    weights: Tensor
    indices: Tensor


class PrioritizedReplay:
    """The last ``capacity`` steps of ``num_envs`` games.

    A row is a step of all games. The environment must reset itself at the NEXT_STEP: the row after an episode's last
    action holds its last frame and no action, so that a truncated episode can be bootstrapped.

    Args:
        capacity: steps kept, over all games.
        num_envs: games.
        frame_shape: of a frame with its channels first, e.g. (1, 84, 84).
        frame_stack: frames in a state.
        n_step: steps of a return.
        gamma: discount in (0, 1].
        alpha: exponent of the priorities; 0 draws uniformly.
        device: where everything is kept.
        seed: of the draws.

    Raises:
        RoboprefError: fewer rows than a transition needs.
    """

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        frame_shape: tuple[int, int, int],
        *,
        frame_stack: int = 4,
        n_step: int = 3,
        gamma: float = 0.99,
        alpha: float = 0.5,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        self.rows, self.num_envs = capacity // num_envs, num_envs
        self.frame_stack, self.n_step, self.gamma, self.alpha = frame_stack, n_step, gamma, alpha
        if self.rows <= frame_stack + n_step:
            raise RoboprefError(
                f"a replay of {capacity} steps of {num_envs} games keeps {self.rows} rows, and a transition needs "
                f"more than {frame_stack + n_step}: raise the capacity."
            )
        self.device = torch.device(device)
        shape = (self.rows, num_envs)
        self._frames = torch.zeros(*shape, *frame_shape, dtype=torch.uint8, device=self.device)
        self._actions = torch.zeros(shape, dtype=torch.int64, device=self.device)
        self._rewards = torch.zeros(shape, device=self.device)
        self._terminated = torch.zeros(shape, dtype=torch.bool, device=self.device)
        self._ended = torch.zeros(shape, dtype=torch.bool, device=self.device)
        self._first = torch.ones(shape, dtype=torch.bool, device=self.device)  # of its episode
        self._acted = torch.zeros(shape, dtype=torch.bool, device=self.device)
        self._priorities = torch.zeros(shape, dtype=torch.float64, device=self.device)  # to the power of alpha
        self._highest = torch.ones((), dtype=torch.float64, device=self.device)
        self._written = 0
        self._generator = torch.Generator(self.device).manual_seed(seed)

    def __len__(self) -> int:
        """Steps kept, those that cannot be drawn included."""
        return min(self._written, self.rows) * self.num_envs

    def add(
        self, frames: Tensor, actions: Tensor, rewards: Tensor, terminated: Tensor, truncated: Tensor, first: Tensor,
        acted: Tensor,
    ) -> None:  # fmt: skip
        """One step of all games.

        Args:
            frames: uint8 [num_envs, channels, H, W], the newest frame of the state in which the action was taken.
            actions: int64 [num_envs].
            rewards: float [num_envs], what the action earned.
            terminated: bool [num_envs], the game was over after it.
            truncated: bool [num_envs], the episode was cut after it.
            first: bool [num_envs], the frame begins an episode.
            acted: bool [num_envs], false where the environment ignored the action because it was resetting.
        """
        row = self._written % self.rows
        for kept, values in (
            (self._frames, frames),
            (self._actions, actions),
            (self._rewards, rewards),
            (self._terminated, terminated),
            (self._ended, terminated | truncated),
            (self._first, first),
            (self._acted, acted),
        ):
            kept[row] = values.to(self.device)
        # This row has no future yet; once the oldest rows are written over, those after it lose their oldest frames.
        lost = torch.arange(row, row + self.frame_stack, device=self.device) % self.rows
        self._priorities[lost if self._written >= self.rows else row] = 0
        ready = self._written - self.n_step
        if ready >= 0:
            ready %= self.rows
            self._priorities[ready] = self._acted[ready] * self._highest**self.alpha
        self._written += 1

    def cut(self) -> None:
        """The games end here without being over, because they cannot be gone on with: a truncation.

        The last row of each game keeps its frame as an episode's last, its action is forgotten.
        """
        if self._written == 0:
            return
        row = (self._written - 1) % self.rows
        self._acted[row] = False
        self._priorities[row] = 0
        self._ended[(row - 1) % self.rows] = True

    def sample(self, batch_size: int, beta: float) -> Transitions:
        """A batch drawn by priority.

        Raises:
            RoboprefError: nothing can be drawn yet.
        """
        cumulative = self._priorities.view(-1).cumsum(0)
        total = cumulative[-1]
        if total == 0:
            raise RoboprefError("the replay holds no complete transition yet: collect more before learning.")
        # Stratified, as in Schaul et al.: one draw in each of batch_size equal parts.
        parts = torch.arange(batch_size, dtype=torch.float64, device=self.device)
        drawn = torch.rand(batch_size, dtype=torch.float64, device=self.device, generator=self._generator)
        indices = torch.searchsorted(cumulative, (parts + drawn) / batch_size * total, right=True)
        indices = indices.minimum(torch.searchsorted(cumulative, total))  # rounding must not leave the last one
        count = (self._priorities > 0).sum()
        weights = (count * self._priorities.view(-1)[indices] / total) ** -beta
        return self._transitions(indices, (weights / weights.max()).float())

    def update_priorities(self, indices: Tensor, errors: Tensor) -> None:
        """Set the priorities of drawn transitions [B] to the absolute TD errors [B]."""
        priorities = errors.detach().double().abs().to(self.device) + _PRIORITY_FLOOR
        self._highest = self._highest.maximum(priorities.max())
        self._priorities.view(-1)[indices] = priorities**self.alpha

    def state_dict(self) -> dict[str, Any]:
        """Everything that ``load_state_dict`` needs to go on with the same draws."""
        tensors = {name: getattr(self, f"_{name}") for name in _TENSORS}
        generator = self._generator.get_state()
        return tensors | {"highest": self._highest, "written": self._written, "generator": generator}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what another replay of the same shape kept.

        Raises:
            RoboprefError: another shape.
        """
        for name in _TENSORS:
            own = getattr(self, f"_{name}")
            if state[name].shape != own.shape:
                raise RoboprefError(
                    f"the kept replay has {name} of shape {list(state[name].shape)}, this one {list(own.shape)}: "
                    "go on with the settings it was started with."
                )
            own.copy_(state[name])
        self._highest.fill_(state["highest"])
        self._written = state["written"]
        self._generator.set_state(state["generator"].cpu())

    def _transitions(self, indices: Tensor, weights: Tensor) -> Transitions:
        row, game = indices // self.num_envs, indices % self.num_envs
        returns = torch.zeros(len(indices), device=self.device)
        running = torch.ones(len(indices), device=self.device)  # gamma^k, 0 once the episode is over
        alive = torch.ones(len(indices), device=self.device)  # 0 once the game is over
        steps = torch.zeros_like(row)
        for k in range(self.n_step):
            at = (row + k) % self.rows
            going = running > 0
            returns += running * self._rewards[at, game]
            alive *= torch.where(going & self._terminated[at, game], 0.0, 1.0)
            steps += going
            running = torch.where(self._ended[at, game], 0.0, running * self.gamma)
        return Transitions(
            states=self._stack(row, game),
            actions=self._actions[row, game],
            returns=returns,
            next_states=self._stack((row + steps) % self.rows, game),
            discounts=alive * self.gamma**steps,
            weights=weights,
            indices=indices,
        )

    def _stack(self, row: Tensor, game: Tensor) -> Tensor:
        """States [B, frame_stack * channels, H, W] whose newest frame is in ``row``; black before the episode."""
        ages = torch.arange(self.frame_stack - 1, -1, -1, device=self.device)
        rows = (row[:, None] - ages) % self.rows
        frames = self._frames[rows, game[:, None]]
        # A frame belongs to the state unless an episode began after it.
        begins = self._first[rows, game[:, None]].flip(1).cumsum(1).flip(1)
        begins = torch.cat([begins[:, 1:], torch.zeros_like(begins[:, :1])], dim=1)
        frames[begins > 0] = 0
        return frames.flatten(1, 2)


_TENSORS = ("frames", "actions", "rewards", "terminated", "ended", "first", "acted", "priorities")
