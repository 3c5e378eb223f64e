"""Policy files as other programs write them, made small and fast for tests of the loaders."""

import pickle
from pathlib import Path

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import nn


class Images(gymnasium.Env):
    """Random images; enough of an environment for Stable-Baselines3 to build and save a model."""

    def __init__(self, shape=(84, 84, 4), n_actions=4, space=None, action_space=None):
        self.observation_space = space or spaces.Box(0, 255, shape, np.uint8)
        self.action_space = action_space or spaces.Discrete(n_actions)

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


class CleanRLNetwork(nn.Module):
    """The layout of CleanRL's dqn_atari and c51_atari: frames in 0..255, divided by 255 inside."""

    def __init__(self, n_actions=6, channels=4, atoms=None, side=7):
        super().__init__()
        self.n = n_actions
        if atoms is not None:
            self.register_buffer("atoms", atoms)
        self.network = nn.Sequential(
            nn.Conv2d(channels, 32, 8, stride=4),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, stride=2),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, stride=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * side * side, 512),
            nn.ReLU(),
            nn.Linear(512, n_actions * (1 if atoms is None else len(atoms))),
        )

    def forward(self, frames):
        return self.network(frames / 255.0)

    def expected_values(self, frames):
        pmfs = torch.softmax(self(frames).view(len(frames), self.n, len(self.atoms)), dim=2)
        return (pmfs * self.atoms).sum(2)


class CleanRLAgent(nn.Module):
    """The layout of CleanRL's ppo_atari."""

    def __init__(self, n_actions=6):
        super().__init__()
        self.network = CleanRLNetwork(n_actions).network[:-1]
        self.actor = nn.Linear(512, n_actions)
        self.critic = nn.Linear(512, 1)

    def logits(self, frames):
        return self.actor(self.network(frames / 255.0))


class ChannelsLast(nn.Module):
    """A network that takes [B, H, W, C] in 0..255 and returns values beside something else."""

    def __init__(self, n_actions=3):
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 8, stride=8)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(8 * 10 * 10, n_actions)

    def forward(self, frames):
        hidden = torch.tanh(self.conv(frames.permute(0, 3, 1, 2) / 255)).flatten(1)
        return self.head(self.dropout(hidden)), hidden


class Marker:
    """Unpickling it writes a file: what a malicious model would do."""

    def __init__(self, path):
        self.path = Path(path)

    def __reduce__(self):
        return Path.write_text, (self.path, "executed")


def frames(n=3, channels=4, size=84, seed=0):
    """Random states uint8 [n, channels, size, size]."""
    return np.random.default_rng(seed).integers(0, 256, (n, channels, size, size), dtype=np.uint8)


def pixels(states):
    """Those states in [0, 1]."""
    return torch.as_tensor(states).float() / 255


def whole_pickle(path, value):
    """A pickle that PyTorch never had a hand in."""
    Path(path).write_bytes(pickle.dumps(value))


def make_channels_last():
    """A ``module:factory``."""
    torch.manual_seed(0)
    return ChannelsLast()
