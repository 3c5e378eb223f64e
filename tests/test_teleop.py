"""``robopref teleop`` end to end on the real simulator and the real emulator, with a device that plays a script."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import run
from teleop_sources import KEYS, PlayedSource

from robopref.cli.collect import Collect, run_collect
from robopref.cli.seeds import episode_seeds
from robopref.cli.teleop import Teleop, run_teleop
from robopref.envs.ale import AtariSpec, action_meanings
from robopref.errors import RoboprefError
from robopref.human_io.mapping_file import save_mapping
from robopref.human_io.scripted import ScriptedOperatorConfig
from robopref.store.store import EpisodeStore
from robopref.trajectory import Actor, Outcome

pytestmark = pytest.mark.alone

FAST = 500.0  # ticks a second: the simulator's own pace, so that the tests do not wait
RAMP = 0.02  # seconds to full deflection: ten ticks


@pytest.fixture
def policy(barely_trained):
    return barely_trained


@pytest.fixture(autouse=True)
def configuration(tmp_path, monkeypatch):
    """Mappings of the user who runs the tests are neither read nor written."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def settings(policy, out, **changes):
    keys = out.parent / "keys.json"
    save_mapping(keys, KEYS)
    plain = {"task": "reach", "image": False, "hz": FAST, "episodes": 1, "paraphrase": False, "ramp": RAMP}
    return Teleop(policy=str(policy), out=out, mapping=keys, **(plain | changes))


def played(moments, otherwise=()):
    """A device whose n-th reading has what ``moments`` says: keys held, or fields of the reading."""

    def script(n):
        said = moments.get(n, otherwise)
        return said if isinstance(said, dict) else {"keys": frozenset(said)}

    return PlayedSource(script)


def only_episode(directory):
    (episode,) = EpisodeStore.open(directory)
    return episode


def test_what_the_operator_did_is_what_is_recorded(policy, tmp_path):
    """Starts the policy, takes over, drives +x, hands back, judges; the recording is compared with what was sent."""
    moments = {3: ["KeyH"], 14: ["Space"], 40: ["KeyH"], 51: ["KeyY"]} | {n: ["KeyD"] for n in range(15, 40)}
    source = played(moments)
    assert run_teleop(settings(policy, tmp_path / "s"), source=source)
    episode = only_episode(tmp_path / "s")
    assert episode.info.outcome is Outcome.SUCCESS
    assert episode.info.operator_id == "played"
    assert episode.info.seed == episode_seeds("collect", 0, 1)[0]
    driven = np.flatnonzero(episode.actor == Actor.HUMAN)
    assert set(episode.actor[:-1].tolist()) == {Actor.POLICY, Actor.HUMAN}
    assert (episode.actor[-1], *episode.action[-1]) == (Actor.HOLD, 0, 0, 0, 0)  # judged, and left at rest
    assert np.array_equal(driven, np.arange(driven[0], driven[0] + 40 - 14))
    assert set(episode.segment_id[driven]) == {0}
    assert np.isfinite(episode.policy_action).all()  # also while the person drives
    assert episode.action[driven[-1], 0] == pytest.approx(1.0)
    steps = np.diff(episode.action[driven[0] - 1 : driven[-1] + 1], axis=0)[:, :3]
    assert np.abs(steps).max() <= 1 / RAMP / FAST + 1e-6  # no jump at the takeover, none after it
    assert {s.mode for s in source.shown} == {"PAUSED", "AUTONOMOUS", "TAKEOVER", "STOPPED"}
    jitter = episode.info.extra["jitter"]
    assert jitter["ticks"] >= len(episode)
    assert jitter["p50_ms"] <= jitter["p99_ms"] <= jitter["max_ms"]
    assert episode.info.extra["operator"] == {"device": "web", "hold_to_run": False, "ramp": RAMP}
    summary = json.loads((tmp_path / "s" / "summary.json").read_text())
    assert (summary["takeovers"], summary["human_steps"]) == (1, len(driven))
    assert summary["session"]["outcomes"]["success"] == 1
    assert summary["session"]["human_share"] == pytest.approx(len(driven) / len(episode))


def test_refine_takes_a_session_as_it_is(policy, tmp_path):
    moments = {1: ["KeyH"], 40: ["Space"], 80: ["KeyY"]} | {n: ["KeyD"] for n in range(41, 80)}
    assert run_teleop(settings(policy, tmp_path / "s"), source=played(moments))
    run(
        "refine", "--policy", policy, "--demos", policy.parent / "demos", "--interactions", tmp_path / "s",
        "--out", tmp_path / "refined", "--steps", 3, "--batch-size", 16, "--wandb", "disabled",
    )  # fmt: skip
    data = json.loads((tmp_path / "refined" / "data.json").read_text())
    assert data["takeovers"] == 1
    assert data["labels"]["HUMAN"] == 40


def test_stop_saves_what_was_recorded_and_the_session_goes_on_later(policy, tmp_path):
    config = settings(policy, tmp_path / "s", episodes=3, autostart=True)
    assert not run_teleop(config, source=played({10: ["KeyY"], 30: ["Escape"]}))
    store = EpisodeStore.open(tmp_path / "s")
    assert [store.info(i).outcome for i in store.episode_ids()] == [Outcome.SUCCESS, Outcome.ABORTED]
    with pytest.raises(RoboprefError, match="--resume"):
        run_teleop(config, source=played({}))
    resumed = dataclasses.replace(config, resume=True, port=9999)
    assert run_teleop(resumed, source=played({10: ["KeyN"], 30: ["KeyY"]}))
    infos = [store.info(i) for i in store.episode_ids()]
    seeds = episode_seeds("collect", 0, 3)
    # The one that was stopped is played again, the one before it is not.
    assert [(i.seed, i.outcome.value) for i in infos] == [
        (seeds[0], "success"), (seeds[1], "aborted"), (seeds[1], "failure"), (seeds[2], "success"),
    ]  # fmt: skip
    session = json.loads((tmp_path / "s" / "summary.json").read_text())["session"]  # of both parts
    assert session["outcomes"] == {"success": 2, "failure": 1, "aborted": 1, "discarded": 0}
    assert session["steps"] == sum(map(len, store))
    assert 0 < session["journal_seconds"] < 5


def test_a_discarded_episode_is_counted_and_kept_out_of_the_data(policy, tmp_path):
    config = settings(policy, tmp_path / "s", episodes=2, autostart=True)
    assert run_teleop(config, source=played({10: ["Delete"], 30: ["KeyY"]}))
    assert len(EpisodeStore.open(tmp_path / "s")) == 1
    assert len(list((tmp_path / "s" / "discarded").glob("*.safetensors"))) == 1
    summary = json.loads((tmp_path / "s" / "summary.json").read_text())
    assert summary["session"]["outcomes"] == {"success": 1, "failure": 0, "aborted": 0, "discarded": 1}


def test_a_pause_is_no_step(policy, tmp_path):
    config = settings(policy, tmp_path / "s", autostart=True)
    assert run_teleop(config, source=played({5: ["KeyP"], 60: ["KeyP"], 70: ["KeyY"]}))
    episode = only_episode(tmp_path / "s")
    assert len(episode) == 5 + 10  # one reading is for the reset; fifty-five were for waiting
    # The ticks at which the pause was asked for and the judgement was given.
    assert np.flatnonzero(episode.actor == Actor.HOLD).tolist() == [4, 14]


def test_silence_holds_then_ends_the_episode_as_aborted_and_the_next_one_waits(policy, tmp_path):
    silent = {"connected": False, "detail": "the page is gone"}
    moments = dict.fromkeys(range(20, 10000), silent)
    source = played(moments)
    config = settings(policy, tmp_path / "s", episodes=2, autostart=True, abort_after=0.3, hz=100.0)

    def give_up(n, script=source.script):
        if source.shown and source.shown[-1].mode == "PAUSED" and source.shown[-1].episode == 2:
            return {"clicked": ("stop",)}
        return script(n)

    source.script = give_up
    assert not run_teleop(config, source=source)
    episode = only_episode(tmp_path / "s")
    assert episode.info.outcome is Outcome.ABORTED
    held = episode.actor == Actor.HOLD
    assert held.any()
    assert not episode.action[held].any()
    assert not held[:18].any()
    assert held[20:].all()


@pytest.mark.parametrize("stop", ["STOP", "INT"])
def test_whatever_ends_the_loop_the_device_is_told(policy, tmp_path, stop):
    def script(n):
        if n == 20 and stop == "INT":
            os.kill(os.getpid(), signal.SIGINT)
        return {"clicked": ("stop",)} if n == 20 and stop == "STOP" else {}

    source = PlayedSource(script)
    assert not run_teleop(settings(policy, tmp_path / "s", autostart=True), source=source)
    assert only_episode(tmp_path / "s").info.outcome is Outcome.ABORTED
    assert source.shown[-1].mode == "STOPPED"


class PlanningPolicy:
    """Plans twenty actions ahead: the i-th action of a plan is (number of the plan, i) / 1000."""

    def __init__(self, policy):
        self.policy, self.plans, self.left = policy, 0, []
        self.norm_stats, self.observation_keys = policy.norm_stats, policy.observation_keys

    def reset(self):
        self.left = []

    def act(self, observations, instructions):
        if not self.left:
            self.plans += 1
            self.left = [np.array([self.plans, i, 0, 0], np.float32) / 1000 for i in range(20)]
        return self.left.pop(0)[None]


def test_a_plan_does_not_outlive_a_takeover(policy, tmp_path, monkeypatch):
    import robopref.policies.registry as registry

    planner = PlanningPolicy(registry.load_policy(policy))
    monkeypatch.setattr(registry, "load_policy", lambda *_, **__: planner)
    config = settings(policy, tmp_path / "s", autostart=True)
    assert run_teleop(config, source=played({10: ["Space"], 18: ["KeyH"], 50: ["KeyY"]}))
    episode = only_episode(tmp_path / "s")
    step_of_plan = np.rint(episode.policy_action[:, 1] * 1000).astype(int)
    back = int(np.flatnonzero(episode.actor == Actor.HUMAN)[-1]) + 1
    onset = int(np.flatnonzero(episode.actor == Actor.HUMAN)[0])
    assert (step_of_plan[: onset + 1] == np.arange(onset + 1)).all()  # also what the policy was about to do then
    assert not step_of_plan[onset + 1 : back].any()  # from then on, what it would do at what is seen
    assert step_of_plan[back] == 0  # the plan of before the takeover had eleven more
    assert (step_of_plan[back : back + 10] == np.arange(10)).all()


def test_a_plan_does_not_outlive_a_pause(policy, tmp_path, monkeypatch):
    import robopref.policies.registry as registry

    planner = PlanningPolicy(registry.load_policy(policy))
    monkeypatch.setattr(registry, "load_policy", lambda *_, **__: planner)
    config = settings(policy, tmp_path / "s", autostart=True)
    assert run_teleop(config, source=played({10: ["KeyP"], 30: ["KeyP"], 45: ["KeyY"]}))
    episode = only_episode(tmp_path / "s")
    step_of_plan = np.rint(episode.policy_action[:, 1] * 1000).astype(int)
    paused, _ = np.flatnonzero(episode.actor == Actor.HOLD)
    assert step_of_plan[paused] == paused
    assert step_of_plan[paused + 1] == 0


@pytest.mark.parametrize("command", ["teleop", "collect"])
def test_a_plan_does_not_outlive_a_takeover_of_the_scripted_operator_either(policy, tmp_path, monkeypatch, command):
    import robopref.cli.episode_environment as episode_environment
    import robopref.policies.registry as registry

    planner = PlanningPolicy(registry.load_policy(policy))
    for module in (registry, episode_environment):
        monkeypatch.setattr(module, "load_policy", lambda *_, **__: planner)
    script = ScriptedOperatorConfig(wrong_takeover_rate=0.03, min_takeover_steps=3, wrong_takeover_steps=3)
    if command == "teleop":
        assert run_teleop(settings(policy, tmp_path / "s", operator="scripted", script=script))
    else:
        config = Collect(str(policy), tmp_path / "s", "reach", episodes=1, operator=script, image=False, workers=1)
        assert run_collect(config)
    episode = only_episode(tmp_path / "s")
    step_of_plan = np.rint(episode.policy_action[:, 1] * 1000).astype(int)
    human = episode.actor == Actor.HUMAN
    after = 1 + np.flatnonzero(human[:-1])
    assert (~human[after]).any()  # it handed back
    assert not step_of_plan[after].any()
    onsets = 1 + np.flatnonzero(human[1:] & ~human[:-1])
    assert (step_of_plan[onsets] == (step_of_plan[onsets - 1] + 1) % 20).all()  # what the policy was about to do
    assert step_of_plan.max() > 5  # while nobody took over, plans were followed


def test_scripted_operator_at_the_pace_of_a_person(policy, tmp_path):
    run(
        "teleop", "--policy", policy, "--task", "reach", "--out", tmp_path / "s", "--operator", "scripted",
        "--episodes", 1, "--no-image", "--hz", 400,
    )  # fmt: skip
    assert only_episode(tmp_path / "s").info.operator_id == "scripted"


@pytest.fixture
def taken_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("mistake", ["interface", "camera", "port"])
def test_a_refused_start_leaves_nothing_in_the_way_of_the_corrected_command(policy, tmp_path, taken_port, mistake):
    wrong, said = {
        "interface": ({"host": "0.0.0.0"}, "TLS"),
        "camera": ({"cameras": ("nowhere",)}, "no camera 'nowhere'"),
        "port": ({"port": taken_port}, str(taken_port)),
    }[mistake]
    config = settings(policy, tmp_path / "s", autostart=True, open_browser=False, camera_size=32)
    with pytest.raises(RoboprefError, match=said):
        run_teleop(dataclasses.replace(config, **wrong))
    assert not config.out.exists()
    assert run_teleop(config, source=played({10: ["KeyY"]}))
    assert only_episode(config.out).info.outcome is Outcome.SUCCESS


def game_settings(out, **changes):
    keys = out.parent / "keys.json"
    save_mapping(keys, KEYS)
    plain = {"policy": "pong-ddqn-v2", "game": "Pong", "episodes": 1, "autostart": True, "mapping": keys}
    return Teleop(out=out, **(plain | changes))


def test_a_game_is_played_taken_over_recorded_and_refine_refuses_it(policy, tmp_path, capsys, monkeypatch):
    import robopref.human_io.pacing as pacing

    monkeypatch.setattr(pacing.Pacer, "wait", lambda self: None)  # at the emulator's own pace
    moments = {60: ["Space"], 90: ["KeyH"], 120: ["KeyN"]} | {n: ["ArrowRight"] for n in range(61, 90)}
    assert run_teleop(game_settings(tmp_path / "g"), source=played(moments))
    episode = only_episode(tmp_path / "g")
    assert (episode.info.task, episode.info.extra["hz"]) == ("pong", 15.0)
    assert episode.info.outcome is Outcome.FAILURE
    assert episode.action.dtype == np.int64
    driven = episode.actor == Actor.HUMAN
    assert driven.sum() == 30
    names = action_meanings(AtariSpec("pong"))
    assert {names[a] for a in episode.human_action[driven][1:]} == {"RIGHT"}
    assert episode.observation["observation"].shape[1:] == (4, 84, 84)
    by_policy = episode.actor == Actor.POLICY
    np.testing.assert_array_equal(episode.action[by_policy], episode.policy_action[by_policy])
    run(
        "refine", "--policy", policy, "--demos", policy.parent / "demos", "--interactions", tmp_path / "g",
        "--out", tmp_path / "refined", expect=2,
    )  # fmt: skip
    said = capsys.readouterr().err
    assert "discrete actions" in said
    assert "cannot be refined yet" in said
    assert not (tmp_path / "refined").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hz": 30.0}, "15 actions a second"),
        ({"game": "Freeway"}, "trained on"),
        ({"operator": "scripted"}, "no expert"),
    ],
)
def test_what_does_not_fit_a_game_is_said(tmp_path, changes, said):
    with pytest.raises(RoboprefError, match=said):
        run_teleop(game_settings(tmp_path / "g", **changes))


@pytest.mark.slow
def test_a_full_disk_loses_nothing_that_was_recorded(policy, tmp_path):
    """The process may write files of 16 kB, which is what a disk that is full looks like to it."""
    program = """
import resource, sys
sys.path.insert(0, {tests!r})
from test_teleop import played, settings
from robopref.cli.teleop import run_teleop
from robopref.errors import RoboprefError
from pathlib import Path
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
config = settings(Path({policy!r}), Path({out!r}), autostart=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (16_000, 16_000))
try:
    run_teleop(config, source=played({{}}))
except RoboprefError as error:
    print(error)
    sys.exit(2)
"""
    out = tmp_path / "s"
    done = subprocess.run(
        [sys.executable, "-c", program.format(tests=str(Path(__file__).parent), policy=str(policy), out=str(out))],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "the disk is full" in done.stdout
    assert "are safe" in done.stdout
    store = EpisodeStore.open(out)  # recovers what the journal holds
    (recovery,) = store.recovered
    assert recovery.steps > 20
    assert len(only_episode(out)) == recovery.steps
