"""Small policies for the tests of the attacks."""

import torch
from torch import nn


class Linear(nn.Module):
    """Q = pixels W + b, in float64."""

    def __init__(self, weights, bias):
        super().__init__()
        self.weights = nn.Parameter(torch.as_tensor(weights, dtype=torch.float64))  # [A, d]
        self.bias = nn.Parameter(torch.as_tensor(bias, dtype=torch.float64))

    def q_values(self, pixels):
        return pixels.flatten(1) @ self.weights.T + self.bias


class ConvNet(nn.Module):
    """Two convolutions and two linear layers on [channels, size, size], random unless trained."""

    def __init__(self, seed=0, n_actions=4, channels=2, size=8, width=8):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layers = nn.Sequential(
                nn.Conv2d(channels, width, 3), nn.ReLU(), nn.Conv2d(width, width, 3, stride=2), nn.ReLU(),
                nn.Flatten(), nn.LazyLinear(32), nn.ReLU(), nn.Linear(32, n_actions),
            )  # fmt: skip
            self.layers(torch.zeros(1, channels, size, size))

    def q_values(self, pixels):
        return self.layers(pixels)


class Transformed:
    """Another policy's Q as scale * Q + shift; no module, as adapters need not be."""

    def __init__(self, policy, scale=1.0, shift=0.0):
        self.policy, self.scale, self.shift = policy, scale, shift

    def q_values(self, pixels):
        return self.scale * self.policy.q_values(pixels) + self.shift


def blobs(n, seed=0, size=16):
    """Noisy pictures [n, 1, size, size] of a bright spot, and the quadrant [n] that it is in."""
    rng = torch.Generator().manual_seed(seed)
    quadrant = torch.randint(4, (n,), generator=rng)
    centre = torch.stack([quadrant // 2, quadrant % 2], 1) * size / 2 + size / 4 + torch.randn(n, 2, generator=rng)
    grid = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij"), -1).float()
    distance = ((grid[None] - centre[:, None, None]) ** 2).sum(-1)
    noise = 0.1 * torch.rand(n, size, size, generator=rng)
    return (0.1 + noise + 0.6 * torch.exp(-distance / 8)).clamp(0, 1)[:, None], quadrant


def trained_net():
    """A network whose Q is about 1 for the quadrant of the spot and 0 for the others."""
    net = ConvNet(channels=1, size=16)
    pictures, quadrants = blobs(512, seed=1)
    targets = nn.functional.one_hot(quadrants, 4).float()
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    order = torch.Generator().manual_seed(0)
    for _ in range(150):
        rows = torch.randint(len(pictures), (64,), generator=order)
        loss = ((net.q_values(pictures[rows]) - targets[rows]) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (net.q_values(pictures).argmax(1) == quadrants).float().mean() > 0.95
    return net.eval()
