"""The SpaceMouse against byte layouts as they come over USB, with hidapi's module played by a fake."""

import struct
import sys
import threading
import types

import pytest
from fake_hid import COMPACT, UNPLUGGED, FakeHid
from hypothesis import given
from hypothesis import strategies as st

from robopref.errors import RoboprefError
from robopref.human_io import spacemouse as module
from robopref.human_io.readings import InputSource
from robopref.human_io.spacemouse import SpaceMouse, find_spacemice, load_hidapi
from robopref.human_io.spacemouse_reports import SpaceMouseState, apply_report

pytestmark = pytest.mark.alone


class Clock:
    """Stands until it is moved."""

    def __init__(self):
        self.now = 1_000_000_000

    def __call__(self):
        return self.now


@pytest.fixture
def opened(monkeypatch):
    """Opens SpaceMice on fakes, and closes them."""
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.01)
    mice = []

    def open_(hid, **kwargs):
        mice.append(SpaceMouse(hid, **kwargs))
        return mice[-1]

    yield open_
    for mouse in mice:
        mouse.close()
        assert not mouse._thread.is_alive()


def after(hid, *reports):
    """Hand in reports and wait until the reader asks for the one after them: then they are in the state."""
    for report in reports:
        hid.reports.put(report)
    while not hid.reports.empty():
        hid.reads.acquire(timeout=5)
    drain(hid)
    assert hid.reads.acquire(timeout=5)
    assert hid.reads.acquire(timeout=5)


def drain(hid):
    while hid.reads.acquire(blocking=False):
        pass


def until(condition):
    for _ in range(500):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not come true in 5 s")


# ---------------------------------------------------------------------------------------------------------- reports


def bytes_of(text):
    return list(bytes.fromhex(text))


@pytest.mark.parametrize(
    ("reports", "axes"),
    [
        (["01 5e 01 00 00 00 00"], (1, 0, 0, 0, 0, 0)),  # split: 350 to the right
        (["01 00 00 a2 fe 00 00"], (0, 1, 0, 0, 0, 0)),  # y -350 is away from the user
        (["01 00 00 00 00 a2 fe"], (0, 0, 1, 0, 0, 0)),  # z -350 is up
        (["02 00 00 e2 ff 00 00"], (0, 0, 0, 0, 30 / 350, 0)),
        (["02 af 00 00 00 51 ff"], (0, 0, 0, 0.5, 0, 0.5)),
        (["01 5e 01 00 00 00 00", "02 5e 01 00 00 00 00"], (1, 0, 0, 1, 0, 0)),  # one does not clear the other
        (["01 5e 01 00 00 00 00", "01 00 00 00 00 00 00"], (0, 0, 0, 0, 0, 0)),
        (["01 5e 01 a2 fe 5e 01 a2 fe 00 00 5e 01"], (1, 1, -1, -1, 0, -1)),  # combined
        (["01 ff 7f 00 80 00 00"], (1, 1, 0, 0, 0, 0)),  # more than full deflection
    ],
)
def test_both_layouts(reports, axes):
    state = SpaceMouseState()
    for report in reports:
        state = apply_report(state, bytes_of(report))
    assert state.axes == pytest.approx(axes)
    assert state.buttons == frozenset()


@pytest.mark.parametrize(
    ("report", "buttons"),
    [("03 01 00", {0}), ("03 02 00", {1}), ("03 03 00", {0, 1}), ("03 00 00", set()), ("03 00 00 40 08", {22, 27})],
)
def test_buttons_are_a_mask(report, buttons):
    moved = SpaceMouseState((0.5,) * 6, frozenset({5}))
    assert apply_report(moved, bytes_of(report)) == SpaceMouseState((0.5,) * 6, frozenset(buttons))


@given(st.lists(st.integers(0, 255), max_size=70))
def test_no_bytes_break_it(report):
    state = apply_report(SpaceMouseState(), report)
    assert len(state.axes) == 6
    assert all(-1 <= axis <= 1 for axis in state.axes)
    if not report or report[0] not in (1, 2, 3) or len(report) < 7 - 5 * (report[0] == 3):
        assert state == SpaceMouseState()


@given(st.lists(st.integers(-400, 400), min_size=6, max_size=6))
def test_split_and_combined_say_the_same(raw):
    combined = apply_report(SpaceMouseState(), b"\x01" + struct.pack("<6h", *raw))
    split = apply_report(SpaceMouseState(), b"\x01" + struct.pack("<3h", *raw[:3]))
    split = apply_report(split, b"\x02" + struct.pack("<3h", *raw[3:]))
    assert split == combined


# ----------------------------------------------------------------------------------------------------------- device


def test_a_spacemouse_is_found_among_other_things():
    mouse = {**COMPACT, "product_id": 0xC650, "usage": 2}  # a CAD mouse, which is a mouse
    old = {**COMPACT, "vendor_id": 0x046D, "product_id": 0xC626, "usage_page": 0, "usage": 0}  # usages unknown
    keyboard = {**COMPACT, "vendor_id": 0x046D, "product_id": 0xC31C, "usage_page": 0, "usage": 0}
    receiver = {**COMPACT, "product_id": 0xC652}
    other = {**COMPACT, "vendor_id": 0x1234}
    assert find_spacemice(FakeHid(old, mouse, keyboard, receiver, other)) == [receiver, old]
    assert find_spacemice(FakeHid()) == []


def test_moves_and_taps_are_read_and_taps_once(opened):
    hid = FakeHid(COMPACT)
    mouse = opened(hid)
    assert isinstance(mouse, InputSource)
    assert (mouse.name, mouse.operator_id) == ("SpaceMouse Compact", "spacemouse")
    assert hid.opened == [b"/dev/hidraw3"]
    after(hid, bytes_of("01 5e 01 00 00 00 00"), bytes_of("03 01"), bytes_of("03 02"), bytes_of("03 00"))
    reading = mouse.read()
    assert reading.connected
    assert reading.axes == (1, 0, 0, 0, 0, 0)
    assert reading.buttons == {0, 1}  # both were pressed and let go since the last reading
    assert mouse.read().buttons == frozenset()
    after(hid, bytes_of("03 02"))
    assert mouse.read().buttons == mouse.read().buttons == {1}


def test_silence_of_a_deflected_cap_is_rest_and_the_device_is_still_there(opened):
    hid, clock = FakeHid(COMPACT), Clock()
    mouse = opened(hid, clock=clock)
    after(hid, bytes_of("01 5e 01 00 00 00 00"), bytes_of("03 01"))
    clock.now += 200_000_000
    after(hid)
    assert mouse.read().axes[0] == 1
    clock.now += 100_000_000
    after(hid, bytes_of("17 64 01"), bytes_of("03 03"))  # neither the battery nor a button is a sign of the cap
    reading = mouse.read()
    assert reading.axes == (0,) * 6
    assert reading.buttons == {0, 1}
    assert reading.received_ns == clock.now


def test_unplugged_and_plugged_in_again(opened):
    hid, clock = FakeHid(COMPACT), Clock()
    mouse = opened(hid, clock=clock)
    after(hid, bytes_of("01 5e 01 00 00 00 00"), bytes_of("03 01"))
    hid.infos = []
    hid.reports.put(UNPLUGGED)
    until(lambda: not mouse.read().connected)
    clock.now += 5_000_000_000
    gone = mouse.read()
    assert (gone.axes, gone.buttons) == ((0,) * 6, frozenset())
    assert gone.received_ns == 1_000_000_000  # its time stands still
    until(lambda: "there is no SpaceMouse" in mouse.read().detail)
    hid.infos, hid.forbidden = [{**COMPACT, "path": b"/dev/hidraw4"}], True
    until(lambda: "udev" in mouse.read().detail)
    hid.forbidden = False
    until(lambda: mouse.read().connected)
    back = mouse.read()
    assert (back.axes, back.buttons, back.detail, back.received_ns) == ((0,) * 6, frozenset(), "", clock.now)
    assert hid.opened == [b"/dev/hidraw3", b"/dev/hidraw4"]
    mouse.close()
    assert hid.closed == 2


def test_none_there_and_none_allowed():
    with pytest.raises(RoboprefError, match="no SpaceMouse: plug one in"):
        SpaceMouse(FakeHid())
    hid = FakeHid(COMPACT)
    hid.forbidden = True
    with pytest.raises(
        RoboprefError, match=r"SpaceMouse Compact cannot be opened \(open failed\): .*70-spacemouse.rules"
    ):
        SpaceMouse(hid)


def test_without_hidapi_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "hidraw", None)
    monkeypatch.setitem(sys.modules, "hid", None)
    with pytest.raises(RoboprefError, match=r"pip install 'robopref\[devices\]'"):
        load_hidapi()
    stand_in = types.ModuleType("hid")
    monkeypatch.setitem(sys.modules, "hid", stand_in)
    assert load_hidapi() is stand_in


def test_the_real_hidapi_answers():
    """No SpaceMouse is plugged into a test machine, but the library must load, list and refuse to open nothing."""
    hid = load_hidapi()
    assert isinstance(find_spacemice(hid), list)
    device = hid.device()
    with pytest.raises(OSError, match="open failed"):
        device.open_path(b"/dev/none")
    device.close()
