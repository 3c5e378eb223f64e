"""The gamepad on SDL's virtual joysticks: the numbering of browsers, taps, unplugging, layouts that nobody knows."""

import time

import pytest
from opened_devices import no_display as no_display
from opened_devices import opened as opened
from opened_devices import pads as pads
from sdl_devices import PLAIN, settle, until

from robopref.human_io.gamepad import Gamepad
from robopref.human_io.readings import InputSource

pytestmark = pytest.mark.alone


def test_a_gamepad_speaks_the_numbering_of_browsers(pads, opened):
    pad = pads.attach()
    source = opened("gamepad", window=False)
    assert isinstance(source, Gamepad)
    assert isinstance(source, InputSource)
    assert source.name == "Virtual Controller"
    assert source.axis_names[:2] == ("left x", "left y")
    for axis, value in enumerate((32767, -32768, 16384, 0)):
        pad.axis(axis, value)
    until(lambda: source.read().axes[0] == 1, "the stick")
    settle(source)
    assert source.read().axes == pytest.approx((1, -1, 0.5, 0, 0, 0), abs=1e-3)
    # SDL: a b x y back guide start left-stick right-stick left-shoulder right-shoulder up down left right
    for sdl_number, standard in enumerate((0, 1, 2, 3, 8, 16, 9, 10, 11, 4, 5, 12, 13, 14, 15)):
        pad.button(sdl_number)
        until(lambda standard=standard: source.read().buttons == {standard}, f"button {standard}")
        assert source.read().buttons == {standard}
        pad.button(sdl_number, 0)
        until(lambda: source.read().buttons == frozenset(), "the release")
    for axis, button in ((4, 6), (5, 7)):
        pad.axis(axis, 32767)  # a trigger's raw range is all of int16, and SDL makes it 0 to 32767
        until(lambda button=button: source.read().buttons == {button}, "the trigger")
        assert source.read().axes[axis] == 1
        pad.axis(axis, -32768)
        until(lambda: source.read().buttons == frozenset(), "the trigger's release")
        assert source.read().axes[axis] == 0


def test_a_tap_of_a_button_is_not_missed(pads, opened):
    pad = pads.attach()
    source = opened("gamepad", window=False)
    settle(source)
    pad.button(3)
    settle(source)
    pad.button(3, 0)
    settle(source)
    assert source.read().buttons == {3}
    assert source.read().buttons == frozenset()


def test_unplugged_is_silence_at_once_and_plugging_in_is_taken_up(pads, opened):
    pad = pads.attach()
    source = opened("gamepad", window=False)
    pad.axis(0, 32767)
    pad.button(10)
    until(lambda: source.read().axes[0] == 1 and source.read().buttons == {5}, "the stick and the shoulder")
    pad.unplug()
    until(lambda: not source.read().connected, "the loss")
    gone = source.read()
    assert gone.axes == ()
    assert gone.buttons == frozenset()
    assert gone.detail == "the Virtual Controller was unplugged"
    time.sleep(0.05)
    assert source.read().received_ns == gone.received_ns  # its time stands still
    other = pads.attach()
    until(lambda: source.read().connected, "the new pad")
    other.axis(1, 32767)
    until(lambda: source.read().axes[1] == 1, "the new pad's stick")
    assert source.read().axes[0] == 0
    assert source.read().received_ns > gone.received_ns


def test_another_pad_does_not_drive_and_does_not_matter(pads, opened):
    first, second = pads.attach(), pads.attach()
    source = opened("gamepad", window=False)
    second.axis(0, 32767)
    first.axis(1, 32767)
    until(lambda: source.read().axes[1] == 1, "the first pad")
    assert source.read().axes[0] == 0
    second.unplug()
    settle(source)
    assert source.read().connected


def test_a_joystick_of_unknown_layout_rests_where_it_rests(pads, opened):
    pad = pads.attach(PLAIN, axes=3, buttons=4, hats=1)
    pad.axis(2, -32768)  # a trigger, or a throttle
    pads.sdl.SDL_JoystickUpdate()
    source = opened("gamepad", window=False)
    assert source.name.endswith("(layout unknown)")
    assert source.axis_names == ("axis 0", "axis 1", "axis 2")
    settle(source)
    assert source.read().axes == (0, 0, 0)
    pad.axis(2, 32767)
    pad.axis(0, -32768)
    pad.hat(1 | 2)  # up and right
    pad.button(3)
    until(lambda: source.read().buttons == {3, 12, 15}, "hat and button")
    assert source.read().axes == pytest.approx((-1, 0, 1), abs=1e-4)
    pads.attach(PLAIN)
    settle(source)
    assert source.read().connected
    pad.unplug()
    until(lambda: not source.read().connected, "the loss")
    assert "unplugged" in source.read().detail
