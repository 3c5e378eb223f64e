"""Training steps a second of the APO trainer, against a bare loop that pays the same forward and backward passes.

python scripts/bench_trainer.py [--inputs image|state] [--steps 40] [--batch-size 64]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from robopref.labeling import LabelingRule
from robopref.objectives import get_objective
from robopref.policies.compact import build_compact_policy
from robopref.sampling import BalancedSampler
from robopref.training.dataset import StepDataset
from robopref.training.trainer import Trainer, TrainerConfig, make_accelerator
from robopref.trajectory import Actor, Episode, EpisodeInfo


def make_episode(actors: list[int], seed: int) -> Episode:
    rng = np.random.default_rng(seed)
    length = len(actors)
    action = rng.uniform(-1, 1, (length, 4)).astype(np.float32)
    return Episode(
        info=EpisodeInfo(task="bench", instruction="move the block to the goal"),
        observation={
            "image": rng.integers(0, 256, (length, 84, 84, 3), dtype=np.uint8),
            "proprio": rng.normal(size=(length, 4)).astype(np.float32),
            "state": rng.normal(size=(length, 39)).astype(np.float32),
        },
        action=action,
        policy_action=action,
        human_action=action,
        actor=np.array(actors, dtype=np.int8),
        segment_id=np.full(length, -1, dtype=np.int32),
        reward=np.zeros(length),
        terminated=np.zeros(length, dtype=bool),
        truncated=np.zeros(length, dtype=bool),
        success=np.zeros(length, dtype=bool),
        t_monotonic_ns=np.arange(length),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", choices=("image", "state"), default="image")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=64)
    arguments = parser.parse_args()
    keys = {"image": ("image", "proprio"), "state": ("state",)}[arguments.inputs]
    episodes = [make_episode([Actor.EXPERT] * 80, i) for i in range(8)]
    episodes += [make_episode([Actor.POLICY] * 60 + [Actor.HUMAN] * 40, 100 + i) for i in range(8)]
    labels = [LabelingRule().apply(episode) for episode in episodes]
    observations = {key: episodes[0].observation[key] for key in keys}

    def fresh():
        return build_compact_policy(keys, observations, episodes[0].action, {}, seed=0)

    policy = fresh()
    dataset = StepDataset(episodes, labels, policy, keys)
    config = TrainerConfig(steps=arguments.steps + 3, batch_size=arguments.batch_size, precision="fp32")
    sampler = BalancedSampler(dataset.labels, arguments.batch_size)
    times = []
    trainer = Trainer(
        policy,
        dataset,
        sampler,
        get_objective("apo", anchor_weight=1.0),
        config,
        accelerator=make_accelerator("fp32", "cpu"),
        progress=lambda done, total: times.append(time.perf_counter()),
    )
    trainer.run()
    ours = np.median(np.diff(times[2:]))

    # The floor: the same policy and reference passes on one batch in memory, with nothing around them.
    bare = fresh()
    bare.freeze_reference()
    optimizer = torch.optim.AdamW(bare.parameters())
    samples = dataset.gather(sampler.batch(0))
    tokens = torch.as_tensor(samples.tokens)
    partner = torch.as_tensor(dataset.tokens[sampler.partner(sampler.batch(0))])
    floors = []
    for _ in range(arguments.steps + 3):
        start = time.perf_counter()
        batch = bare.encode(samples.observations, samples.instructions)
        loss = -bare.action_logps(batch, tokens).mean()
        with torch.no_grad():
            bare.action_logps(batch, partner)
        with bare.reference():
            reference = bare.encode(samples.observations, samples.instructions)
            bare.action_logps(reference, tokens)
            bare.action_logps(reference, partner)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        floors.append(time.perf_counter() - start)
    floor = np.median(floors[2:])
    print(f"{arguments.inputs} policy, batch {arguments.batch_size}, {torch.get_num_threads()} threads, CPU")
    print(f"  trainer, APO:                    {1 / ours:7.2f} steps/s ({1e3 * ours:.1f} ms a step)")
    print(f"  the same passes and nothing else: {1 / floor:6.2f} steps/s ({1e3 * floor:.1f} ms a step)")
    print(f"  ratio trainer / bare passes:     {ours / floor:7.2f}")


if __name__ == "__main__":
    main()
