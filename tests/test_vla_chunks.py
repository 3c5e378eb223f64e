"""Action chunks, and tokens of variable number, written by a vision-language model."""

import numpy as np
import pytest
import torch

from robopref.policies.chunked_tokenizer import ChunkedActionTokenizer
from robopref.policies.fast_tokenizer import FastTokenizer
from robopref.policies.normalization import NormStats
from robopref.policies.vla.base_models import find_base, load_backbone
from robopref.policies.vla.policy import HFVLAPolicy
from tests.vla_models import IMAGE, write

SIZE, HORIZON = 2, 3
STATS = NormStats([-1] * SIZE, [1] * SIZE, [True] * SIZE)
INSTRUCTIONS = ["press the button", "open the drawer slowly"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    directory = tmp_path_factory.mktemp("llava")
    write("llava", directory)
    return find_base(directory)


@pytest.fixture(scope="module", params=["binned", "fast"])
def tokenizer(request):
    if request.param == "binned":
        return ChunkedActionTokenizer(HORIZON, SIZE)
    time = np.linspace(0, 1, HORIZON)[None, :, None]
    slopes = np.random.default_rng(0).uniform(-1, 1, (200, 1, SIZE))
    return FastTokenizer.fit(slopes * time, vocabulary_size=300, scale=5.0)


@pytest.fixture(params=["actions", "vocabulary"])
def policy(request, base, tokenizer):
    return HFVLAPolicy(load_backbone(base), STATS, base.base, tokenizer, normalize_over=request.param).eval()


def images(seed=0):
    return {"image": np.random.default_rng(seed).integers(0, 256, (2, IMAGE, IMAGE, 3), dtype=np.uint8)}


def rows(policy):
    """A full row of tokens and one that ends after two."""
    length = policy.tokenizer.action_tokens(SIZE)
    tokens = torch.as_tensor(np.random.default_rng(1).integers(1, policy.tokenizer.bins + 1, (2, length)))
    tokens[1, 2:] = 0
    return tokens


def log_probabilities(policy, row, image, instruction):
    """By the definition, one sequence without padding: over what may be chosen at each place, token after token."""
    backbone = policy.backbone
    prefix = backbone.prefix(image, [instruction])
    ids = backbone.usable_vocabulary - row[row > 0]
    whole = torch.cat([prefix.embeddings, backbone.embed(ids)[None]], dim=1)
    size = whole.shape[1]
    visible = torch.ones(1, size, size, dtype=torch.bool).tril()
    hidden = backbone.hidden(whole, visible, torch.arange(size)[None])[0, prefix.embeddings.shape[1] - 1 :]
    choices = policy.choice_ids if policy.normalize_over == "actions" else torch.arange(len(backbone.output_weight))
    table = backbone.logits(hidden)[:, choices].log_softmax(-1)
    place = {int(i): n for n, i in enumerate(choices)}
    tokens = [float(table[n, place[int(i)]]) for n, i in enumerate(ids)]
    ended = len(ids) < len(row)
    stops = policy.tokenizer.variable_length and (ended or policy.normalize_over == "vocabulary")
    stops = stops or (policy.normalize_over == "vocabulary" and not ended)
    stop = float(table[len(ids), place[backbone.stop_id]]) if stops else 0.0
    return torch.tensor(tokens + [0.0] * (len(row) - len(ids)) + [stop])


def test_log_probabilities_by_their_definition(policy):
    tokens = rows(policy)
    with torch.no_grad():
        batch = policy.encode(images(), INSTRUCTIONS)
        packed = policy.score(batch, tokens, tokens.flip(0))
        for row in range(2):
            image = images()["image"][row : row + 1]
            expected = log_probabilities(policy, tokens[row], image, INSTRUCTIONS[row])
            torch.testing.assert_close(packed.logps[row], expected, atol=1e-5, rtol=0)
            other = log_probabilities(policy, tokens[1 - row], image, INSTRUCTIONS[row])
            torch.testing.assert_close(packed.second_logps[row], other, atol=1e-5, rtol=0)


def test_greedy_tokens_are_the_most_probable_ones(policy):
    with torch.no_grad():
        batch = policy.encode(images(), INSTRUCTIONS)
        greedy = policy.greedy_tokens(batch)
        classes = policy.action_logits(batch, greedy).argmax(-1)
    for row, chosen in zip(greedy, classes, strict=True):
        count = int((row > 0).sum())
        assert torch.equal(chosen[:count] + 1, row[:count])
        if count < len(row):
            assert int(chosen[count]) == policy.tokenizer.bins  # where it stopped, the stop was the most probable
            assert (row[count:] == 0).all()


def test_a_chunk_is_executed_open_loop_until_it_is_dropped(policy):
    one = {"image": images()["image"][:1]}
    with torch.no_grad():
        tokens = policy.greedy_tokens(policy.encode(one, INSTRUCTIONS[:1]))
    chunk = STATS.unnormalize(policy.tokenizer.decode(tokens.numpy())[0])
    other = {"image": images(5)["image"][:1]}  # not looked at before the chunk has been executed
    played = [policy.act(seen, INSTRUCTIONS[:1])[0] for seen in (one, other, other)]
    np.testing.assert_allclose(np.stack(played), chunk, atol=1e-6)
    policy.act(one, INSTRUCTIONS[:1])
    policy.reset()
    np.testing.assert_allclose(policy.act(one, INSTRUCTIONS[:1])[0], chunk[0], atol=1e-6)
    policy.reset()
    assert policy.act(images(), INSTRUCTIONS).shape == (2, SIZE)


def test_saved_and_loaded_with_its_tokens(base, tokenizer, tmp_path):
    from robopref.policies.registry import load_policy
    from robopref.policies.vla.options import LoraOptions

    policy = HFVLAPolicy(load_backbone(base), STATS, base.base, tokenizer)
    policy.add_adapter(LoraOptions(lora_rank=2))
    policy.save(tmp_path / "policy")
    again = load_policy(tmp_path / "policy", device="cpu")
    assert again.tokenizer.to_json() == tokenizer.to_json()
    with torch.no_grad():
        logps = [p.eval().action_logps(p.encode(images(), INSTRUCTIONS), rows(policy)) for p in (policy, again)]
    torch.testing.assert_close(*logps, atol=1e-6, rtol=0)
