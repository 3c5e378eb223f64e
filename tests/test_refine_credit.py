"""``robopref refine`` with the objectives whose critic judges the steps beforehand: habc and recap."""

import json

import numpy as np
import pytest
from synthetic import demonstrations, interactions
from test_policies import tiny_policy

from robopref.cli import fitting, judging
from robopref.cli.refine import Refine, run_refine
from robopref.errors import RoboprefError
from robopref.objectives.recap import POSITIVE
from robopref.policies.compact import CompactPolicy
from robopref.store.store import EpisodeStore
from robopref.training.credit_settings import CreditSettings
from robopref.training.step_credit import StepCredit, load_credit, save_credit


def record(root, **keywords):
    for name, episodes in (("demos", demonstrations(2, **keywords)), ("interactions", interactions(2, **keywords))):
        store = EpisodeStore.create_or_open(root / name)
        for one in episodes:
            store.add(one)
    tiny_policy(("image", "proprio"), seed=5).save(root / "base")
    return root


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return record(tmp_path_factory.mktemp("recorded"), image=True)


def refine(recorded, out, objective, **options):
    return run_refine(
        Refine(
            options.pop("policy", str(recorded / "base")), (recorded / "demos",), (recorded / "interactions",), out,
            objective, steps=4, batch_size=16, device="cpu", wandb="disabled",
            **({"credit": CreditSettings(value_steps=10)} if objective in ("habc", "recap") else {}) | options,
        )
    )  # fmt: skip


class StopAfterTwo:
    """Instead of Ctrl-C."""

    def __init__(self):
        self.calls = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __call__(self):
        self.calls += 1
        return self.calls >= 2


@pytest.mark.parametrize(("objective", "suffix"), [("habc", ""), ("recap", POSITIVE)])
def test_refining_and_going_on(recorded, tmp_path, monkeypatch, objective, suffix):
    assert refine(recorded, tmp_path / "whole", objective)
    with monkeypatch.context() as patched:
        patched.setattr(fitting, "graceful_interrupt", StopAfterTwo)
        assert not refine(recorded, tmp_path / "halves", objective)
    assert not (tmp_path / "halves" / "policy").exists()
    fitted = []
    monkeypatch.setattr(judging, "judged", lambda *_: fitted.append(1))  # elsewhere it would round otherwise
    assert refine(recorded, tmp_path / "halves", objective, resume=True)
    files = [(tmp_path / run / "policy" / "policy.safetensors").read_bytes() for run in ("whole", "halves")]
    assert files[0] == files[1]
    assert not fitted
    policy = CompactPolicy.load(tmp_path / "halves" / "policy")
    assert policy.instruction_suffix == suffix
    noted = json.loads((tmp_path / "whole" / "data.json").read_text())["credit"]
    if objective == "recap":
        assert list(noted["thresholds"]) == ["reach"]
        assert noted["positive_policy_steps"] == 21  # 35 % of 60
    else:
        assert noted["outcomes"] == {"success": 6, "failure": 0}
    with pytest.raises(RoboprefError, match="other settings"):
        refine(recorded, tmp_path / "whole", objective, resume=True, credit=CreditSettings(value_steps=11))


def test_a_verdict_on_other_labels_is_not_taken(tmp_path):
    credit = StepCredit(np.array([1.0, 2.0]), np.array(["", " good"], dtype=object), {"a": 1})
    save_credit(tmp_path / "credit.npz", credit, "these")
    kept = load_credit(tmp_path / "credit.npz", "these")
    assert kept.weights.tolist() == [1.0, 2.0]
    assert kept.conditions.tolist() == ["", " good"]
    assert kept.summary == {"a": 1}
    assert load_credit(tmp_path / "credit.npz", "those") is None
    (tmp_path / "credit.npz").write_bytes(b"")
    with pytest.raises(RoboprefError, match="remove it, and the critic is fitted anew"):
        load_credit(tmp_path / "credit.npz", "these")


def test_refining_what_recap_trained_once_more(recorded, tmp_path):
    assert refine(recorded, tmp_path / "first", "recap")
    base = str(tmp_path / "first")
    assert refine(recorded, tmp_path / "apo", "apo", policy=base)
    # Whoever refines it otherwise refines the policy that was deployed, which reads the indicator.
    assert CompactPolicy.load(tmp_path / "apo" / "policy").instruction_suffix == POSITIVE
    assert refine(recorded, tmp_path / "fresh", "bc", policy=base, from_scratch=True)
    assert CompactPolicy.load(tmp_path / "fresh" / "policy").instruction_suffix == ""
    assert refine(recorded, tmp_path / "recap", "recap", policy=base)
    assert CompactPolicy.load(tmp_path / "recap" / "policy").instruction_suffix == POSITIVE


def test_from_scratch(recorded, tmp_path):
    assert refine(recorded, tmp_path / "r", "recap", from_scratch=True)
    policy = CompactPolicy.load(tmp_path / "r" / "policy")
    pixels = np.zeros((1, 16, 16, 3), np.uint8)
    assert policy.act({"image": pixels, "proprio": np.zeros((1, 3))}, ["reach the goal"]).shape == (1, 4)


def test_an_instruction_that_leaves_no_room(tmp_path):
    record(tmp_path, image=True, instruction=" ".join(f"word{i}" for i in range(60)))
    with pytest.raises(RoboprefError, match="too few for an indicator"):
        refine(tmp_path, tmp_path / "r", "recap")
    assert refine(tmp_path, tmp_path / "r", "habc")
