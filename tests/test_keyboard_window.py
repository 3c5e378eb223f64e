"""The keyboard window on SDL's dummy video driver: what its keys mean, and what it shows."""

import time

import numpy as np
import pytest
from opened_devices import ROBOT
from opened_devices import no_display as no_display
from opened_devices import opened as opened
from sdl_devices import (
    FOCUS_GAINED,
    FOCUS_LOST,
    HIDDEN,
    MINIMIZED,
    SPACE,
    D,
    W,
    close_window,
    last_pump,
    press,
    release,
    settle,
    until,
    window_event,
)

from robopref.human_io.frames import FrameSlot
from robopref.human_io.mapping_defaults import default_mapping
from robopref.human_io.readings import Control, InputSource, StationStatus
from robopref.human_io.window_drawing import BACKGROUND, EXECUTED, MODES, POLICY

pytestmark = pytest.mark.alone

pygame = pytest.importorskip("pygame")


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
