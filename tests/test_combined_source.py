"""A device and its window as one source: what counts when one of them is absent or broken."""

import pytest
from opened_devices import ROBOT
from opened_devices import no_display as no_display
from opened_devices import opened as opened
from opened_devices import pads as pads
from sdl_devices import FOCUS_LOST, W, close_window, press, settle, until, window_event

from robopref.human_io.combined import CombinedSource
from robopref.human_io.mapping_defaults import default_mapping
from robopref.human_io.readings import Control, DeviceReading, StationStatus

pytestmark = pytest.mark.alone


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_leaves_nothing_held(opened, pads):
    pads.attach()
    source = opened("gamepad")
    press(W)
    settle(source)
    assert source.read().keys == {"KeyW"}

    def broken(*_):
        raise MemoryError("no room for a picture")

    source._window._drawing.draw = broken
    until(lambda: not source.read().connected, "the loss")
    reading = source.read()
    assert reading.keys == reading.buttons == frozenset()
    assert reading.axes == ()
    assert reading.detail == "reading the devices failed (MemoryError: no room for a picture)"


def test_a_pad_with_a_window_is_silent_in_the_background(pads, opened):
    pad = pads.attach()
    source = opened("gamepad", operator_id="ada")
    assert isinstance(source, CombinedSource)
    assert (source.name, source.operator_id) == ("Virtual Controller", "ada")
    mapping = default_mapping("gamepad", ROBOT)
    pad.axis(0, 32767)
    pad.button(10)
    press(W)
    until(lambda: source.read().axes[:1] == (1,), "the stick")
    settle(source)
    reading = source.read()
    assert mapping.command(reading, ROBOT).tolist() == [-1, 1, 0, 0]
    assert mapping.controls(reading) == {Control.TAKE_OVER}
    window_event(FOCUS_LOST)
    settle(source)
    hidden = source.read()
    assert not mapping.command(hidden, ROBOT).any()
    assert mapping.controls(hidden) == frozenset()
    assert hidden.connected
    close_window()
    pad.unplug()
    until(lambda: not source.read().connected, "the loss")
    source.show(StationStatus(mode="HOLD"))


class Fixed:
    """A source that says what it is told to."""

    operator_id, name, axis_names = "fixed", "fixed", ()

    def __init__(self, reading):
        self.reading, self.attentive, self.shown, self.closed, self.overheard = reading, True, [], 0, []

    def overhear(self, reading):
        self.overheard.append(reading)

    def read(self):
        return self.reading

    def show(self, status):
        self.shown.append(status)

    def close(self):
        self.closed += 1


def test_of_two_sources_the_older_sign_of_life_counts():
    window = Fixed(DeviceReading(keys=frozenset({"KeyH"}), clicked=("stop",), received_ns=5))
    device = Fixed(DeviceReading(axes=(1.0,), buttons=frozenset({2}), received_ns=3))
    both = CombinedSource(window, device)
    assert both.read() == DeviceReading(frozenset({"KeyH"}), (1.0,), frozenset({2}), ("stop",), 3)
    window.attentive = False
    assert both.read() == DeviceReading(frozenset({"KeyH"}), (0.0,), frozenset(), ("stop",), 3)
    assert window.overheard == [device.reading] * 2
    device.reading = DeviceReading(connected=False, detail="gone")
    assert (both.read().connected, both.read().detail) == (False, "gone")
    status = StationStatus(mode="HOLD")
    both.show(status)
    both.close()
    assert window.shown == device.shown == [status]
    assert window.closed == device.closed == 1


@pytest.mark.parametrize("absence", ["background", "unplugged"])
def test_what_a_device_holds_through_an_absence_must_be_let_go_first(absence):
    window = Fixed(DeviceReading())
    device = Fixed(DeviceReading(axes=(1.0, 0.0), buttons=frozenset({2})))
    both = CombinedSource(window, device, dead_zone=0.2)
    assert (both.read().axes, both.read().buttons) == ((1.0, 0.0), {2})
    if absence == "background":
        window.attentive = False
    else:
        device.reading = DeviceReading(connected=False)
    assert (any(both.read().axes), both.read().buttons) == (False, frozenset())
    window.attentive = True

    def counts(axes, buttons):
        device.reading = DeviceReading(axes=axes, buttons=frozenset(buttons))
        reading = both.read()
        return reading.axes, reading.buttons

    assert counts((1.0, 0.1), {2, 3}) == ((0.0, 0.1), frozenset())  # 3 went down while nobody listened
    assert counts((0.3, 0.9), {2, 4}) == ((0.0, 0.9), {4})  # what was at rest counts
    assert counts((0.15, 0.9), {4}) == ((0.15, 0.9), {4})  # let go
    assert counts((-1.0, 0.9), {2, 4}) == ((-1.0, 0.9), {2, 4})
