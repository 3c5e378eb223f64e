"""What can be wrong with a base model, and what is said then."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from robopref.errors import RoboprefError
from robopref.policies.normalization import NormStats
from robopref.policies.registry import load_policy
from robopref.policies.tokenizer import ActionTokenizer
from robopref.policies.vla.base_models import choose_statistics, find_base, load_backbone
from robopref.policies.vla.image_settings import ImageSettings
from robopref.policies.vla.loading import load_vla
from robopref.policies.vla.options import LoraOptions, VLAOptions
from robopref.policies.vla.policy import HFVLAPolicy
from robopref.policies.vla.requirements import require
from tests.vla_models import BASE, SPECIALS, write

STATS = NormStats([-1, -1], [1, 1], [True, True])
ONE = {"action": {"q01": [-1.0, 0.0], "q99": [1.0, 0.5], "mask": [True, False]}}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    directory = tmp_path_factory.mktemp("base") / "llava"
    write("llava", directory)
    return directory


@pytest.fixture
def base(pristine, tmp_path):
    return shutil.copytree(pristine, tmp_path / "llava")


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(base, match):
    with pytest.raises(RoboprefError, match=match):
        load_vla(base, norm_stats=STATS, device="cpu")


@pytest.mark.parametrize(
    ("family", "usable"),
    [
        ("llava", BASE),  # below what was added to the tokenizer
        ("paligemma", BASE + 300),  # the last 256 location tokens, below the segmentation tokens
        ("paligemma2", BASE + 300),
        ("smolvlm", BASE),
    ],
)
def test_action_tokens_take_the_last_usable_ids(family, usable, tmp_path):
    write(family, tmp_path / "base")
    backbone = load_backbone(find_base(tmp_path / "base"))
    assert backbone.usable_vocabulary == usable
    policy = HFVLAPolicy(backbone, STATS, find_base(tmp_path / "base").base)
    assert policy.action_ids.tolist() == [usable - token for token in range(1, 257)]
    name = backbone.tokenizer._tokenizer.id_to_token(usable - 1)
    assert name == ("<loc0299>" if "pali" in family else f"filler{BASE - 1 - 260}"), name
    assert set(SPECIALS[family.rstrip("2")][-3:]).isdisjoint({name})


def test_a_vocabulary_too_small_for_the_bins(base):
    files = find_base(base)
    with pytest.raises(RoboprefError, match=f"{BASE} usable vocabulary entries, too few for 1000 action bins"):
        HFVLAPolicy(load_backbone(files), STATS, files.base, ActionTokenizer(bins=1000))


def test_statistics_without_the_data_sets_key(base):
    edit(base / "config.json", norm_stats={"bridge": ONE, "fractal": ONE})
    with pytest.raises(RoboprefError, match="2 data sets: choose one with --norm-key, from bridge, fractal"):
        load_policy(base, device="cpu")
    with pytest.raises(RoboprefError, match="no action statistics for 'libero'; it has bridge, fractal"):
        load_policy(base, VLAOptions(norm_key="libero"), device="cpu")
    policy = load_policy(base, VLAOptions(norm_key="bridge"), device="cpu")
    assert policy.norm_stats.mask.tolist() == [True, False]
    edit(base / "config.json", norm_stats={"bridge": {"action": {"mean": [0]}}})
    with pytest.raises(RoboprefError, match="lack 'q01'"):
        load_policy(base, device="cpu")


def test_statistics_beside_the_model(base):
    (base / "dataset_statistics.json").write_text(json.dumps({"mine": ONE}))
    assert load_policy(base, device="cpu").norm_stats.q99.tolist() == [1.0, 0.5]


@pytest.mark.parametrize("text", ["[1, 2]", "[", '"text"'])
def test_damaged_statistics_beside_the_model(base, text):
    (base / "dataset_statistics.json").write_text(text)
    with pytest.raises(RoboprefError, match=r"dataset_statistics.json is damaged"):
        find_base(base)


def test_a_path_with_a_slip_is_not_only_looked_for_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "huggingface_hub", None)
        with pytest.raises(RoboprefError, match=r"no directory runs/bsae. If it is .* hub: .*robopref\[vla\]"):
            load_policy("runs/bsae")

    def unreachable(*_, **__):
        raise OSError("")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(RoboprefError, match=r"no directory runs/bsae, and it cannot be got .*no reason given"):
        load_policy("runs/bsae")


def test_no_statistics_at_all_names_the_way_out(base):
    with pytest.raises(RoboprefError, match="train an adapter on demonstrations first"):
        load_policy(base, device="cpu")
    assert choose_statistics({}, None, "x") is None


def test_an_unsupported_family(base):
    edit(base / "config.json", model_type="blip")
    refused(base, "holds a blip model; .* llava, paligemma, smolvlm, openvla")


def test_pickled_weights_are_not_loaded(base):
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    refused(base, "no .safetensors weights. It has .bin files, which are pickles")


def test_missing_and_misshapen_weights_are_not_initialised_at_random(base):
    tensors = load_file(base / "model.safetensors")
    some = next(key for key in sorted(tensors) if "q_proj" in key)
    less = {key: value for key, value in tensors.items() if key != some}
    save_file(less, base / "model.safetensors", metadata={"format": "pt"})
    refused(base, "1 tensors are missing")
    save_file(tensors | {some: torch.zeros(3, 3)}, base / "model.safetensors", metadata={"format": "pt"})
    refused(base, "cannot be loaded|another shape")


@pytest.mark.parametrize("kind", ["empty", "cut short", "git LFS pointer"])
@pytest.mark.parametrize("family", ["llava", "openvla"])
def test_damaged_weights_are_named_with_what_to_do(family, kind, tmp_path):
    write(family, tmp_path / family)
    path = next((tmp_path / family).glob("*.safetensors"))
    content = path.read_bytes()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 1000\n"
    path.write_bytes({"empty": b"", "cut short": content[: len(content) // 2], "git LFS pointer": pointer}[kind])
    refused(tmp_path / family, rf"{tmp_path / family}.* (is|are) damaged .*git LFS.*git lfs pull.*copy (it|them) again")


def test_an_older_tokenizer_layout(base):
    (base / "tokenizer.json").rename(base / "tokenizer.model")
    refused(base, r"no tokenizer.json: there is only tokenizer.model; convert it.*save_pretrained")


def test_a_prismatic_training_checkpoint(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "step-1.pt").write_bytes(b"")
    with pytest.raises(RoboprefError, match=r"step-1.pt.*older Prismatic layout: convert it"):
        load_vla(tmp_path / "run")


def test_a_damaged_configuration(base):
    for text in ("{", "[]"):
        (base / "config.json").write_text(text)
        with pytest.raises(RoboprefError, match=r"config.json is damaged"):
            find_base(base)


def test_settings_of_pictures(base):
    settings = base / "preprocessor_config.json"
    edit(settings, image_mean=[0.1, 0.2, 0.3], resample=2)
    assert ImageSettings.from_directory(base, 8) == ImageSettings(8, (0.1, 0.2, 0.3), (0.5, 0.5, 0.5), "bilinear")
    edit(settings, resample=0)
    refused(base, "filter number 0")
    edit(settings, resample=3, do_normalize=False)
    refused(base, "not scaled and normalised")
    edit(settings, do_normalize=True, image_mean=[0.5])
    refused(base, "mean of 1")
    settings.unlink()
    refused(base, r"no preprocessor_config.json")


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(RoboprefError, match=r"need bitsandbytes.*Run: pip install 'robopref\[quantize\]'"):
        require("bitsandbytes")


def test_four_bits_answer_nearly_the_same_and_their_adapter_learns(tmp_path):
    pytest.importorskip("bitsandbytes")
    base = tmp_path / "wide"
    write("llava", base, width=128)  # blocks of 64 weights are quantised together
    images = {"image": np.random.default_rng(0).integers(0, 256, (1, 28, 28, 3), dtype=np.uint8)}
    tokens = torch.tensor([[5, 200]])
    policies = [load_vla(base, VLAOptions(weights=kind), norm_stats=STATS, device="cpu") for kind in ("fp32", "4bit")]
    with torch.no_grad():
        logits = [policy.action_logits(policy.encode(images, ["push"]), tokens).flatten() for policy in policies]
    assert torch.corrcoef(torch.stack(logits))[0, 1] > 0.8
    policy = policies[1]
    policy.add_adapter(LoraOptions(lora_rank=2))
    policy.action_logps(policy.encode(images, ["push"]), tokens).sum().backward()
    assert all(p.grad is not None for p in policy.parameters() if p.requires_grad)
    kinds = {type(module).__name__ for module in policy.modules()}
    assert "Linear4bit" in kinds


def test_bfloat16_weights(base):
    policy = load_vla(base, VLAOptions(weights="bf16"), norm_stats=STATS, device="cpu")
    assert policy.backbone.output_weight.dtype == torch.bfloat16
    images = {"image": np.zeros((1, 28, 28, 3), np.uint8)}
    with torch.no_grad():
        logps = policy.action_logps(policy.encode(images, ["push"]), torch.tensor([[5, 200]]))
    assert logps.dtype == torch.float32


def test_a_hub_id_is_found_in_the_hubs_own_cache(pristine, tmp_path, monkeypatch):
    """The layout that downloads leave behind, which is all that there is without a network."""
    from huggingface_hub import constants

    revision = "0123456789012345678901234567890123456789"
    cached = tmp_path / "hub" / "models--somebody--tiny-llava"
    shutil.copytree(pristine, cached / "snapshots" / revision)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(revision)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    policy = load_vla("somebody/tiny-llava", norm_stats=STATS, device="cpu")
    assert policy.base.name == "somebody/tiny-llava"
    assert policy.base.fingerprint == find_base(pristine).base.fingerprint
    with pytest.raises(RoboprefError, match=r"somebody/else.*cannot be got from the .* hub.*give the directory"):
        load_vla("somebody/else", norm_stats=STATS, device="cpu")
