"""The adapter that is trained, the frozen one beside it, and what is restored after looking through the other."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from robopref.errors import RoboprefError
from robopref.policies.normalization import NormStats
from robopref.policies.registry import load_policy, policy_id
from robopref.policies.vla.loading import load_vla
from robopref.policies.vla.options import LoraOptions, VLAOptions
from tests.vla_models import IMAGE, write

STATS = NormStats([-1, -2, 0], [1, 2, 0.5], [True, True, False])
INSTRUCTIONS = ["press the button"] * 2
TOKENS = torch.tensor([[3, 200, 256], [1, 77, 128]])


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    root = tmp_path_factory.mktemp("bases")
    for name, family, seed in (("llava", "llava", 0), ("other-weights", "llava", 1), ("smolvlm", "smolvlm", 0)):
        write(family, root / name, seed)
    return root


@pytest.mark.parametrize("size", ["84", 0, True, 84.0])
def test_a_size_of_recordings_that_is_none_is_refused(bases, tmp_path, size):
    trained(bases / "llava", steps=0).save(tmp_path / "adapter")
    path = tmp_path / "adapter" / "policy.json"
    described = json.loads(path.read_text())
    described["architecture"]["recorded_image_size"] = size
    path.write_text(json.dumps(described))
    with pytest.raises(RoboprefError, match=r"recorded_image_size .*no number of pixels"):
        load_policy(tmp_path / "adapter", device="cpu")


def images():
    return {"image": np.random.default_rng(0).integers(0, 256, (2, IMAGE, IMAGE, 3), dtype=np.uint8)}


def logps(policy):
    with torch.no_grad():
        return policy.action_logps(policy.encode(images(), INSTRUCTIONS), TOKENS)


def trained(base, *, dropout=0.0, steps=2, seed=0):
    torch.manual_seed(seed)
    policy = load_vla(base, norm_stats=STATS, device="cpu")
    policy.add_adapter(LoraOptions(lora_rank=2, lora_alpha=4, lora_dropout=dropout))
    take_steps(policy, steps)
    return policy


def take_steps(policy, steps):
    optimizer = torch.optim.SGD([p for p in policy.parameters() if p.requires_grad], lr=0.5)
    policy.eval()
    for _ in range(steps):
        optimizer.zero_grad()
        (-policy.action_logps(policy.encode(images(), INSTRUCTIONS), TOKENS).mean()).backward()
        optimizer.step()


def test_a_fresh_adapter_changes_nothing_and_only_it_is_trained(bases):
    base = load_vla(bases / "llava", norm_stats=STATS, device="cpu")
    before = logps(base)
    base.add_adapter(LoraOptions(lora_rank=2))
    torch.testing.assert_close(logps(base), before, atol=0, rtol=0)
    names = [name for name, parameter in base.named_parameters() if parameter.requires_grad]
    assert names
    assert all("lora_" in name for name in names)
    base.action_logps(base.encode(images(), INSTRUCTIONS), TOKENS).sum().backward()
    assert all(p.grad is not None for p in base.parameters() if p.requires_grad)  # data-parallel training needs that
    adapted = {name.partition(".lora_")[0] for name in names}
    assert any("vision_tower" in name for name in adapted)
    assert any("language_model" in name for name in adapted)
    assert not any("lm_head" in name for name in adapted)


def test_the_reference_stays_while_the_policy_learns_and_shares_the_base(bases):
    policy = trained(bases / "llava")
    start = logps(policy)
    base_bytes = sum(p.numel() for name, p in policy.named_parameters() if "lora_" not in name)
    policy.freeze_reference()
    take_steps(policy, 2)
    moved = logps(policy)
    assert (moved - start).abs().max() > 1e-2
    with policy.reference():
        torch.testing.assert_close(logps(policy), start, atol=1e-6, rtol=0)
    torch.testing.assert_close(logps(policy), moved, atol=0, rtol=0)
    assert sum(p.numel() for name, p in policy.named_parameters() if "lora_" not in name) == base_bytes


def test_everything_is_restored_after_the_reference_even_after_an_error(bases):
    policy = trained(bases / "llava", dropout=0.5)
    policy.freeze_reference()
    policy.train()
    trainable = {name: p.requires_grad for name, p in policy.named_parameters()}
    modes = {name: module.training for name, module in policy.named_modules()}
    with pytest.raises(ValueError, match="inside"), policy.reference():
        raise ValueError("inside")
    assert {name: p.requires_grad for name, p in policy.named_parameters()} == trainable
    assert {name: module.training for name, module in policy.named_modules()} == modes
    assert any(trainable.values())


def test_no_dropout_in_the_reference(bases):
    policy = trained(bases / "llava", dropout=0.5)
    policy.freeze_reference()
    policy.train()
    assert (logps(policy) - logps(policy)).abs().max() > 0
    with policy.reference():
        torch.testing.assert_close(logps(policy), logps(policy), atol=0, rtol=0)


def test_no_gradient_reaches_the_reference(bases):
    policy = trained(bases / "llava")
    policy.freeze_reference()
    policy.action_logps(policy.encode(images(), INSTRUCTIONS), TOKENS).sum().backward()
    for name, parameter in policy.named_parameters():
        assert (parameter.grad is not None) == (".default." in name), name
    with policy.reference():
        assert not policy.action_logps(policy.encode(images(), INSTRUCTIONS), TOKENS).requires_grad


def test_no_reference_yet_and_nothing_to_train_are_said(bases):
    policy = load_vla(bases / "llava", norm_stats=STATS, device="cpu")
    with pytest.raises(RoboprefError, match="freeze_reference"), policy.reference():
        pass
    with pytest.raises(RoboprefError, match="add_adapter"):
        policy.freeze_reference()
    with pytest.raises(RoboprefError, match="nothing to save"):
        policy.save(bases / "nothing")


def test_saved_and_loaded_it_answers_the_same(bases, tmp_path):
    policy = trained(bases / "llava")
    policy.tasks["button-press"] = "press the button"
    policy.freeze_reference()
    policy.save(tmp_path / "policy")
    again = load_policy(tmp_path / "policy", device="cpu")
    torch.testing.assert_close(logps(again), logps(policy), atol=1e-6, rtol=0)
    np.testing.assert_array_equal(again.norm_stats.q99, STATS.q99)
    assert again.tasks == policy.tasks
    on_top = load_policy(bases / "llava", VLAOptions(adapter=str(tmp_path / "policy")), device="cpu")
    torch.testing.assert_close(logps(on_top), logps(policy), atol=1e-6, rtol=0)
    assert sorted(path.name for path in (tmp_path / "policy").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "policy.json",
    ]  # fmt: skip


def test_the_hub_is_not_asked_about_the_base_of_an_adapter(bases, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", lambda *a, **_: asked.append(a))
    trained(bases / "llava").save(tmp_path / "policy")
    path = tmp_path / "policy" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "somebody/else"}))
    policy = load_policy(tmp_path / "policy", device="cpu")
    policy.freeze_reference()
    policy.save(tmp_path / "again")
    assert not asked


def test_peft_itself_loads_what_was_saved(bases, tmp_path):
    import peft
    import transformers

    policy = trained(bases / "llava")
    policy.save(tmp_path / "policy")
    model = transformers.LlavaForConditionalGeneration.from_pretrained(bases / "llava")
    model = peft.PeftModel.from_pretrained(model, tmp_path / "policy").eval()
    policy.backbone.model = model.get_base_model()
    expected = load_policy(tmp_path / "policy", device="cpu")
    torch.testing.assert_close(logps(policy), logps(expected), atol=1e-6, rtol=0)


def test_the_identity_follows_weights_adapter_and_statistics(bases, tmp_path):
    for seed in (0, 1):
        trained(bases / "llava", seed=seed).save(tmp_path / str(seed))
    ids = [
        policy_id(bases / "llava"), policy_id(bases / "other-weights"), policy_id(tmp_path / "0"),
        policy_id(tmp_path / "1"), policy_id(bases / "llava", VLAOptions(norm_key="bridge")),
    ]  # fmt: skip
    assert len(set(ids)) == len(ids)
    assert policy_id(bases / "llava", VLAOptions(adapter=str(tmp_path / "0"))) == ids[2]


def test_an_adapter_for_another_base_is_refused(bases, tmp_path):
    trained(bases / "llava").save(tmp_path / "policy")
    adapter = VLAOptions(adapter=str(tmp_path / "policy"))
    for other in ("other-weights", "smolvlm"):
        with pytest.raises(RoboprefError, match=r"was trained for .*llava .*other weights.* as --policy"):
            load_policy(bases / other, adapter, device="cpu")
    (tmp_path / "policy" / "policy.json").unlink()  # a plain PEFT adapter says less
    stats = {"ours": {"action": {"q01": [-1, -1], "q99": [1, 1]}}}
    (tmp_path / "policy" / "dataset_statistics.json").write_text(json.dumps(stats))
    with pytest.raises(RoboprefError, match=r"was trained for .*llava and does not fit .*smolvlm.*as --policy"):
        load_policy(bases / "smolvlm", adapter, device="cpu")
    assert len(load_policy(bases / "llava", adapter, device="cpu").norm_stats) == 2


def test_an_adapter_finds_its_base_from_another_working_directory(bases, tmp_path, monkeypatch):
    monkeypatch.chdir(bases)
    policy = trained("llava")
    policy.save(tmp_path / "policy")
    monkeypatch.chdir(tmp_path)
    torch.testing.assert_close(logps(load_policy("policy", device="cpu")), logps(policy), atol=1e-6, rtol=0)


def test_a_base_that_moved_is_given_by_hand(bases, tmp_path):
    shutil.copytree(bases / "llava", tmp_path / "here")
    trained(tmp_path / "here").save(tmp_path / "policy")
    (tmp_path / "here").rename(tmp_path / "there")
    for ask in (load_policy, policy_id):
        with pytest.raises(RoboprefError, match=r"belongs to .*here, which does not exist: give its base as --policy"):
            ask(tmp_path / "policy")
    moved = load_policy(tmp_path / "there", VLAOptions(adapter=str(tmp_path / "policy")), device="cpu")
    assert moved.base.name == str(tmp_path / "there")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ({"architecture": {"family": "llava"}}, "lacks 'base'"),
        ({"architecture": "llava"}, "description .* lacks"),
        ({"normalization": {"q01": [-1]}}, "policy.json is damaged: normalization .*'q99'"),
        ({"normalization": None}, "policy.json is damaged: normalization"),
        ({"tokenizer": {"buckets": 3}}, "policy.json is damaged: tokenizer .*buckets"),
        ({"kind": "compact"}, "kind 'compact', not an adapter"),
        ({"surprise": 1}, "lacks or has unknown fields"),
    ],
)
def test_a_damaged_description_is_named(bases, tmp_path, damage, said):
    trained(bases / "llava", steps=0).save(tmp_path / "policy")
    path = tmp_path / "policy" / "policy.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    with pytest.raises(RoboprefError, match=said):
        load_policy(bases / "llava", VLAOptions(adapter=str(tmp_path / "policy")), device="cpu")


def test_an_unknown_normalisation_is_named(bases, tmp_path):
    trained(bases / "llava", steps=0).save(tmp_path / "policy")
    path = tmp_path / "policy" / "policy.json"
    path.write_text(path.read_text().replace('"actions"', '"everything"'))
    with pytest.raises(RoboprefError, match="normalize_over 'everything'; known are actions, vocabulary"):
        load_policy(tmp_path / "policy", device="cpu")


def test_damaged_and_foreign_adapters_are_named(bases, tmp_path):
    policy = trained(bases / "llava")
    base = bases / "llava"

    def refused(match, directory):
        with pytest.raises(RoboprefError, match=match):
            load_vla(base, VLAOptions(adapter=str(directory)), norm_stats=STATS, device="cpu")

    refused("no adapter at", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    refused("holds no adapter", tmp_path / "empty")
    (tmp_path / "empty" / "adapter_model.bin").write_bytes(b"")
    refused("pickle", tmp_path / "empty")

    policy.save(tmp_path / "torn")
    weights = tmp_path / "torn" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    refused("cannot be read", tmp_path / "torn")

    policy.save(tmp_path / "less")
    tensors = load_file(tmp_path / "less" / "adapter_model.safetensors")
    some = sorted(tensors)[0]
    save_file({k: v for k, v in tensors.items() if k != some}, tmp_path / "less" / "adapter_model.safetensors")
    refused("it has no", tmp_path / "less")
    save_file(tensors | {some: torch.zeros(2, 99)}, tmp_path / "less" / "adapter_model.safetensors")
    refused(r"shape \(2, 99\)", tmp_path / "less")

    policy.save(tmp_path / "kind")
    settings = json.loads((tmp_path / "kind" / "adapter_config.json").read_text()) | {"peft_type": "IA3"}
    settings = {k: settings[k] for k in ("peft_type", "base_model_name_or_path", "target_modules")}
    (tmp_path / "kind" / "adapter_config.json").write_text(json.dumps(settings | {"feedforward_modules": []}))
    refused("only LoRA", tmp_path / "kind")


def test_two_adapters_at_once_are_refused(bases, tmp_path):
    trained(bases / "llava").save(tmp_path / "policy")
    with pytest.raises(RoboprefError, match="adapter on its own base already"):
        load_policy(tmp_path / "policy", VLAOptions(adapter=str(tmp_path / "policy")))


def test_options_of_a_vla_are_refused_for_other_policies():
    with pytest.raises(RoboprefError, match="--norm-key is for vision-language-action models"):
        load_policy("tests.synthetic:nothing", VLAOptions(norm_key="bridge"))


def test_the_settings_of_an_adapter_that_is_there_cannot_be_changed(bases):
    policy = trained(bases / "llava", steps=0)
    for settings in (LoraOptions(), LoraOptions(lora_rank=2, lora_alpha=4)):
        policy.add_adapter(settings)
    with pytest.raises(RoboprefError, match=r"brings an adapter of rank 2, alpha 4 and dropout 0, .*leave .* out"):
        policy.add_adapter(LoraOptions(lora_rank=8))


def test_lora_settings_are_checked():
    for wrong in ({"lora_rank": 0}, {"lora_alpha": 0}, {"lora_dropout": 1.0}):
        with pytest.raises(RoboprefError, match="LoRA needs"):
            LoraOptions(**wrong)
