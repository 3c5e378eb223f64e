"""What a Q network can do anywhere in a box around a state: interval bounds of its action margins.

Interval bound propagation (Gowal et al., "Scalable Verified Training for Provably Robust Image Classification", ICCV
2019): a layer y = W x + b maps a box of centre c and radius r to centre W c + b and radius |W| r; ReLU maps the ends.
The last layer is folded into the differences of actions, of which the value head and the mean of the advantages are no
part, so that what cancels there is not counted twice.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from robopref.errors import RoboprefError
from robopref.policies.q_network import QNetwork


def margin_upper_bounds(network: QNetwork, pixels: Tensor, actions: Tensor, epsilon: float | Tensor) -> Tensor:
    """Upper bounds of Q(s', b) - Q(s', a) over all s' with |s' - s|_inf <= epsilon and pixels in [0, 1].

    Args:
        network: any ``QNetwork``; gradients flow into its weights.
        pixels: s [B, C, H, W] in [0, 1].
        actions: a [B].
        epsilon: radius in pixel values of [0, 1], e.g. 1 / 255; a tensor is not checked (that would wait for a GPU).

    Returns:
        [B, n_actions], 0 at a itself. The greedy action a is certified where the largest other entry is below 0.

    Raises:
        RoboprefError: a negative radius, or a layer that has no bound here.
    """
    if not isinstance(epsilon, Tensor) and epsilon < 0:
        raise RoboprefError(f"the radius must not be negative, got {epsilon}.")
    # bfloat16 has steps of 1/256 between 1/2 and 1: a box of that size would be rounded away, or doubled.
    pixels = pixels if pixels.dtype == torch.float64 else pixels.float()
    lower, upper = (pixels - epsilon).clamp_(min=0), (pixels + epsilon).clamp_(max=1)
    centre, radius = (upper + lower).mul_(0.5), upper.sub_(lower).mul_(0.5)
    last = network.advantage[-1]
    for layer in (*network.features, *list(network.advantage)[:-1]):
        centre, radius = _through(layer, centre, radius)
    assert isinstance(last, nn.Linear)
    # The margins are linear in the last hidden layer: rows W_b - W_a.
    weight = last.weight[None] - last.weight[actions][:, None]
    bias = last.bias[None] - last.bias[actions][:, None]
    with torch.autocast(centre.device.type, enabled=False):
        centre, radius = centre.to(weight.dtype), radius.to(weight.dtype)
        return bias + torch.einsum("bah,bh->ba", weight, centre) + torch.einsum("bah,bh->ba", weight.abs(), radius)


def robust_hinge(margins: Tensor, actions: Tensor, confidence: float = 1.0) -> Tensor:
    """max(max_{b != a} margin_b, -confidence) [B], the regulariser of SA-DQN for upper bounds of margins [B, A].

    Zhang et al., "Robust Deep Reinforcement Learning against Adversarial Perturbations on State Observations" (NeurIPS
    2020), equation (14) with the inner maximum bounded.
    """
    rivals = margins.scatter(1, actions[:, None], -torch.inf)
    return rivals.amax(dim=1).clamp(min=-confidence)


def _through(layer: nn.Module, centre: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    if isinstance(layer, nn.Conv2d):
        spread = functional.conv2d(radius, layer.weight.abs(), None, layer.stride, layer.padding, layer.dilation)
        return layer(centre), spread
    if isinstance(layer, nn.Linear):
        return layer(centre), functional.linear(radius, layer.weight.abs())
    if isinstance(layer, nn.ReLU):
        # Under autocast both come in bfloat16, each with its own exponent; their sum would swallow a small radius.
        centre, radius = (part if part.dtype == torch.float64 else part.float() for part in (centre, radius))
        upper, lower = torch.relu(centre + radius), torch.relu(centre - radius)
        return (upper + lower) / 2, (upper - lower) / 2
    if isinstance(layer, nn.Flatten):
        return layer(centre), layer(radius)
    raise RoboprefError(f"there is no interval bound for a layer {type(layer).__name__}.")
