"""The commands with a vision-language-action model: an adapter from demonstrations, refined, evaluated, deployed."""

import json
import shutil

import numpy as np
import pytest
import torch

from robopref.cli.collect import Collect, run_collect
from robopref.cli.episodes import image_size_of, recorded_image_size
from robopref.cli.evaluate import Evaluate, run_evaluate
from robopref.cli.refine import Refine, run_refine
from robopref.cli.train import Train, run_train
from robopref.errors import RoboprefError
from robopref.objectives.recap import POSITIVE
from robopref.policies.fast_tokenizer import FastTokenizer
from robopref.policies.registry import load_policy, policy_id
from robopref.policies.vla.options import LoraOptions, VLAOptions
from robopref.store.store import EpisodeStore
from tests.synthetic import demonstrations, interactions
from tests.vla_models import write

LORA = LoraOptions(lora_rank=4)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    root = tmp_path_factory.mktemp("work")
    write("openvla", root / "openvla")
    write("smolvlm", root / "smolvlm")
    for name, episodes in (
        ("demos", demonstrations(2, length=20, image=True)),
        ("interactions", interactions(2, image=True)),
        ("state-only", demonstrations(1)),
    ):
        store = EpisodeStore.create_or_open(root / name)
        for episode in episodes:
            store.add(episode)
    assert train(root, "sft")
    return root


def train(root, out, **options):
    return run_train(
        Train(
            (root / "demos",), root / out, batch_size=8, device="cpu", wandb="disabled",
            **{"policy": str(root / "openvla"), "lora": LORA, "steps": 3} | options,
        )
    )  # fmt: skip


def refine(root, out, **options):
    settings = {"policy": str(root / "openvla"), "vla": VLAOptions(adapter=str(root / "sft"))} | options
    return run_refine(
        Refine(
            settings.pop("policy"), (root / "demos",), (root / "interactions",), root / out, steps=3, batch_size=16,
            device="cpu", wandb="disabled", lora=LORA, **settings,
        )
    )  # fmt: skip


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_adapter_of_train_brings_the_demonstrations_statistics(work):
    policy = load_policy(work / "sft", device="cpu")
    actions = np.concatenate([e.action for e in demonstrations(2, length=20)])
    np.testing.assert_allclose(policy.norm_stats.q99, np.quantile(actions, 0.99, axis=0))
    assert policy.tasks == {"reach": "reach the goal"}
    described = json.loads((work / "sft" / "policy" / "policy.json").read_text())
    assert described["architecture"]["base"]["name"] == str(work / "openvla")


def test_the_state_of_training_does_not_hold_the_base(work):
    state = torch.load(work / "sft" / "state.pt", weights_only=True)["policy"]
    assert state
    assert all("lora_" in name for name in state)


@pytest.mark.parametrize("objective", ["apo", "kto", "bc", "dpo", "tpo", "paired-takeover", "iwr", "recap"])
def test_refining_starts_from_the_adapter_and_is_saved_as_one(work, objective):
    assert refine(work, f"refined-{objective}", objective=objective)
    curve = lines(work / f"refined-{objective}" / "metrics.jsonl")
    if objective in ("apo", "kto"):
        assert curve[0]["kl"] == pytest.approx(0, abs=1e-5)  # the reference is the adapter that it starts from
    refined, start = (load_policy(work / name, device="cpu") for name in (f"refined-{objective}", "sft"))
    images = {"image": np.zeros((1, 16, 16, 3), np.uint8)}
    tokens = torch.tensor([[1, 100, 200, 256]])
    with torch.no_grad():
        logps = [p.action_logps(p.encode(images, ["reach the goal"]), tokens) for p in (refined, start)]
    assert (logps[0] - logps[1]).abs().max() > 0
    assert refined.instruction_suffix == (POSITIVE if objective == "recap" else "")


def test_text_behind_the_instruction_is_read_and_kept(work, tmp_path):
    policy = load_policy(work / "sft", device="cpu")
    images = {"image": np.zeros((1, 16, 16, 3), np.uint8)}
    with torch.no_grad():
        bare, expected = (policy.encode(images, ["reach the goal" + text]).embeddings for text in ("", POSITIVE))
        policy.instruction_suffix = POSITIVE
        found = policy.encode(images, ["reach the goal"]).embeddings
    torch.testing.assert_close(found, expected)
    assert found.shape[1] > bare.shape[1]
    policy.save(tmp_path / "policy")
    assert load_policy(tmp_path / "policy", device="cpu").instruction_suffix == POSITIVE
    assert policy_id(tmp_path / "policy") != policy_id(work / "sft")


@pytest.mark.parametrize("tokens", ["binned", "fast"])
def test_chunks_are_learned_and_refined(work, tokens):
    assert train(work, f"chunks-{tokens}", chunk=4, tokens=tokens, fast_vocabulary=200)
    adapter = VLAOptions(adapter=str(work / f"chunks-{tokens}"))
    assert refine(work, f"refined-chunks-{tokens}", vla=adapter)
    policy = load_policy(work / f"refined-chunks-{tokens}", device="cpu")
    assert policy.tokenizer.horizon == 4
    assert policy.act({"image": np.zeros((1, 16, 16, 3), np.uint8)}, ["reach the goal"]).shape == (1, 4)


@pytest.mark.parametrize("tokens", ["binned", "fast"])
def test_chunks_are_learned_with_chosen_statistics(work, tokens):
    statistics = {"wide": {"action": {"q01": [-1] * 4, "q99": [1] * 4}}}
    (work / "openvla" / "dataset_statistics.json").write_text(json.dumps(statistics))
    chosen = VLAOptions(norm_key="wide")
    run = f"chosen-{tokens}"
    assert train(work, run, vla=chosen, chunk=4, tokens=tokens, fast_vocabulary=200, steps=1)
    policy = load_policy(work / run, device="cpu")
    assert policy.norm_stats.q99.tolist() == [1] * 4
    assert policy.tokenizer.horizon == 4
    if tokens == "fast":  # these statistics leave the actions as they are
        actions = np.stack([e.action for e in demonstrations(2, length=20)])
        held = np.minimum(np.arange(20)[:, None] + np.arange(4), 19)  # at the end of an episode the last one
        fitted = FastTokenizer.fit(actions[:, held].reshape(-1, 4, 4), vocabulary_size=200)
        assert policy.tokenizer.model == fitted.model


def test_chunks_are_learned_on_an_adapter_from_elsewhere(work, tmp_path):
    shutil.copytree(work / "sft" / "policy", tmp_path / "peft", ignore=shutil.ignore_patterns("policy.json"))
    statistics = {"wide": {"action": {"q01": [-1] * 4, "q99": [1] * 4}}}
    (tmp_path / "peft" / "dataset_statistics.json").write_text(json.dumps(statistics))
    assert train(work, "peft", vla=VLAOptions(adapter=str(tmp_path / "peft")), chunk=4, steps=1)
    assert load_policy(work / "peft", device="cpu").tokenizer.horizon == 4


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"chunk": 4}, "--chunk: "),
        ({"chunk": 0}, "--chunk: "),
        ({"tokens": "fast", "fast_vocabulary": 200, "fast_scale": 5.0}, "--tokens, --fast-vocabulary, --fast-scale: "),
    ],
)
def test_an_adapter_goes_on_with_its_own_tokens_and_says_so(work, options, named):
    said = rf"^{named}the adapter brings its own action tokens \(binned, chunks of 1\)"
    for start in ({"policy": str(work / "sft")}, {"vla": VLAOptions(adapter=str(work / "sft"))}):
        with pytest.raises(RoboprefError, match=said):
            train(work, "nothing", **start, **options)
    assert not (work / "nothing").exists()


def test_a_chunk_that_an_adapter_has_already_may_be_named(work):
    assert train(work, "first", chunk=2, steps=1)
    assert train(work, "second", policy=str(work / "first"), chunk=2, steps=1)
    assert load_policy(work / "second", device="cpu").tokenizer.horizon == 2


def test_refining_the_base_itself_uses_it_as_the_reference(work):
    statistics = {"ours": {"action": {"q01": [-1] * 4, "q99": [1] * 4}}}
    (work / "smolvlm" / "dataset_statistics.json").write_text(json.dumps(statistics))
    assert refine(work, "from-base", policy=str(work / "smolvlm"), vla=VLAOptions())
    assert lines(work / "from-base" / "metrics.jsonl")[0]["kl"] == pytest.approx(0, abs=1e-5)


def test_interrupted_training_goes_on_to_the_same_adapter(work, monkeypatch):
    assert train(work, "whole", steps=4, seed=3)
    from robopref.cli import fitting

    class StopAfterTwo:
        calls = 0

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def __call__(self):
            StopAfterTwo.calls += 1
            return StopAfterTwo.calls >= 2

    with monkeypatch.context() as patched:
        patched.setattr(fitting, "graceful_interrupt", StopAfterTwo)
        assert not train(work, "halves", steps=4, seed=3)
    assert train(work, "halves", steps=4, seed=3, resume=True)
    weights = [(work / run / "policy" / "adapter_model.safetensors").read_bytes() for run in ("whole", "halves")]
    assert weights[0] == weights[1]


def test_each_objective_normalises_its_log_probabilities_its_own_way_whatever_the_adapter_was_trained_with(work):
    def over(run):
        described = json.loads((work / run / "policy" / "policy.json").read_text())
        return described["architecture"]["normalize_over"]

    assert refine(work, "public", variant="reference")
    assert over("public") == "vocabulary"
    from_public = {"policy": str(work / "public"), "vla": VLAOptions()}
    assert refine(work, "ours", **from_public)
    assert over("ours") == "actions"
    assert refine(work, "another-objective", objective="kto", **from_public)
    assert over("another-objective") == "actions"


def test_a_reference_cache_belongs_to_one_adapter_in_one_precision(work):
    cache = {"reference_cache": work / "cache", "augmentation_variants": 1}
    assert refine(work, "cached", **cache, precompute_reference=True)
    assert refine(work, "again", **cache, activation_checkpointing=True, micro_batch_size=5)
    curves = [lines(work / run / "metrics.jsonl") for run in ("cached", "again")]
    assert curves[0][-1]["loss"] == pytest.approx(curves[1][-1]["loss"], abs=1e-5)
    for other in (
        {"vla": VLAOptions(adapter=str(work / "sft"), weights="bf16")},
        {"policy": str(work / "cached"), "vla": VLAOptions()},
    ):
        with pytest.raises(RoboprefError, match="made with another policy"):
            refine(work, "stale", **cache, **other)
    assert not (work / "stale").exists()


def test_training_on_a_checkpoint_goes_on_with_its_adapter_and_statistics(work):
    shutil.copytree(work / "sft" / "policy", work / "wider")
    path = work / "wider" / "policy.json"
    described = json.loads(path.read_text())
    described["normalization"]["q99"] = [9.0] * 4
    path.write_text(json.dumps(described))
    assert policy_id(work / "wider") != policy_id(work / "sft")  # the same weights say something else
    assert train(work, "onward", policy=str(work / "wider"), steps=1)
    assert load_policy(work / "onward", device="cpu").norm_stats.q99.tolist() == [9.0] * 4


def test_options_of_a_vla_without_one_are_refused(work):
    for options in ({"vla": VLAOptions(adapter=str(work / "sft"))}, {"lora": LORA}):
        with pytest.raises(RoboprefError, match="name one as --policy"):
            run_train(Train((work / "demos",), work / "nothing", **options))


def test_lora_options_are_refused_for_a_compact_policy(work, barely_trained):
    with pytest.raises(RoboprefError, match=r"--lora-.* is for vision-language-action models"):
        refine(work, "nothing", policy=str(barely_trained), vla=VLAOptions())


def test_collect_and_evaluate_take_the_same_argument(work, monkeypatch):
    # A model of gigabytes is not loaded twice into one process.
    monkeypatch.setattr("robopref.cli.episode_environment.load_policy", None)
    options = VLAOptions(adapter=str(work / "sft"))
    small = {"task": "button-press", "episodes": 1, "image_size": 32, "workers": 1, "vla": options}
    assert run_collect(Collect(str(work / "openvla"), work / "collected", **small))
    store = EpisodeStore.open(work / "collected")
    episode = store.read(store.episode_ids()[0])
    assert episode.info.policy_id == policy_id(work / "openvla", options) == policy_id(work / "sft" / "policy")
    assert episode.observation["image"].shape[1:] == (32, 32, 3)
    assert run_evaluate(Evaluate(str(work / "sft"), work / "evaluated", **small | {"vla": VLAOptions()}))
    assert json.loads((work / "evaluated" / "summary.json").read_text())["policy_id"] == episode.info.policy_id


def test_tasks_are_rendered_at_the_size_that_was_learned_from(work, tmp_path, monkeypatch):
    sizes = []

    def noted(setup, *_, **__):
        sizes.append(setup.image_size)
        return []

    for command in ("collect", "evaluate"):
        monkeypatch.setattr(f"robopref.cli.{command}.run_episodes", noted)
    older = shutil.copytree(work / "sft" / "policy", tmp_path / "older")
    described = json.loads((older / "policy.json").read_text())
    assert described["architecture"].pop("recorded_image_size") == 16
    (older / "policy.json").write_text(json.dumps(described))
    assert policy_id(older) == policy_id(work / "sft")
    tower = load_policy(older, device="cpu").image_size
    assert tower > 16
    assert refine(work, "size-refined", objective="bc")
    for number, (policy, asked, size) in enumerate(
        [(work / "size-refined", None, 16), (work / "sft", 32, 32), (older, None, tower)]
    ):
        run_evaluate(Evaluate(str(policy), tmp_path / f"e{number}", episodes=1, image_size=asked))
        assert sizes.pop() == size
    run_collect(Collect(str(work / "sft"), tmp_path / "collected", episodes=1))
    assert sizes.pop() == 16


def test_recordings_that_are_not_square_leave_the_size_open(work):
    policy = load_policy(work / "sft", device="cpu")
    wide = demonstrations(1, image=True)
    wide[0].observation["image"] = wide[0].observation["image"][:, :, :8]
    policy.recorded_image_size = recorded_image_size(wide)
    assert image_size_of(policy) == policy.image_size


def test_actions_outside_the_range_are_clipped_and_counted_never_dropped(work, capsys):
    statistics = {"narrow": {"action": {"q01": [-0.6, -0.1, -0.6, -0.6], "q99": [0.6, 0.1, 0.6, 0.6]}}}
    (work / "openvla" / "dataset_statistics.json").write_text(json.dumps(statistics))
    assert train(work, "clipped", vla=VLAOptions(norm_key="narrow"))  # the demonstrations move by 0.5 either way
    noted = json.loads((work / "clipped" / "data.json").read_text())
    assert noted["action_values"] == {"clipped": 40, "of": 160}
    assert noted["labels"]["EXPERT"] == 40
    said = " ".join(capsys.readouterr().out.split())
    assert "40 of 160 action values lie outside" in said
    assert "25.0%; by dimension 0%, 100%, 0%, 0%" in said
    assert "--norm-key" in said


def test_data_without_images_are_refused(work):
    with pytest.raises(RoboprefError, match="lacks the observation 'image'"):
        run_train(Train((work / "state-only",), work / "nothing", policy=str(work / "openvla"), device="cpu"))
    assert not (work / "nothing").exists()


def test_actions_of_another_size_than_the_statistics_are_refused(work):
    statistics = {"seven": {"action": {"q01": [-1] * 7, "q99": [1] * 7}}}
    (work / "openvla" / "dataset_statistics.json").write_text(json.dumps(statistics))
    with pytest.raises(RoboprefError, match="the policy's have 7 dimensions"):
        train(work, "nothing", vla=VLAOptions(norm_key="seven"))


def test_refining_writes_the_size_of_the_recordings(work):
    statistics = {"ours": {"action": {"q01": [-1] * 4, "q99": [1] * 4}}}
    (work / "smolvlm" / "dataset_statistics.json").write_text(json.dumps(statistics))
    assert refine(work, "from-base-size", policy=str(work / "smolvlm"), vla=VLAOptions())
    assert image_size_of(load_policy(work / "from-base-size", device="cpu")) == 16
