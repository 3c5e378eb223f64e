"""One update of a double DQN on prioritised n-step transitions, plain or certified.

    y = R_n + gamma^n Q_target(s_n, argmax_a Q(s_n, a)),    L = mean_i w_i Huber(Q(s_i, a_i) - y_i) + kappa R,
    R = mean_i max(max_{b != a*} upper bound of Q(s', b) - Q(s', a*), -c) over |s' - s_i|_inf <= epsilon,

where a* is the greedy action of the clean state. Double DQN: van Hasselt, Guez and Silver (AAAI 2016). R, the
regulariser of SA-DQN: Zhang et al. (NeurIPS 2020); without it (kappa 0) the update is that of the vanilla policy.

With an anchor, a frozen network, a* is the anchor's greedy action instead, and a state counts for as much as the anchor
cares: w(s) = min(1, gap(s) / c) with its action gap. Where the network's own actions are held, a constant policy is the
cheapest way to be certified, and short training takes it; the anchor's actions cannot be held by a constant.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from robopref.dqn.bounds import margin_upper_bounds, robust_hinge
from robopref.dqn.replay import Transitions
from robopref.errors import RoboprefError
from robopref.policies.q_network import QNetwork


@dataclass(frozen=True)
class LearnerSettings:
    """How a batch becomes an update.

    Attributes:
        learning_rate: of Adam.
        adam_epsilon: of Adam; 1.5e-4 as in Rainbow.
        max_grad_norm: L2 norm to which gradients are clipped.
        kappa: weight of the robust regulariser; 0 leaves it out.
        hinge: c, the margin beyond which robustness earns nothing more.
        mixed_precision: forward and backward in bfloat16 but for the last layer; about twice as fast on a CPU that has
            it.
        compile: ``torch.compile`` the loss; on a GPU it is captured as a graph.
    """

    learning_rate: float = 2.5e-4
    adam_epsilon: float = 1.5e-4
    max_grad_norm: float = 10.0
    kappa: float = 0.0
    hinge: float = 1.0
    mixed_precision: bool = True
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("learning_rate", "adam_epsilon", "max_grad_norm", "hinge"):
            if not getattr(self, name) > 0:
                raise RoboprefError(f"{name} must be positive, got {getattr(self, name)}.")
        if self.kappa < 0:
            raise RoboprefError(f"kappa weighs the robust regulariser and must not be negative, got {self.kappa}.")


class Learner:
    """Owns the online and the target network and the optimiser; ``anchor`` is left as it is."""

    def __init__(self, network: QNetwork, settings: LearnerSettings, *, anchor: QNetwork | None = None) -> None:
        self.settings = settings
        self.device = next(network.parameters()).device
        # Convolutions run on channels-last data; the states are turned when they become floats.
        self.network = network.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.target = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.anchor = None if anchor is None else copy.deepcopy(anchor).to(self.device).eval().requires_grad_(False)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), settings.learning_rate, eps=settings.adam_epsilon, fused=True
        )
        mode = "reduce-overhead" if self.device.type == "cuda" else "default"
        self._loss = torch.compile(self._td_loss, mode=mode) if settings.compile else self._td_loss

    def update(self, batch: Transitions, epsilon: float = 0.0) -> tuple[Tensor, dict[str, Tensor]]:
        """One step on ``batch``; ``epsilon`` is the radius of the robust regulariser in pixel values of [0, 1].

        Returns:
            Absolute TD errors [B], and metrics as scalar tensors (left on the device, so that nothing waits).
        """
        robust = self.settings.kappa > 0 and epsilon > 0
        # A tensor, so that a growing radius is not compiled anew at every step.
        radius = torch.tensor(epsilon, device=self.device) if robust else None
        loss, errors, metrics = self._loss(batch, radius)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.max_grad_norm)
        self.optimizer.step()
        return errors, metrics | {"grad_norm": norm}

    def update_target(self) -> None:
        """Copy the online network to the target network."""
        self.target.load_state_dict(self.network.state_dict())

    @torch.no_grad()
    def greedy(self, states: Tensor) -> Tensor:
        """Greedy actions [B] of states uint8 [B, C, H, W]."""
        with self._autocast():
            return self.network(self._pixels(states)).argmax(dim=1)

    def state_dict(self) -> dict[str, Any]:
        """Networks and optimiser."""
        return {name: getattr(self, name).state_dict() for name in ("network", "target", "optimizer")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what ``state_dict`` gave."""
        for name in ("network", "target", "optimizer"):
            getattr(self, name).load_state_dict(state[name])

    def _td_loss(self, batch: Transitions, radius: Tensor | None) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        with self._autocast():
            pixels = self._pixels(batch.states)
            with torch.no_grad():
                following = self._pixels(batch.next_states)
                best = self.network(following).argmax(dim=1, keepdim=True)
                targets = batch.returns + batch.discounts * self.target(following).gather(1, best)[:, 0]
            q_values = self.network(pixels)
            chosen = q_values.gather(1, batch.actions[:, None])[:, 0]
            loss = (batch.weights * functional.smooth_l1_loss(chosen, targets, reduction="none")).mean()
            metrics = {"loss/td": loss.detach(), "q/mean": q_values.detach().amax(dim=1).mean()}
            if radius is not None:
                held, care = self._held_actions(pixels, q_values.detach())
                margins = margin_upper_bounds(self.network, pixels, held, radius)
                hinge = (care * robust_hinge(margins, held, self.settings.hinge)).mean()
                rivals = margins.detach().scatter(1, held[:, None], -torch.inf).amax(dim=1)
                metrics |= {"loss/robust": hinge.detach(), "certified": (rivals < 0).float().mean()}
                loss = loss + self.settings.kappa * hinge
        return loss, (chosen.detach() - targets).abs(), metrics

    @torch.no_grad()
    def _held_actions(self, pixels: Tensor, q_values: Tensor) -> tuple[Tensor, Tensor]:
        """The actions [B] that the regulariser holds, and how much each state counts [B]."""
        if self.anchor is None:
            return q_values.argmax(dim=1), torch.ones_like(q_values[:, 0])
        values, actions = self.anchor(pixels).topk(2, dim=1)
        return actions[:, 0], ((values[:, 0] - values[:, 1]) / self.settings.hinge).clamp(max=1)

    def _pixels(self, states: Tensor) -> Tensor:
        """States as pixels in [0, 1], in the precision and layout in which the first convolution wants them."""
        dtype = torch.bfloat16 if self.settings.mixed_precision else torch.float32
        return states.to(self.device).to(dtype, memory_format=torch.channels_last).div_(255)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.mixed_precision)
