"""The commands end to end on the real simulator, with a state policy so that they are quick."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import run
from synthetic import demonstrations

from robopref.cli.seeds import episode_seeds
from robopref.store.store import EpisodeStore
from robopref.trajectory import Actor, Outcome, Step

TASK = "reach"


@pytest.fixture(scope="module")
def loop(tmp_path_factory):
    """Demonstrations, a barely trained policy, and interactions, made once with the commands."""
    root = tmp_path_factory.mktemp("loop")
    run("demos", "--out", root / "demos", "--task", TASK, "--episodes", 4, "--no-image", "--workers", 1)
    run(
        "train", "--demos", root / "demos", "--out", root / "train", "--inputs", "state",
        "--steps", 40, "--batch-size", 32, "--wandb", "disabled",
    )  # fmt: skip
    run(
        "collect", "--policy", root / "train", "--out", root / "interactions", "--task", TASK,
        "--episodes", 4, "--no-image", "--workers", 1,
    )  # fmt: skip
    return root


def refine_arguments(loop, out, *extra):
    return (
        "refine", "--policy", loop / "train", "--demos", loop / "demos", "--interactions", loop / "interactions",
        "--out", out, "--objective", "apo", "--steps", 20, "--batch-size", 16, "--wandb", "disabled", *extra,
    )  # fmt: skip


def test_demonstrations_are_recorded_with_seeds_and_varied_wording(loop):
    store = EpisodeStore.open(loop / "demos")
    infos = [store.info(i) for i in store.episode_ids()]
    assert sorted(i.seed for i in infos) == episode_seeds("demos", 0, 4)
    assert all(i.outcome is Outcome.SUCCESS for i in infos)
    assert len({i.instruction for i in infos}) > 1
    assert all((episode.actor == Actor.EXPERT).all() for episode in store)


def test_interactions_hold_the_proposal_while_the_human_drives(loop):
    human = [e for e in EpisodeStore.open(loop / "interactions") if (e.actor == Actor.HUMAN).any()]
    assert human
    for episode in human:
        driven = episode.actor == Actor.HUMAN
        assert np.isfinite(episode.policy_action).all()
        np.testing.assert_array_equal(episode.action[driven], episode.human_action[driven])
        assert (episode.action[~driven] == episode.policy_action[~driven]).all()
        assert not np.allclose(episode.action[driven], episode.policy_action[driven])
        assert episode.info.policy_id.startswith("compact-")
        assert episode.info.extra["operator"]["stall_steps"] == 30
        assert episode.info.extra["hz"] == 80
    summary = json.loads((loop / "interactions" / "summary.json").read_text())
    assert summary["takeovers"] >= len(human)


def test_refinement_writes_a_loadable_policy_and_its_curves(loop, tmp_path):
    run(*refine_arguments(loop, tmp_path / "apo"))
    rows = [json.loads(line) for line in (tmp_path / "apo" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 20
    assert {"loss", "rewards/margins", "kl", "weights/desirable", "shares/human", "action_l1/human"} <= set(rows[-1])
    config = json.loads((tmp_path / "apo" / "config.json").read_text())
    assert config["config"]["anchor_weight"] == 1.0
    assert config["versions"]["torch"]
    data = json.loads((tmp_path / "apo" / "data.json").read_text())
    assert data["rule"]["window"] == 10
    assert data["labels"]["UNDESIRABLE"] > 0
    run(
        "evaluate", "--policy", tmp_path / "apo", "--out", tmp_path / "e", "--task", TASK, "--episodes", 3,
        "--workers", 1, "--videos", 1, "--wandb", "offline",
    )  # fmt: skip
    summary = json.loads((tmp_path / "e" / "summary.json").read_text())
    assert summary["result"]["success"]["n"] == 3
    assert summary["seeds"]["evaluation"] == episode_seeds("evaluate", 0, 3)
    assert len(list((tmp_path / "e" / "videos").glob("*.mp4"))) == 1
    tracked = json.loads((tmp_path / "e" / "metrics.jsonl").read_text())
    assert tracked["success/low"] <= tracked["success/value"] <= tracked["success/high"]
    assert len((tmp_path / "e" / "tables" / "episodes.csv").read_text().splitlines()) == 1 + 3
    assert list((tmp_path / "e" / "wandb").glob("offline-run-*/*.wandb"))


def test_relabelling_changes_the_window_and_not_the_recordings(loop, tmp_path):
    before = EpisodeStore.open(loop / "interactions").fingerprint()
    run("relabel", "--data", loop / "interactions", "--window", 2)
    run(*refine_arguments(loop, tmp_path / "two"))
    run("relabel", "--data", loop / "interactions", "--window", 10)
    run(*refine_arguments(loop, tmp_path / "ten"))
    labels = [json.loads((tmp_path / n / "data.json").read_text())["labels"] for n in ("two", "ten")]
    assert labels[0]["UNDESIRABLE"] < labels[1]["UNDESIRABLE"]
    assert EpisodeStore.open(loop / "interactions").fingerprint() == before


def test_episodes_do_not_depend_on_the_number_of_processes(loop, tmp_path):
    for workers in (1, 2):
        run(
            "evaluate", "--policy", loop / "train", "--out", tmp_path / str(workers), "--task", TASK, "--episodes", 4,
            "--workers", workers, "--wandb", "disabled",
        )  # fmt: skip
    one, two = (
        sorted((tmp_path / n / "episodes.jsonl").read_text().splitlines(), key=lambda x: json.loads(x)["seed"])
        for n in ("1", "2")
    )
    assert one == two


def test_recordings_in_another_order_teach_the_same_policy(loop, tmp_path):
    """Several processes finish theirs in any order."""
    shuffled = EpisodeStore.create_or_open(tmp_path / "demos")
    for episode in reversed(list(EpisodeStore.open(loop / "demos"))):
        shuffled.add(episode)
    run(
        "train", "--demos", shuffled.path, "--out", tmp_path / "train", "--inputs", "state",
        "--steps", 40, "--batch-size", 32, "--wandb", "disabled",
    )  # fmt: skip
    first, second = (root / "train" / "policy" / "policy.safetensors" for root in (loop, tmp_path))
    assert first.read_bytes() == second.read_bytes()


def test_an_interrupted_evaluation_goes_on_where_it_was(loop, tmp_path):
    arguments = (
        "evaluate",
        "--policy",
        loop / "train",
        "--out",
        tmp_path / "e",
        "--task",
        TASK,
        "--episodes",
        4,
        "--wandb",
        "disabled",
    )
    run(*arguments, "--workers", 1)
    path = tmp_path / "e" / "episodes.jsonl"
    whole = path.read_text()
    lines = whole.splitlines(keepends=True)
    path.write_text("".join(lines[:2]) + lines[2][:15])  # as a crash would leave it
    run(*arguments, "--workers", 1, expect=2)  # without --resume an earlier run is not touched
    run(*arguments, "--workers", 1, "--resume")
    assert path.read_text() == whole


def stopped(directory, wish, *, after):
    """A recording by two processes that all got the signal once so many episodes were finished: command and output."""
    command = [
        sys.executable, "-m", "robopref.cli.main", "demos", "--out", str(directory), "--task", TASK,
        "--episodes", "24", "--no-image", "--workers", "2",
    ]  # fmt: skip
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    episodes = directory / "episodes"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (episodes.is_dir() and len(list(episodes.iterdir())) >= after):
        time.sleep(0.05)
    os.killpg(process.pid, wish)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output.decode()
    assert b"Traceback" not in output
    store = EpisodeStore.open(directory)
    assert after <= len(store) < 24
    assert store.verify() == []
    return command, output


def test_ctrl_c_leaves_finished_episodes_and_resume_records_the_rest(tmp_path):
    command, _ = stopped(tmp_path / "d", signal.SIGINT, after=3)  # what a terminal does
    finished = subprocess.run([*command, "--resume"], capture_output=True, timeout=300, check=False)
    assert finished.returncode == 0, finished.stderr.decode()
    seeds = [EpisodeStore.open(tmp_path / "d").info(i).seed for i in EpisodeStore.open(tmp_path / "d").episode_ids()]
    assert sorted(seeds) == episode_seeds("demos", 0, 24)


@pytest.mark.parametrize("wish", [signal.SIGTERM, signal.SIGHUP], ids=lambda wish: wish.name)
def test_a_signal_to_all_processes_stops_as_ctrl_c_does(tmp_path, wish):
    _, output = stopped(tmp_path / "d", wish, after=1)  # a terminal that closes; `timeout`, a job scheduler
    assert b"killed" not in output


def test_a_run_goes_on_by_another_spelling_of_its_paths(loop, tmp_path, monkeypatch):
    run(*refine_arguments(loop, tmp_path / "r"))
    before = (tmp_path / "r" / "metrics.jsonl").read_bytes()
    monkeypatch.chdir(loop)
    run(*refine_arguments(Path(), tmp_path / "r", "--resume"))
    assert (tmp_path / "r" / "metrics.jsonl").read_bytes() == before


# --- bad input: one clear line, exit status 2, nothing recorded touched


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("demos", "--task", "peg-insert"), "did you mean peg-insert-side"),
        (("demos", "--task", "no_such_module:make"), "cannot be imported"),
        (("demos", "--seed", "99999999"), "--seed runs from 0"),
        (("evaluate", "--policy", "nowhere"), "no policy at nowhere"),
        (("evaluate", "--policy", "no_such_module:make"), "cannot import"),
        (("train", "--demos", "nowhere"), "nowhere"),
        (("quickstart", "--refine-steps", "0"), "--refine-steps is at least 1"),
        (("quickstart", "--evaluation-episodes", "0"), "--evaluation-episodes runs from 1"),
        (("quickstart", "--batch-size", "2"), "at least 3 samples"),
        (("quickstart", "--videos", "-1"), "--videos is at least 0"),
        (("train", "--demos", "nowhere", "--lora-rank", "0"), "LoRA needs a rank of at least 1"),
    ],
)
def test_mistakes_get_one_clear_line(tmp_path, capsys, arguments, message):
    run(*arguments, "--out", tmp_path / "out", expect=2)
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "Traceback" not in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()  # so that the corrected command needs no clearing up


def test_interactions_without_a_takeover_are_refused(loop, tmp_path, capsys):
    arguments = list(refine_arguments(loop, tmp_path / "r"))
    arguments[arguments.index("--interactions") + 1] = loop / "demos"
    before = EpisodeStore.open(loop / "demos").fingerprint()
    run(*arguments, expect=2)
    assert "takeover" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
    assert EpisodeStore.open(loop / "demos").fingerprint() == before


def test_a_policy_of_another_action_size_is_refused(loop, tmp_path, capsys):
    run(
        "evaluate", "--policy", "test_cli:seven_dimensional_policy", "--out", tmp_path / "e", "--task", TASK,
        "--episodes", 1, "--workers", 1, expect=2,
    )  # fmt: skip
    assert "7 dimensions" in capsys.readouterr().err


def seven_dimensional_policy():
    from robopref.policies.compact import CompactPolicy
    from robopref.policies.compact_network import CompactArchitecture
    from robopref.policies.normalization import NormStats

    return CompactPolicy(
        CompactArchitecture(inputs=("state",), action_size=7), NormStats([-1] * 7, [1] * 7, [True] * 7)
    )


def test_another_configuration_does_not_continue_a_run(loop, tmp_path, capsys):
    run(*refine_arguments(loop, tmp_path / "r"))
    run(*refine_arguments(loop, tmp_path / "r", "--resume", "--learning-rate", "2e-3"), expect=2)
    assert "learning_rate" in capsys.readouterr().err


def test_another_policy_at_the_same_path_does_not_continue_an_evaluation(loop, tmp_path, capsys):
    import shutil

    shutil.copytree(loop / "train" / "policy", tmp_path / "p")
    arguments = (
        "evaluate", "--policy", tmp_path / "p", "--out", tmp_path / "e", "--task", TASK, "--episodes", 2,
        "--workers", 1, "--wandb", "disabled",
    )  # fmt: skip
    run(*arguments)
    from robopref.policies.registry import load_policy

    policy = load_policy(tmp_path / "p")
    policy.network.head_bias.data.add_(1.0)
    policy.network.head_bias.data[0, 0] += 1.0
    policy.save(tmp_path / "p")
    run(*arguments, "--resume", expect=2)
    assert "policy_id" in capsys.readouterr().err


def test_a_demonstration_that_was_cut_off_is_kept_but_neither_counted_nor_learned_from(tmp_path, capsys):
    arguments = ("demos", "--out", tmp_path / "d", "--task", TASK, "--episodes", 3, "--no-image", "--workers", 1)
    run(*arguments)
    store = EpisodeStore.open(tmp_path / "d")
    whole = store.read(store.episode_ids()[-1])
    path = next((tmp_path / "d" / "episodes").glob(f"{whole.info.episode_id}*"))
    info = whole.info
    path.unlink()
    with EpisodeStore.create_or_open(tmp_path / "d").begin(info) as writer:  # as a recovered journal would look
        for t in range(5):
            writer.append(Step({k: v[t] for k, v in whole.observation.items()}, whole.action[t], Actor.EXPERT))
        writer.finish(Outcome.ABORTED)
    run(*arguments, "--resume")
    outcomes = [e.info.outcome for e in EpisodeStore.open(tmp_path / "d")]
    assert outcomes.count(Outcome.SUCCESS) == 3
    assert outcomes.count(Outcome.ABORTED) == 1
    run(
        "train", "--demos", tmp_path / "d", "--out", tmp_path / "t", "--inputs", "state", "--steps", 2,
        "--batch-size", 8, "--wandb", "disabled",
    )  # fmt: skip
    assert json.loads((tmp_path / "t" / "data.json").read_text())["episodes"] == 3


def test_wrong_settings_do_not_claim_the_output_directory(loop, tmp_path, capsys):
    run(*refine_arguments(loop, tmp_path / "r", "--window", 0), expect=2)
    assert "UNDESIRABLE" in capsys.readouterr().err
    run("train", "--demos", loop / "demos", "--out", tmp_path / "r", expect=2)  # no images were recorded
    assert "lacks the observation 'image'" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
    run(*refine_arguments(loop, tmp_path / "r"))


def test_settings_that_the_objective_would_pass_over_are_refused(loop, tmp_path, capsys):
    for objective, setting in (
        ("bc", ("--beta", 0.5)), ("kto", ("--variant", "reference")), ("hg-dagger", ("--label-noise", "em")),
        ("apo", ("--min-pair-distance", 0.2)), ("apo", ("--positive-share", 0.5)),
    ):  # fmt: skip
        run(*refine_arguments(loop, tmp_path / "r", "--objective", objective, *setting), expect=2)
        assert f"{objective} has no such setting" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_what_holds_nothing_to_learn_from_is_said(tmp_path, capsys):
    with EpisodeStore.create_or_open(tmp_path / "d").begin(demonstrations(1)[0].info) as writer:
        for episode in demonstrations(1):
            for t in range(5):
                writer.append(Step({k: v[t] for k, v in episode.observation.items()}, episode.action[t], Actor.EXPERT))
        writer.finish(Outcome.ABORTED)
    run("relabel", "--data", tmp_path / "d", expect=2)
    assert "nothing to learn from" in capsys.readouterr().err


def test_what_is_no_result_is_said(loop, tmp_path, capsys):
    run("report", loop / "interactions", expect=2)
    assert "give the directory of a quickstart, an evaluation or a diagnosis" in capsys.readouterr().err
    evaluate = (
        "evaluate", "--policy", loop / "train", "--out", tmp_path / "e", "--task", TASK, "--episodes", 2,
        "--workers", 1, "--wandb", "disabled",
    )  # fmt: skip
    run(*evaluate)
    path = tmp_path / "e" / "episodes.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + "\0" * 20 + "\n")  # what a power failure may leave
    run(*evaluate, "--resume", expect=2)
    assert "line 2" in capsys.readouterr().err
    path.write_text(lines[0])
    run(*evaluate, "--resume")
    assert path.read_text().splitlines() == [line.strip() for line in lines]


def test_data_of_a_newer_version_are_left_alone(loop, tmp_path, capsys):
    import shutil

    shutil.copytree(loop / "interactions", tmp_path / "i")
    path = tmp_path / "i" / "dataset.json"
    text = json.loads(path.read_text())
    path.write_text(json.dumps(text | {"schema_version": 999}))
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "i").rglob("*")}
    run("relabel", "--data", tmp_path / "i", expect=2)
    assert "newer" in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "i").rglob("*")} == files


def test_help_is_quick_to_load():
    heavy = "('torch', 'mujoco', 'wandb', 'matplotlib')"
    code = f"import sys, robopref.cli.main; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_links_at_the_top_level_lead_into_the_package():
    root = Path(__file__).parent.parent
    for name in ("envs", "policies", "human_io"):
        assert os.readlink(root / name) == f"robopref/{name}"
