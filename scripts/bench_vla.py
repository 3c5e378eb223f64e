"""One APO step on a vision-language-action model: robopref's trainer against the public trainer's step, re-stated.

Both refine the same LLaVA (random weights, built here) with the same LoRA on the same batch:

- **theirs**: a second full model as the reference; the library's forward on both, with float32 logits over the whole
  vocabulary at every position, and a log-softmax over them; the mismatched action read off the labelled action's pass;
- **ours**: ``Trainer`` with a filled reference cache: one pass with both actions packed behind the prefix, logits of
  the action bins where an action token is predicted.

Time: both in one process, step by step in turn, without activation checkpointing. Memory: each in a process of its
own, with activation checkpointing, the peak above what the process had before the model. Floating-point operations are
counted.

    python scripts/bench_vla.py [--size small|base|1b|7b] [--batch 8] [--rounds 7] [--device cpu|cuda] [--json FILE]
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from torch.utils.flop_counter import FlopCounterMode

from robopref.labeling import LabelingRule
from robopref.objectives import get_objective
from robopref.objectives.apo import apo_loss
from robopref.policies.normalization import NormStats
from robopref.policies.vla.description import BaseModel
from robopref.policies.vla.huggingface import LlavaBackbone
from robopref.policies.vla.image_settings import ImageSettings
from robopref.policies.vla.options import LoraOptions
from robopref.policies.vla.policy import HFVLAPolicy
from robopref.policies.vla.prompt import prompt_for
from robopref.policies.vla.text import TextTokenizer
from robopref.sampling import BalancedSampler
from robopref.training.dataset import StepDataset
from robopref.training.devices import make_accelerator
from robopref.training.reference import open_reference_cache
from robopref.training.trainer import Trainer, TrainerConfig, make_composer
from robopref.trajectory import Actor, Episode, EpisodeInfo, Label, Outcome

SIZES = {  # language: width, layers, heads, key-value heads, feed-forward; vision: width, layers, heads, feed-forward
    "small": ((512, 8, 8, 8, 1408), (256, 4, 4, 1024)),
    "base": ((1024, 16, 16, 16, 2816), (512, 8, 8, 2048)),
    "1b": ((2048, 16, 32, 8, 8192), (1152, 27, 16, 4304)),
    "7b": ((4096, 32, 32, 32, 11008), (1152, 27, 16, 4304)),
}
IMAGE, PATCH, VOCABULARY, ACTION_SIZE = 224, 14, 32000, 7
INSTRUCTION = "put the red block into the left drawer and close it"


def text_tokenizer() -> Tokenizer:
    """As many entries as Llama's, one for each word of the prompt."""
    words = ["<unk>", "<s>", "</s>", *dict.fromkeys(pre_tokenize(prompt_for(INSTRUCTION)))]
    words += [f"filler{i}" for i in range(VOCABULARY - len(words))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken("<image>"), AddedToken("<pad>")])
    return tokenizer


def pre_tokenize(text: str) -> list[str]:
    return [word for word, _ in pre_tokenizers.Whitespace().pre_tokenize_str(text)]


def build_policy(size: str, device: str, dtype: torch.dtype) -> HFVLAPolicy:
    (width, layers, heads, kv, feed), (v_width, v_layers, v_heads, v_feed) = SIZES[size]
    config = transformers.LlavaConfig(
        vision_config=transformers.SiglipVisionConfig(
            hidden_size=v_width, num_hidden_layers=v_layers, num_attention_heads=v_heads, intermediate_size=v_feed,
            image_size=IMAGE, patch_size=PATCH,
        ),
        text_config=transformers.LlamaConfig(
            hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv,
            intermediate_size=feed, vocab_size=VOCABULARY + 64, bos_token_id=1, eos_token_id=2,
        ),
        image_token_index=VOCABULARY,
        vision_feature_select_strategy="full",
        vision_feature_layer=-2,
    )  # fmt: skip
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = transformers.LlavaForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(torch.float32)
    backbone = LlavaBackbone(model, TextTokenizer(text_tokenizer()), ImageSettings(IMAGE))
    stats = NormStats(-np.ones(ACTION_SIZE), np.ones(ACTION_SIZE), np.ones(ACTION_SIZE, bool))
    policy = HFVLAPolicy(backbone, stats, BaseModel("random", "0"))
    policy.add_adapter(LoraOptions())
    return policy.to(device)


def make_dataset(policy: HFVLAPolicy) -> StepDataset:
    """Two interactions and a demonstration of random pictures and actions."""
    rng = np.random.default_rng(0)
    pattern = [Actor.POLICY] * 14 + [Actor.HUMAN] * 10
    episodes = [_episode([Actor.EXPERT] * 24, rng), *(_episode(pattern, rng) for _ in range(2))]
    return StepDataset(episodes, [LabelingRule(window=10).apply(e) for e in episodes], policy, ("image",))


def _episode(actors: list[Actor], rng: np.random.Generator) -> Episode:
    length = len(actors)
    actor = np.asarray(actors, dtype=np.int8)
    action = rng.uniform(-1, 1, (length, ACTION_SIZE)).astype(np.float32)
    nothing = np.full_like(action, np.nan)
    human = (actor == Actor.HUMAN)[:, None]
    observation = {"image": rng.integers(0, 256, (length, IMAGE, IMAGE, 3), dtype=np.uint8)}
    return Episode(
        info=EpisodeInfo(task="bench", instruction=INSTRUCTION, seed=0, outcome=Outcome.SUCCESS),
        observation=observation,
        action=action,
        policy_action=np.where((actor == Actor.EXPERT)[:, None], nothing, action),
        human_action=np.where(human, action, nothing),
        actor=actor,
        segment_id=np.where(human[:, 0], 0, -1).astype(np.int32),
        reward=np.zeros(length),
        terminated=np.arange(length) == length - 1,
        truncated=np.zeros(length, dtype=bool),
        success=np.arange(length) == length - 1,
        t_monotonic_ns=np.arange(length) * 50_000_000,
        final_observation={key: value[-1] for key, value in observation.items()},
    )


def our_step(policy: HFVLAPolicy, batch: int, directory: Path, device: str, checkpointing: bool) -> Callable[[], Any]:
    """A step of ``Trainer``, the reference's log-probabilities all on disk."""
    dataset, objective = make_dataset(policy), get_objective("apo", anchor_weight=0.0)
    precision = "bf16" if device == "cuda" else "fp32"
    config = TrainerConfig(
        steps=10_000, batch_size=batch, learning_rate=5e-5, image_shift=4, augmentation_variants=1,
        precision=precision, activation_checkpointing=checkpointing,
    )  # fmt: skip
    accelerator = make_accelerator(precision, "cpu" if device == "cpu" else "auto")
    sampler = BalancedSampler(dataset.labels, batch)
    cache = open_reference_cache(
        directory, make_composer(dataset, sampler, objective, config), config, accelerator, data="bench", policy="0"
    )
    trainer = Trainer(policy, dataset, sampler, objective, config, accelerator=accelerator, reference_cache=cache)
    trainer.precompute_reference()
    policy.train()

    def step() -> None:
        trainer._train_step()
        trainer.step += 1

    return step


def their_step(policy: HFVLAPolicy, batch: int, device: str, checkpointing: bool) -> Callable[[], Any]:
    """The public trainer's step: a second model, whole logits in float32, forward passes on both at every step."""
    reference = copy.deepcopy(policy.backbone.model).eval().requires_grad_(False)
    model, backbone = policy.backbone.model, policy.backbone
    if checkpointing:
        policy.enable_activation_checkpointing()
    dataset = make_dataset(policy)
    sampler = BalancedSampler(dataset.labels, batch)
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=5e-5)
    patches = (IMAGE // PATCH) ** 2
    prompt = backbone._prompt_ids(prompt_for(INSTRUCTION), patches)
    model.train()
    number = 0

    def logps(of: Any, ids: torch.Tensor, pixels: torch.Tensor, actions: int) -> tuple[torch.Tensor, torch.Tensor]:
        logits = of(input_ids=ids, pixel_values=pixels).logits[:, :-1].float()
        log_probabilities = logits.log_softmax(-1)
        mask = torch.arange(logits.shape[1], device=ids.device) >= logits.shape[1] - actions
        own = log_probabilities.gather(-1, ids[:, 1:, None])[..., 0]
        mismatched = log_probabilities.gather(-1, ids.roll(-1, 0)[:, 1:, None])[..., 0]
        return (own * mask)[:, -actions:], (mismatched * mask)[:, -actions:]

    def step() -> None:
        nonlocal number
        indices = sampler.batch(number)
        number += 1
        samples = dataset.gather(indices)
        pixels = backbone.images.prepare(samples.observations["image"]).to(device, next(model.parameters()).dtype)
        actions = backbone.usable_vocabulary - torch.as_tensor(samples.tokens)
        stop = torch.full((batch, 1), backbone.stop_id)
        ids = torch.cat([torch.tensor([prompt] * batch), actions, stop], dim=1).to(device)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            policy_logps, policy_kl = logps(model, ids, pixels, ACTION_SIZE + 1)
            with torch.no_grad():
                reference_logps, reference_kl = logps(reference, ids, pixels, ACTION_SIZE + 1)
        desirable = torch.as_tensor(dataset.labels[indices] != Label.UNDESIRABLE, device=device)
        error = torch.ones(batch, device=device)  # its greedy action, one argmax more, is left out in its favour
        loss = apo_loss(
            policy_logps, reference_logps, policy_kl.detach(), reference_kl, desirable, error, variant="reference"
        ).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in policy.parameters() if p.requires_grad], 1.0)
        optimizer.step()

    return step


def make_step(
    which: str, size: str, batch: int, device: str, checkpointing: bool, directory: Path
) -> Callable[[], Any]:
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    policy = build_policy(size, device, dtype)
    if which == "ours":
        return our_step(policy, batch, directory / "cache", device, checkpointing)
    return their_step(policy, batch, device, checkpointing)


def peak_memory(which: str, arguments: argparse.Namespace) -> float:
    """Peak MB above what the process held before the model, in a process of its own, over three steps."""
    command = [
        sys.executable, __file__, "--memory-of", which, "--size", arguments.size, "--batch", str(arguments.batch),
        "--device", arguments.device,
    ]  # fmt: skip
    # A fixed threshold gives freed blocks back at once, so that the peak is what was in use.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    return float(output.splitlines()[-1])


def measure_memory(arguments: argparse.Namespace) -> None:
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak, which a child begins with its parent's
    before = status("VmRSS")
    with tempfile.TemporaryDirectory() as directory:
        step = make_step(arguments.memory_of, arguments.size, arguments.batch, arguments.device, True, Path(directory))
        for _ in range(3):
            step()
    if arguments.device == "cuda":
        print(torch.cuda.max_memory_allocated() / 2**20)
    else:
        print(status("VmHWM") - before)


def status(field: str) -> float:
    """A figure of this process in MB, as Linux counts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def seconds(step: Callable[[], Any], device: str) -> float:
    started = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--memory-of", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        measure_memory(arguments)
        return
    with tempfile.TemporaryDirectory() as directory:
        steps = {
            which: make_step(which, arguments.size, arguments.batch, arguments.device, False, Path(directory))
            for which in ("ours", "theirs")
        }
        operations = {}
        for which, step in steps.items():
            step()
            with FlopCounterMode(display=False) as counter:
                step()
            operations[which] = counter.get_total_flops()
        times: dict[str, list[float]] = {which: [] for which in steps}
        for _ in range(arguments.rounds):
            for which, step in steps.items():
                times[which].append(seconds(step, arguments.device))
        del steps
    median = {which: statistics.median(values) for which, values in times.items()}
    ratios = sorted(a / b for a, b in zip(times["ours"], times["theirs"], strict=True))
    memory = {which: peak_memory(which, arguments) for which in ("ours", "theirs")}
    result = {
        "size": arguments.size,
        "batch": arguments.batch,
        "device": torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu",
        "seconds": median,
        "samples_per_second": {which: arguments.batch / value for which, value in median.items()},
        "time_ratio": median["ours"] / median["theirs"],
        "time_ratio_range": [ratios[0], ratios[-1]],
        "teraflops_per_step": {which: value / 1e12 for which, value in operations.items()},
        "flops_ratio": operations["ours"] / operations["theirs"],
        "peak_megabytes": memory,
        "memory_ratio": memory["ours"] / memory["theirs"],
    }
    print(f"step: ours {median['ours']:.2f} s, theirs {median['theirs']:.2f} s, ratio {result['time_ratio']:.2f} "
          f"({ratios[0]:.2f} to {ratios[-1]:.2f}; limit 0.70)")  # fmt: skip
    print(f"operations: ours {operations['ours'] / 1e12:.3f} T, theirs {operations['theirs'] / 1e12:.3f} T, "
          f"ratio {result['flops_ratio']:.2f}")  # fmt: skip
    print(f"peak memory: ours {memory['ours']:.0f} MB, theirs {memory['theirs']:.0f} MB, "
          f"ratio {result['memory_ratio']:.2f} (limit 0.55)")  # fmt: skip
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
