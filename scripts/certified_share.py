"""How many decisions of a Q network of ours are certified: no state within a radius of the visited one changes them.

The bound is that of ``robopref.dqn.bounds`` (interval bound propagation), in float64, on states of episodes that the
policy plays. A share of zero says that this bound certifies nothing, not that the decisions do change.

    python scripts/certified_share.py freeway-ddqn-v1 freeway-sa-ddqn-v2 [--radius 1] [--episodes 5] [--states 1000]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from robopref.diagnosis import collect_episodes
from robopref.dqn.bounds import margin_upper_bounds
from robopref.envs.ale import AtariSpec, make_atari_vector
from robopref.evaluation.statistics import bootstrap_ratio
from robopref.policies.q_checkpoint import load_q_network
from robopref.policies.shipped import shipped_policies


@torch.no_grad()
def certified(network: torch.nn.Module, states: np.ndarray, radius: float) -> np.ndarray:
    """Whether each state's greedy action holds in its box [N]."""
    found = []
    for start in range(0, len(states), 32):
        pixels = torch.as_tensor(states[start : start + 32]).double() / 255
        actions = network(pixels).argmax(dim=1)
        margins = margin_upper_bounds(network, pixels, actions, radius)
        found.append((margins.scatter(1, actions[:, None], -torch.inf).amax(dim=1) < 0).numpy())
    return np.concatenate(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policies", nargs="+", help="names of shipped policies, or checkpoint directories")
    parser.add_argument("--radius", type=float, default=1.0, help="in grey levels of 0..255")
    parser.add_argument("--episodes", type=int, default=5)
    parser.add_argument("--states", type=int, default=1000, help="in all, evenly over the episodes")
    args = parser.parse_args()
    for name in args.policies:
        network, about = load_q_network(shipped_policies().get(name, Path(name)))
        spec = AtariSpec(**{**about["environment"], "frame_stack": 1})
        env = make_atari_vector(spec, args.episodes)
        traces = collect_episodes(
            network, env, episodes=args.episodes, seed=0, frame_stack=network.architecture.frame_stack
        )
        env.close()
        hits, counts = [], []
        for trace in traces:
            indices = np.linspace(0, len(trace) - 1, max(1, args.states // args.episodes)).astype(int)
            holds = certified(network.double(), trace.states(indices), args.radius / 255)
            hits.append(holds.sum())
            counts.append(len(holds))
        share = bootstrap_ratio(hits, counts)
        print(
            f"{name}: {100 * share.value:.1f} % [{100 * share.low:.1f}, {100 * share.high:.1f}] of {sum(counts)} "
            f"states certified within {args.radius:g} grey level(s), n = {share.n} episodes"
        )


if __name__ == "__main__":
    main()
