"""A vision-language-action policy in the trainer: recomputation, precision, pieces, compilation, what a state holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_runs import Run

from robopref.errors import RoboprefError
from robopref.policies.normalization import NormStats
from robopref.policies.vla.loading import load_vla
from robopref.policies.vla.options import LoraOptions, VLAOptions
from robopref.training.forward import TrainingForward, reference_mode
from robopref.training.sharding import load_whole_state, whole_state
from tests.vla_models import IMAGE, write

STATS = NormStats([-1, -2, 0], [1, 2, 0.5], [True, True, False])
INSTRUCTIONS = ["press the button", "Open the drawer"]
FIRST, SECOND = torch.tensor([[3, 200, 256], [1, 77, 128]]), torch.tensor([[9, 5, 1], [250, 78, 128]])


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    root = tmp_path_factory.mktemp("bases")
    for family in ("llava", "openvla", "paligemma"):
        write(family, root / family)
    return root


def images():
    return {"image": np.random.default_rng(0).integers(0, 256, (2, IMAGE, IMAGE, 3), dtype=np.uint8)}


def adapted(base, *, weights="fp32", dropout=0.0):
    """With an adapter that already changes something."""
    policy = load_vla(base, VLAOptions(weights=weights), norm_stats=STATS, device="cpu")
    torch.manual_seed(0)
    policy.add_adapter(LoraOptions(lora_rank=2, lora_dropout=dropout))
    for name, parameter in policy.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, 0, 0.05)
    return policy.train()


def gradients(policy):
    torch.manual_seed(3)  # of dropout
    scores = policy.score(policy.encode(images(), INSTRUCTIONS), FIRST, SECOND)
    (scores.logps.sum() - 0.5 * scores.second_logps.sum()).backward()
    return {name: p.grad for name, p in policy.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("family", ["llava", "openvla"])
def test_recomputed_activations_give_the_same_gradients_dropout_included(bases, family):
    kept, recomputing = (adapted(bases / family, dropout=0.3) for _ in range(2))
    recomputing.enable_activation_checkpointing()
    passes = []
    for module in recomputing.modules():
        if type(module).__name__ == "LlamaMLP":
            module.register_forward_pre_hook(lambda *_: passes.append(1))
    expected, found = gradients(kept), gradients(recomputing)
    layers = sum(type(module).__name__ == "LlamaMLP" for module in recomputing.modules())
    assert len(passes) == 2 * layers
    assert any("vision" in name and gradient.abs().max() > 0 for name, gradient in expected.items())
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("normalize_over", ["actions", "vocabulary"])
@pytest.mark.parametrize("family", ["llava", "paligemma"])
def test_the_kl_on_the_own_prefix_is_normalised_as_the_log_probabilities_are(bases, family, normalize_over):
    policy = adapted(bases / family).eval()
    policy.normalize_over = normalize_over
    with torch.no_grad():
        outputs = TrainingForward(policy)(images(), INSTRUCTIONS, FIRST, SECOND, own_prefix_kl=True)
        batch = policy.encode(images(), INSTRUCTIONS)
        policy.normalize_over = "vocabulary"  # which also gives the hidden state behind the last action token
        logits = policy.backbone.logits(policy._teacher_forced(batch, FIRST[:, None])[:, 0]).float()
    assert logits.shape[-1] > 700
    if normalize_over == "vocabulary":
        ids = torch.cat([policy.action_ids[SECOND - 1], torch.full((2, 1), policy.backbone.stop_id)], dim=1)
        expected = logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    else:
        over_bins = logits[:, :-1, policy.action_ids].log_softmax(-1)
        expected = over_bins.gather(-1, (SECOND - 1)[..., None])[..., 0]
        expected = torch.cat([expected, torch.zeros(2, 1)], dim=1)
    torch.testing.assert_close(outputs.kl_logps, expected, atol=1e-5, rtol=0)


def test_an_adapter_on_a_base_of_bfloat16_learns_in_single_precision(bases, tmp_path):
    policy = adapted(bases / "llava", weights="bf16")
    trained = [p for p in policy.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32}
    policy.freeze_reference()
    before = [p.detach().clone() for p in trained]
    gradients(policy)
    torch.optim.SGD(trained, lr=1e-9).step()  # far below what bfloat16 can add to such weights
    assert any(not torch.equal(p, b) for p, b in zip(trained, before, strict=True))
    policy.save(tmp_path / "policy")
    again = load_vla(tmp_path / "policy", VLAOptions(weights="bf16"), device="cpu")
    own, loaded = dict(policy.named_parameters()), dict(again.named_parameters())
    for name in (name for name, p in own.items() if p.requires_grad):
        torch.testing.assert_close(loaded[name], own[name], atol=0, rtol=0)
    with policy.reference(), torch.no_grad():
        scores = policy.score(policy.encode(images(), INSTRUCTIONS), FIRST, SECOND)
    assert torch.isfinite(scores.logps).all()


@pytest.mark.slow
def test_compiled_passes_switch_to_the_reference_and_back(bases):
    policy = adapted(bases / "llava")
    policy.freeze_reference()
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if ".lora_B.default" in name:
                parameter.add_(0.05)
    plain, compiled = TrainingForward(policy), TrainingForward(policy)
    compiled.compile(backend="eager")

    def scores(forward):
        own = forward(images(), INSTRUCTIONS, FIRST, SECOND)
        with reference_mode(policy):
            reference = forward(images(), INSTRUCTIONS, FIRST, SECOND)
        again = forward(images(), INSTRUCTIONS, FIRST, SECOND)
        assert again.logps.requires_grad
        assert not reference.logps.requires_grad
        return [x.logps.detach() for x in (own, reference, again)]

    expected, found = scores(plain), scores(compiled)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (expected[0] - expected[1]).abs().max() > 1e-2


def test_pieces_give_the_adapter_of_the_whole_batch():
    whole, pieces = (Run(policy="llava", inputs=("image",), batch_size=5, micro_batch_size=n) for n in (None, 2))
    for run in (whole, pieces):
        assert run.trainer.run()
    torch.testing.assert_close(pieces.weights(), whole.weights(), rtol=0, atol=1e-5)


def test_a_full_cache_does_without_the_reference(tmp_path):
    settings = {"policy": "llava", "inputs": ("image",), "batch_size": 5, "augmentation_variants": 2}
    plain, cached = Run(**settings), Run(**settings, cache=tmp_path / "cache")
    plain.trainer.run()
    assert cached.trainer.precompute_reference()
    full = Run(**settings, cache=tmp_path / "cache")
    with pytest.raises(RoboprefError, match="no reference yet"), full.policy.reference():
        pass
    assert full.trainer.run()
    trained = {name for name, p in full.policy.named_parameters() if p.requires_grad}
    expected = {name: tensor for name, tensor in plain.weights().items() if name in trained}
    torch.testing.assert_close({n: t for n, t in full.weights().items() if n in trained}, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["tied", "4bit"])
def test_a_state_holds_the_adapter_alone_and_is_read_again(bases, kind):
    if kind == "4bit":
        pytest.importorskip("bitsandbytes")
    base, weights = ("llava", "4bit") if kind == "4bit" else ("paligemma", "fp32")
    policy, other = (adapted(bases / base, weights=weights) for _ in range(2))
    state = whole_state(policy)
    assert state
    assert all("lora_" in name for name in state)
    load_whole_state(other, {name: tensor + 1 for name, tensor in state.items()})
    own = other.state_dict()
    torch.testing.assert_close({name: own[name] - 1 for name in state}, state, atol=1e-6, rtol=0)
    some = sorted(state)[0]
    with pytest.raises(RoboprefError, match=f"another policy: only one of the two has {some}"):
        load_whole_state(other, {name: tensor for name, tensor in state.items() if name != some})
