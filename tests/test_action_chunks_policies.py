"""Policies of chunks where others are used: built, in checkpoints, in the diagnosis, and through the commands."""

import numpy as np
import pytest
import torch
from chunk_policies import BINNED, FAST, A, chunk_policy
from command_line import run
from synthetic import demonstrations
from test_policies import observations, tiny_policy

from robopref.errors import RoboprefError
from robopref.policies.compact import CompactPolicy, build_compact_policy
from robopref.policies.q_tokens import TokenQPolicy, greedy_tokens, token_states
from robopref.policies.registry import load_policy
from robopref.policies.tokenizer import ActionTokenizer
from robopref.store.store import EpisodeStore
from robopref.trajectory import Actor


@pytest.mark.parametrize("tokenizer", [BINNED, FAST], ids=["binned", "fast"])
def test_a_checkpoint_brings_its_tokenizer(tokenizer, tmp_path):
    policy = chunk_policy(tokenizer)
    policy.save(tmp_path / "p")
    loaded = load_policy(tmp_path / "p")
    assert loaded.tokenizer == tokenizer
    states = {"state": observations(5)["state"]}
    np.testing.assert_array_equal(loaded.act(states, ["reach"] * 5), policy.act(states, ["reach"] * 5))


def test_checkpoints_of_one_action_at_a_time_are_as_they_were(tmp_path):
    policy = tiny_policy()
    shapes = {name: tuple(t.shape) for name, t in policy.network.state_dict().items() if not name.startswith("image.")}
    arch = policy.architecture
    assert {name: shape for name, shape in shapes.items() if name.split(".")[0] in
            ("tokens", "prefix", "position", "heads", "head_bias")} == {
        "position": (4, 32), "heads": (4, 32, 256), "head_bias": (4, 256),
        "prefix.weight": (32, 3 * arch.token_width),
        "tokens.0.weight": (256, arch.token_width), "tokens.1.weight": (256, arch.token_width),
        "tokens.2.weight": (256, arch.token_width),
    }  # fmt: skip
    policy.save(tmp_path / "p")
    assert CompactPolicy.load(tmp_path / "p").tokenizer == ActionTokenizer()


def test_the_diagnosis_takes_the_first_action_of_binned_chunks_and_refuses_fast():
    policy = chunk_policy(BINNED)
    states = token_states(policy, demonstrations(1, length=6))
    tokens = greedy_tokens(policy, {"state": demonstrations(1, length=6)[0].observation["state"]}, ["reach"] * 6)
    np.testing.assert_array_equal(states.context["tokens"].shape, tokens.shape)
    assert tokens.shape == (6, A)
    decision = TokenQPolicy(policy, A - 1, states.varied, states.vector_range)
    context = {name: torch.as_tensor(value) for name, value in states.context.items()}
    q = decision.q_values(torch.as_tensor(states.states), **context)
    assert (q.argmax(1) + 1).tolist() == states.context["tokens"][:, -1].tolist()
    with pytest.raises(RoboprefError, match="FAST"):
        token_states(chunk_policy(FAST), demonstrations(1))
    with pytest.raises(RoboprefError, match="FAST"):
        TokenQPolicy(chunk_policy(FAST), 0, states.varied, states.vector_range)


def test_a_built_policy_takes_the_tokenizer():
    data = {"state": np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)}
    policy = build_compact_policy(("state",), data, np.random.default_rng(1).normal(size=(20, A)), {}, 0, 32, FAST)
    assert policy.architecture.bins == FAST.bins
    assert policy.act(data, ["reach"] * 20).shape == (20, A)


@pytest.mark.parametrize("tokens", ["binned", "fast"])
def test_the_commands_take_chunks_through_the_whole_loop(tmp_path, tokens):
    run("demos", "--out", tmp_path / "d", "--task", "reach", "--episodes", 2, "--no-image", "--workers", 1)
    run(
        "train", "--demos", tmp_path / "d", "--out", tmp_path / "t", "--inputs", "state", "--steps", 10,
        "--batch-size", 16, "--wandb", "disabled", "--chunk", 4, "--tokens", tokens, "--fast-vocabulary", 200,
        "--width", 64,
    )  # fmt: skip
    run("collect", "--policy", tmp_path / "t", "--out", tmp_path / "i", "--task", "reach", "--episodes", 2,
        "--no-image", "--workers", 1)  # fmt: skip
    policy = load_policy(tmp_path / "t")
    assert (policy.tokenizer.horizon, policy.tokenizer.variable_length) == (4, tokens == "fast")
    for one in EpisodeStore.open(tmp_path / "i"):
        seen = {"state": np.array(one.observation["state"])}
        fresh = np.clip(policy.act(seen, [one.info.instruction] * len(one)), -1, 1)
        planned = 0  # steps since the plan was made
        for t in range(len(one)):
            if planned == 0:
                np.testing.assert_allclose(one.policy_action[t], fresh[t], atol=2e-3)
            planned = (planned + 1) % 4 if one.actor[t] == Actor.POLICY else 0
        assert (one.actor == Actor.HUMAN).any()
        assert not np.allclose(one.policy_action[one.actor == Actor.POLICY], fresh[one.actor == Actor.POLICY])
    for objective in ("apo", "dpo"):
        run(
            "refine", "--policy", tmp_path / "t", "--demos", tmp_path / "d", "--interactions", tmp_path / "i",
            "--out", tmp_path / objective, "--steps", 3, "--batch-size", 8, "--wandb", "disabled",
            "--objective", objective,
        )  # fmt: skip
    run(
        "refine", "--policy", tmp_path / "t", "--demos", tmp_path / "d", "--interactions", tmp_path / "i",
        "--out", tmp_path / "anew", "--steps", 3, "--batch-size", 8, "--wandb", "disabled",
    )  # fmt: skip
    assert load_policy(tmp_path / "apo").tokenizer == load_policy(tmp_path / "anew").tokenizer == policy.tokenizer
    run("evaluate", "--policy", tmp_path / "apo", "--out", tmp_path / "e", "--task", "reach", "--episodes", 1,
        "--workers", 1)  # fmt: skip


def test_fast_tokens_of_single_actions_are_refused(tmp_path, capsys):
    run("demos", "--out", tmp_path / "d", "--task", "reach", "--episodes", 1, "--no-image", "--workers", 1)
    arguments = ("train", "--demos", tmp_path / "d", "--out", tmp_path / "t", "--inputs", "state")
    run(*arguments, "--tokens", "fast", expect=2)
    assert "give --chunk" in capsys.readouterr().err
    run(*arguments, "--chunk", 0, expect=2)
    assert "at least one action" in capsys.readouterr().err
    assert not (tmp_path / "t").exists()
