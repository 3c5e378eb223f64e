"""Log-probabilities of chunks: position by position, up to the stop, and blind to padding."""

import numpy as np
import pytest
import torch
from chunk_policies import BINNED, FAST, A, H, chunk_policy, make_dataset
from hypothesis import given
from hypothesis import strategies as st
from test_policies import observations

from robopref.policies.tokenizer import ActionTokenizer
from robopref.token_logps import token_logps
from robopref.training.forward import TrainingForward, sample_action_tokens
from robopref.trajectory import Label


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
