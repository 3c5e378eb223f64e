"""Recording behind the control loop's back: the same data, no waiting for the disk, nothing lost unsaid."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from robopref.errors import RoboprefError
from robopref.store.background import BackgroundStore
from robopref.store.journal import JournalWriter, Kind
from robopref.store.store import EpisodeStore
from robopref.trajectory import Actor, EpisodeInfo, Outcome, Step

pytestmark = pytest.mark.alone

INFO = EpisodeInfo(task="reach", instruction="go")


def step(i):
    return Step(
        {"state": np.full(3, i, np.float32)}, np.full(2, i / 100, np.float32), Actor.POLICY, t_monotonic_ns=1000 + i
    )


@pytest.fixture
def slow_disk(monkeypatch):
    """Every step takes until ``let_go`` is set to reach the journal."""
    let_go = threading.Event()
    append = JournalWriter.append

    def slow(self, kind, parts):
        if kind is Kind.STEP:
            assert let_go.wait(30)
        append(self, kind, parts)

    monkeypatch.setattr(JournalWriter, "append", slow)
    return let_go


def test_it_is_the_recording_that_a_patient_writer_makes(tmp_path):
    for name, wrap in (("patient", lambda s: s), ("background", BackgroundStore)):
        store = EpisodeStore.create_or_open(tmp_path / name)
        writer = wrap(store).begin(INFO)
        for i in range(50):
            writer.append(step(i))
        writer.amend(extra={"jitter": 1})
        assert writer.steps == 50
        writer.finish(Outcome.SUCCESS, {"state": np.full(3, 50, np.float32)})
    (patient,), (background,) = (EpisodeStore.open(tmp_path / n) for n in ("patient", "background"))
    assert background.info.extra == {"jitter": 1}
    assert background.info.outcome is Outcome.SUCCESS
    for name in ("action", "t_monotonic_ns", "actor"):
        np.testing.assert_array_equal(getattr(background, name), getattr(patient, name))
    np.testing.assert_array_equal(background.observation["state"], patient.observation["state"])
    np.testing.assert_array_equal(background.final_observation["state"], patient.final_observation["state"])


def test_a_slow_disk_does_not_make_a_step_wait(tmp_path, slow_disk):
    writer = BackgroundStore(EpisodeStore.create_or_open(tmp_path), max_delay=60.0).begin(INFO)
    for i in range(20):  # would never return if it waited
        writer.append(step(i))
    slow_disk.set()
    assert writer.finish(Outcome.FAILURE)
    (episode,) = EpisodeStore.open(tmp_path)
    assert len(episode) == 20


def test_what_may_be_lost_is_bounded(tmp_path, slow_disk):
    writer = BackgroundStore(EpisodeStore.create_or_open(tmp_path), max_delay=0.05).begin(INFO)
    writer.append(step(0))
    time.sleep(0.06)  # the disk is behind by more than the bound
    recorded = threading.Event()
    thread = threading.Thread(target=lambda: (writer.append(step(1)), recorded.set()))
    thread.start()
    assert not recorded.wait(0.2)
    slow_disk.set()
    assert recorded.wait(30)
    thread.join()
    writer.finish(Outcome.SUCCESS)
    assert writer.delays[1] >= 0.1


def test_a_failure_is_told_once_and_what_came_before_is_kept_without_a_gap(tmp_path):
    writer = BackgroundStore(EpisodeStore.create_or_open(tmp_path)).begin(INFO)
    for i in range(5):
        writer.append(step(i))
    writer.append(Step({"state": np.array([np.nan] * 3, np.float32)}, np.array([np.nan] * 2), Actor.POLICY))
    assert writer.steps == 5  # waits for the thread
    for _ in range(2):
        with pytest.raises(RoboprefError, match="NaN"):
            writer.append(step(6))
    writer.finish(Outcome.ABORTED)
    (episode,) = EpisodeStore.open(tmp_path)
    np.testing.assert_array_equal(episode.observation["state"][:, 0], np.arange(5))


def test_a_failure_that_nobody_heard_of_is_told_at_the_end(tmp_path):
    writer = BackgroundStore(EpisodeStore.create_or_open(tmp_path)).begin(INFO)
    writer.append(step(0))
    writer.append(Step({"state": np.array([np.nan] * 3, np.float32)}, np.zeros(2, np.float32), Actor.POLICY))
    with pytest.raises(RoboprefError, match="NaN"):
        writer.finish(Outcome.SUCCESS)
    writer.finish(Outcome.SUCCESS)
    assert len(EpisodeStore.open(tmp_path)) == 1


def test_leaving_keeps_the_episode_as_aborted_and_an_empty_one_leaves_nothing(tmp_path):
    store = EpisodeStore.create_or_open(tmp_path)
    with BackgroundStore(store).begin(INFO) as writer:
        writer.append(step(0))
    with BackgroundStore(store).begin(INFO):
        pass
    assert [store.info(i).outcome for i in store.episode_ids()] == [Outcome.ABORTED]
    assert not list((tmp_path / "journal").glob("*.journal"))


PROGRAM = """
import sys, time
sys.path.insert(0, {tests!r})
from test_store_background import INFO, step
from robopref.store.background import BackgroundStore
from robopref.store.store import EpisodeStore
writer = BackgroundStore(EpisodeStore.create_or_open({path!r})).begin(INFO)
i = 0
while True:
    writer.append(step(i))
    print('{{"step": %d, "at": %r}}' % (i, time.monotonic()), flush=True)
    i += 1
    time.sleep(0.01)
"""


def test_a_killed_recorder_loses_less_than_a_second(tmp_path):
    after = 120  # more than a second's worth, at 100 steps a second
    tests = os.path.dirname(__file__)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(tests=tests, path=str(tmp_path / "s"))], stdout=subprocess.PIPE, text=True
    )
    for _ in range(after):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    said = [json.loads(line) for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    process.wait()
    told = after + len(said)
    (episode,) = EpisodeStore.open(tmp_path / "s")
    kept = len(episode)
    assert told - kept <= 100
    np.testing.assert_array_equal(episode.observation["state"][:, 0], np.arange(kept))
