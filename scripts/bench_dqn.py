"""Training speed of ``robopref train-dqn`` against Stable-Baselines3's DQN, at the same samples replayed per step.

Stable-Baselines3 learns from 32 transitions every 4 steps of one game (its zoo's Atari settings); robopref from 128
every 16 steps of 8 games: 8 samples a step in both. Both play Pong with random weights and learn from the first
thousand steps on. Rounds alternate, so that a noisy machine disturbs both; ratios are taken round by round.

    python scripts/bench_dqn.py [--steps 3000] [--rounds 3] [--device auto]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from stable_baselines3 import DQN
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecFrameStack

from robopref.dqn import training
from robopref.dqn.learner import Learner, LearnerSettings
from robopref.dqn.replay import PrioritizedReplay
from robopref.dqn.training import DQNSettings, DQNTrainer
from robopref.envs.ale import AtariSpec, n_actions
from robopref.policies.q_network import QArchitecture, QNetwork

WARM_UP = 1_000


class StableBaselines:
    """SB3's DQN, learning from step 0 on so that every measured step is like the later ones."""

    def __init__(self, device: str) -> None:
        env = VecFrameStack(make_atari_env("PongNoFrameskip-v4", n_envs=1, seed=0), 4)
        self.model = DQN(
            "CnnPolicy", env, learning_rate=1e-4, buffer_size=10_000, learning_starts=100, batch_size=32,
            train_freq=4, gradient_steps=1, target_update_interval=1_000, exploration_fraction=1e-6,
            optimize_memory_usage=False, device=device, seed=0,
        )  # fmt: skip
        self.model.learn(WARM_UP)

    def run(self, steps: int) -> float:
        """Steps a second over so many steps."""
        start = time.perf_counter()
        self.model.learn(steps, reset_num_timesteps=False)
        return steps / (time.perf_counter() - start)


class Ours:
    """Our trainer, stopped and gone on with."""

    def __init__(self, device: str, *, robust: bool = False, compile: bool = False, batch: int = 128) -> None:
        spec = AtariSpec("pong")
        torch.manual_seed(0)
        self.limit = 0
        settings = DQNSettings(
            steps=100_000_000, batch_size=batch, train_every=batch // 8, learning_starts=200, replay_capacity=20_000,
            epsilon_steps=1, robust_ramp=1,
            learner=LearnerSettings(kappa=0.005 if robust else 0.0, compile=compile),
        )  # fmt: skip
        network = QNetwork(QArchitecture(n_actions(spec), hidden=512)).to(device)
        self.trainer = DQNTrainer(network, spec, settings, should_stop=lambda: self.trainer.step >= self.limit)
        self.run(WARM_UP)

    def run(self, steps: int) -> float:
        """Steps a second over so many steps."""
        begin, start = self.trainer.step, time.perf_counter()
        self.limit = begin + steps
        self.trainer.run()
        return (self.trainer.step - begin) / (time.perf_counter() - start)


@contextmanager
def timed(*parts: tuple[Any, str, str]) -> Iterator[dict[str, float]]:
    """Seconds spent in methods, by the names given."""
    spent: dict[str, float] = defaultdict(float)
    originals = [(owner, method, getattr(owner, method)) for owner, method, _ in parts]

    def watch(original: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return original(*args, **kwargs)
            finally:
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                spent[name] += time.perf_counter() - start

        return call

    for (owner, method, original), (_, _, name) in zip(originals, parts, strict=True):
        setattr(owner, method, watch(original, name))
    try:
        yield spent
    finally:
        for owner, method, original in originals:
            setattr(owner, method, original)


def profile(name: str, run: Callable[[], float], parts: list[tuple[Any, str, str]]) -> None:
    start = time.perf_counter()
    with timed(*parts) as spent:
        run()
    whole = time.perf_counter() - start
    told = ", ".join(f"{part} {100 * seconds / whole:.0f} %" for part, seconds in spent.items())
    print(f"  where the time goes, {name}: {told}, rest {100 * (1 - sum(spent.values()) / whole):.0f} %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    device = ("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device
    print(f"device {device}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    baseline, ours = StableBaselines(device), Ours(device, compile=args.compile)
    speeds: dict[str, list[float]] = {"SB3": [], "robopref": []}
    for _ in range(args.rounds):
        speeds["SB3"].append(baseline.run(args.steps))
        speeds["robopref"].append(ours.run(args.steps))
    for name, values in speeds.items():
        print(f"{name}: {statistics.median(values):.0f} steps/s (rounds: {', '.join(f'{v:.0f}' for v in values)})")
    ratios = [b / a for a, b in zip(speeds["SB3"], speeds["robopref"], strict=True)]
    print(
        f"ratio {statistics.median(ratios):.2f} (rounds: {', '.join(f'{r:.2f}' for r in ratios)}); bar 1.3 on 2 cores"
    )
    model = baseline.model
    profile(
        "SB3", lambda: baseline.run(args.steps),
        [(model, "train", "update with replay"), (model.env, "step", "games"), (model.policy, "predict", "acting")],
    )  # fmt: skip
    profile(
        "robopref", lambda: ours.run(args.steps),
        [(Learner, "update", "update"), (PrioritizedReplay, "sample", "replay"),
         (PrioritizedReplay, "update_priorities", "priorities"), (PrioritizedReplay, "add", "storing"),
         (training._Games, "step", "games"), (Learner, "greedy", "acting")],
    )  # fmt: skip
    robust = Ours(device, robust=True, compile=args.compile)
    print(f"certified training (interval bounds): {robust.run(args.steps):.0f} steps/s")


if __name__ == "__main__":
    main()
