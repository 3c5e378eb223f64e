"""The baselines that clone and differ in which steps they draw: each against numbers worked out by hand."""

import dataclasses
import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import demonstrations, interactions, right_action
from test_policies import tiny_policy

from robopref.cli.refine import ObjectiveName, Refine, check_refinable, run_refine, weighs_preferences, with_recipe
from robopref.cli.run_directory import read_json, write_json
from robopref.cli.train import Train, run_train
from robopref.errors import RoboprefError
from robopref.labeling import LabelingRule
from robopref.mixture import Mixture
from robopref.objectives import (
    ObjectiveInputs,
    dagger_mixture,
    get_objective,
    hg_dagger_mixture,
    iwr_mixture,
    sirius_mixture,
)
from robopref.policies.compact import CompactPolicy, build_compact_policy
from robopref.policies.compact_network import CompactArchitecture
from robopref.policies.fast_tokenizer import FastTokenizer
from robopref.sampling import BalancedSampler
from robopref.store.store import EpisodeStore
from robopref.training.dataset import StepDataset
from robopref.training.trainer import Trainer, TrainerConfig, make_accelerator
from robopref.trajectory import Label

CLONING = ("dagger", "hg-dagger", "iwr", "sirius")


def labels_of(expert=0, human=0, policy=0, undesirable=0, excluded=0):
    kinds = [Label.EXPERT, Label.HUMAN, Label.POLICY, Label.UNDESIRABLE, Label.EXCLUDED]
    return np.random.default_rng(0).permutation(np.repeat(kinds, [expert, human, policy, undesirable, excluded]))


def drawn_shares(mixture, labels, batch_size=40, steps=500):
    sampler = BalancedSampler(labels, batch_size, shares=mixture.shares, buckets=mixture.buckets)
    drawn = labels[np.concatenate([sampler.batch(step) for step in range(steps)])]
    return {label.name: float((drawn == label).mean()) for label in Label}


LABELS = labels_of(expert=300, human=200, policy=400, undesirable=100, excluded=50)


@pytest.mark.parametrize(
    ("mixture", "expected"),
    [
        # Of the 1000 steps that somebody drove, as often as they come.
        (dagger_mixture, {"EXPERT": 0.3, "HUMAN": 0.2, "POLICY": 0.4, "UNDESIRABLE": 0.1}),
        # Of the 500 steps that a person drove.
        (hg_dagger_mixture, {"EXPERT": 0.6, "HUMAN": 0.4}),
        # Half human; the other half falls on 800 steps: 300/800, 400/800 and 100/800 of it.
        (iwr_mixture, {"EXPERT": 0.1875, "HUMAN": 0.5, "POLICY": 0.25, "UNDESIRABLE": 0.0625}),
        # .5, .002, the 300 of 1000 that are demonstrations, and 1 - .5 - .002 - .3 = .198 for the rollouts.
        (sirius_mixture, {"EXPERT": 0.3, "HUMAN": 0.5, "POLICY": 0.198, "UNDESIRABLE": 0.002}),
    ],
)
def test_what_batches_are_made_of(mixture, expected):
    found = drawn_shares(mixture(LABELS), LABELS)
    assert found == pytest.approx({label.name: 0.0 for label in Label} | expected, abs=2e-3)


def test_sirius_weights_are_those_of_the_paper():
    # p*/p: human .5 / .2, pre-intervention .002 / .1, demonstrations 1, rollouts .198 / .4
    shares = sirius_mixture(LABELS).shares
    weights = np.array(shares) / [0.2, 0.1, 0.3, 0.4]
    np.testing.assert_allclose(weights, [2.5, 0.02, 1.0, 0.495])


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"expert": 700, "human": 100, "policy": 190, "undesirable": 10}, (0.5, 0.002, 0.498, 0.0)),  # .7 > .498
        ({"expert": 300, "human": 100, "policy": 600}, (0.5, 0.0, 0.3, 0.2)),
        ({"expert": 300, "human": 100}, (0.5, 0.0, 0.5, 0.0)),
        ({"human": 100, "policy": 100}, (0.5, 0.0, 0.0, 0.5)),
        ({"human": 100}, (1.0, 0.0, 0.0, 0.0)),
    ],
)
def test_sirius_never_weighs_a_class_negatively_or_one_that_is_absent(counts, expected):
    assert sirius_mixture(labels_of(**counts)).shares == pytest.approx(expected)


@settings(max_examples=25)
@given(st.lists(st.integers(1, 90), min_size=4, max_size=4), st.integers(3, 40), st.integers(1, 3))
def test_four_buckets_keep_their_shares_too(counts, batch_size, world_size):
    labels = labels_of(*counts)
    mixture = sirius_mixture(labels)
    parts = [
        BalancedSampler(
            labels, batch_size, shares=mixture.shares, buckets=mixture.buckets, rank=r, world_size=world_size
        )
        for r in range(world_size)
    ]
    drawn = np.concatenate([part.batch(step) for step in range(50) for part in parts])
    counted = np.array([np.isin(labels[drawn], bucket).sum() for bucket in mixture.buckets])
    assert np.abs(counted - np.array(mixture.shares) * len(drawn)).max() < 1


def test_the_streams_of_a_fourth_bucket_are_its_own():
    labels = np.repeat([Label.EXPERT, Label.HUMAN, Label.UNDESIRABLE, Label.POLICY], 300)
    sampler = BalancedSampler(
        labels, 1200, shares=(0.25,) * 4, buckets=[[x] for x in (0, 1, 2, 3)], seed=1,
    )  # fmt: skip
    orders = [np.argsort(part) for part in np.split(sampler.batch(0), 4)]
    assert len({tuple(order) for order in orders}) == 4


@pytest.mark.parametrize("name", CLONING)
def test_the_loss_clones_whatever_is_drawn(name):
    # Tokens 1, 2 and 3, 4 nats: their mean is 2.5, the undesirable sample included.
    logps = torch.tensor([[-1.0, -2.0, 0.0], [-3.0, -4.0, 0.0]])
    objective = get_objective(name)
    out = objective(ObjectiveInputs(logps, torch.tensor([True, False]), torch.zeros(2)))
    assert out.loss.item() == pytest.approx(2.5)
    assert not objective.needs_reference


def test_an_absent_class_is_named():
    with pytest.raises(RoboprefError, match="no HUMAN samples"):
        BalancedSampler(labels_of(expert=9), 4, shares=(0.5, 0.5), buckets=iwr_mixture(LABELS).buckets)


@pytest.mark.parametrize("name", CLONING)
def test_through_the_trainer(name):
    # The policy's recorded actions oppose the right ones: who clones fewer of them ends nearer to the right ones.
    policy = tiny_policy()
    episodes = demonstrations() + interactions()
    labels = [LabelingRule(window=5).apply(e) for e in episodes]
    dataset = StepDataset(episodes, labels, policy, policy.observation_keys)
    objective = get_objective(name)
    mixture = objective.mixture(dataset.labels)
    curve = {}
    trainer = Trainer(
        policy,
        dataset,
        BalancedSampler(dataset.labels, 32, shares=mixture.shares, buckets=mixture.buckets),
        objective,
        TrainerConfig(steps=300, batch_size=32, learning_rate=5e-3, log_every=1, precision="fp32"),
        accelerator=make_accelerator("fp32", "cpu"),
        log=lambda metrics, step: curve.__setitem__(step, metrics),
    )
    assert trainer.run()
    assert len(curve) == 300
    assert curve[300]["loss"] < curve[1]["loss"]
    taught = np.isin(dataset.labels, [Label.EXPERT, Label.HUMAN])
    right = np.concatenate([right_action(e.observation["state"]) for e in episodes])[taught]
    samples = dataset.gather(np.flatnonzero(taught))
    error = np.abs(policy.act(samples.observations, samples.instructions) - right).mean()
    # A coin's is .5; DAgger clones the wrong actions too.
    assert error < (0.45 if name == "dagger" else 0.3)
    shares = np.mean([m.get("shares/human", 0) for m in curve.values()])
    assert shares == pytest.approx({"dagger": 0.2045, "hg-dagger": 0.3103, "iwr": 0.5, "sirius": 0.5}[name], abs=0.03)


# --- robopref refine


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    root = tmp_path_factory.mktemp("recorded")
    for name, episodes in (("demos", demonstrations(2)), ("interactions", interactions(2))):
        store = EpisodeStore.create_or_open(root / name)
        for episode in episodes:
            store.add(episode)
    tiny_policy(seed=5).save(root / "base")
    return root


def refine(recorded, out, objective, **options):
    return run_refine(
        Refine(
            str(recorded / "base"), (recorded / "demos",), (recorded / "interactions",), out, objective,
            steps=6, batch_size=16, device="cpu", wandb="disabled", **options,
        )
    )  # fmt: skip


@pytest.mark.parametrize("objective", [*CLONING, "dpo", "tpo", "paired-takeover"])
def test_every_baseline_refines_and_takes_the_same_number_of_steps(recorded, tmp_path, objective):
    assert refine(recorded, tmp_path / "r", objective)
    rows = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 6
    assert CompactPolicy.load(tmp_path / "r" / "policy")


def test_from_scratch_keeps_nothing_of_the_base_but_its_architecture(recorded, tmp_path):
    assert refine(recorded, tmp_path / "r", "bc", from_scratch=True)
    base, fresh = CompactPolicy.load(recorded / "base"), CompactPolicy.load(tmp_path / "r" / "policy")
    assert fresh.architecture == base.architecture
    # Normalised by what is cloned: half a unit either way, not the base's -1..1.
    assert fresh.norm_stats.to_json() != base.norm_stats.to_json()
    # Six small steps move a weight by a few thousandths; other random weights are elsewhere.
    moved = [(a - b).abs().max() for a, b in zip(base.parameters(), fresh.parameters(), strict=True) if a.ndim > 1]
    assert max(moved) > 0.1


def test_from_scratch_the_deployed_policy_stays_the_reference(recorded, tmp_path):
    assert refine(recorded, tmp_path / "r", "apo", from_scratch=True)
    base, fresh = CompactPolicy.load(recorded / "base"), CompactPolicy.load(tmp_path / "r" / "policy")
    assert fresh.norm_stats.to_json() == base.norm_stats.to_json()  # both speak of the same actions
    moved = [(a - b).abs().max() for a, b in zip(base.parameters(), fresh.parameters(), strict=True) if a.ndim > 1]
    assert max(moved) > 0.1  # six small steps move a weight by a few thousandths
    first = json.loads((tmp_path / "r" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["rewards/chosen"] != 0  # at step 1 a policy that is its own reference has rewards of exactly zero


def test_another_training_of_the_same_policy_has_another_reference(recorded):
    """A policy that was trained is its own reference when it is trained again: its rewards begin at zero."""
    policy = CompactPolicy.load(recorded / "base")
    episodes = [e for name in ("demos", "interactions") for e in EpisodeStore.open(recorded / name)]
    labels = [LabelingRule().apply(episode) for episode in episodes]
    dataset = StepDataset(episodes, labels, policy, policy.observation_keys)
    for _ in range(2):
        rewards = []
        trainer = Trainer(
            policy, dataset, BalancedSampler(dataset.labels, 16), get_objective("apo", anchor_weight=1.0),
            TrainerConfig(steps=3, batch_size=16, log_every=1), accelerator=make_accelerator(device="cpu"),
            log=lambda metrics, step, rewards=rewards: rewards.append(metrics["rewards/chosen"]),
        )  # fmt: skip
        assert trainer.run()
        assert rewards[0] == pytest.approx(0, abs=1e-6)
        assert abs(rewards[-1]) > 1e-3


def test_a_policy_that_begins_anew_keeps_its_answers_in_the_reference():
    rng = np.random.default_rng(0)
    states = {"proprio": rng.normal(size=(50, 4)).astype(np.float32)}
    policy = build_compact_policy(("proprio",), states, rng.uniform(-1, 1, (50, 4)), {}, 0, 16)
    tokens = torch.randint(1, 257, (50, 4))
    before = policy.action_logits(policy.encode(states, ["go"] * 50), tokens)
    elsewhere = {"proprio": states["proprio"] * 3 + 1}
    policy.begin_anew(elsewhere, seed=1)
    with policy.reference():
        kept = policy.action_logits(policy.encode(states, ["go"] * 50), tokens)
    assert torch.equal(before, kept)
    assert not torch.allclose(before, policy.action_logits(policy.encode(states, ["go"] * 50), tokens))
    assert torch.allclose(policy.network.vector_mean, torch.as_tensor(elsewhere["proprio"].mean(axis=0)), atol=1e-5)


def test_steps_that_are_drawn():
    mixture = Mixture((0.5, 0.5, 0.0))
    assert mixture.drawn(np.array([3, 2, 0, 1, 4])).tolist() == [True, True, False, False, False]


def test_with_no_objective_a_state_policy_is_cloned_anew(recorded, tmp_path, capsys):
    assert refine(recorded, tmp_path / "unset", None)
    assert refine(recorded, tmp_path / "named", "bc", from_scratch=True)
    assert "no --objective: cloning demonstrations and corrections from scratch" in capsys.readouterr().out
    unset, named = (CompactPolicy.load(tmp_path / name / "policy").state_dict() for name in ("unset", "named"))
    for key, expected in named.items():
        np.testing.assert_array_equal(unset[key].numpy(), expected.numpy())


def test_settings_of_a_preference_objective_ask_for_its_name(recorded, tmp_path):
    with pytest.raises(RoboprefError, match=r"--beta, --label-noise: bc, .* has no such setting.*--objective apo, kto"):
        refine(recorded, tmp_path / "r", None, beta=0.3, label_noise="em")
    assert not (tmp_path / "r").exists()


def test_steps_that_are_left_open_are_more_from_scratch():
    asked = Refine("policy", (), (), Path("out"))
    state, image = tiny_policy(), tiny_policy(("image", "proprio"))
    assert (with_recipe(asked, state).objective, with_recipe(asked, state).steps) == ("bc", 5000)
    assert (with_recipe(asked, image).objective, with_recipe(asked, image).steps) == ("apo", 1000)
    assert not with_recipe(asked, image).from_scratch
    warm = dataclasses.replace(asked, objective="apo", beta=0.3)
    assert with_recipe(warm, state) == dataclasses.replace(warm, steps=1000, action_smoothing=0.03)


def test_neighbours_of_an_action_are_learned_where_that_was_tried():
    asked = Refine("policy", (), (), Path("out"), objective="bc")
    fast = FastTokenizer.fit(np.sin(np.arange(60)[:, None, None] + np.arange(2)[:, None] + np.arange(4)))
    arch = CompactArchitecture(inputs=("state",), width=32, state_size=5, action_size=4, bins=fast.bins)
    packed = CompactPolicy(arch, tiny_policy().norm_stats, fast)
    policies = {"state": tiny_policy(), "image": tiny_policy(("image", "proprio")), "packed": packed, "other": object()}
    chosen = {name: with_recipe(asked, policy).action_smoothing for name, policy in policies.items()}
    assert chosen == {"state": 0.03, "image": 0.0, "packed": 0.0, "other": 0.0}
    assert with_recipe(dataclasses.replace(asked, action_smoothing=0.0), policies["state"]).action_smoothing == 0.0
    public = dataclasses.replace(asked, objective="apo", variant="reference")
    assert with_recipe(public, policies["state"]).action_smoothing == 0.0
    with pytest.raises(RoboprefError, match="variable number of tokens"):
        check_refinable(with_recipe(dataclasses.replace(asked, action_smoothing=0.1), packed), packed)


@pytest.mark.parametrize(("tokens", "expected"), [("binned", 0.03), ("fast", 0.0)])
def test_training_learns_the_neighbourhood_too_and_notes_it(recorded, tmp_path, tokens, expected):
    assert run_train(
        Train(
            (recorded / "demos",),
            tmp_path / "r",
            "state",
            2,
            16,
            tokens=tokens,
            chunk=4,
            device="cpu",
            wandb="disabled",
        )
    )
    assert read_json(tmp_path / "r" / "config.json")["config"]["action_smoothing"] == expected


@pytest.mark.parametrize(("smoothing", "said"), [(0.1, "variable number of tokens"), (1.5, r"\[0, 1\)")])
def test_smoothing_that_cannot_be_is_refused_before_anything_is_written(recorded, tmp_path, smoothing, said):
    with pytest.raises(RoboprefError, match=said):
        run_train(
            Train(
                (recorded / "demos",), tmp_path / "r", "state", 2, 16, tokens="fast", chunk=4,
                action_smoothing=smoothing, device="cpu", wandb="disabled",
            )
        )  # fmt: skip
    assert not (tmp_path / "r").exists()


def test_a_run_of_before_there_was_smoothing_goes_on_without_it(recorded, tmp_path):
    """Its files do not name the setting, and its state was saved by a version that did not know it."""
    asked = Train(
        (recorded / "demos",), tmp_path / "r", "state", 4, 16, action_smoothing=0.0, device="cpu", wandb="disabled"
    )
    assert run_train(asked)
    config = read_json(tmp_path / "r" / "config.json")
    del config["config"]["action_smoothing"]
    write_json(tmp_path / "r" / "config.json", config)
    assert run_train(dataclasses.replace(asked, resume=True))
    with pytest.raises(RoboprefError, match="action_smoothing"):
        run_train(dataclasses.replace(asked, resume=True, action_smoothing=None))


def test_which_objectives_weigh_preferences_and_which_only_clone():
    weighing = {name for name in get_args(ObjectiveName) if weighs_preferences(name)}
    assert weighing == {"apo", "kto", "dpo", "tpo", "paired-takeover"}
