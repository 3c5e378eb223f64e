"""What the attacks cost in units of one batched gradient, how often they succeed and with what distortion.

A policy that comes with robopref, on evenly spread states of an episode of its own. CPU seconds are printed as ratios
to ``state_gradients`` of the same states in the same run, whose batches are of 64; the overhead column divides that by
the gradients that the attack took, so that 1 would mean that it costs its gradients and nothing else. Rounds
alternate, and the median over rounds counts.

    python scripts/bench_attacks.py [--model pong-ddqn-v2] [--states 128] [--rounds 3] [--batches 1 10 64]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from robopref.diagnosis import collect_episodes, state_gradients
from robopref.diagnosis.attacks import ATTACKS, Attack, AttackResult
from robopref.envs.ale import AtariSpec, make_atari_vector
from robopref.policies.q_loading import load_q_policy
from robopref.protocols import QPolicy


def states_of(policy: QPolicy, game: str, frame_stack: int, n_states: int) -> NDArray[np.uint8]:
    """Evenly spread states [n_states, C, H, W] of one episode, at most 1000 steps of it."""
    env = make_atari_vector(AtariSpec(game, frame_stack=1), 1)
    (trace,) = collect_episodes(policy, env, episodes=1, seed=0, frame_stack=frame_stack, max_steps=1000)
    env.close()
    return trace.states(np.linspace(0, len(trace) - 1, n_states).astype(int))


def attacked(attack: Attack, policy: QPolicy, pixels: torch.Tensor, batch: int) -> list[AttackResult]:
    """The results of all batches."""
    return [attack(policy, piece) for piece in pixels.split(batch)]


def seconds(run: Callable[[], Any]) -> float:
    """CPU seconds of all threads, which a busy machine disturbs less than it does the clock."""
    start = time.process_time()
    run()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pong-ddqn-v2")
    parser.add_argument("--game", default="pong")
    parser.add_argument("--states", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 10, 64])
    settings = parser.parse_args()

    policy, spec = load_q_policy(settings.model)
    states = states_of(policy, settings.game, spec.frame_stack, settings.states)
    pixels = torch.from_numpy(states).float() / 255
    print(f"{settings.model}, {len(states)} states of {settings.game}, {torch.get_num_threads()} threads")
    state_gradients(policy, states)

    ratios: dict[tuple[str, int], list[float]] = {(name, batch): [] for name in ATTACKS for batch in settings.batches}
    results: dict[tuple[str, int], list[AttackResult]] = {}
    for _ in range(settings.rounds):
        for (name, batch), measured in ratios.items():
            gradients = seconds(lambda: state_gradients(policy, states, device="cpu"))

            def run(name: str = name, batch: int = batch) -> None:
                results[name, batch] = attacked(ATTACKS[name], policy, pixels, batch)

            measured.append(seconds(run) / gradients)

    print(f"\n{'attack':16}{'batch':>6}  {'flips':34}{'L2':>8}{'Linf':>9}{'gradients':>11}{'time':>8}{'overhead':>10}")
    for (name, batch), measured in ratios.items():
        pieces = results[name, batch]
        success = torch.cat([piece.success for piece in pieces])
        taken = torch.cat([piece.gradient_evaluations for piece in pieces]).double().mean().item()
        l2, linf = (torch.cat([getattr(piece, norm) for piece in pieces])[success].mean() for norm in ("l2", "linf"))
        rate = type(pieces[0].success_rate).of(int(success.sum()), len(success))
        ratio = statistics.median(measured)
        print(f"{name:16}{batch:6}  {rate!s:34}{l2:8.4f}{linf:9.5f}{taken:11.1f}{ratio:7.1f}x{ratio / taken:9.2f}x")
    print("\nL2, Linf: mean over the states that flipped; gradients: mean per state; time: in batched gradients.")


if __name__ == "__main__":
    main()
