import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from robopref.errors import RoboprefError
from robopref.policies.compact import CompactPolicy
from robopref.policies.compact_network import CompactArchitecture
from robopref.policies.instruction import hashed_words
from robopref.policies.normalization import NormStats
from robopref.policies.registry import load_policy, policy_id
from robopref.policies.tokenizer import ActionTokenizer
from robopref.protocols import TokenPolicy

UNIT = NormStats(q01=[-1, -1, -1, 0], q99=[1, 1, 1, 1], mask=[True, True, True, False])


def tiny_policy(inputs=("state",), seed=0, **sizes):
    torch.manual_seed(seed)
    arch = CompactArchitecture(
        inputs=inputs, width=32, channels=(8, 8), image_size=16, state_size=5, proprio_size=3, **sizes
    )
    return CompactPolicy(arch, UNIT, tasks={"reach": "reach the goal"}).eval()


def observations(n, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (n, 16, 16, 3), dtype=np.uint8),
        "proprio": rng.normal(size=(n, 3)).astype(np.float32),
        "state": rng.normal(size=(n, 5)).astype(np.float32),
    }


# --- tokenizer and normalisation


@given(hnp.arrays(np.float64, 4, elements=st.floats(-1, 1)))
def test_a_token_decodes_to_within_a_bin_of_what_was_encoded(action):
    tokenizer = ActionTokenizer()
    tokens = tokenizer.encode(action)
    assert tokens.min() >= 1
    assert tokens.max() <= 256
    assert np.abs(tokenizer.decode(tokens) - action).max() <= 1 / 255 + 1e-6  # half a bin of width 2 / 255


def test_the_tokenizer_follows_the_openvla_recipe_at_its_corners():
    tokenizer = ActionTokenizer()
    np.testing.assert_array_equal(tokenizer.encode(np.array([-1.0, -5.0, 0.0, 1.0, 7.0])), [1, 1, 128, 256, 256])
    # 255 centres: tokens 255 and 256 decode alike
    np.testing.assert_allclose(tokenizer.decode(np.array([1, 255, 256])), [-1 + 1 / 255, 1 - 1 / 255, 1 - 1 / 255])
    np.testing.assert_array_equal(tokenizer.to_vocabulary(np.array([1, 256]), 32000), [31999, 31744])
    np.testing.assert_array_equal(tokenizer.from_vocabulary(np.array([31999, 31744]), 32000), [1, 256])


@pytest.mark.parametrize("bad", [np.array([np.nan]), np.array([0.0, np.nan])])
def test_nan_actions_are_not_tokenized(bad):
    with pytest.raises(RoboprefError, match="NaN"):
        ActionTokenizer().encode(bad)


def test_tokens_outside_the_bins_are_refused():
    with pytest.raises(RoboprefError, match="1 to 256"):
        ActionTokenizer().decode(np.array([0]))


def test_normalisation_maps_the_quantiles_and_leaves_the_gripper():
    actions = np.stack([np.linspace(-2, 6, 101), np.linspace(0, 1, 101)], axis=1)
    stats = NormStats.from_actions(actions)
    np.testing.assert_allclose(stats.q01, [-1.92, 0.01])
    np.testing.assert_allclose(stats.q99, [5.92, 0.99])
    np.testing.assert_array_equal(stats.mask, [True, False])
    np.testing.assert_allclose(
        stats.normalize(np.array([[-1.92, 0.3], [5.92, 3.0], [99.0, -3.0]])), [[-1, 0.3], [1, 3.0], [1, -3.0]]
    )


@pytest.mark.parametrize(
    ("last", "is_gripper"),
    [
        ([0.0, 1.0], True), ([-1.0, 1.0], True), ([0.0, 0.6], True), ([-1.0, -1.0], True), ([0.0, 0.0], True),
        ([-1.03, 1.02], True), ([50.0, 450.0], False), ([-0.02, 0.02], False), ([-1.2, 1.2], False),
        ([7.0, 7.0], False),
    ],
)  # fmt: skip
def test_the_last_dimension_is_a_gripper_where_its_commands_are_those_of_one(last, is_gripper):
    low, high = last
    actions = np.stack([np.linspace(-2, 6, 101), np.linspace(low, high, 101)], axis=1)
    stats = NormStats.from_actions(actions)
    np.testing.assert_array_equal(stats.mask, [True, not is_gripper])
    tokenizer = ActionTokenizer()
    back = stats.unnormalize(tokenizer.decode(tokenizer.encode(stats.normalize(actions))))
    inside = ~stats.outside(actions)
    error = np.where(inside, np.abs(back - actions), 0)[:, 1]
    assert error.max() <= max(0.01 * (high - low), 0 if not is_gripper else 0.005) + 1e-6


def test_a_gripper_may_have_been_moved_little():
    little = np.stack([np.linspace(-2, 6, 100), np.tile([0.0, 0.1], 50)], axis=1)
    stats = NormStats.from_actions(little)
    assert stats.unnormalize(stats.normalize(np.array([[0.0, 1.0]])))[0, 1] == 1  # as an operator may command it


@given(hnp.arrays(np.float64, 3, elements=st.floats(-1, 1)))
def test_normalisation_is_undone_inside_the_quantiles(unit):
    stats = NormStats(q01=[-3, 0, -1], q99=[5, 1e-3, 1], mask=[True, True, False])
    np.testing.assert_allclose(stats.normalize(stats.unnormalize(unit)), unit, atol=1e-4)


def test_values_outside_what_tokens_express_are_known():
    stats = NormStats([-1.0, 0.0], [2.0, 0.5], [True, False])
    actions = np.array([[-1.1, 0.9], [2.0, -1.1], [0.0, 1.0]])
    np.testing.assert_array_equal(stats.outside(actions), [[True, False], [False, True], [False, False]])


def test_a_constant_action_dimension_survives_normalisation():
    stats = NormStats.from_actions(np.array([[0.5, 0.0], [0.5, 1.0]]))
    assert np.isfinite(stats.normalize(np.array([[0.5, 0.0]]))).all()
    assert stats.unnormalize(stats.normalize(np.array([[0.5, 0.0]])))[0, 0] == pytest.approx(0.5)
    beside = stats.normalize(np.array([[0.5 + 1e-7, 0.0], [0.5 - 1e-7, 0.0], [0.6, 0.0], [0.5, 0.0]]))
    assert set(beside[:, 0]) == {-1.0}  # whatever is asked of it, it can be but one thing


def test_normalisation_of_another_action_size_is_refused():
    with pytest.raises(RoboprefError, match="4 dimensions"):
        UNIT.normalize(np.zeros((2, 7)))


# --- instruction


def test_instructions_differ_by_word_and_by_order_but_not_by_case():
    assert hashed_words("Press the button", 2048, 16) == hashed_words("press THE button.", 2048, 16)
    assert hashed_words("press the button", 2048, 16) != hashed_words("press the door", 2048, 16)
    assert hashed_words("peg into box", 2048, 16) != hashed_words("box into peg", 2048, 16)
    assert len(hashed_words("a " * 99, 2048, 16)) == 16


# --- the policy


@pytest.mark.parametrize("inputs", [("state",), ("image", "proprio"), ("proprio", "state")])
def test_log_probabilities_normalise_over_the_bins_and_end_in_an_empty_stop_column(inputs):
    policy = tiny_policy(inputs)
    assert isinstance(policy, TokenPolicy)
    batch = policy.encode(observations(3), ["reach the goal"] * 3)
    tokens = torch.tensor([[1, 2, 3, 256]] * 3)
    logps = policy.action_logps(batch, tokens)
    assert logps.shape == (3, 5)
    assert torch.equal(logps[:, 4], torch.zeros(3))
    first = torch.stack([policy.action_logps(batch, torch.full((3, 4), t))[:, 0] for t in range(1, 257)])
    torch.testing.assert_close(first.exp().sum(0), torch.ones(3))


def test_each_position_depends_on_earlier_tokens_only():
    policy = tiny_policy()
    batch = policy.encode(observations(1), ["x"])
    base = policy.action_logits(batch, torch.tensor([[5, 6, 7, 8]]))
    for position in range(4):
        tokens = torch.tensor([[5, 6, 7, 8]])
        tokens[0, position] = 200
        changed = policy.action_logits(batch, tokens)
        torch.testing.assert_close(changed[:, : position + 1], base[:, : position + 1])
        if position < 3:
            assert not torch.allclose(changed[:, position + 1], base[:, position + 1])


def test_acting_is_greedy_token_by_token():
    policy = tiny_policy()
    obs = observations(4)
    batch = policy.encode(obs, ["x"] * 4)
    chosen = torch.ones(4, 4, dtype=torch.long)
    for position in range(4):  # written independently of the policy's own decoding
        logps = [policy.action_logps(batch, _with(chosen, position, t))[:, position] for t in range(1, 257)]
        chosen[:, position] = 1 + torch.stack(logps).argmax(0)
    expected = UNIT.unnormalize(ActionTokenizer().decode(chosen.numpy()))
    np.testing.assert_allclose(policy.act(obs, ["x"] * 4), expected)


def _with(tokens, position, value):
    tokens = tokens.clone()
    tokens[:, position] = value
    return tokens


def test_the_reference_stays_while_the_policy_moves():
    policy = tiny_policy()
    with pytest.raises(RoboprefError, match="freeze_reference"), policy.reference():
        pass
    policy.freeze_reference()
    obs, tokens = observations(2), torch.tensor([[9, 9, 9, 9]] * 2)
    before = policy.action_logps(policy.encode(obs, ["x"] * 2), tokens)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1)
    moved = policy.action_logps(policy.encode(obs, ["x"] * 2), tokens)
    with policy.reference():
        reference = policy.action_logps(policy.encode(obs, ["x"] * 2), tokens)
    torch.testing.assert_close(reference, before)
    assert not torch.allclose(moved, before)
    assert not reference.requires_grad
    assert policy.action_logps(policy.encode(obs, ["x"] * 2), tokens).requires_grad


def test_the_reference_is_left_after_an_error():
    policy = tiny_policy()
    policy.freeze_reference()
    with pytest.raises(RoboprefError), policy.reference():
        policy.encode({}, ["x"])
    assert policy.action_logps(policy.encode(observations(1), ["x"]), torch.tensor([[1, 1, 1, 1]])).requires_grad


@pytest.mark.parametrize("inputs", [("state",), ("image", "proprio")])
def test_a_checkpoint_gives_back_the_same_policy(tmp_path, inputs):
    policy = tiny_policy(inputs)
    policy.save(tmp_path / "p")
    loaded = load_policy(tmp_path / "p")
    obs = observations(3)
    np.testing.assert_array_equal(loaded.act(obs, ["reach"] * 3), policy.act(obs, ["reach"] * 3))
    assert {p.name for p in (tmp_path / "p").iterdir()} == {"policy.json", "policy.safetensors"}
    assert loaded.tasks == {"reach": "reach the goal"}
    assert policy_id(tmp_path / "p").startswith("compact-")


def test_saving_again_replaces_the_checkpoint_and_leaves_nothing_behind(tmp_path):
    tiny_policy(seed=0).save(tmp_path / "p")
    first = policy_id(tmp_path / "p")
    tiny_policy(seed=1).save(tmp_path / "p")
    assert policy_id(tmp_path / "p") != first
    assert [p.name for p in tmp_path.iterdir()] == ["p"]


def test_a_damaged_or_foreign_checkpoint_is_refused_clearly(tmp_path):
    with pytest.raises(RoboprefError, match="no policy at"):
        load_policy(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RoboprefError, match=r"policy\.json"):
        load_policy(tmp_path / "empty")
    policy = tiny_policy()
    policy.save(tmp_path / "p")
    weights = tmp_path / "p" / "policy.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(RoboprefError, match="damaged"):
        load_policy(tmp_path / "p")
    policy.save(tmp_path / "q")
    description = tmp_path / "q" / "policy.json"
    fields = json.loads(description.read_text())
    description.write_text(json.dumps(fields | {"format_version": 99}))
    with pytest.raises(RoboprefError, match="newer robopref"):
        load_policy(tmp_path / "q")
    description.write_text(json.dumps(fields | {"architecture": fields["architecture"] | {"width": 64}}))
    with pytest.raises(RoboprefError, match="do not fit"):
        load_policy(tmp_path / "q")


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("architecture", {"of_the_next_version": 1}), ("architecture", {"width": "wide"}),
        ("architecture", {"width": -1}), ("architecture", {"channels": []}), ("normalization", {"q99": None}),
        ("normalization", {"q01": [9.0] * 4}), ("tokenizer", {"kind": "of the next version"}),
    ],
)  # fmt: skip
def test_a_description_that_is_damaged_or_of_another_version_is_named(tmp_path, part, change):
    tiny_policy(("image", "proprio")).save(tmp_path / "p")
    description = tmp_path / "p" / "policy.json"
    fields = json.loads(description.read_text())
    changed = {name: value for name, value in (fields[part] | change).items() if value is not None}
    description.write_text(json.dumps(fields | {part: changed}))
    with pytest.raises(RoboprefError, match=r"policy\.json is damaged or of another version"):
        load_policy(tmp_path / "p")


def test_a_factory_is_called_and_checked():
    assert isinstance(load_policy("test_policies:tiny_policy"), TokenPolicy)
    with pytest.raises(RoboprefError, match="cannot import"):
        load_policy("no_such_module_here:make")
    with pytest.raises(RoboprefError, match="no callable"):
        load_policy("test_policies:absent")
    with pytest.raises(RoboprefError, match="TokenPolicy"):
        load_policy("builtins:dict")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.zeros((1, 8, 8, 3), np.uint8)}, "image.*shape"),
        ({"image": np.zeros((1, 16, 16, 3), np.float32)}, "uint8"),
        ({"proprio": np.full((1, 3), np.nan, np.float32)}, "proprio.*NaN"),
        ({"proprio": None}, "reads the observation 'proprio'"),
    ],
)
def test_observations_are_checked(change, message):
    policy = tiny_policy(("image", "proprio"))
    obs = {k: v for k, v in (observations(1) | change).items() if v is not None}
    with pytest.raises(RoboprefError, match=message):
        policy.act(obs, ["x"])
