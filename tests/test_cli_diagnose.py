"""``robopref diagnose`` from the command line, on real games and small networks."""

import gc
import json
import os
import signal
import subprocess
import sys
import time
import weakref
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from made_diagnoses import make_comparison, make_diagnosis

from robopref.cli.diagnose import parse_bytes
from robopref.cli.diagnose_compare import print_comparison
from robopref.cli.diagnose_print import print_diagnosis
from robopref.cli.main import main
from robopref.cli.task_source import TaskSource
from robopref.diagnosis import load_comparison, load_diagnosis, state_gradients
from robopref.diagnosis.collection import load_traces
from robopref.envs.registry import make_task
from robopref.errors import RoboprefError
from robopref.evaluation.statistics import Estimate
from robopref.policies.compact import CompactPolicy
from robopref.policies.compact_network import CompactArchitecture
from robopref.policies.normalization import NormStats
from robopref.policies.q_checkpoint import save_q_network
from robopref.policies.q_network import QArchitecture, QNetwork
from robopref.policies.q_tokens import TokenQPolicy, decode_instructions
from robopref.policies.registry import load_policy

QUICK = (
    "--episodes", 2, "--random-episodes", 2, "--max-steps", 25, "--resamples", 100, "--num-envs", 2, "--max-states", 30,
    "--attacks", "none", "--wandb", "disabled", "--device", "cpu",
)  # fmt: skip


def run(*arguments, expect=0):
    """Run the command line in this process."""
    try:
        main([str(a) for a in arguments])
        status = 0
    except SystemExit as exit_:
        status = exit_.code or 0
    assert status == expect, f"robopref {' '.join(map(str, arguments))} exited {status}"


def save(directory, game="pong", about=True, change=lambda network: None, **architecture):
    torch.manual_seed(0)
    settings = {"n_actions": 6, "hidden": 16} | architecture
    network = QNetwork(QArchitecture(**settings))
    change(network)
    told = {"game": game, "environment": {"game": game, "frame_skip": 4, "sticky_actions": 0.25}} if about else {}
    save_q_network(directory, network, told)
    return directory


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save(tmp_path_factory.mktemp("model") / "pong")


@pytest.fixture(scope="module")
def diagnosed(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("diagnosed") / "pong"
    run("diagnose", "--model", model, "--out", out, "--shifts", "rotation:degrees=3", "jpeg", *QUICK)
    return out


def test_a_diagnosis_leaves_numbers_figures_and_a_report(diagnosed, model):
    found = load_diagnosis(diagnosed)
    assert found.subject.policy == str(model)
    assert found.subject.task == "pong"
    assert found.subject.actions[0] == "NOOP"
    assert found.subject.value_unit == "discounted reward"
    assert found.subject.environment["sticky_actions"] == 0.25  # as the checkpoint says
    assert [c.name for c in found.conditions] == ["null", "rotation:degrees=3", "jpeg"]
    assert found.conditions[1].detail == "rotation:degrees=3.0"
    assert found.statements[0].startswith("UNTRAINED")
    # the checkpoint says three of the settings; that the others are assumed is told
    assert any("assumed: " in s and "noop_max=30" in s and "sticky" not in s for s in found.statements)
    page = (diagnosed / "report.html").read_text()
    assert "UNTRAINED" in page
    assert len(list((diagnosed / "figures").glob("*.png"))) >= 8
    table = (diagnosed / "tables" / "conditions.csv").read_text().splitlines()
    assert table[0].startswith("name,kind,detail,n_states,quotient_value,quotient_low")
    assert len(table) == 4
    metrics = json.loads((diagnosed / "metrics.jsonl").read_text())
    assert metrics["quotient/null/value"] == pytest.approx(found.null.quotient.value)
    assert json.loads((diagnosed / "tracked.json").read_text())["untrained"] is True
    assert json.loads((diagnosed / "config.json").read_text())["config"]["policy_id"] == found.subject.policy_id


def test_the_console_says_what_counts(model, tmp_path, capsys):
    run("diagnose", "--model", model, "--out", tmp_path / "a", "--shifts", "none", *QUICK, "--temperature", 1e-9)
    printed = " ".join(capsys.readouterr().out.split())
    assert "UNTRAINED: this policy does not play pong better than random actions do" in printed
    assert "All directions vanish at T = 1e-09 in float32" in printed
    assert "report: " in printed


def test_an_earlier_run_is_not_overwritten_and_goes_on_only_as_it_was(diagnosed, model, capsys):
    arguments = ("diagnose", "--model", model, "--out", diagnosed, "--shifts", "rotation:degrees=3", "jpeg", *QUICK)
    run(*arguments, expect=2)
    assert "add --resume" in capsys.readouterr().err
    run(*arguments, "--resume", "--temperature", 2, expect=2)
    assert "other settings (temperature)" in capsys.readouterr().err
    before = {path: path.stat().st_mtime_ns for path in (diagnosed / "sets").iterdir()}
    run(*arguments, "--resume")
    assert {path: path.stat().st_mtime_ns for path in (diagnosed / "sets").iterdir()} == before


@pytest.mark.slow
def test_a_stopped_run_goes_on(model, tmp_path):
    out = tmp_path / "run"
    command = [
        sys.executable, "-m", "robopref.cli.main", "diagnose", "--model", str(model), "--out", str(out),
        *map(str, QUICK), "--max-steps", "200", "--shifts", "jpeg", "rotation", "median_blur",
    ]  # fmt: skip
    process = subprocess.Popen(command, env=os.environ, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not (out / "sets" / "null.json").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "stopped by SIGINT" in output
    assert "--resume goes on" in " ".join(output.split())
    assert not (out / "summary.json").exists()
    kept = (out / "sets" / "clean.json").stat().st_mtime_ns
    run(*command[3:], "--resume")
    assert len(load_diagnosis(out).conditions) == 4
    assert (out / "sets" / "clean.json").stat().st_mtime_ns == kept


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--game", "Breakout"), "the model was trained on pong and the game is breakout"),
        (("--full-action-set", "True"), "set full_action_set to False"),
        (("--grayscale", "False"), "set grayscale to True"),
        (("--frame-stack", 3), "the model takes 4 stacked frames and the environment gives 3"),
        (("--image-size", 96), "the model takes 84 x 84 pixels"),
        (("--episodes", 0), "episodes must be at least 1"),
        (("--temperature", 0), "temperature must be positive"),
        (("--memory-limit", "lots"), "no amount of memory"),
        (("--shifts", "earthquake"), "no shift is called 'earthquake'"),
        (("--shifts", "jpeg", "jpeg"), "the shift jpeg is asked for twice"),
        (("--sticky-actions", 2), "sticky_actions is a probability"),
        (("--model", "nowhere.zip"), "no model at nowhere.zip"),
    ],
)
def test_bad_input_is_one_line(model, tmp_path, capsys, arguments, message):
    run("diagnose", "--model", model, "--out", tmp_path / "out", *QUICK, *arguments, expect=2)
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def _break(network):
    with torch.no_grad():
        next(network.parameters())[0] = torch.nan


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"change": _break}, "not finite"),
        ({"game": "freeway"}, "the model has 6 actions, but freeway has 3 (minimal set) or 18 (full set)"),
        ({"about": False}, "the model does not say which game it plays"),
    ],
)
def test_bad_models_are_one_line(tmp_path, capsys, settings, message):
    model = save(tmp_path / "model", **settings)
    run("diagnose", "--model", model, "--out", tmp_path / "out", *QUICK, expect=2)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((32, 1, 8, 8), "its frame stack is missing"),
        ((32, 84, 8, 8), "channels last"),
    ],
)
def test_a_missing_stack_and_channels_last_are_said(tmp_path, capsys, shape, message):
    linear = {"network.7.weight": torch.zeros(512, 3136), "network.7.bias": torch.zeros(512)}
    weights = {
        "network.0.weight": torch.zeros(shape), "network.0.bias": torch.zeros(32),
        "network.2.weight": torch.zeros(64, 32, 4, 4), "network.2.bias": torch.zeros(64),
        "network.4.weight": torch.zeros(64, 64, 3, 3), "network.4.bias": torch.zeros(64), **linear,
        "network.9.weight": torch.zeros(6, 512), "network.9.bias": torch.zeros(6),
    }  # fmt: skip
    torch.save(weights, tmp_path / "dqn_atari.cleanrl_model")
    arguments = ("--model", tmp_path / "dqn_atari.cleanrl_model", "--game", "Pong", "--out", tmp_path / "out")
    run("diagnose", *arguments, *QUICK, expect=2)
    assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def token_policy(tmp_path_factory):
    """A small policy of a robot task that reads the image, with random weights."""
    task = make_task("reach", image=True, image_size=24)
    sizes = {f"{name}_size": task.observation_space[name].shape[0] for name in ("proprio", "state")}
    size = task.action_space.shape[0]
    task.close()
    torch.manual_seed(0)
    architecture = CompactArchitecture(
        inputs=("image", "proprio"), width=32, channels=(8, 8), image_size=24, bins=16, action_size=size, **sizes
    )
    stats = NormStats(q01=[-1] * size, q99=[1] * size, mask=[True] * size)
    directory = tmp_path_factory.mktemp("tokens") / "policy"
    CompactPolicy(architecture, stats).save(directory)
    return directory


TOKENS_QUICK = (*QUICK[:2], "--random-episodes", 2, "--max-steps", 8, "--resamples", 100, "--max-states", 12,
                "--wandb", "disabled")  # fmt: skip


def test_every_dimension_of_a_token_policy_is_a_decision(token_policy, tmp_path):
    out = tmp_path / "arm"
    run(
        "diagnose", "--policy", token_policy, "--task", "reach", "--out", out, "--shifts", "rotation", "--attacks",
        "nesterov_fgsm", "--attack-states", 4, "--attack-episodes", 1, "--attack-steps", 3, "--dimensions", 1, 3,
        *TOKENS_QUICK,
    )  # fmt: skip
    policy = load_policy(token_policy)
    for dimension in (1, 3):
        found = load_diagnosis(out / f"dimension-{dimension}")
        assert found.subject.head == f"action dimension {dimension} of 4"
        assert found.subject.shape == (3, 24, 24)
        assert len(found.subject.actions) == 16
        assert [c.name for c in found.conditions] == ["null", "rotation", "nesterov_fgsm"]
        assert "UNTRAINED" in found.statements[0]
        assert (out / f"dimension-{dimension}" / "report.html").exists()
        # the norms are those of the decision, worked out from the episodes that were kept
        (trace, _) = load_traces(out / f"dimension-{dimension}" / "sets" / "clean_episodes.npz")
        decision = TokenQPolicy(policy, dimension - 1)
        gradients = state_gradients(decision, trace.states(), context=trace.context)
        np.testing.assert_allclose(found.instability.episodes[0].norms, np.linalg.norm(gradients, axis=1), rtol=1e-4)
        tokens = trace.context["tokens"]
        acted = policy.act(
            {"image": trace.frames, "proprio": trace.context["proprio"]},
            decode_instructions(torch.as_tensor(trace.context["instruction"])),
        )
        np.testing.assert_allclose(policy.norm_stats.unnormalize(policy.tokenizer.decode(tokens)), acted, atol=1e-6)
        np.testing.assert_array_equal(trace.actions, tokens[:, dimension - 1] - 1)
    assert not (out / "dimension-2").exists()
    assert not (out / "episodes").exists()  # what both dimensions were to be measured on is no result
    first, third = (load_traces(out / f"dimension-{d}" / "sets" / "clean_episodes.npz")[0] for d in (1, 3))
    np.testing.assert_array_equal(first.frames, third.frames)  # the same episodes
    assert not np.array_equal(first.q_values, third.q_values)


class Lingering(gymnasium.Env):
    """A user's task that succeeds at its third step and says so from then on, but goes on to its seventh."""

    task_name, instruction, paraphrases = "linger", "stay a while", ()
    observation_space = spaces.Dict({"image": spaces.Box(0, 255, (24, 24, 3), np.uint8)})
    action_space = spaces.Box(-1, 1, (2,), np.float32)
    begun = 0  # episodes, of all instances

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        Lingering.begun += 1
        self._steps = 0
        return self._seen(), {}

    def step(self, action):
        self._steps += 1
        return self._seen(), 0.0, False, self._steps == 7, {"success": self._steps >= 3}

    def _seen(self):
        return {"image": self.np_random.integers(0, 256, (24, 24, 3), np.uint8)}

    def make_expert(self):
        raise RoboprefError("there is none.")

    def progress(self, observation):
        return 0.0


LINGERING = "test_cli_diagnose:Lingering"


def image_policy(bins=16):
    torch.manual_seed(0)
    architecture = CompactArchitecture(
        inputs=("image",), width=16, channels=(8, 8), image_size=24, bins=bins, action_size=2
    )
    return CompactPolicy(architecture, NormStats(q01=[-1] * 2, q99=[1] * 2, mask=[True] * 2)).eval()


def test_an_episode_ends_at_its_success_which_is_its_score():
    policy = image_policy()
    source = TaskSource(policy, LINGERING, 24)
    (trace,) = source.play(TokenQPolicy(policy, 0), episodes=1, seed=0, epsilon=0.0)
    assert (trace.score, len(trace), trace.finished) == (1.0, 3, True)
    (cut,) = source.play(TokenQPolicy(policy, 0), episodes=1, seed=0, epsilon=0.0, max_steps=2)
    assert (cut.score, len(cut), cut.finished) == (0.0, 2, False)


def test_episodes_are_kept_on_disk_for_the_next_dimension_or_not_at_all(tmp_path):
    policy = image_policy()

    def played(source, dimension):
        before = Lingering.begun
        traces = source.play(TokenQPolicy(policy, dimension), episodes=2, seed=0, epsilon=0.3)
        return traces, Lingering.begun - before

    alone = TaskSource(policy, LINGERING, 24)
    traces, begun = played(alone, 0)
    frames = weakref.ref(traces[0].frames)
    expected = [(t.frames, t.actions, t.q_values) for t in played(alone, 1)[0]]
    del traces
    gc.collect()
    assert frames() is None
    assert (begun, played(alone, 0)[1]) == (2, 2)

    several = TaskSource(policy, LINGERING, 24, kept=tmp_path / "episodes")
    assert played(several, 0)[1] == 2
    traces, begun = played(several, 1)
    assert begun == 0
    for trace, (frames, actions, q_values) in zip(traces, expected, strict=True):
        np.testing.assert_array_equal(trace.frames, frames)
        np.testing.assert_array_equal(trace.actions, actions)
        np.testing.assert_array_equal(trace.q_values, q_values)
    # what an attack is played against is one dimension
    several.play(
        TokenQPolicy(policy, 0), episodes=1, seed=0, epsilon=0.0, attack=lambda pixels, context: pixels.clone()
    )
    assert len(list((tmp_path / "episodes").iterdir())) == 1


def test_tokens_of_one_value_are_synonyms(tmp_path):
    """The last two bins decode to the same action, and this policy chooses among them alone."""
    policy = image_policy(bins=256)
    with torch.no_grad():
        policy.network.head_bias[..., -2:] += 100
    policy.save(tmp_path / "policy")
    out = tmp_path / "out"
    run(
        "diagnose", "--policy", tmp_path / "policy", "--task", LINGERING, "--out", out, "--dimensions", 2, "--shifts",
        "rotation", "--no-null", *TOKENS_QUICK,
    )  # fmt: skip
    found = load_diagnosis(out / "dimension-2")
    assert found.subject.synonyms == ((254, 255),)
    assert found.subject.actions[253:] == ("+0.988", "+0.996 (bin 255)", "+0.996 (bin 256)")
    assert len(set(found.subject.actions)) == 256
    assert found.decisions.near_ties.value == found.decisions.synonym_ties.value == 1
    (rotation,) = found.conditions
    assert rotation.synonym_flips == rotation.flips
    assert "+0.996 (bin 255) = +0.996 (bin 256)" in (out / "dimension-2" / "report.html").read_text()


@pytest.mark.parametrize(("device", "expected"), [("auto", ["cuda"]), ("cpu", [])])
@pytest.mark.parametrize("kind", ["--model", "--policy"])
def test_policies_go_where_they_are_told_to(model, tmp_path, monkeypatch, kind, device, expected):
    moved = []

    def enough(*arguments, **settings):
        raise RoboprefError("enough.")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, target: moved.append(torch.device(target).type) or self)
    monkeypatch.setattr("robopref.cli.diagnose.start_run", enough)
    image_policy().save(tmp_path / "policy")
    given = ("--model", model) if kind == "--model" else ("--policy", tmp_path / "policy", "--task", LINGERING)
    run("diagnose", *given, "--out", tmp_path / "out", "--device", device, expect=2)
    assert moved == expected


def test_the_console_shows_no_interval_where_there_is_none(capsys):
    """Of a single episode there is none, whatever the resampling returned."""
    one = Estimate(0.4321, 0.4321, 0.4321, 1)
    found, comparison = make_diagnosis(), make_comparison()
    several = found.competence.score
    print_diagnosis(replace(found, directions=replace(found.directions, share=one, eigengap=one)))
    printed = " ".join(capsys.readouterr().out.split())
    assert "lambda_1 / trace 0.432 (n = 1); lambda_2 / lambda_1 0.432 (n = 1);" in printed
    assert f"{several.value:.3g} [{several.low:.3g}, {several.high:.3g}]" in printed
    print_comparison(replace(comparison, angle=one))
    printed = capsys.readouterr().out
    assert "0.432 (n = 1)" in printed
    assert "0.432 [" not in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --model"),
        (("--model", "a", "--policy", "b"), "give --model"),
        (("--policy", "POLICY"), "--policy needs --task"),
        (("--policy", "POLICY", "--task", "reach", "--dimensions", 5), "have dimensions 1 to 4"),
        (("--policy", "POLICY", "--task", "reach", "--game", "Pong"), "go with --model"),
        (("--policy", "POLICY", "--task", "raech"), "there is no task 'raech'"),
    ],
)
def test_bad_input_about_tasks_is_one_line(token_policy, tmp_path, capsys, arguments, message):
    arguments = [token_policy if a == "POLICY" else a for a in arguments]
    run("diagnose", *arguments, "--out", tmp_path / "out", *TOKENS_QUICK, expect=2)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_two_diagnoses_side_by_side(diagnosed, tmp_path, capsys):
    other = save(tmp_path / "other", change=lambda network: [p.data.mul_(1.5) for p in network.parameters()])
    run("diagnose", "--model", other, "--out", tmp_path / "b", "--shifts", "jpeg", *QUICK)
    out = tmp_path / "both"
    arguments = ("diagnose", "compare", diagnosed, tmp_path / "b", "--out", out, "--wandb", "disabled")
    run(*arguments, "--names", "plain", "loud")
    found = load_comparison(out)
    assert found.names == ("plain", "loud")
    assert set(found.quotients) == {"null", "jpeg"}
    assert "angle of G_S" in capsys.readouterr().out
    assert "plain" in (out / "comparison.html").read_text()
    assert (out / "tables" / "quotients.csv").read_text().startswith("condition,a_value,a_low")
    run(*arguments, expect=2)
    assert "add --resume" in capsys.readouterr().err
    for wrong, message in [
        ((diagnosed, diagnosed), "are the same directory"),
        ((diagnosed, tmp_path), "has not come to its end"),
    ]:
        run("diagnose", "compare", *wrong, "--out", tmp_path / "c", "--wandb", "disabled", expect=2)
        assert message in " ".join(capsys.readouterr().err.split())


def test_wandb_gets_images_and_tables(model, tmp_path):
    out = tmp_path / "run"
    quick = [a for a in QUICK if a not in ("--wandb", "disabled")]
    run("diagnose", "--model", model, "--out", out, "--shifts", "none", *quick, "--wandb", "offline")
    assert list((out / "wandb").glob("offline-run-*/*.wandb"))
    media = list((out / "wandb").rglob("*.png"))
    assert len(media) == len(list((out / "figures").glob("*.png")))
    assert list((out / "wandb").rglob("conditions*.table.json"))


@pytest.mark.parametrize(
    ("text", "size"),
    [("1G", 2**30), ("500M", 500 * 2**20), ("1.5GiB", 3 * 2**29), (" 2 kb ", 2048), ("4096", 4096)],
)
def test_amounts_of_memory(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1G", "1T", "0", "1.5.2M"])
def test_bad_amounts_of_memory(text):
    with pytest.raises(RoboprefError, match="no amount of memory"):
        parse_bytes(text)


class Refuses:
    """A tracker that fails in a way of its own."""

    def __init__(self, *arguments, **settings):
        raise ConnectionResetError("the service is gone")


def test_tracking_that_fails_costs_neither_the_report_nor_the_numbers(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("robopref.tracking.Tracker", Refuses)
    run("diagnose", "--model", model, "--out", tmp_path / "a", "--shifts", "none", *QUICK)
    printed = " ".join(capsys.readouterr().out.split())
    assert "The results are complete, but tracking them failed (ConnectionResetError: the service is gone)" in printed
    assert printed.index("report: ") < printed.index("tracking them failed")
    assert (tmp_path / "a" / "report.html").exists()
    assert json.loads((tmp_path / "a" / "status.json").read_text())["state"] == "finished"


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (
            MemoryError("Unable to allocate 3 GiB"),
            2,
            "memory ran out at 'jpeg: episodes 0/2' (Unable to allocate 3 GiB)",
        ),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 2, "lower --memory-limit, --num-envs"),
        (KeyboardInterrupt(), 130, "interrupted at once, at 'jpeg: episodes 0/2'"),
        (OSError(28, "No space left on device"), 2, "the disk is full"),
    ],
)
def test_whatever_ends_a_run_is_said_and_it_goes_on(model, tmp_path, capsys, monkeypatch, error, status, said):
    from robopref.diagnosis.sources import GameSource

    play = GameSource.play

    def failing(self, q_policy, **settings):
        if settings["shift"] is not None:
            raise error
        return play(self, q_policy, **settings)

    out = tmp_path / "run"
    arguments = ("diagnose", "--model", model, "--out", out, "--shifts", "jpeg", *QUICK)
    monkeypatch.setattr(GameSource, "play", failing)
    run(*arguments, expect=status)
    told = capsys.readouterr()
    assert said in " ".join((told.out + told.err).split())
    kept = json.loads((out / "status.json").read_text())
    assert kept["state"] not in ("running", "finished")
    assert kept["stage"] == "jpeg: episodes 0/2"
    assert not (out / "report.html").exists()
    monkeypatch.setattr(GameSource, "play", play)
    run(*arguments, "--resume")
    assert "The earlier run ended at 'jpeg: episodes 0/2'" in " ".join(capsys.readouterr().out.split())
    assert (out / "report.html").exists()


@pytest.mark.slow
def test_a_run_that_was_killed_is_known_by_what_it_left(model, tmp_path, capsys):
    """SIGKILL, as the kernel sends it when memory runs out, leaves no chance to say anything; the next run does."""
    out = tmp_path / "run"
    command = [
        sys.executable, "-m", "robopref.cli.main", "diagnose", "--model", str(model), "--out", str(out),
        *map(str, QUICK), "--max-steps", "200", "--shifts", "jpeg", "rotation", "median_blur",
    ]  # fmt: skip
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(command, stdout=log, stderr=log)
    deadline = time.monotonic() + 300
    while not (out / "sets" / "null.json").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    # how far it came is in the log, though nobody watched
    assert "null: gradients" in (tmp_path / "log").read_text()
    run(*command[3:], "--resume")
    printed = " ".join(capsys.readouterr().out.split())
    assert f"The earlier run (process {process.pid}) ended without a word at" in printed
    assert (out / "report.html").exists()


def test_a_policy_that_always_does_the_same_is_said_loudly(tmp_path, capsys):
    def constant(network):
        with torch.no_grad():
            *_, (_, bias) = ((name, p) for name, p in network.named_parameters() if p.shape == (6,))
            bias[3] += 1000

    model = save(tmp_path / "constant", change=constant, dueling=False)
    run("diagnose", "--model", model, "--out", tmp_path / "out", "--shifts", "none", *QUICK, "--temperature", 1000)
    printed = " ".join(capsys.readouterr().out.split())
    assert "ALWAYS LEFT: the greedy action is LEFT in every one of 50 visited states" in printed
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert any(s.startswith("ALWAYS LEFT") for s in summary["statements"])
    assert summary["decisions"]["habit"]["actions"] == [3]
    assert json.loads((tmp_path / "out" / "tracked.json").read_text())["always"] == ["LEFT"]
    assert "ALWAYS LEFT" in (tmp_path / "out" / "report.html").read_text()
    assert summary["subject"]["synonyms"] == [[0, 1], [2, 4], [3, 5]]  # measured in the game


def cleanrl_model(directory, n_actions):
    torch.manual_seed(0)
    sizes = {"0": (32, 4, 8, 8), "2": (64, 32, 4, 4), "4": (64, 64, 3, 3), "7": (512, 3136), "9": (n_actions, 512)}
    weights = {f"network.{i}.weight": 0.01 * torch.randn(size) for i, size in sizes.items()}
    weights |= {f"network.{i}.bias": torch.zeros(size[0]) for i, size in sizes.items()}
    directory.mkdir(parents=True)
    torch.save(weights, directory / "dqn_atari.cleanrl_model")
    return directory / "dqn_atari.cleanrl_model"


def test_models_of_others_are_served_as_their_wrappers_do(tmp_path):
    """Breakout has no ball before FIRE. A model that never presses it still plays, at every life."""
    model = cleanrl_model(tmp_path / "BreakoutNoFrameskip-v4__dqn_atari__1__1", 4)

    def idle(weights):
        weights["network.9.bias"][0] = 100.0
        return weights

    torch.save(idle(torch.load(model)), model)
    settings = ("diagnose", "--model", model, "--shifts", "none", *QUICK, "--max-steps", 150, "--epsilon", 0)
    settings = (*settings, "--no-null", "--noop-max", 0, "--temperature", 100)
    run(*settings, "--out", tmp_path / "served")
    found = load_diagnosis(tmp_path / "served")
    assert found.subject.environment["fire_reset"] is True
    assert found.subject.environment["fire_after_lost_life"] is True
    assert any("FIRE is pressed for the policy at the start of an episode and in the step after a lost life" in s
               for s in found.statements)  # fmt: skip
    (trace, *_) = load_traces(tmp_path / "served" / "sets" / "clean_episodes.npz")
    fired = np.flatnonzero(trace.actions == 1)
    assert len(fired) >= 2  # a ball that nobody meets is lost within forty steps
    assert (trace.q_values.argmax(1) == 0).all()
    moving = [(trace.frames[t] != trace.frames[t + 1]).any() for t in range(len(trace.frames) - 1)]
    assert all(any(moving[t : t + 20]) for t in fired)

    run(*settings, "--out", tmp_path / "alone", "--fire-reset", "False")
    found = load_diagnosis(tmp_path / "alone")
    assert found.subject.environment["fire_reset"] is False
    assert found.subject.environment["fire_after_lost_life"] is False
    (trace, *_) = load_traces(tmp_path / "alone" / "sets" / "clean_episodes.npz")
    assert not trace.actions.any()
    assert (trace.frames[30:] == trace.frames[30]).all()  # no ball, ever


def test_a_game_without_fire_is_not_said_to_be_served(tmp_path, capsys):
    model = cleanrl_model(tmp_path / "FreewayNoFrameskip-v4__dqn_atari__1__1", 3)
    run("diagnose", "--model", model, "--out", tmp_path / "out", "--shifts", "none", *QUICK, "--no-null")
    environment = load_diagnosis(tmp_path / "out").subject.environment
    assert environment["fire_reset"] is environment["fire_after_lost_life"] is False
    capsys.readouterr()
    wrong = ("--out", tmp_path / "b", "--shifts", "none", *QUICK, "--fire-after-lost-life", "True")
    run("diagnose", "--model", model, *wrong, expect=2)
    assert "freeway has no FIRE among its actions" in capsys.readouterr().err
