"""``robopref teleop`` as it is started from a terminal: its page in a real browser, its processes killed under it."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from station_browser import launched, until
from test_cli import run

from robopref.store.store import EpisodeStore
from robopref.trajectory import Actor, Outcome

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """A barely trained policy."""
    root = tmp_path_factory.mktemp("process")
    run("demos", "--out", root / "demos", "--task", "reach", "--episodes", 2, "--no-image", "--workers", 1)
    run(
        "train", "--demos", root / "demos", "--out", root / "train", "--inputs", "state",
        "--steps", 20, "--batch-size", 32, "--wandb", "disabled",
    )  # fmt: skip
    return root / "train"


class Terminal:
    """The command in a process of its own, and what it prints."""

    def __init__(self, *arguments, home):
        environment = {**os.environ, "XDG_CONFIG_HOME": str(home), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        environment.pop("DISPLAY", None)  # no browser of the user's is to open
        command = [sys.executable, "-m", "robopref.cli.main", "teleop", *map(str, arguments)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        self.said = ""
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        for line in self.process.stdout:
            self.said += line

    def address(self):
        found = until(lambda: re.search(r"http://\S+#token=\S+\n", self.said) or self.ended(), "a page", 120)
        assert found is not True, self.said
        return found[0].strip()

    def ended(self):
        return self.process.poll() is not None

    def station(self):
        """Process id of the station: the child that serves the page."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        (station,) = [c for c in children if "spawn_main" in Path(f"/proc/{c}/cmdline").read_text()]
        return int(station)

    def wait(self):
        return self.process.wait(60)


@pytest.fixture
def teleop(policy, tmp_path):
    """Starts the command on the task ``reach``; what is left of it is killed."""
    started = []

    def start(*arguments):
        terminal = Terminal(
            "--policy", policy, "--task", "reach", "--out", tmp_path / "s", "--no-image", "--port", 0,
            "--camera-size", 96, *arguments, home=tmp_path / "config",
        )  # fmt: skip
        started.append(terminal)
        return terminal

    yield start
    for terminal in started:
        terminal.process.kill()
        terminal.process.wait()


def mode(page):
    return page.get_attribute("#mode", "data-mode")


def until_ready(page):
    until(lambda: "waiting for you" in page.inner_text("#mode-reason"), "the session waits for its operator", 60)


def test_a_session_in_the_browser(teleop, tmp_path):
    terminal = teleop("--episodes", 2)
    with launched() as browser:
        page = browser.new_page()
        page.goto(terminal.address())
        until_ready(page)
        page.keyboard.press("KeyH")
        until(lambda: mode(page) == "AUTONOMOUS", "the policy drives")
        time.sleep(0.5)
        page.keyboard.press("Space")
        until(lambda: mode(page) == "TAKEOVER", "the person drives")
        page.keyboard.down("KeyW")
        time.sleep(0.7)
        page.keyboard.up("KeyW")
        time.sleep(0.3)
        page.keyboard.press("KeyH")
        until(lambda: mode(page) == "AUTONOMOUS", "the policy drives again")
        time.sleep(0.3)
        page.keyboard.press("KeyY")
        until(lambda: list((tmp_path / "s" / "episodes").iterdir()), "the episode is kept")
        time.sleep(0.3)
        page.keyboard.press("Escape")
        assert terminal.wait() == 130, terminal.said
    store = EpisodeStore.open(tmp_path / "s")
    first, second = store
    assert [first.info.outcome, second.info.outcome] == [Outcome.SUCCESS, Outcome.ABORTED]
    driven = first.actor == Actor.HUMAN
    assert set(first.segment_id[driven].tolist()) == {0}
    pushed = first.human_action[driven]
    axis = int(np.abs(pushed[:, :3]).max(axis=0).argmax())  # which one W is depends on the task's camera
    assert np.abs(pushed[:, axis]).max() == 1.0
    assert not np.delete(pushed[-3:], axis, axis=1)[:, :2].any()
    assert pushed[-1, axis] == 0.0  # let go before handing back
    assert first.info.extra["jitter"]["ticks"] >= len(first)
    periods = np.diff(first.t_monotonic_ns) / 1e6
    assert np.median(periods) == pytest.approx(50, abs=5)
    assert "session: 2 episodes (1 success, 1 aborted), 1 takeovers" in terminal.said
    assert json.loads((tmp_path / "s" / "summary.json").read_text())["takeovers"] == 1


def test_a_killed_command_loses_less_than_a_second_and_its_station_ends(teleop, tmp_path):
    terminal = teleop("--episodes", 2, "--abort-after", 60)
    with launched() as browser:
        page = browser.new_page()
        page.goto(terminal.address())
        until_ready(page)
        page.keyboard.press("Space")
        until(lambda: mode(page) == "TAKEOVER", "the person drives")
        page.keyboard.down("KeyW")
        time.sleep(3)
        station = terminal.station()
        terminal.process.send_signal(signal.SIGKILL)
        killed_ns = time.monotonic_ns()
        terminal.process.wait()
        until(lambda: not Path(f"/proc/{station}").exists(), "the station ends when its control loop is gone")
    store = EpisodeStore.open(tmp_path / "s")
    (recovery,) = store.recovered
    (episode,) = store
    assert recovery.steps == len(episode)
    assert (killed_ns - episode.t_monotonic_ns[-1]) / 1e9 < 1.0
    assert (episode.actor == Actor.HUMAN).sum() > 20


def test_a_killed_station_is_silence_then_an_aborted_episode(teleop, tmp_path):
    terminal = teleop("--episodes", 1, "--abort-after", 1.0)
    with launched() as browser:
        page = browser.new_page()
        page.goto(terminal.address())
        until_ready(page)
        page.keyboard.press("Space")
        until(lambda: mode(page) == "TAKEOVER", "the person drives")
        page.keyboard.down("KeyW")
        time.sleep(1)
        os.kill(terminal.station(), signal.SIGKILL)
        assert terminal.wait() == 0, terminal.said
    (episode,) = EpisodeStore.open(tmp_path / "s")
    assert episode.info.outcome is Outcome.ABORTED
    held = np.flatnonzero(episode.actor == Actor.HOLD)
    assert len(held) > 10
    assert held[-1] == len(episode) - 1
    assert not episode.action[held].any()
    assert (episode.actor[: held[0]] == Actor.HUMAN).all()


def test_what_keeps_the_station_from_starting_is_one_line(teleop, tmp_path):
    terminal = teleop("--host", "0.0.0.0")
    assert terminal.wait() == 2
    assert "TLS" in terminal.said
    assert "Traceback" not in terminal.said
