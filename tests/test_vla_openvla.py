import json
import pickle

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("tokenizers")

from openvla_reference import (
    CONFIG,
    DINO,
    PROMPT_WORDS,
    SIGLIP,
    TINY_CONFIG,
    published_shapes,
    random_tensors,
    reference_logits,
    write_checkpoint,
)
from tokenizers import Tokenizer, processors
from transformers import DynamicCache

from robopref.errors import RoboprefError
from robopref.policies.vla.base_models import find_base
from robopref.policies.vla.openvla.backbone import OpenVLABackbone
from robopref.policies.vla.openvla.configuration import OpenVLAConfiguration
from robopref.policies.vla.text import TextTokenizer

PROMPT_TEXT = "In : What action should the robot take to lift red cup ? Out :"
PROMPT = [100 + PROMPT_WORDS.index(word) for word in PROMPT_TEXT.split()]


def causal(mask):
    """Causal visibility [B, P, P] among the real positions of a padded batch."""
    length = mask.shape[1]
    return torch.ones(length, length, dtype=torch.bool).tril()[None] & mask[:, None, :]


def all_logits(backbone, images, instructions):
    prefix = backbone.prefix(images, instructions)
    positions = torch.arange(prefix.mask.shape[1]).expand(len(prefix), -1)
    return backbone.logits(backbone.hidden(prefix.embeddings, causal(prefix.mask), positions)), prefix.mask


@pytest.fixture
def tensors():
    return random_tensors()


@pytest.fixture
def checkpoint(tmp_path, tensors):
    write_checkpoint(tmp_path / "openvla", tensors)
    return tmp_path / "openvla"


@pytest.fixture
def backbone(checkpoint):
    return OpenVLABackbone.from_directory(checkpoint)


@pytest.fixture
def pictures():
    return np.random.default_rng(0).integers(0, 256, (2, 28, 28, 3), np.uint8)


def test_the_logits_are_those_of_the_published_architecture(backbone, tensors, pictures):
    with torch.no_grad():
        logits, mask = all_logits(backbone, pictures, ["Lift red CUP", "lift"])
    for row, prompt in enumerate([PROMPT, [i for i in PROMPT if i not in PROMPT[10:12]]]):
        expected = reference_logits(tensors, pictures[row : row + 1], torch.tensor([*prompt, 29871]))
        assert int(mask[row].sum()) == len(expected)
        torch.testing.assert_close(logits[row][mask[row]], expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.1


def test_the_last_blocks_and_norms_are_kept_but_change_nothing(backbone, tensors, checkpoint, pictures):
    unused = ("attn_pool.", "featurizer.norm.", ".featurizer.blocks.2.", ".fused_featurizer.blocks.3.")
    noisy = {n: t + torch.randn_like(t) if any(part in n for part in unused) else t for n, t in tensors.items()}
    write_checkpoint(checkpoint, noisy)
    with torch.no_grad():
        before, _ = all_logits(backbone, pictures, ["lift", "cup"])
        after, _ = all_logits(OpenVLABackbone.from_directory(checkpoint), pictures, ["lift", "cup"])
    assert torch.equal(before, after)


def test_every_parameter_has_a_gradient(backbone, pictures):
    all_logits(backbone, pictures, ["lift", "cup"])[0].pow(2).sum().backward()
    assert [name for name, p in backbone.named_parameters() if p.requires_grad and p.grad is None] == []


def test_pictures_matter_and_gradients_reach_their_pixels(backbone, pictures):
    with torch.no_grad():
        one, _ = all_logits(backbone, pictures[:1], ["lift"])
        other, _ = all_logits(backbone, pictures[1:], ["lift"])
    assert (one[:, -1] - other[:, -1]).abs().max() > 1e-2
    floats = torch.from_numpy(pictures[:1]).float().div(255).requires_grad_()
    same, _ = all_logits(backbone, floats, ["lift"])
    torch.testing.assert_close(same, one, rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(same[0, -1].max(), floats)
    assert (gradient.abs().sum(-1) > 0).all()


def test_the_cache_changes_nothing(backbone, pictures):
    prefix = backbone.prefix(pictures, ["lift red cup", "lift"])
    actions = backbone.embed(torch.tensor([[31999, 31900, 31800], [31744, 31850, 31999]]))
    embeddings = torch.cat([prefix.embeddings, actions], dim=1)
    mask = torch.cat([prefix.mask, prefix.mask.new_ones(2, 3)], dim=1)
    positions = mask.cumsum(1) - 1
    visible, length = causal(mask), prefix.mask.shape[1]
    cache = DynamicCache(config=backbone.model.language_model.config)
    with torch.no_grad():
        whole = backbone.hidden(embeddings, visible, positions)
        backbone.hidden(prefix.embeddings, visible[:, :length, :length], positions[:, :length], cache)
        steps = [
            backbone.hidden(embeddings[:, i : i + 1], visible[:, i : i + 1, : i + 1], positions[:, i : i + 1], cache)
            for i in range(length, length + 3)
        ]
    torch.testing.assert_close(torch.cat(steps, dim=1), whole[:, length:], rtol=1e-5, atol=1e-5)


def test_padding_changes_nothing(backbone, pictures):
    with torch.no_grad():
        padded, mask = all_logits(backbone, pictures, ["lift", "lift red cup"])
        alone, _ = all_logits(backbone, pictures[:1], ["lift"])
    torch.testing.assert_close(padded[0][mask[0]], alone[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mixed", [torch.bfloat16, torch.float16])
def test_a_query_that_sees_nothing_stays_finite_in_mixed_precision(backbone, pictures, mixed):
    prefix = backbone.prefix(pictures, ["lift", "lift red cup"])
    visible = causal(prefix.mask) & prefix.mask[:, :, None]
    positions = torch.arange(prefix.mask.shape[1]).expand(2, -1)
    with torch.no_grad(), torch.autocast("cpu", mixed):
        assert backbone.hidden(prefix.embeddings, visible, positions).isfinite().all()


def test_what_is_read_is_written_key_for_key(backbone, tensors, tmp_path, checkpoint):
    statistics = CONFIG["norm_stats"]
    backbone.save_directory(tmp_path / "again", statistics)
    copy = OpenVLABackbone.from_directory(tmp_path / "again")
    assert find_base(tmp_path / "again").statistics == statistics
    assert copy.configuration == backbone.configuration
    assert copy.prompt_ids("lift") == backbone.prompt_ids("lift")
    written = copy.to_published_state_dict()
    assert written.keys() == tensors.keys()
    assert [name for name, tensor in tensors.items() if not torch.equal(written[name], tensor)] == []


def test_the_class_token_takes_the_position_that_training_gave_it(backbone, tensors, tmp_path, pictures):
    with torch.no_grad():
        backbone.model.vision_backbone.featurizer.embeddings.position_embeddings[:, 0] += torch.linspace(-1, 1, 32)
        before, _ = all_logits(backbone, pictures, ["lift", "cup"])
        backbone.save_directory(tmp_path / "again", {})
        after, _ = all_logits(OpenVLABackbone.from_directory(tmp_path / "again"), pictures, ["lift", "cup"])
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)


def test_shards_are_read_as_one_file_is_and_replaced_by_it(backbone, tmp_path):
    directory = tmp_path / "sharded"
    backbone.save_directory(directory, {}, max_shard_bytes=1_000_000)
    assert len(list(directory.glob("model-*.safetensors"))) > 2
    sharded = OpenVLABackbone.from_directory(directory)
    expected = backbone.to_published_state_dict()
    for name, tensor in sharded.to_published_state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    sharded.save_directory(directory, {})  # over the files that it was read from
    assert [path.name for path in directory.glob("model*")] == ["model.safetensors"]
    again = OpenVLABackbone.from_directory(directory)
    assert torch.equal(again.output_weight, sharded.output_weight)
    assert torch.equal(again.output_weight, backbone.output_weight)


def test_a_checkpoint_is_read_in_the_type_asked_for(checkpoint, pictures):
    backbone = OpenVLABackbone.from_directory(checkpoint, torch.bfloat16)
    assert {parameter.dtype for parameter in backbone.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        assert all_logits(backbone, pictures, ["lift", "cup"])[0].isfinite().all()


def test_layer_scales_under_timms_own_name_are_read(checkpoint, tensors):
    write_checkpoint(checkpoint, {name.replace("scale_factor", "gamma"): tensor for name, tensor in tensors.items()})
    backbone = OpenVLABackbone.from_directory(checkpoint)
    assert backbone.to_published_state_dict().keys() == tensors.keys()


def test_statistics_of_a_fine_tuning_are_read(checkpoint):
    (checkpoint / "dataset_statistics.json").write_text(json.dumps({"mine": {"action": {"q01": [0.0], "q99": [1.0]}}}))
    assert find_base(checkpoint).statistics.keys() == {"bridge_orig", "mine"}


def test_the_full_size_is_that_of_the_published_model():
    with torch.device("meta"):
        backbone = OpenVLABackbone(OpenVLAConfiguration.from_json(CONFIG), lambda _: [])
    shapes = {name: tuple(tensor.shape) for name, tensor in backbone.to_published_state_dict().items()}
    dino = {"width": 1024, "depth": 24, "mlp_width": 4096}
    siglip = {"width": 1152, "depth": 27, "mlp_width": 4304}
    llama = {"hidden": 4096, "mlp": 11008, "layers": 32, "vocabulary": 32064}
    assert shapes == published_shapes(dino, siglip, llama, patches=256)
    assert shapes["vision_backbone.featurizer.blocks.23.attn.qkv.weight"] == (3072, 1024)
    assert shapes["vision_backbone.fused_featurizer.blocks.26.mlp.fc1.weight"] == (4304, 1152)
    assert shapes["projector.fc1.weight"] == (8704, 2176)
    assert shapes["projector.fc2.weight"] == (4096, 8704)
    assert shapes["language_model.lm_head.weight"] == (32064, 4096)
    # What peft reports for openvla-7b under LoRA of rank 32: 7,652,065,472 parameters, 110,828,288 of them adapters.
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 7_652_065_472 - 110_828_288
    vision = sum(int(np.prod(shape)) for name, shape in shapes.items() if name.startswith("vision_backbone."))
    assert vision == 730_911_680
    assert (backbone.usable_vocabulary, backbone.stop_id, backbone.image_size) == (32000, 2, 224)
    assert OpenVLAConfiguration.from_json(backbone.to_json()) == backbone.configuration


def without(tensors, name):
    return {key: tensor for key, tensor in tensors.items() if key != name}


def test_tensors_that_do_not_fit_are_named(checkpoint, tensors):
    name = "vision_backbone.featurizer.blocks.1.attn.qkv.bias"
    write_checkpoint(checkpoint, without(tensors, name))
    with pytest.raises(RoboprefError, match=rf"lacks the tensors {name}: .* download"):
        OpenVLABackbone.from_directory(checkpoint)
    write_checkpoint(checkpoint, tensors | {name: torch.zeros(95)})
    with pytest.raises(RoboprefError, match=rf"{name}.* has shape \(95,\), not \(96,\)"):
        OpenVLABackbone.from_directory(checkpoint)
    write_checkpoint(checkpoint, tensors | {"action_queries": torch.zeros(1)})
    with pytest.raises(RoboprefError, match="unexpected tensor 'action_queries'"):
        OpenVLABackbone.from_directory(checkpoint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arch_specifier": "no-align+gelu-mlp"}, "arch_specifier 'no-align\\+fused-gelu-mlp' are supported"),
        ({"model_type": "prismatic"}, "model_type 'openvla' are supported"),
        ({"llm_backbone_id": "vicuna-v15-7b"}, "llm_backbone_id .* 'vicuna-v15-7b'"),
        ({"timm_model_ids": ["vit_so400m_patch14_siglip_224"]}, "vision towers .* start from openvla/openvla-7b"),
        ({"image_sizes": [28, 384]}, "pictures of one size"),
        ({"image_sizes": [30, 30]}, "divide into patches"),
        ({"image_resize_strategy": "letterbox"}, "'letterbox'"),
        ({"timm_override_act_layers": [None, "relu"]}, "timm_override_act_layers"),
        ({"pad_to_multiple_of": 32064}, "is not Llama 2's"),
        ({"text_config": TINY_CONFIG["text_config"] | {"rope_scaling": {"factor": 2.0}}}, "rope_scaling"),
        ({"vision_towers": {"dino": DINO}}, "cannot be read"),
        ({"vision_towers": {"dino": DINO | {"depth": 1}, "siglip": SIGLIP}}, "second-to-last"),
        ({"vision_towers": {"dino": DINO | {"mlp_width": 100}, "siglip": SIGLIP}}, "multiple of its width"),
    ],
)
def test_unsupported_architectures_are_refused(checkpoint, change, message):
    (checkpoint / "config.json").write_text(json.dumps(TINY_CONFIG | change))
    with pytest.raises(RoboprefError, match=message):
        OpenVLABackbone.from_directory(checkpoint)


def test_older_layouts_are_refused(checkpoint, tensors, tmp_path):
    write_checkpoint(checkpoint, {f"model.{name}": tensor for name, tensor in tensors.items()})
    with pytest.raises(RoboprefError, match=r"older layout.*convert_openvla_weights_to_hf"):
        OpenVLABackbone.from_directory(checkpoint)
    (checkpoint / "config.json").write_text(json.dumps({"vla": {}, "run_id": "x"}))
    with pytest.raises(RoboprefError, match=r"older layout.*convert_openvla_weights_to_hf"):
        OpenVLABackbone.from_directory(checkpoint)
    (checkpoint / "checkpoints").mkdir()
    (checkpoint / "checkpoints" / "step-1.pt").touch()
    with pytest.raises(RoboprefError, match=r"older layout.*convert_openvla_weights_to_hf"):
        OpenVLABackbone.from_directory(checkpoint)


def test_incomplete_and_damaged_checkpoints_are_refused(checkpoint, backbone, tmp_path):
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(RoboprefError, match="damaged"):
        OpenVLABackbone.from_directory(checkpoint)
    weights.unlink()
    with pytest.raises(RoboprefError, match=r"neither model\.safetensors nor"):
        OpenVLABackbone.from_directory(checkpoint)
    (checkpoint / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    with pytest.raises(RoboprefError, match=r"pickled.*safetensors"):
        OpenVLABackbone.from_directory(checkpoint)
    (checkpoint / "config.json").write_text("{")
    with pytest.raises(RoboprefError, match="is damaged"):
        OpenVLABackbone.from_directory(checkpoint)
    (checkpoint / "config.json").unlink()
    with pytest.raises(RoboprefError, match=r"has no config\.json"):
        OpenVLABackbone.from_directory(checkpoint)
    with pytest.raises(RoboprefError, match="is no directory"):
        OpenVLABackbone.from_directory(tmp_path / "nowhere")
    backbone.save_directory(tmp_path / "sharded", {}, max_shard_bytes=1_000_000)
    next((tmp_path / "sharded").glob("model-00002-*")).unlink()
    with pytest.raises(RoboprefError, match=r"lacks the shards model-00002-of-.*download"):
        OpenVLABackbone.from_directory(tmp_path / "sharded")


def test_a_missing_tokenizer_is_explained(checkpoint):
    (checkpoint / "tokenizer.json").write_text("{}")
    with pytest.raises(RoboprefError, match="cannot be read as a tokenizer"):
        OpenVLABackbone.from_directory(checkpoint)
    (checkpoint / "tokenizer.json").unlink()
    with pytest.raises(RoboprefError, match=r"has no tokenizer\.json: copy it"):
        OpenVLABackbone.from_directory(checkpoint)
    (checkpoint / "tokenizer.model").touch()
    with pytest.raises(RoboprefError, match=r"only tokenizer\.model; convert it once"):
        OpenVLABackbone.from_directory(checkpoint)


def test_the_tokenizer_adds_nothing_and_cuts_nothing(checkpoint):
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    tokenizer.enable_padding(length=9)
    tokenizer.enable_truncation(2)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(str(checkpoint / "tokenizer.json"))
    read = TextTokenizer.from_directory(checkpoint)
    assert read("lift red cup") == PROMPT[9:12]
    assert len(read) == 3 + len(set(PROMPT_WORDS))


def test_unmerged_adapters_are_not_saved(backbone, tmp_path):
    peft = pytest.importorskip("peft")
    backbone.model = peft.get_peft_model(backbone.model, peft.LoraConfig(r=2, target_modules=["q_proj", "fc1"]))
    with pytest.raises(RoboprefError, match="merge adapters into the weights before saving"):
        backbone.save_directory(tmp_path / "again", {})
    backbone.model = backbone.model.merge_and_unload()
    backbone.save_directory(tmp_path / "again", {})


def test_pictures_and_instructions_go_together(backbone, pictures):
    with pytest.raises(RoboprefError, match="2 images do not go with 1 instructions"):
        backbone.prefix(pictures, ["lift"])
