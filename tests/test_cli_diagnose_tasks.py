"""``robopref diagnose`` on policies of robot tasks: every dimension of their tokens is a decision."""

import gc
import weakref

import gymnasium
import numpy as np
import pytest
import torch
from command_line import run
from diagnose_runs import QUICK
from diagnose_runs import model as model
from gymnasium import spaces

from robopref.cli.task_source import TaskSource
from robopref.diagnosis import load_diagnosis, state_gradients
from robopref.diagnosis.collection import load_traces
from robopref.envs.registry import make_task
from robopref.errors import RoboprefError
from robopref.policies.compact import CompactPolicy
from robopref.policies.compact_network import CompactArchitecture
from robopref.policies.normalization import NormStats
from robopref.policies.q_tokens import TokenQPolicy, decode_instructions
from robopref.policies.registry import load_policy


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


LINGERING = "test_cli_diagnose_tasks:Lingering"


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
