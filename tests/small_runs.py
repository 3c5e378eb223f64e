"""Small training runs for the tests of the trainer: in this process, or as the processes of a launch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import FullyShardedDataParallelPlugin, PartialState
from accelerate.utils import DistributedType
from small_policies import AdapterPolicy, PairScoringPolicy
from synthetic import demonstrations, interactions
from test_policies import tiny_policy
from torch.distributed.tensor import DTensor

from robopref.labeling import LabelingRule
from robopref.mixture import Mixture
from robopref.objectives import get_objective
from robopref.sampling import BalancedSampler
from robopref.training.config import TrainerConfig
from robopref.training.dataset import StepDataset
from robopref.training.devices import make_accelerator
from robopref.training.reference import open_reference_cache
from robopref.training.trainer import Trainer, make_composer
from robopref.training.window_pairs import WindowPairSampler

SETTINGS: dict[str, dict[str, Any]] = {
    "apo": {"anchor_weight": 0.5},
    "kto": {"anchor_weight": 0.5},
    "dpo": {"anchor_weight": 0.5, "beta": 0.5},
    "paired-takeover": {"beta": 0.5},
    "tpo": {"anchor_weight": 0.5},
}


def tiny_llava(inputs: tuple[str, ...]) -> Any:
    """A LLaVA with random weights, the same in every process, and a fresh LoRA adapter to train."""
    from robopref.policies.normalization import NormStats
    from robopref.policies.vla.description import BaseModel
    from robopref.policies.vla.huggingface import LlavaBackbone
    from robopref.policies.vla.image_settings import ImageSettings
    from robopref.policies.vla.options import LoraOptions
    from robopref.policies.vla.policy import HFVLAPolicy
    from robopref.policies.vla.text import TextTokenizer
    from tests.vla_models import IMAGE, build, text_tokenizer

    assert tuple(inputs) == ("image",)
    backbone = LlavaBackbone(build("llava"), TextTokenizer(text_tokenizer("llava")), ImageSettings(IMAGE))
    stats = NormStats([-1.0] * 4, [1.0] * 4, [True] * 3 + [False])
    policy = HFVLAPolicy(backbone, stats, BaseModel("tiny", "0"))
    torch.manual_seed(1)
    policy.add_adapter(LoraOptions(lora_rank=2))
    for name, parameter in policy.named_parameters():
        if ".lora_B." in name:  # as if it had been trained before: a reference that is not the base
            torch.nn.init.normal_(parameter, 0, 0.02)
    return policy


POLICIES: dict[str, Any] = {"adapter": AdapterPolicy, "scoring": PairScoringPolicy, "llava": tiny_llava}
LAYERS = {"llava": ["LlamaDecoderLayer", "SiglipEncoderLayer"]}
"""Classes of modules that become shards of their own, else every linear layer does."""
SHARD = "SMALL_RUNS_SHARD"


class Run:
    """A trainer on synthetic data and what it logged, by step."""

    def __init__(
        self,
        objective: str = "apo",
        *,
        steps: int = 4,
        batch_size: int = 16,
        policy: Any = None,
        inputs: tuple[str, ...] = ("state",),
        state: Path | None = None,
        cache: Path | None = None,
        seed: int = 0,
        key: dict[str, str] | None = None,
        objective_settings: dict[str, Any] | None = None,
        stop_after: int | None = None,
        window: int = 10,
        image_shift: int = 2,
        **config: Any,
    ) -> None:
        torch.manual_seed(1)
        self.policy = POLICIES[policy](inputs=inputs) if isinstance(policy, str) else policy or tiny_policy(inputs)
        image = "image" in inputs
        episodes = demonstrations(3, image=image) + interactions(3, image=image)
        labels = [LabelingRule(window=window).apply(episode) for episode in episodes]
        dataset = StepDataset(episodes, labels, self.policy, self.policy.observation_keys)
        made = get_objective(objective, **SETTINGS.get(objective, {}), **(objective_settings or {}))
        accelerator = make_accelerator("fp32", "cpu")
        if os.environ.get(SHARD):
            _shard_on_cpu(accelerator, LAYERS.get(str(policy), ["Linear"]))
        place = {"seed": seed, "rank": accelerator.process_index, "world_size": accelerator.num_processes}
        mixture = made.mixture(dataset.labels) if made.mixture else Mixture()
        sampler = (
            WindowPairSampler(dataset, batch_size, made.window, **place)
            if made.window
            else BalancedSampler(dataset.labels, batch_size, shares=mixture.shares, buckets=mixture.buckets, **place)
        )
        settings = TrainerConfig(
            steps=steps, batch_size=batch_size, learning_rate=1e-3, log_every=1, precision="fp32", seed=seed,
            image_shift=image_shift, **config,
        )  # fmt: skip
        self.cache = None
        if cache is not None:
            composer = make_composer(dataset, sampler, made, settings)
            self.cache = open_reference_cache(
                cache, composer, settings, accelerator, **({"data": "these", "policy": "this"} | (key or {}))
            )
        self.curve: dict[int, dict[str, float]] = {}
        self.trainer = Trainer(
            self.policy,
            dataset,
            sampler,
            made,
            settings,
            accelerator=accelerator,
            state_path=state,
            log=lambda metrics, step: self.curve.__setitem__(step, dict(metrics)),
            should_stop=lambda: stop_after is not None and self.trainer.step >= stop_after,
            reference_cache=self.cache,
        )

    def weights(self) -> dict[str, torch.Tensor]:
        """Copies of the policy's parameters."""
        return {name: tensor.detach().clone() for name, tensor in self.policy.named_parameters()}


def launch(processes: int, jobs: dict[str, dict[str, Any]], directory: Path, *, sharded: bool = False) -> None:
    """Have that many processes do the jobs, one after the other: see ``do``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = Path(__file__).parent
    common = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(here.parent), str(here), os.environ.get("PYTHONPATH", "")]),
    }
    if sharded:
        common |= {SHARD: "1"}
    command = [sys.executable, __file__, json.dumps(jobs), str(directory)]
    started = [
        subprocess.Popen(
            command,
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(processes)
    ]
    try:
        said = [process.communicate(timeout=300)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert all(process.returncode == 0 for process in started), "\n".join(said)


def do(job: dict[str, Any], directory: Path) -> Run:
    """A ``Run`` of the settings, going on from ``directory/state.pt``; leaves there its state, policy and curve."""
    job = dict(job)
    precompute = job.pop("precompute", False)
    if "cache" in job:
        job["cache"] = Path(job["cache"])
    run = Run(**job, state=directory / "state.pt")
    run.trainer.resume()
    if precompute:
        assert run.trainer.precompute_reference()
    if run.trainer.run():
        run.trainer.save_policy(directory / "policy")
    if run.trainer.accelerator.is_main_process:
        (directory / "curve.json").write_text(json.dumps(run.curve))
    return run


def _shard_on_cpu(accelerator: Any, layers: list[str]) -> None:
    """What ``accelerate launch --use_fsdp --fsdp_version 2`` sets up on GPUs; it does not offer it for gloo."""
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="TRANSFORMER_BASED_WRAP",
        transformer_cls_names_to_wrap=layers,  # each a shard of its own, and one of all that is left
        cpu_ram_efficient_loading=False,
    )
    accelerator.state.fsdp_plugin = plugin
    accelerator.state.distributed_type = DistributedType.FSDP
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP  # where accelerate reads it again
    assert accelerator.is_fsdp2


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, settings in json.loads(sys.argv[1]).items():
        trainer = do(settings, Path(sys.argv[2]) / name).trainer
        assert trainer.accelerator.num_processes == int(os.environ["WORLD_SIZE"])
        parts = [isinstance(parameter, DTensor) for parameter in trainer.policy.parameters()]
        assert all(parts) if os.environ.get(SHARD) else not any(parts)
    torch.distributed.destroy_process_group()
