"""What the help says a person is to press."""

import pytest

from robopref.human_io.bindings import Binding
from robopref.human_io.mapping import Mapping
from robopref.human_io.mapping_defaults import default_mapping
from robopref.human_io.mapping_help import help_lines, input_name

pytestmark = pytest.mark.alone

ROBOT = ("x", "y", "z", "gripper")


def test_the_help_says_what_to_press():
    lines = help_lines(default_mapping("web", ROBOT))
    assert "take over: Space, button 5" in lines
    assert "y: D / A, axis 0" in lines
    assert "gripper: C, button 7 / V, button 6" in lines
    pong = help_lines(default_mapping("keyboard", ("NOOP", "RIGHT", "LEFT"), discrete=True))
    assert "RIGHT: right, D, up, W" in pong
    assert help_lines(Mapping({"x": (Binding("axis:3-"), Binding("Digit2", -1))})) == ("x: axis 3 - / 2",)
    assert help_lines(Mapping({"x": ()})) == ()
    assert input_name("ShiftLeft") == "ShiftLeft"
