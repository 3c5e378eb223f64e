"""One run on one process and on two, replicated (DDP) and sharded (FSDP2), over gloo on the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_policies import AdapterPolicy
from small_runs import Run, do, launch, tiny_llava

from robopref.errors import RoboprefError
from robopref.policies.compact import CompactPolicy
from robopref.sampling import BalancedSampler
from robopref.training.devices import make_accelerator
from robopref.training.trainer import Trainer

STEPS = 4
# Odd batches, so that one process has a sample (or a pair of windows) more than the other.
JOBS: dict[str, dict[str, Any]] = {
    name: {"objective": name, "batch_size": 48 if name == "tpo" else 15, "steps": STEPS}
    for name in ("apo", "kto", "dpo", "bc", "iwr", "sirius", "tpo", "paired-takeover")
} | {
    "apo reference": {"objective_settings": {"variant": "reference"}, "batch_size": 15, "steps": STEPS},
    "pixels": {"inputs": ["image", "proprio"], "batch_size": 9, "steps": STEPS},
    "pieces": {"micro_batch_size": 3, "batch_size": 15, "steps": STEPS},
    "pieces of pairs": {"objective": "dpo", "micro_batch_size": 3, "batch_size": 15, "steps": STEPS},
    "adapters": {"policy": "adapter", "batch_size": 15, "steps": STEPS},
    "sampling adapters": {"objective": "paired-takeover", "policy": "adapter", "batch_size": 15, "steps": STEPS},
    "LLaVA": {"policy": "llava", "inputs": ["image"], "batch_size": 5, "steps": STEPS},
    "LLaVA in pieces": {"policy": "llava", "inputs": ["image"], "batch_size": 5, "micro_batch_size": 2, "steps": STEPS},
    "variants": {"augmentation_variants": 2, "inputs": ["image", "proprio"], "batch_size": 9, "steps": STEPS},
}
CACHED = {"filled on the way": "variants", "filled before": "variants"}
RESUMED = {"resumed": "apo", "resumed pieces": "pieces", "resumed LLaVA": "LLaVA"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("alone")
    for name, job in JOBS.items():
        do(job, directory / name)
    return directory


@pytest.fixture(scope="module", params=["replicated", "sharded"])
def together(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp(request.param)
    jobs = dict(JOBS)
    for name, like in RESUMED.items():
        assert not Run(**JOBS[like], stop_after=2, state=directory / name / "state.pt").trainer.run()
        jobs[name] = JOBS[like]
    for name, like in CACHED.items():
        jobs[name] = JOBS[like] | {"cache": str(directory / f"{name} cache"), "precompute": name == "filled before"}
    launch(2, jobs, directory, sharded=request.param == "sharded")
    return directory


@pytest.mark.parametrize("name", [*JOBS, *CACHED, *RESUMED])
def test_two_processes_are_one(alone: Path, together: Path, name: str) -> None:
    like = {**CACHED, **RESUMED}.get(name, name)
    expected, found = (
        torch.load(directory / job / "state.pt", weights_only=True)
        for directory, job in ((alone, like), (together, name))
    )
    assert found["step"] == STEPS
    for part in ("policy", "optimizer"):
        # A bias before a normalisation has no gradient but rounding, which Adam scales up to a whole step.
        mattering = [tensor for tensor in expected[part] if not tensor.endswith(("stages.0.0.bias", "stages.1.0.bias"))]
        for tensor in mattering:
            torch.testing.assert_close(found[part][tensor], expected[part][tensor], rtol=0, atol=1e-5)
    curves = [json.loads((d / job / "curve.json").read_text()) for d, job in ((alone, like), (together, name))]
    for step, metrics in curves[1].items():  # every metric is of the global batch
        assert metrics == pytest.approx(curves[0][step], rel=1e-5, abs=1e-5)
    assert len(curves[1]) == (STEPS - 2 if name in RESUMED else STEPS)


def test_the_saved_policy_is_whole(together: Path) -> None:
    state = torch.load(together / "apo" / "state.pt", weights_only=True)["policy"]
    saved = CompactPolicy.load(together / "apo" / "policy").state_dict()
    torch.testing.assert_close(saved, state, rtol=0, atol=0)
    adapters = torch.load(together / "adapters" / "policy" / "weights.pt", weights_only=True)
    assert adapters.keys() == AdapterPolicy().state_dict().keys()


@pytest.mark.parametrize("name", ["apo", "LLaVA"])
def test_one_process_goes_on_where_two_stopped(alone: Path, together: Path, tmp_path: Path, name: str) -> None:
    # Their last state, with a step less to have been done, is a state like any other.
    state = torch.load(together / name / "state.pt", weights_only=True)
    torch.save(state | {"step": STEPS - 1}, tmp_path / "state.pt")
    again = torch.load(alone / name / "state.pt", weights_only=True)
    (tmp_path / "alone").mkdir()
    torch.save(again | {"step": STEPS - 1}, tmp_path / "alone" / "state.pt")
    found, expected = (do(JOBS[name], directory).weights() for directory in (tmp_path, tmp_path / "alone"))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_sampler_for_another_process_is_refused() -> None:
    run = Run()
    sampler = BalancedSampler(run.trainer.dataset.labels, 16, rank=1, world_size=2)
    with pytest.raises(RoboprefError, match="process 1 of 2, this is process 0 of 1"):
        Trainer(
            run.policy, run.trainer.dataset, sampler, run.trainer.objective, run.trainer.config,
            accelerator=make_accelerator("fp32", "cpu"),
        )  # fmt: skip


def test_the_adapter_that_two_processes_save_is_that_of_one(alone: Path, together: Path) -> None:
    saved, expected = (load_file(d / "LLaVA" / "policy" / "adapter_model.safetensors") for d in (together, alone))
    torch.testing.assert_close(saved, expected, rtol=0, atol=1e-5)
    start = tiny_llava(("image",)).state_dict()
    moved = [name for name, tensor in expected.items() if not torch.equal(tensor, start[_parameter_of(name)])]
    assert len(moved) == len(expected)  # and none of them is the reference's


def _parameter_of(name: str) -> str:
    """A policy's parameter under its name in an adapter's file."""
    layer = name.removeprefix("base_model.model.").removesuffix(".weight")
    return f"backbone.model.{layer}.default.weight"
