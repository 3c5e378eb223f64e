"""Several actions per inference: what a chunk holds, what it is worth to the objectives, and how it is executed."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import demonstrations, episode, interactions
from test_cli import run
from test_policies import UNIT, observations, tiny_policy

from robopref.errors import RoboprefError
from robopref.evaluation.rollouts import PolicyRunner
from robopref.labeling import LabelingRule
from robopref.mixture import Mixture
from robopref.objectives import get_objective, objective_names
from robopref.objectives.base import ObjectiveInputs
from robopref.policies.action_plan import ActionPlan
from robopref.policies.chunked_tokenizer import ChunkedActionTokenizer
from robopref.policies.compact import CompactPolicy, build_compact_policy
from robopref.policies.compact_network import CompactArchitecture
from robopref.policies.fast_tokenizer import FastTokenizer
from robopref.policies.q_tokens import TokenQPolicy, greedy_tokens, token_states
from robopref.policies.registry import load_policy
from robopref.policies.tokenizer import ActionTokenizer
from robopref.sampling import BalancedSampler
from robopref.store.store import EpisodeStore
from robopref.token_logps import token_logps
from robopref.training.chunks import chunk_lengths, chunk_steps
from robopref.training.dataset import StepDataset
from robopref.training.forward import TrainingForward, sample_action_tokens
from robopref.training.trainer import Trainer, TrainerConfig, make_accelerator
from robopref.training.window_pairs import WindowPairSampler
from robopref.trajectory import Actor, Label

H, A = 4, 4
BINNED = ChunkedActionTokenizer(H, A, ActionTokenizer(bins=32))
FAST = FastTokenizer.fit(
    np.sin(np.arange(60)[:, None, None] + 0.3 * np.arange(H)[:, None] + np.arange(A)), vocabulary_size=96, scale=8.0
)


def chunk_policy(tokenizer, seed=0, execute_steps=None):
    """A policy from the 5-dimensional state."""
    torch.manual_seed(seed)
    arch = CompactArchitecture(inputs=("state",), width=32, state_size=5, action_size=A, bins=tokenizer.bins)
    return CompactPolicy(arch, UNIT, tokenizer, {"reach": "reach the goal"}, execute_steps).eval()


def make_dataset(policy, episodes=None, window=5):
    episodes = episodes or demonstrations() + interactions()
    return StepDataset(
        episodes, [LabelingRule(window=window).apply(e) for e in episodes], policy, policy.observation_keys
    )


# --- which steps a chunk has


def test_chunks_end_with_the_episode_the_driver_and_the_class():
    policy, human, hold = Actor.POLICY, Actor.HUMAN, Actor.HOLD
    episodes = [
        episode([Actor.EXPERT] * 3),
        episode([policy] * 4 + [human] * 5 + [hold] + [human] * 2 + [policy] * 2),
        episode([Actor.EXPERT]),
    ]
    labels = np.concatenate([LabelingRule(window=2).apply(e) for e in episodes])
    # policy steps: two that are nothing, two undesirable; the human's five, HOLD, the human's two, the policy's two
    runs = [3, 2, 1], [2, 1, 2, 1], [4, 4, 3, 2, 1], [1], [2, 1], [2, 1], [1]
    assert chunk_lengths(episodes, labels, 4).tolist() == np.concatenate(runs).tolist()
    assert chunk_lengths(episodes, labels, 1).tolist() == [1] * len(labels)
    steps = chunk_steps(np.array([7, 1]), np.array([4, 2]), 4)
    assert steps.tolist() == [[7, 8, 9, 10], [1, 2, 2, 2]]


def test_two_takeovers_without_a_step_between_them_are_two_chunks():
    one = episode([Actor.HUMAN] * 4)
    two = replace(one, segment_id=np.array([0, 0, 1, 1], dtype=np.int32))
    assert chunk_lengths([two], np.full(4, Label.HUMAN), 4).tolist() == [2, 1, 2, 1]


def test_credited_policy_steps_do_not_run_into_the_humans():
    one = episode([Actor.HUMAN] * 2 + [Actor.POLICY] * 3)
    labels = LabelingRule(window=0, include_policy_steps="autonomous_success").apply(one)
    assert chunk_lengths([one], labels, 4).tolist() == [2, 1, 3, 2, 1]


@settings(max_examples=60)
@given(st.lists(st.lists(st.sampled_from(list(Actor)), min_size=1, max_size=12), min_size=1, max_size=3),
       st.integers(1, 5), st.integers(0, 4))  # fmt: skip
def test_chunk_lengths_are_those_found_step_by_step(actors, horizon, window):
    episodes = [episode(a, seed=i) for i, a in enumerate(actors)]
    labels = [LabelingRule(window=window).apply(e) for e in episodes]
    expected = []
    for one, marks in zip(episodes, labels, strict=True):
        kind = [{Label.EXPERT: "good", Label.HUMAN: "good", Label.UNDESIRABLE: "bad"}.get(m, "none") for m in marks]
        keys = list(zip(one.actor.tolist(), one.segment_id.tolist(), kind, strict=True))
        for t in range(len(one)):
            length = 1
            while length < horizon and t + length < len(one) and keys[t + length] == keys[t]:
                length += 1
            expected.append(length)
    assert chunk_lengths(episodes, np.concatenate(labels), horizon).tolist() == expected


@pytest.mark.parametrize("tokenizer", [BINNED, FAST], ids=["binned", "fast"])
def test_samples_hold_the_actions_from_their_step_on(tokenizer):
    policy = chunk_policy(tokenizer)
    one = episode([Actor.POLICY] * 6 + [Actor.HUMAN] * 3 + [Actor.POLICY])
    dataset = make_dataset(policy, [one], window=5)
    normalized = UNIT.normalize(one.action)
    plain = ActionTokenizer(bins=32)
    for step, length in ((1, 4), (4, 2), (7, 2), (9, 1)):
        tokens = dataset.gather(np.array([step])).tokens[0]
        if tokenizer is BINNED:
            expected = np.zeros(H * A, dtype=np.int64)
            expected[: length * A] = plain.encode(normalized[step : step + length]).reshape(-1)
        else:
            last = step + length - 1
            held = np.concatenate([normalized[step : last + 1], np.repeat(normalized[last : last + 1], H - length, 0)])
            expected = FAST.encode(held)
        np.testing.assert_array_equal(tokens, expected)


def test_rejected_chunks_are_the_proposals_at_the_humans_steps_as_far_as_they_are_known():
    policy = chunk_policy(BINNED)
    one = episode([Actor.POLICY] * 2 + [Actor.HUMAN] * 5 + [Actor.POLICY] * 2)
    proposals = one.policy_action.copy()
    proposals[5] = np.nan
    dataset = make_dataset(policy, [replace(one, policy_action=proposals)])
    assert dataset.has_pair.tolist() == [False] * 2 + [True] * 3 + [False] + [True] + [False] * 2
    plain, normalized = ActionTokenizer(bins=32), UNIT.normalize(np.nan_to_num(proposals))
    for step, length in ((2, 3), (3, 2), (4, 1), (6, 1)):
        expected = np.zeros(H * A, dtype=np.int64)
        expected[: length * A] = plain.encode(normalized[step : step + length]).reshape(-1)
        np.testing.assert_array_equal(dataset.rejected_tokens[step], expected)
    assert (dataset.rejected_tokens[~dataset.has_pair] == 0).all()
    held = make_dataset(chunk_policy(FAST), [replace(one, policy_action=proposals)])
    filled = np.concatenate([normalized[3:5], normalized[[4, 4]]])
    np.testing.assert_array_equal(held.rejected_tokens[3], FAST.encode(filled))


@pytest.mark.parametrize("tokenizer", [BINNED, FAST], ids=["binned", "fast"])
def test_the_action_error_is_over_the_steps_that_there_are(tokenizer):
    policy = chunk_policy(tokenizer)
    dataset = make_dataset(policy)
    indices = np.arange(0, len(dataset), 3)
    wrong = np.random.default_rng(0).permuted(dataset.tokens[indices], axis=0)
    if tokenizer is BINNED:
        wrong = np.where(dataset.tokens[indices] == 0, 0, np.maximum(wrong, 1))
    error = dataset.action_error(wrong, indices)
    decoded = tokenizer.decode(wrong)
    for row, i in enumerate(indices):
        n = dataset.chunk_lengths[i]
        expected = np.abs(decoded[row, :n] - dataset.normalized_actions[i : i + n]).mean()
        assert error[row] == pytest.approx(expected, abs=1e-9)
    rounding = 1 / 31 if tokenizer is BINNED else 0.5 / tokenizer.scale
    assert dataset.action_error(dataset.tokens[indices], indices).max() <= rounding + 1e-6


def test_one_action_at_a_time_is_as_it_was():
    policy = tiny_policy()
    dataset = make_dataset(policy)
    actions = np.concatenate([e.action for e in demonstrations() + interactions()])
    np.testing.assert_array_equal(dataset.tokens, policy.tokenizer.encode(UNIT.normalize(actions)))
    tokens = policy.tokenizer.encode(-UNIT.normalize(actions)[:9])
    expected = np.abs(policy.tokenizer.decode(tokens) - np.clip(UNIT.normalize(actions), -1, 1)[:9]).mean(axis=1)
    np.testing.assert_allclose(dataset.action_error(tokens, np.arange(9)), expected)


def test_a_tokenizer_that_knows_no_chunks_is_refused():
    class Bare:
        norm_stats, tokenizer, observation_keys = UNIT, object(), ("state",)

    with pytest.raises(RoboprefError, match="ChunkTokenizer"):
        make_dataset(Bare(), demonstrations(1))


def test_a_hundred_thousand_steps_become_chunks_within_seconds():
    one = episode([Actor.EXPERT] * 100_000)
    dataset = make_dataset(chunk_policy(BINNED), [one], window=0)
    assert dataset.tokens.shape == (100_000, H * A)
    assert dataset.chunk_lengths.sum() == 4 * 100_000 - 6


# --- log-probabilities


def by_hand(policy, state, tokens):
    """Log-probabilities [L] of one sample's tokens [T], position by position as the network is described."""
    network, bins = policy.network, policy.tokenizer.bins
    feature = policy.encode({"state": state[None]}, ["reach"]).features[0]
    width = network.arch.token_width
    logps, stop = [], 0.0
    for position, token in enumerate(tokens.tolist()):
        row = torch.zeros(network.prefix.in_features)
        for earlier in range(position):
            row[earlier * width : (earlier + 1) * width] = network.tokens[earlier].weight[tokens[earlier] - 1]
        hidden = network.decode(feature + network.prefix.weight @ row + network.position[position])
        logits = hidden @ network.heads[position] + network.head_bias[position]
        probabilities = logits.double().softmax(0)
        if token == 0:
            if len(logits) > bins:
                stop = probabilities[bins].log().item()
            break
        logps.append(probabilities[token - 1].log().item())
    return logps + [0.0] * (len(tokens) - len(logps)) + [stop]


@pytest.mark.parametrize("tokenizer", [BINNED, FAST, ActionTokenizer(bins=32)], ids=["binned", "fast", "plain"])
@torch.no_grad()
def test_log_probabilities_are_those_computed_position_by_position(tokenizer):
    policy = chunk_policy(tokenizer)
    longest = tokenizer.action_tokens(A)
    rng = np.random.default_rng(1)
    tokens = torch.as_tensor(rng.integers(1, tokenizer.bins + 1, (5, longest)))
    if tokenizer.horizon > 1:
        for row, length in enumerate((longest, 0, 1, 7, longest - 1)):
            tokens[row, length:] = 0
    obs = observations(5)
    logps = policy.action_logps(policy.encode({"state": obs["state"]}, ["reach"] * 5), tokens)
    expected = [by_hand(policy, obs["state"][i], tokens[i]) for i in range(5)]
    torch.testing.assert_close(logps, torch.tensor(expected), atol=1e-5, rtol=1e-5)
    assert ((logps[:, -1] < 0) == ((tokens[:, -1] == 0) & tokenizer.variable_length)).all()


@torch.no_grad()
def test_stopping_and_going_on_share_the_probability():
    policy = chunk_policy(FAST)
    batch = policy.encode({"state": observations(1)["state"]}, ["reach"])
    first = torch.tensor([[3] + [0] * (H * A - 1)])
    stopped = policy.action_logps(batch, first)[0, -1].exp()
    going = sum(
        policy.action_logps(batch, torch.tensor([[3, t] + [0] * (H * A - 2)]))[0, 1].exp()
        for t in range(1, FAST.bins + 1)
    )
    assert (stopped + going).item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("tokenizer", [BINNED, FAST], ids=["binned", "fast"])
@torch.no_grad()
def test_the_greedy_tokens_are_the_most_probable_ones_up_to_the_stop(tokenizer):
    policy = chunk_policy(tokenizer)
    batch = policy.encode({"state": 3 * observations(6)["state"]}, ["reach"] * 6)
    tokens = policy.network.greedy(batch.features)
    best = policy.action_logits(batch, tokens).argmax(-1)
    lengths = (tokens > 0).sum(1).tolist()
    for row, length in enumerate(lengths):
        assert (tokens[row, :length] == best[row, :length] + 1).all()
        assert (tokens[row, length:] == 0).all()
        assert length == H * A or best[row, length] == tokenizer.bins
    assert (max(lengths) > min(lengths)) == (tokenizer is FAST)


@torch.no_grad()
def test_samples_stop_where_the_policy_does():
    policy = chunk_policy(FAST)
    policy.network.head_bias[2, -1] += 100.0
    states = {"state": observations(50)["state"]}
    uniforms = torch.rand(50, H * A, generator=torch.Generator().manual_seed(0))
    tokens = sample_action_tokens(policy, states, ["reach"] * 50, uniforms)
    assert (tokens[:, 2:] == 0).all()
    assert (tokens[:, 0] > 0).float().mean() > 0.8  # one class of many stops at once
    assert ((tokens[:, 0] > 0) | (tokens[:, 1] == 0)).all()


def test_the_training_pass_masks_what_is_not_there():
    policy = chunk_policy(BINNED)
    dataset = make_dataset(policy)
    indices = np.flatnonzero(dataset.labels == Label.HUMAN)[-4:]  # chunks of 4, 3, 2 and 1 steps
    samples, full = dataset.gather(indices), torch.full((4, H * A), 5)
    tokens = torch.as_tensor(samples.tokens)
    forward = TrainingForward(policy)
    pair = forward(samples.observations, samples.instructions, tokens, full, partner_gradients=True)
    assert torch.equal(pair.kl_logps[:, :-1] == 0, tokens == 0)  # no more is rejected than preferred
    assert torch.equal(pair.greedy_tokens == 0, tokens == 0)
    own = forward(samples.observations, samples.instructions, tokens, full, own_prefix_kl=True)
    assert torch.equal(own.kl_logps[:, :-1] == 0, tokens == 0)
    other = forward(samples.observations, samples.instructions, tokens, full)
    assert (other.kl_logps[:, :-1] < 0).all()  # a mismatched chunk is as long as it is


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 4), st.booleans())
def test_padding_changes_no_log_probability(seed, size, pad, stops):
    generator = torch.Generator().manual_seed(seed)
    bins = 6
    logits = torch.randn(3, size + pad, bins + stops, generator=generator)
    tokens = torch.randint(1, bins + 1, (3, size + pad), generator=generator)
    tokens[:, size:] = 0
    long, short = token_logps(logits, tokens, bins), token_logps(logits[:, :size], tokens[:, :size], bins)
    torch.testing.assert_close(long[:, :size], short[:, :size])
    assert (long[:, size:-1] == 0).all()
    wanted = logits[:, size].log_softmax(-1)[:, -1] if stops else torch.zeros(3)
    torch.testing.assert_close(long[:, -1], wanted)
    assert (short[:, -1] == 0).all()


# --- objectives


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


# --- plans


def test_a_plan_is_used_up_before_the_next_is_made():
    made = []

    def chunk():
        made.append(len(made))
        return 10 * made[-1] + np.arange(4.0)[:, None]

    plan = ActionPlan(3)
    assert [plan.next(chunk).item() for _ in range(4)] == [0, 1, 2, 10]
    plan.reset()
    assert plan.next(chunk).item() == 20
    assert len(made) == 3
    with pytest.raises(RoboprefError, match="at least one"):
        ActionPlan(0)


@pytest.mark.parametrize("tokenizer", [BINNED, FAST], ids=["binned", "fast"])
def test_single_observations_follow_the_plan_and_batches_never_do(tokenizer):
    policy = chunk_policy(tokenizer, execute_steps=3)
    states = observations(8)["state"]
    fresh = policy.act({"state": states}, ["reach"] * 8)  # decided at each state, with nobody's plan

    def act(i):
        return policy.act({"state": states[i : i + 1]}, ["reach"])[0]

    played = [act(0), act(1)]
    np.testing.assert_array_equal(policy.act({"state": states}, ["reach"] * 8), fresh)
    played += [act(2), act(3)]
    np.testing.assert_allclose(played[0], fresh[0], atol=1e-6)
    np.testing.assert_allclose(played[3], fresh[3], atol=1e-6)  # the plan of three is used up
    batch = policy.encode({"state": states[:1]}, ["reach"])
    tokens = policy.network.greedy(batch.features).numpy()
    np.testing.assert_allclose(played[:3], UNIT.unnormalize(tokenizer.decode(tokens)[0])[:3], atol=1e-6)
    policy.reset()
    np.testing.assert_allclose(act(5), fresh[5], atol=1e-6)
    with pytest.raises(RoboprefError, match="cannot be executed"):
        chunk_policy(tokenizer, execute_steps=H + 1)


def test_a_runner_drops_the_plan_when_told_that_another_drove():
    import gymnasium as gym

    policy = chunk_policy(BINNED)
    runner = PolicyRunner(policy, gym.spaces.Box(-1, 1, (A,), np.float32))
    states = observations(4)["state"]
    fresh = np.clip(policy.act({"state": states}, ["reach"] * 4), -1, 1)
    np.testing.assert_allclose(runner({"state": states[0]}, "reach"), fresh[0], atol=1e-6)
    assert not np.allclose(runner({"state": states[1]}, "reach"), fresh[1])
    runner.reset()
    np.testing.assert_allclose(runner({"state": states[2]}, "reach"), fresh[2], atol=1e-6)


# --- checkpoints, diagnosis, commands


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


def test_noise_on_the_actions_of_chunks():
    data = make_dataset(chunk_policy(BINNED))
    everything = np.arange(len(data))
    nothing = np.zeros((len(data), H * A))
    np.testing.assert_array_equal(data.noisy_tokens(everything, nothing), data.tokens)
    noise = np.random.default_rng(0).normal(size=nothing.shape)
    noisy = data.noisy_tokens(everything, 0.2 * noise)
    np.testing.assert_array_equal(noisy > 0, data.tokens > 0)  # no action where the chunk has none
    assert (noisy != data.tokens).any()
    with pytest.raises(RoboprefError, match="variable number of tokens"):
        make_dataset(chunk_policy(FAST)).noisy_tokens(everything, nothing)
