"""The decisions of an action-token policy, dimension by dimension, through the same protocol as a Q network's."""

import copy
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from synthetic import demonstrations, episode, interactions

from robopref.diagnosis import principal_directions, state_gradients
from robopref.errors import RoboprefError
from robopref.policies.compact import build_compact_policy
from robopref.policies.q_policy import QPolicySpec
from robopref.policies.q_tokens import (
    TokenQPolicy,
    VectorRange,
    decode_instructions,
    encode_instructions,
    greedy_tokens,
    token_q_policies,
    token_states,
)
from robopref.protocols import QPolicy
from robopref.store import EpisodeStore
from robopref.trajectory import Actor, Outcome, Step

KINDS = [("image", "proprio"), ("state",), ("proprio", "state"), ("image",)]


def recorded():
    """Six episodes of two tasks, takeovers among them."""
    episodes = demonstrations(2, 7, image=True) + interactions(1, image=True)
    return [*episodes, *demonstrations(1, 5, image=True, instruction="Öffne die Tür")]


def policy_for(inputs, episodes, seed=0):
    observations = {name: np.concatenate([e.observation[name] for e in episodes]) for name in inputs}
    actions = np.concatenate([e.action for e in episodes])
    policy = build_compact_policy(inputs, observations, actions, {"reach": "reach the goal"}, seed, width=32)
    with torch.no_grad():  # a fresh policy barely looks at anything
        for layer in (policy.network.fuse[0], policy.network.fuse[2], policy.network.decode[0]):
            layer.weight.mul_(4)
        if policy.network.image is not None:
            policy.network.image.project.weight.mul_(8)
    return policy.eval()


def as_played(policy, episodes):
    """Greedy actions of every recorded state, one episode at a time, by the policy itself."""
    return np.concatenate([
        policy.act({name: e.observation[name] for name in policy.observation_keys}, [e.info.instruction] * len(e))
        for e in episodes
    ])  # fmt: skip


@pytest.mark.parametrize("inputs", KINDS)
def test_each_dimension_chooses_what_the_policy_does(inputs):
    episodes = recorded()
    policy = policy_for(inputs, episodes)
    states = token_states(policy, episodes, batch_size=13)
    tokens = states.context["tokens"]
    played = policy.norm_stats.unnormalize(policy.tokenizer.decode(tokens))
    np.testing.assert_array_equal(played, as_played(policy, episodes))
    assert len(np.unique(tokens, axis=0)) > 9  # or the test would not tell
    context = {name: torch.as_tensor(values) for name, values in states.context.items()}
    pixels = torch.as_tensor(states.states)
    pixels = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
    for dimension, decision in enumerate(token_q_policies(policy, states)):
        assert isinstance(decision, QPolicy)
        with torch.no_grad():
            values = decision.q_values(pixels, **context)
        assert values.shape == (len(states), 256)
        np.testing.assert_array_equal(1 + values.argmax(1), tokens[:, dimension])
    assert states.episode.tolist() == [i for i, e in enumerate(episodes) for _ in range(len(e))]
    assert states.step.tolist() == [t for e in episodes for t in range(len(e))]


def oracle(policy, dimension, observations, instruction, varied):
    """-log softmax of the greedy token, differentiated at one state in float64, straight through the network."""
    from robopref.policies.instruction import hashed_words

    network, arch = policy.network, policy.architecture
    tensors = {name: torch.as_tensor(np.asarray(values)[None]).double() for name, values in observations.items()}
    if "image" in tensors:
        tensors["image"] = tensors["image"] / 255
    tensors[varied].requires_grad_()
    words = torch.tensor([hashed_words(instruction, arch.word_buckets, arch.max_words)])
    features = network.encode(tensors, words)
    tokens = network.greedy(features.detach())
    logits = network.logits(features, tokens)[0, dimension]
    loss = torch.nn.functional.cross_entropy(logits[None], tokens[:, dimension] - 1)
    return torch.autograd.grad(loss, tensors[varied])[0][0].numpy()


@pytest.mark.parametrize("inputs", [("image", "proprio"), ("proprio", "state")])
def test_gradients_are_those_through_the_network_itself(inputs):
    episodes = recorded()
    policy = policy_for(inputs, episodes)
    for varied in inputs:
        states = token_states(policy, episodes, varied=varied)
        chosen = np.array([0, 20, 50, len(states) - 1])
        context = {name: values[chosen] for name, values in states.context.items()}
        double = copy.deepcopy(policy).double()
        for dimension, decision in enumerate(token_q_policies(policy, states)):
            found = state_gradients(decision, states.states[chosen], context=context, dtype=torch.float64, batch_size=3)
            single = state_gradients(decision, states.states[chosen], context=context)
            np.testing.assert_allclose(single, found, rtol=1e-2, atol=2e-4 * np.abs(found).max())
            for row, at in zip(found, chosen, strict=True):
                source, step = episodes[states.episode[at]], states.step[at]
                observations = {name: source.observation[name][step] for name in inputs}
                expected = oracle(double, dimension, observations, source.info.instruction, varied)
                if varied == "image":
                    expected = np.moveaxis(expected, -1, 0)
                else:  # per range of the coordinate instead of per unit
                    expected = expected * (states.vector_range.high - states.vector_range.low)
                tolerance = 1e-5 * np.abs(expected).max() + 1e-12
                np.testing.assert_allclose(row, expected.ravel(), rtol=1e-5, atol=tolerance)
            assert np.abs(found).max() > 1e-6
    assert next(policy.parameters()).dtype == torch.float32  # it was copied, not changed


def test_a_vectors_gradient_is_the_difference_quotient_per_range():
    episodes = demonstrations(2, 6)
    policy = policy_for(("state",), episodes)
    states = token_states(policy, episodes)
    decision = token_q_policies(policy, states)[1]
    found = state_gradients(decision, states.states, context=states.context, dtype=torch.float64)
    double = copy.deepcopy(decision).double()
    context = {name: torch.as_tensor(values) for name, values in states.context.items()}
    chosen = context["tokens"][:, 1] - 1

    def loss(pixels):
        with torch.no_grad():
            logits = double.q_values(torch.as_tensor(pixels), **context)
        return torch.nn.functional.cross_entropy(logits, chosen, reduction="none").numpy()

    for coordinate in range(5):
        step = np.zeros(states.states.shape)
        step[..., coordinate] = 1e-5
        base = states.states.astype(np.float64)
        quotient = (loss(base + step) - loss(base - step)) / 2e-5
        np.testing.assert_allclose(found[:, coordinate], quotient, rtol=1e-4, atol=1e-7)


def test_instructions_matter_and_travel_with_their_states():
    episodes = [episode([Actor.EXPERT] * 4, instruction=text) for text in ("reach the goal", "Öffne die Tür")]
    policy = policy_for(("state",), episodes)
    states = token_states(policy, episodes)
    decision = token_q_policies(policy, states)[0]
    found = state_gradients(decision, states.states, context=states.context, batch_size=3)
    np.testing.assert_array_equal(states.states[:4], states.states[4:])  # the same states, another instruction
    assert np.abs(found[:4] - found[4:]).max() > 1e-6
    alone = token_states(policy, episodes[1:], vector_range=states.vector_range)
    np.testing.assert_allclose(
        found[4:], state_gradients(decision, alone.states, context=alone.context), rtol=1e-3, atol=1e-6
    )


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=4))
def test_instructions_survive_as_bytes(texts):
    assert decode_instructions(torch.as_tensor(encode_instructions(texts))) == texts


def test_a_store_is_read_as_its_episodes_are(tmp_path):
    source = demonstrations(1, 6, image=True)[0]
    store = EpisodeStore.create_or_open(tmp_path / "data")
    writer = store.begin(source.info)
    for t in range(len(source)):
        observation = {name: values[t] for name, values in source.observation.items()}
        writer.append(Step(observation, source.action[t], Actor.EXPERT, t_monotonic_ns=int(source.t_monotonic_ns[t])))
    writer.finish(Outcome.SUCCESS, {name: values[-1] for name, values in source.observation.items()})
    policy = policy_for(("image", "proprio"), [source])
    stored, given_directly = token_states(policy, store), token_states(policy, [source])
    np.testing.assert_array_equal(stored.states, given_directly.states)
    assert stored.states.dtype == np.uint8
    for name, values in given_directly.context.items():
        np.testing.assert_array_equal(stored.context[name], values)


def test_the_diagnosis_takes_the_decisions_as_it_takes_any_other():
    episodes = demonstrations(2, 10, image=True)
    policy = policy_for(("image", "proprio"), episodes)
    states = token_states(policy, episodes)
    decision = token_q_policies(policy, states, name="ours")[3]
    gradients = state_gradients(decision, states.states, context=states.context, jitter=0.01)
    directions = principal_directions(gradients, 2)
    assert directions.directions.shape == (2, 3 * 16 * 16)
    spec = decision.spec_for(states)
    assert (spec.kind, spec.head, spec.n_actions, spec.shape) == ("action-tokens", "logits", 256, (3, 16, 16))
    assert spec.architecture == "CompactPolicy, action dimension 4 of 4"
    assert QPolicySpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert spec.policy_id != token_q_policies(policy, states)[2].spec_for(states).policy_id


def test_greedy_tokens_come_from_the_protocol_alone():
    class Scripted:
        """Two dimensions of three bins; the second follows the first."""

        norm_stats = (0, 0)

        def encode(self, observations, instructions):
            return observations["state"]

        def action_logits(self, batch, tokens):
            first = torch.as_tensor(batch)[:, :3]
            second = torch.nn.functional.one_hot(tokens[:, 0] % 3, 3).float()
            return torch.stack([first, second], dim=1)

    state = np.array([[0.0, 2.0, 1.0], [5.0, 0.0, 1.0], [0.0, 1.0, 9.0]], np.float32)
    found = greedy_tokens(Scripted(), {"state": state}, ["x"] * 3)
    np.testing.assert_array_equal(found, [[2, 3], [1, 2], [3, 1]])


def test_a_range_maps_its_ends_to_zero_and_one_and_keeps_what_never_moves():
    episodes = demonstrations(2, 6)
    for e in episodes:
        e.observation["state"][:, 2] = 0.25
    policy = policy_for(("state",), episodes)
    states = token_states(policy, episodes)
    flat = states.states[:, 0, 0]
    assert flat[:, [0, 1, 3, 4]].min(axis=0).tolist() == [0] * 4
    assert flat[:, [0, 1, 3, 4]].max(axis=0).tolist() == [1] * 4
    decision = token_q_policies(policy, states)[0]
    assert not state_gradients(decision, states.states, context=states.context)[:, 2].any()
    moved = demonstrations(1, 6)
    with pytest.raises(RoboprefError, match=r"6 of 6 states leave the given range: take it over all episodes"):
        token_states(policy, moved, vector_range=states.vector_range)  # not silently put back to .25
    with pytest.raises(RoboprefError, match=r"does not fit vectors \(5,\)"):
        token_states(policy, episodes, vector_range=VectorRange([0, 0], [1, 1]))
    wide = token_states(policy, moved, vector_range=VectorRange.of([*episodes, *moved], "state"))
    assert 0 <= wide.states.min() <= wide.states.max() <= 1


@pytest.mark.parametrize(
    ("low", "high"), [([0, 0], [1]), ([1], [0]), ([np.nan], [1]), ([[0]], [[1]]), (np.zeros(3), np.full(3, np.inf))]
)
def test_impossible_ranges_are_refused(low, high):
    with pytest.raises(RoboprefError, match="finite vectors"):
        VectorRange(low, high)


def test_bad_requests_are_refused():
    episodes = demonstrations(2, 4, image=True)
    policy = policy_for(("image", "proprio"), episodes)
    with pytest.raises(RoboprefError, match="dimensions 0 to 3, asked for 4"):
        TokenQPolicy(policy, 4)
    with pytest.raises(RoboprefError, match="does not read the observation 'state'; it reads image, proprio"):
        TokenQPolicy(policy, 0, "state", VectorRange([0], [1]))
    with pytest.raises(RoboprefError, match="'proprio' needs a vector_range"):
        TokenQPolicy(policy, 0, "proprio")
    with pytest.raises(RoboprefError, match="'image' takes no vector_range"):
        TokenQPolicy(policy, 0, "image", VectorRange([0], [1]))
    with pytest.raises(RoboprefError, match="no episodes"):
        token_states(policy, [])
    with pytest.raises(RoboprefError, match=r"lacks the observation 'image' that the policy reads"):
        token_states(policy, demonstrations(1, 4))
    mixed = demonstrations(1, 4, image=True)
    mixed[0].observation["image"] = np.zeros((4, 8, 8, 3), np.uint8)
    with pytest.raises(RoboprefError, match="different shapes"):
        token_states(policy, [*episodes, *mixed])


def test_float_images_are_for_tensors_in_zero_to_one():
    episodes = demonstrations(1, 4, image=True)
    policy = policy_for(("image", "proprio"), episodes)
    observations = dict(episodes[0].observation)
    expected = policy.encode(observations, ["x"] * 4).features
    image = torch.as_tensor(observations["image"])
    found = policy.encode(observations | {"image": image.float() / 255}, ["x"] * 4).features
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(RoboprefError, match="divide by 255"):
        policy.encode(observations | {"image": image.float()}, ["x"] * 4)
    with pytest.raises(RoboprefError, match="uint8"):
        policy.encode(observations | {"image": observations["image"] / 255}, ["x"] * 4)
    with pytest.raises(RoboprefError, match="NaN"):
        policy.encode(observations | {"image": image.float() * torch.nan}, ["x"] * 4)
