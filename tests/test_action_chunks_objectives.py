"""Objectives on chunks: none sees padding, every one trains, and cloning learns the actions to come."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from chunk_policies import BINNED, FAST, H, chunk_policy, make_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import episode
from test_policies import UNIT

from robopref.mixture import Mixture
from robopref.objectives import get_objective, objective_names
from robopref.objectives.base import ObjectiveInputs
from robopref.policies.fast_tokenizer import FastTokenizer
from robopref.sampling import BalancedSampler
from robopref.training.trainer import Trainer, TrainerConfig, make_accelerator
from robopref.training.window_pairs import WindowPairSampler
from robopref.trajectory import Actor


def settings_of(name):
    return {"window": 2} if name == "tpo" else {}


@settings(max_examples=60)
@given(st.sampled_from(objective_names()), st.integers(0, 10**6), st.integers(0, 5))
def test_objectives_do_not_see_padding(name, seed, pad):
    generator = torch.Generator().manual_seed(seed)
    rows, longest = 8, 5
    lengths = torch.randint(1, longest + 1, (rows,), generator=generator)

    def logps(length_of):
        """Log-probabilities with the stop's at the end, and the same with more places for tokens."""
        present = torch.arange(longest) < length_of[:, None]
        drawn = -3 * torch.rand(rows, longest, generator=generator, dtype=torch.float64) - 1e-3
        stop = -torch.rand(rows, 1, generator=generator, dtype=torch.float64) - 1e-3
        masked = torch.where(present, drawn, 0.0)
        zeros = torch.zeros(rows, pad, dtype=torch.float64)
        return torch.cat([masked, stop], 1), torch.cat([masked, zeros, stop], 1)

    policy, reference = logps(lengths), logps(lengths)
    others = torch.randint(1, longest + 1, (rows,), generator=generator)
    second, second_reference = logps(others), logps(others)
    objective = get_objective(name, **settings_of(name))
    desirable = torch.tensor([True, True, False, False] * 2) if objective.window == 2 else torch.arange(rows) % 3 > 0
    error = torch.rand(rows, generator=generator, dtype=torch.float64)

    def value(which):
        leaf = policy[which].clone().requires_grad_()
        kind = "rejected" if objective.contrast in ("rejected", "sampled") else "kl"
        pair = {f"policy_{kind}_logps": second[which], f"reference_{kind}_logps": second_reference[which]}
        out = objective(ObjectiveInputs(leaf, desirable, error, reference[which], **pair))
        out.loss.backward()
        return out, leaf.grad

    (short, short_grad), (long, long_grad) = value(0), value(1)
    torch.testing.assert_close(long.loss, short.loss)
    torch.testing.assert_close(long.per_sample, short.per_sample)
    torch.testing.assert_close(torch.cat([long_grad[:, :longest], long_grad[:, -1:]], 1), short_grad)


@pytest.mark.parametrize("tokenizer", [BINNED, FAST], ids=["binned", "fast"])
@pytest.mark.parametrize("name", objective_names())
def test_every_objective_trains_on_chunks(name, tokenizer):
    policy = chunk_policy(tokenizer)
    dataset = make_dataset(policy)
    objective = get_objective(name, **settings_of(name))
    mixture = objective.mixture(dataset.labels) if objective.mixture else Mixture()
    sampler = (
        WindowPairSampler(dataset, 16, objective.window)
        if objective.window
        else BalancedSampler(dataset.labels, 16, shares=mixture.shares, buckets=mixture.buckets)
    )
    curve = {}
    trainer = Trainer(
        policy, dataset, sampler, objective, TrainerConfig(steps=3, batch_size=16, log_every=1, precision="fp32"),
        accelerator=make_accelerator("fp32", "cpu"), log=lambda metrics, step: curve.__setitem__(step, metrics),
    )  # fmt: skip
    assert trainer.run()
    assert np.isfinite([m["loss"] for m in curve.values()]).all()
    assert all(m["grad_norm"] > 0 for m in curve.values())


@pytest.mark.parametrize("tokenizer", [BINNED, FAST], ids=["binned", "fast"])
def test_cloning_learns_a_chunk(tokenizer):
    # A direction that the state gives, slowly turning: the next actions can be told from the state.
    episodes = []
    for i in range(6):
        one = episode([Actor.EXPERT] * 40, seed=i)
        phase = np.random.default_rng(i).uniform(0, 6) + 0.2 * np.arange(40)
        state = np.stack([np.sin(phase), np.cos(phase), np.zeros(40), np.zeros(40), np.zeros(40)], axis=1)
        action = np.stack([np.sin(phase), np.cos(phase), np.sin(phase + 1), 0.5 + 0 * phase], axis=1)
        episodes.append(replace(one, observation={"state": state.astype(np.float32)}, action=action))
    if tokenizer is FAST:
        chunks = np.concatenate([[e.action[t : t + H] for t in range(40 - H)] for e in episodes])
        tokenizer = FastTokenizer.fit(UNIT.normalize(chunks), vocabulary_size=96, scale=8.0)
    policy = chunk_policy(tokenizer)
    dataset = make_dataset(policy, episodes)
    trainer = Trainer(
        policy, dataset, BalancedSampler(dataset.labels, 32, shares=(1.0, 0.0, 0.0)), get_objective("bc"),
        TrainerConfig(steps=400, batch_size=32, learning_rate=1e-2, precision="fp32"),
        accelerator=make_accelerator("fp32", "cpu"),
    )  # fmt: skip
    trainer.run()
    errors = []
    for t in range(5, 30, 5):
        policy.reset()
        for h in range(H):  # open loop: only the first observation counts
            seen = episodes[0].observation["state"][t : t + 1] if h == 0 else np.zeros((1, 5), dtype=np.float32)
            errors.append(np.abs(policy.act({"state": seen}, ["reach the goal"])[0] - episodes[0].action[t + h]))
    assert np.mean(errors) < 0.12
