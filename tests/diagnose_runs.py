"""``robopref diagnose`` in this process, on a small network that plays a real game."""

import pytest
import torch

from robopref.policies.q_checkpoint import save_q_network
from robopref.policies.q_network import QArchitecture, QNetwork

QUICK = (
    "--episodes", 2, "--random-episodes", 2, "--max-steps", 25, "--resamples", 100, "--num-envs", 2, "--max-states", 30,
    "--attacks", "none", "--wandb", "disabled", "--device", "cpu",
)  # fmt: skip


def save(directory, game="pong", about=True, change=lambda network: None, **architecture):
    torch.manual_seed(0)
    settings = {"n_actions": 6, "hidden": 16} | architecture
    network = QNetwork(QArchitecture(**settings))
    change(network)
    told = {"game": game, "environment": {"game": game, "frame_skip": 4, "sticky_actions": 0.25}} if about else {}
    save_q_network(directory, network, told)
    return directory


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save(tmp_path_factory.mktemp("model") / "pong")
