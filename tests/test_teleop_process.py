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

from robopref.store.store import EpisodeStore
from robopref.trajectory import Actor, Outcome

pytestmark = [pytest.mark.alone, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def policy(barely_trained):
    return barely_trained


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


def until_driving(page):
    """On a busy machine the page may fall silent for long enough to be held, and takes over again then."""

    def driving():
        if mode(page) == "TAKEOVER":
            return True
        page.keyboard.press("Space", delay=80)
        return False

    until(driving, "the person drives", 60)


def until_executed(page, values):
    """Until the page shows that one of these is executed in some dimension."""

    def shown():
        until_driving(page)
        return any(f"/ {value}" in page.inner_text("#intention") for value in values)

    until(shown, f"one of {values} is executed", 60)


def test_a_session_in_the_browser(teleop, tmp_path):
    terminal = teleop("--episodes", 2, "--ramp", 0.04)
    with launched() as browser:
        page = browser.new_page()
        page.goto(terminal.address())
        until_ready(page)
        page.keyboard.press("KeyH", delay=80)
        until(lambda: mode(page) == "AUTONOMOUS", "the policy drives")
        until_driving(page)
        page.keyboard.down("KeyW")
        until_executed(page, ("+1.00", "\N{MINUS SIGN}1.00"))
        page.keyboard.up("KeyW")
        time.sleep(0.3)
        page.keyboard.press("KeyY", delay=80)
        until(lambda: list((tmp_path / "s" / "episodes").iterdir()), "the episode is kept")
        until(lambda: "of 2" in page.inner_text("body") and mode(page) != "STOPPED", "the second one begins")
        page.keyboard.press("Escape", delay=80)
        assert terminal.wait() == 130, terminal.said
    episodes = list(EpisodeStore.open(tmp_path / "s"))
    first = episodes[0]
    assert first.info.outcome is Outcome.SUCCESS
    assert all(e.info.outcome is Outcome.ABORTED for e in episodes[1:])  # stopped, if it had a step by then
    driven = first.actor == Actor.HUMAN
    pushed = first.human_action[driven][:, :3]
    full = np.abs(pushed) == 1.0
    (axis,) = np.flatnonzero(full.any(axis=0))  # which one W is depends on the task's camera
    assert not np.delete(pushed[full[:, axis]], axis, axis=1).any()
    assert pushed[-1, axis] == 0.0  # let go before judging
    np.testing.assert_array_equal(first.action[driven], first.human_action[driven])
    assert np.isfinite(first.policy_action).all()
    assert first.info.extra["jitter"]["ticks"] >= len(first)
    summary = json.loads((tmp_path / "s" / "summary.json").read_text())
    assert summary["takeovers"] == first.segment_id.max() + 1 + sum(e.segment_id.max() + 1 for e in episodes[1:])
    assert summary["session"]["outcomes"]["success"] == 1
    assert f"{first.segment_id.max() + 1} takeovers" in terminal.said


def test_a_killed_command_loses_less_than_a_second_and_its_station_ends(teleop, tmp_path):
    terminal = teleop("--episodes", 2, "--abort-after", 60)
    with launched() as browser:
        page = browser.new_page()
        page.goto(terminal.address())
        until_ready(page)
        until_driving(page)
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
    assert (episode.actor == Actor.HUMAN).any()


def test_a_killed_station_is_silence_then_an_aborted_episode(teleop, tmp_path):
    terminal = teleop("--episodes", 1, "--abort-after", 1.0)
    with launched() as browser:
        page = browser.new_page()
        page.goto(terminal.address())
        until_ready(page)
        until_driving(page)
        page.keyboard.down("KeyW")
        time.sleep(1)
        os.kill(terminal.station(), signal.SIGKILL)
        assert terminal.wait() == 0, terminal.said
    (episode,) = EpisodeStore.open(tmp_path / "s")
    assert episode.info.outcome is Outcome.ABORTED
    held = np.flatnonzero(episode.actor == Actor.HOLD)
    assert (episode.actor[-10:] == Actor.HOLD).all()
    assert not episode.action[held].any()
    assert (episode.actor == Actor.HUMAN).any()


def test_what_keeps_the_station_from_starting_is_one_line(teleop, tmp_path):
    terminal = teleop("--host", "0.0.0.0")
    assert terminal.wait() == 2
    assert "TLS" in terminal.said
    assert "Traceback" not in terminal.said
