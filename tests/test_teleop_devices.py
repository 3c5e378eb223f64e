"""Whole sessions with the devices at this machine: what the hands did is what the control loop recorded.

The keyboard window and the gamepad are real ones on SDL, the SpaceMouse's bytes come from a fake of hidapi.
"""

import numpy as np
import pytest
from fake_hid import COMPACT, FakeHid
from opened_devices import pads as pads
from sdl_devices import (
    FOCUS_LOST,
    SCANCODE_OF,
    close_window,
    last_pump,
    press,
    release,
    settle,
    until,
    window_event,
)  # fmt: skip

from robopref.cli.teleop import Teleop, run_teleop
from robopref.human_io import spacemouse
from robopref.human_io.combined import CombinedSource
from robopref.human_io.devices import open_device
from robopref.human_io.keyboard import KeyboardWindow
from robopref.store.store import EpisodeStore
from robopref.trajectory import Actor, Outcome

pytestmark = pytest.mark.alone

pygame = pytest.importorskip("pygame")

HZ = 100.0
Y = 1


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    """No display, and no mapping of whoever runs the tests."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def policy(barely_trained):
    return barely_trained


class WithHands:
    """A device on which hands do something just before its n-th reading."""

    def __init__(self, source, moves):
        self._source, self._moves, self._reads = source, moves, 0
        self.operator_id, self.name, self.axis_names = source.operator_id, source.name, source.axis_names
        self.modes, self.reasons = [], []

    def read(self):
        for move in self._moves.get(self._reads, ()):
            move()
        self._reads += 1
        return self._source.read()

    def show(self, status):
        self.modes.append(status.mode)
        self.reasons.append(status.reason)
        self._source.show(status)

    def close(self):
        self._source.close()


class Keys:
    """Hands on the keyboard of a window."""

    def __init__(self, source):
        self.window = source._window if isinstance(source, CombinedSource) else source
        assert isinstance(self.window, KeyboardWindow)

    def down(self, code):
        press(SCANCODE_OF[code])
        settle(self.window)

    def up(self, code):
        release(SCANCODE_OF[code])
        settle(self.window)

    def tap(self, code):
        self.down(code)
        self.up(code)


def session(policy, tmp_path, operator, source, moves, **changes):
    hands = WithHands(source, moves)
    config = Teleop(policy=str(policy), out=tmp_path / "data", task="reach", image=False, hz=HZ, episodes=1,
                    paraphrase=False, ramp=0.05, operator=operator, **changes)  # fmt: skip
    try:
        finished = run_teleop(config, source=hands)
    finally:
        source.close()
    (episode,) = EpisodeStore.open(tmp_path / "data")
    return finished, episode, hands


def check_takeover(episode, ticks):
    """One takeover of so many ticks, in which y was driven to the right for the middle ones and then let go."""
    human = episode.actor == Actor.HUMAN
    driven = np.flatnonzero(human)
    assert len(driven) == ticks
    assert driven[-1] - driven[0] == ticks - 1
    assert np.array_equal(episode.action[human], episode.human_action[human])
    y = episode.action[driven, Y]
    assert y[10:25] == pytest.approx(1.0)
    assert np.abs(np.diff(y[:15])).max() <= 1 / 0.05 / HZ + 1e-6  # no jump
    assert (y[-5:] == 0).all()  # let go before handing back
    assert (episode.actor[: driven[0]] == Actor.POLICY).all()
    assert (episode.actor[driven[-1] + 1 : -1] == Actor.POLICY).all()
    assert episode.actor[-1] == Actor.HOLD  # the judgement leaves the robot at rest
    assert not episode.action[-1].any()


def test_a_session_with_the_keyboard(policy, tmp_path):
    source = open_device("keyboard")
    keys = Keys(source)
    moves = {
        3: [lambda: keys.tap("KeyH")],
        14: [lambda: keys.tap("Space"), lambda: keys.down("KeyD")],
        44: [lambda: keys.up("KeyD")],
        54: [lambda: keys.tap("KeyH")],
        64: [lambda: keys.tap("KeyY")],
    }
    finished, episode, hands = session(policy, tmp_path, "keyboard", source, moves)
    assert finished
    assert episode.info.outcome is Outcome.SUCCESS
    assert episode.info.operator_id == "keyboard"
    check_takeover(episode, 40)
    assert {"PAUSED", "AUTONOMOUS", "TAKEOVER"} <= set(hands.modes)


def test_a_session_with_a_spacemouse(policy, tmp_path, monkeypatch):
    hid = FakeHid(COMPACT)
    monkeypatch.setattr(spacemouse, "load_hidapi", lambda: hid)
    source = open_device("spacemouse")
    mouse, keys = source._device, Keys(source)

    def push(report, axes):
        hid.reports.put(bytes.fromhex(report))
        until(lambda: mouse._state.axes == axes, "the cap")

    def to_the_right():
        push("01 5e 01 00 00 00 00", (1, 0, 0, 0, 0, 0))

    moves = {3: [lambda: keys.tap("KeyH")], 14: [lambda: keys.tap("Space"), to_the_right]}
    moves |= {n: [to_the_right] for n in range(15, 44)}  # a deflected cap goes on saying so
    moves |= {
        44: [lambda: push("01 00 00 00 00 00 00", (0,) * 6)],
        54: [lambda: keys.tap("KeyH")],
        64: [lambda: keys.tap("KeyN")],
    }
    finished, episode, _ = session(policy, tmp_path, "spacemouse", source, moves)
    assert finished
    assert episode.info.outcome is Outcome.FAILURE
    assert episode.info.operator_id == "spacemouse"
    check_takeover(episode, 40)


class PadHands:
    """Hands on a gamepad, in SDL's numbering of its buttons."""

    def __init__(self, pads, **options):
        self.pad = pads.attach()
        self.source = open_device("gamepad", window=False, **options)

    def tap(self, button):
        self.pad.button(button)
        settle(self.source)
        self.pad.button(button, 0)
        settle(self.source)

    def right(self, value):
        self.pad.axis(0, value)
        settle(self.source)


def test_a_session_with_a_gamepad(policy, tmp_path, pads):
    hands = PadHands(pads)
    moves = {
        3: [lambda: hands.tap(9)],  # left shoulder: hand back
        14: [lambda: hands.tap(10), lambda: hands.right(32767)],  # right shoulder: take over
        44: [lambda: hands.right(0)],
        54: [lambda: hands.tap(9)],
        64: [lambda: hands.tap(3)],  # north: success
    }
    finished, episode, _ = session(policy, tmp_path, "gamepad", hands.source, moves)
    assert finished
    assert episode.info.outcome is Outcome.SUCCESS
    check_takeover(episode, 40)


def test_a_pad_that_is_unplugged_in_a_takeover(policy, tmp_path, pads):
    """The command is zero from the next tick on, and the episode is saved as aborted after the time that was set."""
    hands = PadHands(pads)

    def unplug():
        hands.pad.unplug()
        until(lambda: not hands.source._reading.connected, "the loss")

    moves = {
        3: [lambda: hands.tap(9)],
        14: [lambda: hands.tap(10), lambda: hands.right(32767)],
        40: [unplug],
    }
    _, episode, shown = session(policy, tmp_path, "gamepad", hands.source, moves, abort_after=0.3)
    assert episode.info.outcome is Outcome.ABORTED
    driven = np.flatnonzero(episode.actor == Actor.HUMAN)
    assert len(driven) == 40 - 14
    assert episode.action[driven[-1], Y] == pytest.approx(1.0)
    after = slice(driven[-1] + 1, None)
    assert len(episode.actor[after]) > 0
    assert (episode.actor[after] == Actor.HOLD).all()
    assert not episode.action[after].any()
    assert any("unplugged" in reason for reason in shown.reasons)


def test_a_pad_that_comes_back_drives_only_when_told_to(policy, tmp_path, pads):
    hands = PadHands(pads)

    def unplug():
        hands.pad.unplug()
        until(lambda: not hands.source._reading.connected, "the loss")

    def plug_in():
        hands.pad = pads.attach()
        until(lambda: hands.source._reading.connected, "the pad")
        hands.right(32767)

    moves = {
        3: [lambda: hands.tap(9)],
        14: [lambda: hands.tap(10), lambda: hands.right(32767)],
        30: [unplug],
        35: [plug_in],
        50: [lambda: hands.tap(10)],
        70: [lambda: hands.right(0), lambda: hands.tap(3)],
    }
    _, episode, _ = session(policy, tmp_path, "gamepad", hands.source, moves)
    assert episode.info.outcome is Outcome.SUCCESS
    first = int(np.flatnonzero(episode.actor == Actor.HUMAN)[0])
    actors = episode.actor[first:]
    assert (actors[: 30 - 14] == Actor.HUMAN).all()
    assert (actors[30 - 14 : 50 - 14] == Actor.HOLD).all()  # the stick is pushed, and nobody drives
    assert (actors[50 - 14 : -1] == Actor.HUMAN).all()
    assert actors[-1] == Actor.HOLD  # the judgement leaves the robot at rest
    assert len(set(episode.segment_id[episode.actor == Actor.HUMAN])) == 1  # a HOLD does not end a takeover


def test_a_window_in_the_background_stops_the_hands(policy, tmp_path):
    source = open_device("keyboard")
    keys = Keys(source)

    def blur():
        window_event(FOCUS_LOST)
        settle(source)

    moves = {
        3: [lambda: keys.tap("KeyH")],
        14: [lambda: keys.tap("Space"), lambda: keys.down("KeyD")],
        34: [blur],
        44: [close_window, lambda: settle(source)],
    }
    finished, episode, _ = session(policy, tmp_path, "keyboard", source, moves)
    assert not finished  # closing the window is Stop
    assert episode.info.outcome is Outcome.ABORTED
    first = int(np.flatnonzero(episode.actor == Actor.HUMAN)[0])
    y = episode.action[first:, Y]
    assert (episode.actor[first : first + 20] == Actor.HUMAN).all()
    assert y[19] == pytest.approx(1.0)
    # From the very tick in which the focus was lost nobody drives, which is not taken for the operator's teaching.
    assert (episode.actor[first + 20 :] == Actor.HOLD).all()
    assert len(y) == 30
    assert (y[20:] == 0).all()
    assert last_pump(source)
