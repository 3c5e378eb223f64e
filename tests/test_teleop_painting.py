"""The thread that paints the operator's pictures, when drawing goes wrong."""

import numpy as np
import pytest

from robopref.cli.teleop_scenes import Scene
from robopref.cli.teleop_station import _paint, station_context
from robopref.human_io.frames import FrameSlot
from robopref.human_io.shared_slot import SharedSlot

pytestmark = pytest.mark.alone


class BrokenPainter:
    """Cannot draw a scene whose number is in ``broken``; its picture is the number."""

    cameras = ("camera",)

    def __init__(self, broken):
        self.slot = SharedSlot(station_context(), 64)
        self.broken = broken

    def warm_up(self):
        pass

    def paint(self, scene):
        if scene[0] in self.broken:
            raise ValueError(f"no light in scene {self.broken[scene[0]]}")
        yield "camera", np.full((2, 2, 3), scene[0], np.uint8)


def test_a_picture_that_cannot_be_drawn_is_said_and_the_next_one_is_drawn(capsys):
    painter = BrokenPainter({2: "A", 3: "A", 4: "B", 6: "B"})
    numbers = iter(range(1, 8))
    scene = Scene(lambda buffer: buffer.fill(next(numbers)), 1, painter)
    frames, shown = FrameSlot(), []

    def stopped():
        """Looks at what was painted, and writes the next scene down."""
        newest = frames.get()
        shown.append(None if newest is None else int(newest.pixels[0, 0, 0]))
        if len(shown) == 8:
            return True
        scene.capture()
        return False

    _paint(painter, {"camera": frames}, stopped)
    assert shown == [None, 1, 1, 1, 1, 5, 5, 7]
    said = capsys.readouterr().err.splitlines()
    assert ["ValueError: no light in scene A" in said[0], len(said)] == [True, 3]  # A once, B, and B again after 5
    assert all("scene B" in line for line in said[1:])
