"""The options of ``robopref refine`` that change memory, speed and processes, and not what is learned."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import Run
from synthetic import demonstrations, interactions
from test_policies import tiny_policy

from robopref.cli.main import main
from robopref.cli.refine import Refine, run_refine
from robopref.errors import RoboprefError
from robopref.policies.compact import CompactPolicy
from robopref.store.store import EpisodeStore


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("recorded")
    for name, episodes in (("demos", demonstrations(2, image=True)), ("interactions", interactions(2, image=True))):
        store = EpisodeStore.create_or_open(root / name)
        for episode in episodes:
            store.add(episode)
    tiny_policy(("image", "proprio"), seed=5).save(root / "base")
    return root


def arguments(recorded: Path, out: Path, *more: object) -> list[str]:
    return [
        "refine", "--policy", str(recorded / "base"), "--demos", str(recorded / "demos"),
        "--interactions", str(recorded / "interactions"), "--out", str(out),
        "--steps", "6", "--batch-size", "15", "--device", "cpu", "--wandb", "disabled", *map(str, more),
    ]  # fmt: skip


def refine(recorded: Path, out: Path, *more: object) -> dict[str, torch.Tensor]:
    main(arguments(recorded, out, *more))
    return refined(out)


def refined(out: Path) -> dict[str, torch.Tensor]:
    weights = CompactPolicy.load(out / "policy").state_dict()
    # A bias before a normalisation has no gradient but rounding, which Adam scales up.
    return {name: tensor for name, tensor in weights.items() if not name.endswith(".0.bias") or "stages" not in name}


def test_pieces_and_the_cache_change_nothing(recorded: Path, tmp_path: Path) -> None:
    expected = refine(recorded, tmp_path / "plain", "--augmentation-variants", 4)
    cache = ("--reference-cache", tmp_path / "cache")
    for out, more in (
        ("pieces", ("--micro-batch-size", 4, "--augmentation-variants", 4)),
        ("filling", cache),
        ("full", (*cache, "--precompute-reference")),
    ):
        torch.testing.assert_close(refine(recorded, tmp_path / out, *more), expected, rtol=0, atol=1e-5)
    header = json.loads((tmp_path / "cache" / "reference.json").read_text())
    assert header["policy"].startswith("compact-")
    assert header["augmentation_variants"] == 4
    assert len(header["data"]) == 32


def test_labels_by_progress_and_pairs_that_agree(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):  # the recordings have no reward
        main(arguments(recorded, tmp_path / "r", "--failure-point", "progress"))
    assert "--failure-point fixed" in capsys.readouterr().err
    rewarded = EpisodeStore.create_or_open(tmp_path / "rewarded")
    for seed, one in enumerate(interactions(2, image=True)):
        # Best at steps 12 and 26 of the policy's ways to the takeovers at 15 and 37.
        reward = np.where(np.isin(np.arange(len(one)), (12, 26)), 1.0, 0.0)
        far = np.arange(len(one)) % 2 == seed
        proposed = np.where(far[:, None], one.policy_action, one.action).astype(np.float32)
        rewarded.add(replace(one, reward=reward, policy_action=proposed))
    main(["relabel", "--data", str(rewarded.path), "--failure-point", "progress"])
    assert json.loads((rewarded.path / "labels.json").read_text())["rule"]["window"] == 60
    more = ("--interactions", rewarded.path, "--objective", "dpo", "--min-pair-distance", 0.2, "--steps", 2)
    refine(recorded, tmp_path / "out", *more)
    data = json.loads((tmp_path / "out" / "data.json").read_text())
    assert data["rule"]["failure_point"] == "progress"
    assert data["labels"]["UNDESIRABLE"] == 2 * (2 + 10)
    assert data["pairs"] == {"recorded": 36, "preferences": 18}
    refine(recorded, tmp_path / "capped", *more, "--window", 3)
    data = json.loads((tmp_path / "capped" / "data.json").read_text())
    assert data["labels"]["UNDESIRABLE"] == 2 * (2 + 3)
    refine(recorded, tmp_path / "fixed", *more, "--failure-point", "fixed")
    data = json.loads((tmp_path / "fixed" / "data.json").read_text())
    assert data["labels"]["UNDESIRABLE"] == 2 * (10 + 10)


def test_mistakes(recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(*more: object) -> str:
        with pytest.raises(SystemExit) as exit_:
            main(arguments(recorded, tmp_path / "r", *more))
        assert exit_.value.code == 2
        return capsys.readouterr().err

    assert "--reference-cache" in fails("--precompute-reference")
    assert "cannot recompute activations" in fails("--activation-checkpointing")
    assert "micro_batch_size is at least 1" in fails("--micro-batch-size", 0)


def test_a_run_goes_on_with_other_pieces(recorded: Path, tmp_path: Path) -> None:
    expected = refine(recorded, tmp_path / "r")
    torch.testing.assert_close(
        refine(recorded, tmp_path / "r", "--resume", "--micro-batch-size", 4), expected, rtol=0, atol=0
    )
    with pytest.raises(RoboprefError, match=r"other settings \(batch_size\)"):
        run_refine(
            Refine(
                str(recorded / "base"), (recorded / "demos",), (recorded / "interactions",), tmp_path / "r",
                steps=6, batch_size=16, device="cpu", wandb="disabled", resume=True,
            )
        )  # fmt: skip


@pytest.mark.slow
def test_two_launched_processes_refine_like_one(recorded: Path, tmp_path: Path) -> None:
    expected = refine(recorded, tmp_path / "alone")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0",
                "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "-m", "robopref.cli.main"]  # fmt: skip
    package = str(Path(__file__).parent.parent)
    done = subprocess.run(
        [*launcher, *arguments(recorded, tmp_path / "two")],
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": package},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    torch.testing.assert_close(refined(tmp_path / "two"), expected, rtol=0, atol=1e-5)
    fingerprints = [
        torch.load(tmp_path / out / "state.pt", weights_only=True)["fingerprint"] for out in ("alone", "two")
    ]
    assert fingerprints[0] == fingerprints[1]
    rows = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == sorted({row["step"] for row in rows})  # one process keeps the numbers


def test_compiled_passes_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    original = torch.nn.Module.compile

    def traced_only(module: torch.nn.Module, **keywords: Any) -> None:
        original(module, backend="eager", **keywords)  # traced and guarded; generating code takes a minute

    monkeypatch.setattr(torch.nn.Module, "compile", traced_only)
    torch._dynamo.reset()
    compiled, plain = Run("kto", steps=3, compile=True), Run("kto", steps=3)
    compiled.trainer.run()
    plain.trainer.run()
    assert compiled.trainer.passes.bare._compiled_call_impl is not None
    torch.testing.assert_close(compiled.weights(), plain.weights(), rtol=0, atol=1e-6)
