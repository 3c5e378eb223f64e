"""A device in another process: whole messages only, taps and clicks once, and silence when that process dies."""

import time
from multiprocessing import get_context

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from teleop_sources import KEYS, PlayedSource

from robopref.errors import RoboprefError
from robopref.human_io.handover import State as HandoverState
from robopref.human_io.readings import Control, DeviceReading, InputSource, StationStatus
from robopref.human_io.remote_source import RemoteSource, SourceDescription, SourceLink, SourcePump
from robopref.human_io.shared_slot import SharedSlot
from robopref.human_io.station.inbox import Inbox
from robopref.human_io.station.messages import State
from robopref.human_io.station_operator import ActionLayout, StationConfig, StationOperator
from robopref.protocols import Mode, OperatorEvent

pytestmark = pytest.mark.alone

CONTEXT = get_context("spawn")
START = 5 * 10**9
ABOUT = SourceDescription("ann", "a pad", ("x", "y"))


class Wired:
    """Both ends in one process: ``turn`` is one of the station's, ``read`` one of the control loop's."""

    def __init__(self):
        self.reading = DeviceReading()
        self.source = PlayedSource(lambda n: vars(self.reading))
        link = SourceLink(CONTEXT)
        self.alive = True
        self.pump = SourcePump(link, self.source)
        self.remote = RemoteSource(link, ABOUT, lambda: self.alive)

    def turn(self, **fields):
        self.reading = DeviceReading(**fields)
        self.pump.turn()


def test_readings_and_statuses_arrive_as_they_were():
    wired = Wired()
    assert isinstance(wired.remote, InputSource)
    reading = {
        "keys": frozenset({"KeyW", "Space"}), "axes": (0.25, -1.0), "buttons": frozenset({0, 7}),
        "received_ns": 123456789012345678, "connected": True, "detail": "",
    }  # fmt: skip
    wired.turn(**reading)
    assert wired.remote.read() == DeviceReading(**reading)
    status = StationStatus(
        "HOLD", "no heartbeat", 2, 5, 7, 1.5, 1, 0.25, (("success", 1),), True, (0.5, 0.0), (1.0,), ("x", "y"), False,
        "go", "reach", 20.0, 1.25,
    )  # fmt: skip
    wired.remote.show(status)
    wired.turn()
    assert wired.source.shown == [status]
    wired.turn()
    assert wired.source.shown == [status]  # shown once


def test_before_the_first_reading_there_is_no_device():
    assert not Wired().remote.read().connected


def test_a_tap_between_two_readings_is_seen_once_and_no_longer():
    wired = Wired()
    wired.turn()
    wired.remote.read()
    wired.turn(keys=frozenset({"KeyY"}), buttons=frozenset({3}))
    wired.turn()
    wired.turn()
    seen = wired.remote.read()
    assert (seen.keys, seen.buttons) == ({"KeyY"}, {3})
    wired.turn()
    seen = wired.remote.read()
    assert (seen.keys, seen.buttons) == (frozenset(), frozenset())


def test_a_key_that_was_seen_is_let_go_at_once():
    wired = Wired()
    for _ in range(5):
        wired.turn(keys=frozenset({"KeyD"}))
        assert wired.remote.read().keys == {"KeyD"}
    wired.turn(keys=frozenset({"KeyD"}))
    wired.turn()  # released after the loop's last reading: no tap
    assert wired.remote.read().keys == frozenset()


@pytest.mark.parametrize("back", [False, True])
def test_a_tap_just_before_a_loss_is_told_with_it_once(back):
    wired = Wired()
    wired.turn(keys=frozenset({"KeyW"}))
    wired.remote.read()
    wired.turn(keys=frozenset({"KeyW", "KeyY"}), buttons=frozenset({3}))
    wired.turn(connected=False, detail="unplugged")
    if back:
        wired.turn(keys=frozenset({"KeyD"}))
    seen = wired.remote.read()
    # Without what it had seen already, and without what came after the loss.
    assert (seen.connected, seen.keys, seen.buttons) == (False, {"KeyY"}, {3})
    wired.turn()
    seen = wired.remote.read()
    assert (seen.connected, seen.keys, seen.buttons) == (True, frozenset(), frozenset())


def test_a_judgement_by_key_counts_when_the_line_breaks_before_the_loop_looks_again():
    now = [START]
    inbox = Inbox()
    inbox.open(1, "waiting for the page")
    link = SourceLink(CONTEXT)
    pump = SourcePump(link, PlayedSource(lambda n: vars(inbox.read())))
    config = StationConfig(autostart=True)
    operator = StationOperator(RemoteSource(link, ABOUT), KEYS, ActionLayout(("x",), -np.ones(1), np.ones(1)), config,
                               clock=lambda: now[0])  # fmt: skip

    def say(seq, *keys):
        now[0] += 10**7
        inbox.state(State(1, seq, now[0] / 1e6, frozenset(keys), (), frozenset(), "", ""), now[0])
        pump.turn()

    def tick():
        return operator.command({}, np.full(1, 0.5, np.float32))

    say(0)
    operator.reset({})
    say(1)
    assert operator.poll() is HandoverState.PAUSED
    say(2, "KeyH")
    assert operator.poll() is HandoverState.AUTONOMOUS
    say(3)
    assert tick().mode is Mode.FOLLOW
    say(4, "KeyN")
    inbox.lose("the connection is lost")
    pump.turn()
    assert tick().event is OperatorEvent.FAILURE
    assert operator.state is HandoverState.STOPPED


def test_a_loss_between_two_readings_is_seen_once():
    wired = Wired()
    wired.turn(keys=frozenset({"KeyD"}))
    wired.remote.read()
    wired.turn(connected=False, detail="the line broke")
    wired.turn(keys=frozenset({"KeyD"}), clicked=("stop",))
    wired.turn(keys=frozenset({"KeyD"}))
    seen = wired.remote.read()
    assert (seen.connected, seen.detail, seen.keys, seen.clicked) == (False, "the line broke", frozenset(), ("stop",))
    wired.turn(keys=frozenset({"KeyD"}))
    assert wired.remote.read().connected
    wired.turn(connected=False)
    assert not wired.remote.read().connected
    wired.turn(connected=False)
    wired.turn()
    assert wired.remote.read().connected  # the loss had been seen


def test_an_absence_between_two_readings_is_seen_once():
    wired = Wired()
    wired.turn()
    wired.remote.read()
    wired.turn(away="this tab is hidden")
    wired.turn(keys=frozenset({"KeyD"}))
    seen = wired.remote.read()
    assert (seen.connected, seen.away, seen.keys) == (True, "this tab is hidden", frozenset({"KeyD"}))
    wired.turn(keys=frozenset({"KeyD"}))
    assert wired.remote.read().away == ""


def test_what_the_source_dropped_is_known_on_the_other_side():
    wired = Wired()
    wired.turn()
    assert wired.remote.dropped == {}
    wired.source.dropped = {"stale": 3}
    wired.turn()
    assert wired.remote.dropped == {"stale": 3}


moves = st.lists(st.one_of(st.just("read"), st.lists(st.sampled_from(list(Control)), max_size=3)), max_size=60)


@settings(max_examples=100)
@given(moves)
def test_every_click_is_delivered_once_and_in_order(sequence):
    wired = Wired()
    made, got = [], []
    for move in sequence:
        if move == "read":
            got += wired.remote.read().clicked
        else:
            wired.turn(clicked=tuple(move))
            made += move
    wired.turn()
    got += wired.remote.read().clicked
    assert got == made
    assert wired.remote.read().clicked == ()


def test_a_station_that_stands_still_sends_the_same_reading_and_one_that_died_says_so():
    wired = Wired()
    wired.turn(keys=frozenset({"KeyD"}), received_ns=5)
    first = wired.remote.read()
    assert wired.remote.read() == first
    wired.alive = False
    after = wired.remote.read()
    assert not after.connected
    assert "ended" in after.detail


def write_messages(slot, count):
    for i in range(count):
        slot.put(bytes([i % 251]) * (1000 + i % 3000))
        if i % 4 == 0:  # some come in a burst, some with a pause after them
            time.sleep(0.0005)


def test_a_message_is_whole_or_it_is_the_one_before():
    slot = SharedSlot(CONTEXT, 4000)
    assert slot.get() == (0, b"")
    count = 4_000
    writer = CONTEXT.Process(target=write_messages, args=(slot, count))
    writer.start()
    last, seen = 0, 0
    while last < count:
        number, message = slot.get()
        assert number >= last
        seen += number != last
        last = number
        assert number == 0 or message == bytes([(number - 1) % 251]) * (1000 + (number - 1) % 3000)
        assert writer.is_alive() or slot.get()[0] == count
    writer.join()
    assert seen > 100


def test_a_torn_message_is_not_taken():
    slot = SharedSlot(CONTEXT, 100)
    slot.put(b"whole")
    assert slot.get() == (1, b"whole")
    slot.put(b"other")
    slot._memory[24] ^= 1  # a byte that did not get there
    assert slot.get() == (1, b"whole")
    slot.put(b"third")
    assert slot.get() == (3, b"third")


def test_a_message_that_is_too_long_is_refused():
    with pytest.raises(RoboprefError, match="does not fit"):
        SharedSlot(CONTEXT, 10).put(b"x" * 11)
