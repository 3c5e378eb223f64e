"""Changing what a key, a button or a stick means: the dialog alone, and in the window on real SDL."""

import pytest
from opened_devices import ROBOT
from opened_devices import no_display as no_display
from opened_devices import opened as opened
from opened_devices import pads as pads
from sdl_devices import SCANCODE_OF, W, press, settle, typed, until

from robopref.errors import RoboprefError
from robopref.human_io.bindings import Binding
from robopref.human_io.mapping import Mapping
from robopref.human_io.mapping_defaults import default_mapping
from robopref.human_io.readings import Control, DeviceReading
from robopref.human_io.remap_dialog import RemapDialog

pytestmark = pytest.mark.alone


def test_a_key_is_changed_in_the_window_and_nothing_drives_meanwhile(opened):
    adopted = []
    mapping = default_mapping("keyboard", ROBOT)
    window = opened("keyboard", mapping=mapping, adopt=adopted.append)
    press(W)
    typed("F2")
    settle(window)
    assert window.read().keys == frozenset()  # what was held when the dialog opened does not drive on
    assert not window.attentive
    typed("ArrowDown", "ArrowDown", "Enter", "KeyU")  # the third binding is y + on D
    settle(window)
    assert window.read().keys == frozenset()
    assert adopted == [mapping.rebind("action", "y", "KeyD", "KeyU")]
    typed("Escape")
    settle(window)
    assert window.attentive
    assert window.read().keys == frozenset()  # not even what closed it
    press(SCANCODE_OF["KeyU"])
    settle(window)
    assert adopted[-1].command(window.read(), ROBOT).tolist() == [0, 1, 0, 0]


def test_stop_works_while_the_dialog_is_open(pads, opened):
    pad = pads.attach()
    mapping = default_mapping("gamepad", ROBOT).bind("control", "stop", Binding("KeyX"))
    source = opened("gamepad", mapping=mapping)
    settle(source)
    typed("F2", "KeyX")
    settle(source)
    assert source.read().clicked == (Control.STOP,)
    pad.button(4)  # back
    until(lambda: source.read().clicked == (Control.STOP,), "Stop of the pad")
    assert source.read().clicked == ()
    typed("Escape")  # means Stop as well, and closes the dialog first
    settle(source)
    assert (source.read().clicked, source._window.attentive) == ((), True)


def test_what_the_dialog_takes_for_itself_is_no_stop():
    bindings = (Binding("KeyX"), Binding("KeyI"), Binding("button:8"))
    d = Dialog(Mapping({"x": (Binding("KeyD"),)}, {Control.STOP: bindings})).dialog
    assert not d.stops("KeyX")  # the dialog is not open, and the key says so itself
    d.key("F2")
    assert [d.stops(code) for code in ("KeyX", "button:8", "KeyI", "KeyD")] == [True, True, False, False]
    d.key("Enter")
    assert not d.stops("KeyX")  # it is pressed as the new input
    assert not d.hear(DeviceReading(buttons=frozenset({5})))
    assert not d.hear(DeviceReading(buttons=frozenset({5})))
    assert d.hear(DeviceReading(buttons=frozenset({8})))
    assert not d.hear(DeviceReading(buttons=frozenset({8})))  # once for each press


def test_a_stick_is_changed_in_the_window(pads, opened):
    adopted = []
    pad = pads.attach()
    mapping = default_mapping("gamepad", ROBOT)
    source = opened("gamepad", mapping=mapping, adopt=adopted.append)
    settle(source)
    typed("F2", "ArrowDown", "ArrowDown", "Enter")  # the third binding is x on axis 1
    settle(source)
    source.read()
    pad.axis(2, 32767)
    until(lambda: source.read() and adopted, "the change")
    assert adopted == [mapping.rebind("action", "x", "axis:1", "axis:2")]
    assert source.read().axes == (0,) * 6  # the dialog is still open
    typed("F2")
    until(lambda: source._window.attentive, "the dialog is closed")
    assert source.read().axes == (0,) * 6  # the stick is still where it was when it did not count
    pad.axis(2, 0)
    until(lambda: source._device.read().axes[2] == 0, "the stick is let go")
    source.read()
    pad.axis(2, 32767)
    until(lambda: source.read().axes[2] == 1, "the stick")
    assert adopted[0].command(source.read(), ROBOT).tolist() == [1, 0, 0, 0]


class Dialog:
    """A dialog and what it adopted."""

    def __init__(self, mapping, refuse=""):
        self.adopted, self.refuse = [], refuse
        self.dialog = RemapDialog(mapping, self._adopt)

    def _adopt(self, mapping):
        if self.refuse:
            raise RoboprefError(self.refuse)
        self.adopted.append(mapping)

    def keys(self, *codes):
        for code in codes:
            self.dialog.key(code)
        return self.dialog.view()


def test_the_dialog_says_what_went_wrong_and_changes_nothing():
    mapping = default_mapping("keyboard", ROBOT)
    d = Dialog(mapping)
    assert not d.keys("KeyI", "Delete", "Enter").waiting  # closed, it hears nothing but its own key
    view = d.keys("F2")
    assert view.lines[:2] == ("x +: S", "x -: W")
    assert (view.chosen, view.waiting, view.is_error) == (0, False, False)
    assert d.keys("Enter").waiting
    view = d.keys("Space")
    assert view.is_error
    assert "Space means both x (Space) and take_over" in view.message
    assert not d.keys("Enter", "KeyS").waiting
    assert d.adopted == []  # the key that it has already is no change
    assert d.keys("Enter", "Escape").lines == view.lines
    assert d.dialog.is_open
    assert d.adopted == []
    full = Dialog(mapping, refuse="the disk is full.")
    assert full.keys("F2", "Enter", "KeyU").message == "the disk is full."
    assert full.dialog.mapping == mapping


def test_the_dialog_turns_round_and_removes():
    mapping = default_mapping("keyboard", ROBOT)
    d = Dialog(mapping)
    assert d.keys("F2", "KeyI").lines[:2] == ("x -: S", "x +: W")
    assert d.adopted[-1] == mapping.invert("x")
    assert d.keys("Delete").lines[0] == "x +: W"
    assert d.keys("ArrowUp").chosen == len(d.dialog.view().lines) - 1
    assert d.keys("KeyI").lines[-1] == "stop: Escape"  # a control has no other way round
    assert d.keys("Delete").chosen == len(d.dialog.view().lines) - 1  # the chosen line stays on the list
    assert not d.adopted[-1].control_bindings[Control.STOP]
    empty = Dialog(Mapping())
    assert empty.keys("F2", "ArrowDown", "Enter", "Delete").lines == ()


def test_the_dialog_takes_what_is_pushed_after_it_was_at_rest():
    d = Dialog(Mapping({"x": (Binding("axis:0"),), "y": (Binding("KeyD"),)}))
    d.keys("F2", "Enter")
    d.dialog.hear(DeviceReading(axes=(0.9, 0, 0)))  # still held from before
    assert d.dialog.view().waiting
    d.dialog.hear(DeviceReading(axes=(0, 0.75, -0.9)))
    assert d.adopted[-1].action_bindings["x"] == (Binding("axis:2"),)  # a whole axis stays one
    d.keys("ArrowDown", "Enter")
    d.dialog.hear(DeviceReading(axes=(0, 0, 0)))
    d.dialog.hear(DeviceReading(axes=(0, -0.8, 0)))
    assert d.adopted[-1].action_bindings["y"] == (Binding("axis:1-"),)  # a key becomes half an axis
    d.dialog.hear(DeviceReading(buttons=frozenset({4})))
    d.keys("Enter")
    d.dialog.hear(DeviceReading(buttons=frozenset({4})))  # held since before
    assert d.dialog.view().waiting
    d.dialog.hear(DeviceReading(buttons=frozenset({4, 7})))
    assert d.adopted[-1].action_bindings["y"] == (Binding("button:7"),)
