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


def test_where_it_is_forbidden_nothing_changes(monkeypatch):
    before, started, ended = policies(), [], threading.Event()

    def forbidden(*arguments):
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", forbidden)
    with scheduling_kept():
        started.append(threading.Thread(target=ended.wait))
        started[0].start()
    assert set(policies().values()) == set(before.values())
    ended.set()
    started[0].join()
