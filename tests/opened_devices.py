"""Devices on real SDL that are opened for a test and closed after it, without a display."""

import sys
import threading

import pytest
from sdl_devices import VirtualPads

from robopref.human_io.devices import open_device

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


@pytest.fixture
def pads():
    if not sys.platform.startswith("linux"):
        pytest.skip("finds SDL's library in /proc/self/maps")
    virtual = VirtualPads()
    yield virtual
    virtual.close()
