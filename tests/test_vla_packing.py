"""Packed suffixes equal separate passes, and the whole equals the library's own forward, for every family."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robopref.errors import RoboprefError
from robopref.policies.normalization import NormStats
from robopref.policies.vla.base_models import find_base, load_backbone
from robopref.policies.vla.packing import pack
from robopref.policies.vla.policy import HFVLAPolicy
from robopref.policies.vla.prompt import prompt_for
from tests.vla_models import IMAGE, write

FAMILIES = ["llava", "paligemma", "paligemma2", "smolvlm", "openvla"]
INSTRUCTIONS = ["press the button", "Open the drawer slowly"]


@pytest.fixture(scope="module", params=FAMILIES)
def policy(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    write(request.param, directory)
    files = find_base(directory)
    stats = NormStats(-np.ones(4), np.ones(4), np.ones(4, bool))
    return HFVLAPolicy(load_backbone(files), stats, files.base).eval()


def observations(seed=0):
    rng = np.random.default_rng(seed)
    return {"image": rng.integers(0, 256, (2, IMAGE, IMAGE, 3), dtype=np.uint8)}


def tokens(seed=0):
    return torch.as_tensor(np.random.default_rng(seed).integers(1, 257, (2, 4)))


def whole_forward(policy, token_rows):
    """Logits by the library's forward over ids, for one row at a time, without any padding."""
    backbone = policy.backbone
    if backbone.family == "openvla":
        pytest.skip("no library has it: tests/test_vla_openvla.py holds it against a second writing")
    rows = []
    for i, instruction in enumerate(INSTRUCTIONS):
        pixels = backbone.images.prepare(observations()["image"][i : i + 1])
        patches = backbone._image_features(pixels).shape[1]
        prompt = backbone._prompt_ids(prompt_for(instruction), patches)
        ids = torch.tensor([prompt + (backbone.usable_vocabulary - token_rows[i]).tolist()])
        inputs = {"input_ids": ids, "pixel_values": pixels}
        if backbone.family == "paligemma":
            inputs["token_type_ids"] = torch.tensor([[0] * len(prompt) + [1] * token_rows.shape[1]])
        if backbone.family == "smolvlm":
            inputs["pixel_values"] = pixels[:, None]
        with torch.no_grad():
            logits = backbone.model(**inputs).logits[0, len(prompt) - 1 :]
        rows.append(logits)
    return torch.stack(rows)


def test_scores_equal_the_librarys_own_forward(policy):
    first = tokens()
    logits = whole_forward(policy, first)
    ids = policy.backbone.usable_vocabulary - torch.arange(1, 257)
    with torch.no_grad():
        scores = policy.score(policy.encode(observations(), INSTRUCTIONS), first, None)
    torch.testing.assert_close(scores.logits, logits[:, :-1][..., ids], atol=1e-5, rtol=0)
    expected = logits[:, :-1][..., ids].log_softmax(-1).gather(-1, (first - 1)[..., None])[..., 0]
    torch.testing.assert_close(scores.logps[:, :-1], expected, atol=1e-5, rtol=0)
    assert (scores.logps[:, -1] == 0).all()


def test_over_the_whole_vocabulary_the_stop_token_is_the_last_column(policy):
    first = tokens()
    logits = whole_forward(policy, first).log_softmax(-1)
    stop = torch.full((2, 1), policy.backbone.stop_id)
    ids = torch.cat([policy.backbone.usable_vocabulary - first, stop], dim=1)
    whole = HFVLAPolicy(policy.backbone, policy.norm_stats, policy.base, normalize_over="vocabulary")
    with torch.no_grad():
        logps = whole.action_logps(whole.encode(observations(), INSTRUCTIONS), first)
    torch.testing.assert_close(logps, logits.gather(-1, ids[..., None])[..., 0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("normalize_over", ["actions", "vocabulary"])
def test_two_packed_actions_equal_two_passes(policy, normalize_over):
    policy = HFVLAPolicy(policy.backbone, policy.norm_stats, policy.base, normalize_over=normalize_over)
    first, second = tokens(1), tokens(2)
    with torch.no_grad():
        batch = policy.encode(observations(), INSTRUCTIONS)
        packed = policy.score(batch, first, second)
        torch.testing.assert_close(packed.logps, policy.action_logps(batch, first), atol=1e-5, rtol=0)
        torch.testing.assert_close(packed.second_logps, policy.action_logps(batch, second), atol=1e-5, rtol=0)
        torch.testing.assert_close(packed.logits, policy.action_logits(batch, first), atol=1e-5, rtol=0)
    assert (packed.logps - packed.second_logps).abs().max() > 0.1


def test_attention_that_cannot_be_masked_gets_two_passes_and_says_so(policy, monkeypatch):
    first, second = tokens(1), tokens(2)
    with torch.no_grad():
        batch = policy.encode(observations(), INSTRUCTIONS)
        packed = policy.score(batch, first, second)
        monkeypatch.setattr(type(policy.backbone), "masks_exactly", False)
        with pytest.warns(UserWarning, match="cannot keep two actions apart, so each gets a forward pass of its own"):
            apart = policy.score(batch, first, second)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            alone = policy.score(batch, first, None)
    for found, expected in zip(apart, packed, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(alone.logps, packed.logps, atol=1e-5, rtol=0)


def test_as_many_pictures_as_instructions(policy):
    with pytest.raises(RoboprefError, match="2 images do not go with 1 instructions"):
        policy.encode(observations(), INSTRUCTIONS[:1])


def test_gradients_through_packed_suffixes_equal_those_of_two_passes(policy):
    first, second = tokens(1), tokens(2)
    weight = policy.backbone.output_weight

    def gradient(packed):
        batch = policy.encode(observations(), INSTRUCTIONS)
        if packed:
            scores = policy.score(batch, first, second)
            loss = scores.logps.sum() - 0.5 * scores.second_logps.sum()
        else:
            loss = policy.action_logps(batch, first).sum() - 0.5 * policy.action_logps(batch, second).sum()
        return torch.autograd.grad(loss, weight)[0]

    torch.testing.assert_close(gradient(True), gradient(False), atol=1e-4, rtol=1e-4)


def test_padding_of_a_shorter_prompt_changes_nothing(policy):
    first = tokens(3)
    with torch.no_grad():
        together = policy.action_logps(policy.encode(observations(), INSTRUCTIONS), first)
        alone = [
            policy.action_logps(
                policy.encode({"image": observations()["image"][i : i + 1]}, INSTRUCTIONS[i : i + 1]), first[i : i + 1]
            )
            for i in range(2)
        ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)


def test_greedy_decoding_with_a_cache_equals_teacher_forcing(policy):
    batch = policy.encode(observations(), INSTRUCTIONS)
    greedy = policy.greedy_tokens(batch)
    with torch.no_grad():
        assert torch.equal(1 + policy.action_logits(batch, greedy).argmax(-1), greedy)
    actions = policy.act(observations(), INSTRUCTIONS)
    np.testing.assert_allclose(actions, policy.norm_stats.unnormalize(policy.tokenizer.decode(greedy.numpy())))


def test_logits_change_with_image_and_instruction(policy):
    first = tokens()
    with torch.no_grad():
        here = policy.action_logits(policy.encode(observations(), INSTRUCTIONS), first)
        other_image = policy.action_logits(policy.encode(observations(1), INSTRUCTIONS), first)
        other_text = policy.action_logits(policy.encode(observations(), INSTRUCTIONS[::-1]), first)
    assert (here - other_image).abs().max() > 1e-3
    assert (here - other_text).abs().max() > 1e-3


def test_gradients_reach_the_pixels(policy):
    image = torch.rand(2, IMAGE, IMAGE, 3, requires_grad=True)
    policy.action_logps(policy.encode({"image": image}, INSTRUCTIONS), tokens()).sum().backward()
    assert (image.grad.abs().sum(dim=(1, 2, 3)) > 0).all()


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    suffixes=st.integers(1, 3),
    length=st.integers(0, 4),
    bidirectional=st.booleans(),
    first=st.integers(0, 1),
)
@settings(max_examples=60)
def test_layout_by_its_definition(lengths, suffixes, length, bidirectional, first):
    prefix = max(lengths)
    mask = torch.arange(prefix)[None] < torch.tensor(lengths)[:, None]
    layout = pack(mask, suffixes, length, bidirectional_prefix=bidirectional, first_position=first)
    for row, real in enumerate(lengths):
        for q in range(prefix + suffixes * length):
            for k in range(prefix + suffixes * length):
                sees = bool(layout.visible[row, q, k])
                if q < prefix and q >= real:
                    assert sees == (q == k) or (k < real and sees)
                elif q < prefix:
                    assert sees == (k < real and (bidirectional or k <= q))
                elif k < prefix:
                    assert sees == (k < real)
                else:
                    same = (q - prefix) // length == (k - prefix) // length
                    assert sees == (same and k <= q)
        for s in range(suffixes):
            places = layout.predictors[row, s].tolist()
            assert places == [real - 1, *range(prefix + s * length, prefix + (s + 1) * length)]
            assert layout.positions[row, places].tolist() == list(range(real - 1 + first, real + length + first))
    assert layout.visible.any(dim=-1).all()
