"""The newest frame only."""

import threading

import numpy as np
import pytest

from robopref.errors import RoboprefError
from robopref.human_io.frames import FrameSlot


def picture(value):
    return np.full((4, 6, 3), value, np.uint8)


def test_a_new_frame_replaces_the_old_one():
    slot = FrameSlot()
    assert slot.get() is None
    slot.put(picture(1), 10)
    slot.put(picture(2), 20)
    frame = slot.get()
    assert (frame.number, frame.captured_ns, int(frame.pixels[0, 0, 0])) == (2, 20, 2)
    assert slot.get() is frame


def test_waiting_ends_with_a_newer_frame_or_with_nothing():
    slot = FrameSlot()
    assert slot.wait(0, 0.0) is None
    got = []
    thread = threading.Thread(target=lambda: got.append(slot.wait(1, 10.0)))
    slot.put(picture(1))
    thread.start()
    slot.put(picture(2))
    thread.join()
    assert got[0].number == 2
    assert slot.wait(2, 0.0) is None


@pytest.mark.parametrize("bad", [np.zeros((4, 6), np.uint8), np.zeros((4, 6, 4), np.uint8), np.zeros((4, 6, 3))])
def test_other_arrays_are_refused(bad):
    with pytest.raises(RoboprefError, match="uint8"):
        FrameSlot().put(bad)
