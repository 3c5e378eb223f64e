import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# So that ``module:factory`` names in the tests can point at the test modules themselves.
sys.path.insert(0, str(Path(__file__).parent))

# A machine that is busy with something else takes what time it takes: no example fails for that.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# The tests' networks are tiny: more threads than one only wait for each other.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def barely_trained(tmp_path_factory):
    """A policy for the task reach, from the state, too little trained to solve it; its demonstrations lie in demos/."""
    from command_line import run

    root = tmp_path_factory.mktemp("barely_trained")
    run("demos", "--out", root / "demos", "--task", "reach", "--episodes", 2, "--no-image", "--workers", 1)
    run(
        "train", "--demos", root / "demos", "--out", root / "train", "--inputs", "state",
        "--steps", 20, "--batch-size", 32, "--action-smoothing", 0, "--wandb", "disabled",
    )  # fmt: skip
    return root / "train"
