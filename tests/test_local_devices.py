"""The keyboard window and the gamepad on real SDL: its dummy video driver, posted events, and its virtual joysticks."""

import sys
import threading
import time

import numpy as np
import pytest
from fake_hid import COMPACT, FakeHid
from sdl_devices import (
    FOCUS_GAINED,
    FOCUS_LOST,
    HIDDEN,
    MINIMIZED,
    PLAIN,
    SCANCODE_OF,
    SPACE,
    D,
    VirtualPads,
    W,
    close_window,
    last_pump,
    press,
    release,
    settle,
    typed,
    until,
    window_event,
)  # fmt: skip

from robopref.errors import RoboprefError
from robopref.human_io import spacemouse
from robopref.human_io.bindings import Binding
from robopref.human_io.combined import CombinedSource
from robopref.human_io.devices import LOCAL_DEVICES, open_device
from robopref.human_io.frames import FrameSlot
from robopref.human_io.gamepad import Gamepad
from robopref.human_io.keyboard import KeyboardWindow
from robopref.human_io.mapping import Mapping
from robopref.human_io.mapping_defaults import default_mapping
from robopref.human_io.mapping_help import help_lines, input_name
from robopref.human_io.readings import Control, DeviceReading, InputSource, StationStatus
from robopref.human_io.remap_dialog import RemapDialog
from robopref.human_io.sdl_thread import SdlThread
from robopref.human_io.window_drawing import BACKGROUND, EXECUTED, MODES, POLICY

pytestmark = pytest.mark.alone

pygame = pytest.importorskip("pygame")

ROBOT = ("x", "y", "z", "gripper")


@pytest.fixture(autouse=True)
def no_display(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


@pytest.fixture
def opened():
    """Opens devices and closes them; nothing of SDL is left running."""
    sources = []

    def open_(*args, **kwargs):
        sources.append(open_device(*args, **kwargs))
        return sources[-1]

    yield open_
    for source in sources:
        source.close()
        source.close()  # closing twice is allowed
    assert "sdl" not in {thread.name for thread in threading.enumerate()}
    assert not pygame.display.get_init()


# ----------------------------------------------------------------------------------------------------------- window


def test_keys_are_held_until_they_are_let_go(opened):
    window = opened("keyboard")
    assert isinstance(window, InputSource)
    assert window.operator_id == "keyboard"
    press(W)
    press(SPACE)
    settle(window)
    assert window.read().keys == {"KeyW", "Space"}
    assert window.read().keys == {"KeyW", "Space"}
    release(W)
    press(999)  # a key that has no name here
    settle(window)
    reading = window.read()
    assert reading.keys == {"Space"}
    assert reading.connected
    assert abs(time.monotonic_ns() - reading.received_ns) < 5e9


def test_a_tap_between_two_ticks_is_in_exactly_one_reading(opened):
    window = opened("keyboard")
    settle(window)
    window.read()
    press(W)
    release(W)
    settle(window)
    assert window.read().keys == {"KeyW"}
    assert window.read().keys == frozenset()


@pytest.mark.parametrize("event", [FOCUS_LOST, MINIMIZED, HIDDEN])
def test_a_window_in_the_background_forgets_every_key(opened, event):
    window = opened("keyboard")
    press(W)
    settle(window)
    press(D)
    window_event(event)
    settle(window)
    assert window.read().keys == frozenset()  # neither what was held nor what was just tapped
    assert not window.attentive
    window_event(FOCUS_GAINED)
    settle(window)
    assert window.attentive
    press(W, repeat=1)  # a finger that stayed on its key all the while
    settle(window)
    assert window.read().keys == frozenset()


def test_closing_the_window_is_stop_once(opened):
    window = opened("keyboard")
    close_window()
    settle(window)
    assert window.read().clicked == (Control.STOP,)
    assert window.read().clicked == ()


def pixels_of_window():
    return pygame.surfarray.array3d(pygame.display.get_surface())


def count(pixels, colour):
    return int((pixels == np.array(colour)).all(axis=-1).sum())


@pytest.mark.parametrize("mode", list(MODES))
def test_the_window_shows_camera_mode_and_intention(opened, mode):
    frames = FrameSlot()
    window = opened("keyboard", frames=frames, mapping=default_mapping("web", ROBOT))
    window.show(StationStatus(mode=mode, reason="why", outcomes=(("success", 2),), hold_to_run=True,
                              proposed_action=(0.5, 0, 0, 0), executed_action=(0, 0, 0, -1), action_labels=ROBOT,
                              instruction="open the door " * 12, task="door-open"))  # fmt: skip
    frames.put(np.full((60, 80, 3), (10, 200, 30), np.uint8))
    until(lambda: count(pixels_of_window(), (10, 200, 30)) > 100_000, "the camera's picture")
    until(lambda: count(pixels_of_window(), MODES[mode].colour) > 5_000, "the band of the mode")
    pixels = pixels_of_window()
    assert count(pixels, POLICY) == pytest.approx(65 * 12, abs=120)  # a quarter of the bar
    assert count(pixels, EXECUTED) >= 4 * 4 * 15
    frames.put(np.full((480, 480, 3), (200, 10, 30), np.uint8))  # the newest picture replaces it, whatever its size
    until(lambda: count(pixels_of_window(), (200, 10, 30)) > 100_000, "the second picture")
    assert count(pixels_of_window(), (10, 200, 30)) == 0


def luminance(colour):
    """Relative luminance by WCAG 2."""
    linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in colour)]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_text_of_every_mode_has_contrast_aa():
    from robopref.human_io import window_drawing as drawing

    pairs = [(look.colour, look.ink) for look in MODES.values()]
    pairs += [(BACKGROUND, ink) for ink in (drawing.TEXT, drawing.FAINT, drawing.WARNING, POLICY, EXECUTED)]
    for one, other in pairs:
        low, high = sorted((luminance(one), luminance(other)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (one, other)


def test_a_window_without_anything_to_show_is_drawn_all_the_same(opened):
    window = opened("keyboard")
    until(lambda: count(pixels_of_window(), BACKGROUND) > 100_000, "the background")
    discrete = StationStatus(mode="AUTONOMOUS", discrete=True, proposed_action=(1,), executed_action=(0,),
                             action_labels=("NOOP", "FIRE"))  # fmt: skip
    window.show(discrete)
    until(lambda: count(pixels_of_window(), MODES["AUTONOMOUS"].colour) > 5_000, "the band")
    window_event(FOCUS_LOST)
    settle(window)
    assert last_pump(window)


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


def test_there_is_one_sdl_and_its_absence_is_said(opened, monkeypatch):
    window = opened("keyboard")
    with pytest.raises(RoboprefError, match="open already"):
        open_device("keyboard")
    window.close()
    monkeypatch.setenv("SDL_VIDEODRIVER", "x11")
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(RoboprefError, match=r"no window can be opened \(.*\): .*--operator web"):
        open_device("keyboard")
    monkeypatch.delenv("SDL_VIDEODRIVER")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(RoboprefError, match="no window can be opened"):  # and not one that nobody sees
        open_device("keyboard")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    opened("keyboard")  # what failed has let go of everything
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(RoboprefError, match="macOS"):
        SdlThread([KeyboardWindow()])


def test_what_cannot_be_opened_is_said(monkeypatch):
    with pytest.raises(RoboprefError, match="choose one of keyboard, gamepad, spacemouse"):
        open_device("joystick")
    assert LOCAL_DEVICES == ("keyboard", "gamepad", "spacemouse")
    with pytest.raises(RoboprefError, match="no gamepad: plug one in"):
        open_device("gamepad")
    monkeypatch.setattr(spacemouse, "load_hidapi", FakeHid)
    with pytest.raises(RoboprefError, match="no SpaceMouse: plug one in"):
        open_device("spacemouse")
    monkeypatch.setitem(sys.modules, "pygame", None)
    for name in ("keyboard", "gamepad"):
        with pytest.raises(RoboprefError, match=r"pip install 'robopref\[devices\]'"):
            open_device(name)


# ---------------------------------------------------------------------------------------------------------- gamepad


@pytest.fixture
def pads():
    if not sys.platform.startswith("linux"):
        pytest.skip("finds SDL's library in /proc/self/maps")
    virtual = VirtualPads()
    yield virtual
    virtual.close()


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


def test_a_spacemouse_comes_with_a_window(opened, monkeypatch):
    hid = FakeHid(COMPACT)
    monkeypatch.setattr(spacemouse, "load_hidapi", lambda: hid)
    source = opened("spacemouse")
    hid.reports.put(bytes.fromhex("015e0100000000"))
    press(SPACE)
    until(lambda: source.read().axes[0] == 1, "the cap")
    settle(source)
    mapping = default_mapping("spacemouse", ROBOT)
    reading = source.read()
    assert mapping.controls(reading) == {Control.TAKE_OVER}
    assert mapping.command(reading, ROBOT).tolist() == [0, 1, 0, 0]
    bare = opened("spacemouse", window=False)
    assert bare.axis_names[0] == "right"


def test_a_spacemouse_without_a_display_lets_go_of_the_device(monkeypatch):
    hid = FakeHid(COMPACT)
    monkeypatch.setattr(spacemouse, "load_hidapi", lambda: hid)
    monkeypatch.setenv("SDL_VIDEODRIVER", "x11")
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(RoboprefError, match="no window can be opened"):
        open_device("spacemouse")
    assert hid.closed == 1


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


# ----------------------------------------------------------------------------------------------------------- dialog


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


# ------------------------------------------------------------------------------------------------------------- help


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
