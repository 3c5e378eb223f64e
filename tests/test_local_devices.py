"""Opening the devices of this machine: what comes with what, and what is said when it does not work."""

import sys

import pytest
from fake_hid import COMPACT, FakeHid
from opened_devices import ROBOT
from opened_devices import no_display as no_display
from opened_devices import opened as opened
from sdl_devices import SPACE, press, settle, until

from robopref.errors import RoboprefError
from robopref.human_io import spacemouse
from robopref.human_io.devices import LOCAL_DEVICES, open_device
from robopref.human_io.keyboard import KeyboardWindow
from robopref.human_io.mapping_defaults import default_mapping
from robopref.human_io.readings import Control
from robopref.human_io.sdl_thread import SdlThread

pytestmark = pytest.mark.alone


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
