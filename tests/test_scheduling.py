"""An encoder that raises priorities leaves those of this process as they were."""

import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from robopref.store.formats.lerobot_video import choose_codec, write_video
from robopref.store.scheduling import scheduling_kept

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has these schedulers")


def policies():
    """Of every thread of this process."""
    found = {}
    for path in Path("/proc/self/task").iterdir():
        try:
            found[int(path.name)] = os.sched_getscheduler(int(path.name))
        except ProcessLookupError:
            continue
    return found


def test_writing_an_av1_video_raises_no_priority(tmp_path):
    """SVT-AV1 takes the highest real-time priority where it may, as root, for its caller, too."""
    pictures = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    assert choose_codec(pictures.shape[1:], "image")[0] == "libsvtav1"
    before = policies()
    during = []

    def watched():
        for picture in pictures:
            during.append(policies())
            yield picture

    write_video(tmp_path / "video.mp4", watched(), pictures.shape[1:], 10, "image")
    for seen in (during[1], during[-1], policies()):  # from the second picture on the encoder is there
        assert all(before[thread] == policy for thread, policy in seen.items() if thread in before)
        assert set(seen.values()) <= set(before.values())


def test_only_the_highest_priority_is_taken_back():
    """A thread that goes first for a reason of its own, as one of the control loop does, still does after."""
    highest = os.SCHED_FIFO, os.sched_get_priority_max(os.SCHED_FIFO)
    threads, ready, ended = {}, threading.Barrier(3), threading.Event()

    def run(name, policy, priority):
        try:
            os.sched_setscheduler(0, policy, os.sched_param(priority))
            threads[name] = threading.get_native_id()
        except PermissionError:
            pass  # told below: the thread is missing
        ready.wait(60)
        ended.wait(60)

    before = os.sched_getscheduler(0)
    with scheduling_kept():
        for settings in (("encoder", *highest), ("control", os.SCHED_RR, 1)):
            threading.Thread(target=run, args=settings, daemon=True).start()
        ready.wait(60)
    found = {name: os.sched_getscheduler(thread) for name, thread in threads.items()}
    ended.set()
    if len(found) < 2:
        pytest.skip("this user may not raise priorities")
    assert found == {"encoder": before, "control": os.SCHED_RR}
