"""``robopref teleop`` end to end on the real simulator and the real emulator, with a device that plays a script."""

import json

import numpy as np
import pytest
from teleop_sources import PlayedSource
from test_cli import run

from robopref.cli.seeds import episode_seeds
from robopref.cli.teleop import Teleop, run_teleop
from robopref.errors import RoboprefError
from robopref.store.store import EpisodeStore
from robopref.trajectory import Actor, Outcome

FAST = 500.0  # ticks a second: the simulator's own pace, so that the tests do not wait
RAMP = 0.02  # seconds to full deflection: ten ticks


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """A barely trained policy."""
    root = tmp_path_factory.mktemp("teleop")
    run("demos", "--out", root / "demos", "--task", "reach", "--episodes", 2, "--no-image", "--workers", 1)
    run(
        "train", "--demos", root / "demos", "--out", root / "train", "--inputs", "state",
        "--steps", 20, "--batch-size", 32, "--wandb", "disabled",
    )  # fmt: skip
    return root / "train"


def settings(policy, out, **changes):
    plain = {"task": "reach", "image": False, "hz": FAST, "episodes": 1, "paraphrase": False, "ramp": RAMP}
    return Teleop(policy=str(policy), out=out, **(plain | changes))


def only_episode(directory):
    (episode,) = EpisodeStore.open(directory)
    return episode


def test_what_the_operator_did_is_what_is_recorded(policy, tmp_path):
    """Starts the policy, takes over, drives +x, hands back, judges; the recording is compared with what was sent."""

    def script(n):
        if n == 3:
            return {"clicked": ("hand_back",)}
        if n == 14:
            return {"keys": {"Space"}}
        if 15 <= n < 40:
            return {"keys": {"KeyS"}}
        if n == 40:
            return {"keys": {"KeyH"}}
        return {"clicked": ("success",)} if n == 51 else {}

    source = PlayedSource(lambda n: {k: frozenset(v) if k == "keys" else v for k, v in script(n).items()})
    assert run_teleop(settings(policy, tmp_path / "s"), source=source)
    episode = only_episode(tmp_path / "s")
    assert episode.info.outcome is Outcome.SUCCESS
    assert episode.info.operator_id == "played"
    assert episode.info.seed == episode_seeds("collect", 0, 1)[0]
    assert [int(a) for a in np.unique(episode.actor)] == [Actor.POLICY, Actor.HUMAN]
    driven = np.flatnonzero(episode.actor == Actor.HUMAN)
    assert len(driven) == 40 - 14
    assert np.array_equal(driven, np.arange(driven[0], driven[0] + len(driven)))
    assert set(episode.segment_id[driven]) == {0}
    assert np.isfinite(episode.policy_action).all()
    assert episode.action[driven[-1], 0] == pytest.approx(1.0)
    before, first = episode.action[driven[0] - 1], episode.action[driven[0]]
    assert np.abs(first - before)[:3].max() <= 1 / RAMP / FAST + 1e-6  # no jump at the takeover
    jitter = episode.info.extra["jitter"]
    assert jitter["ticks"] >= len(episode)
    assert {s.mode for s in source.shown} == {"PAUSED", "AUTONOMOUS", "TAKEOVER", "STOPPED"}
    summary = json.loads((tmp_path / "s" / "summary.json").read_text())
    assert summary["takeovers"] == 1
    assert summary["human_steps"] == len(driven)
    assert summary["session"]["outcomes"]["success"] == 1
