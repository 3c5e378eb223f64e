import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robopref.human_io.station.inbox import DelayGauge, Inbox
from robopref.human_io.station.messages import Click, MalformedMessageError, State, parse_control, parse_video

MS = 1_000_000
START = 5_000 * MS  # where the server's clock is when the page's is at 0


def state(seq, at_ms, keys=(), *, epoch=1, axes=(), buttons=(), device="", away=""):
    return State(epoch, seq, float(at_ms), frozenset(keys), tuple(axes), frozenset(buttons), device, away)


@pytest.fixture
def inbox():
    box = Inbox()
    box.open(1, "waiting for the page")
    return box


def driving(box):
    """Past the first reading, which is never connected."""
    assert box.state(state(0, 0), START)
    assert not box.read().connected
    assert box.read().connected
    return box


def test_before_anybody_speaks_nothing_is_connected(inbox):
    for _ in range(3):
        reading = inbox.read()
        assert not reading.connected
        assert reading.detail == "waiting for the page"


def test_the_newest_state_counts_and_carries_the_time_it_came(inbox):
    driving(inbox)
    inbox.state(state(1, 10, ["KeyW"], axes=[0.5]), START + 12 * MS)
    inbox.state(state(2, 20, ["KeyW", "KeyD"], axes=[0.7], buttons=[3], device="pad"), START + 22 * MS)
    reading = inbox.read()
    assert (reading.keys, reading.axes, reading.buttons) == ({"KeyW", "KeyD"}, (0.7,), {3})
    assert reading.received_ns == START + 22 * MS
    assert inbox.device == "pad"
    assert inbox.read() == reading  # still held, and no older than it is


def test_a_tap_shorter_than_a_tick_is_in_exactly_one_reading(inbox):
    driving(inbox)
    inbox.state(state(1, 10, ["KeyH"], buttons=[5]), START + 10 * MS)
    inbox.state(state(2, 12), START + 12 * MS)
    assert (inbox.read().keys, inbox.read().keys) == ({"KeyH"}, frozenset())
    inbox.state(state(3, 20, [], buttons=[5]), START + 20 * MS)
    inbox.state(state(4, 22), START + 22 * MS)
    assert (inbox.read().buttons, inbox.read().buttons) == ({5}, frozenset())


def test_a_key_that_was_seen_is_zero_as_soon_as_it_is_released(inbox):
    driving(inbox)
    inbox.state(state(1, 10, ["KeyW"]), START + 10 * MS)
    assert inbox.read().keys == {"KeyW"}
    inbox.state(state(2, 12), START + 12 * MS)
    assert inbox.read().keys == frozenset()


def test_clicks_are_delivered_once_in_order(inbox):
    driving(inbox)
    for seq, control in enumerate(["take_over", "pause", "pause"], start=1):
        inbox.click(Click(1, seq, seq * 10.0, control), START + seq * 10 * MS)
    assert inbox.read().clicked == ("take_over", "pause", "pause")
    assert inbox.read().clicked == ()


def test_replayed_and_stale_messages_are_dropped_and_counted(inbox):
    driving(inbox)
    message = state(1, 10, ["KeyW"])
    assert inbox.state(message, START + 10 * MS)
    assert inbox.state(state(2, 20), START + 20 * MS)
    assert not inbox.state(message, START + 30 * MS)  # recorded on the way and sent again
    assert not inbox.click(Click(1, 2, 30.0, "take_over"), START + 30 * MS)
    assert not inbox.state(state(9, 40, ["KeyW"], epoch=0), START + 40 * MS)
    assert not inbox.state(state(9, 40, ["KeyW"], epoch=2), START + 40 * MS)
    inbox.read()  # the tap
    assert inbox.read().keys == frozenset()
    assert (inbox.counts.accepted, inbox.counts.replayed, inbox.counts.stale) == (3, 2, 2)


def test_what_a_stalled_line_delivers_late_is_not_obeyed_and_is_no_sign_of_life(inbox):
    driving(inbox)
    inbox.state(state(1, 50, ["KeyW"]), START + 51 * MS)
    inbox.read()
    # The line stands still for 400 ms, then everything comes at once.
    for seq, sent in enumerate(range(100, 451, 50), start=2):
        inbox.state(state(seq, sent, ["KeyW"]), START + 452 * MS)
        if 452 - sent > 250:
            reading = inbox.read()
            assert reading.keys == frozenset()
            assert reading.received_ns == START + 51 * MS
    assert inbox.counts.delayed == 3  # the hundred, the hundred and fifty and the two hundred
    assert inbox.read().received_ns == START + 452 * MS


def test_stop_counts_however_late_it_comes_but_not_twice(inbox):
    driving(inbox)
    assert not inbox.click(Click(1, 1, 10.0, "take_over"), START + 900 * MS)
    assert inbox.click(Click(1, 2, 10.0, "stop"), START + 900 * MS)
    assert not inbox.click(Click(1, 2, 10.0, "stop"), START + 901 * MS)
    assert inbox.read().clicked == ("stop",)


def test_a_loss_is_in_one_reading_however_soon_the_page_is_back(inbox):
    driving(inbox)
    inbox.state(state(1, 10, ["KeyW"], axes=[1.0], buttons=[1]), START + 10 * MS)
    inbox.click(Click(1, 2, 11.0, "success"), START + 11 * MS)
    inbox.lose("the connection is lost")
    assert not inbox.state(state(3, 12, ["KeyW"]), START + 12 * MS)  # was still on the way
    inbox.open(2, "waiting for the page")
    assert inbox.state(state(1, 20, ["KeyW"], epoch=2), START + 20 * MS)
    reading = inbox.read()
    assert not reading.connected
    assert (reading.keys, reading.axes, reading.buttons) == (frozenset(), (), frozenset())
    assert (inbox.read().connected, inbox.read().keys) == (True, {"KeyW"})


def test_a_judgement_given_just_before_the_line_broke_counts(inbox):
    driving(inbox)
    inbox.state(state(1, 8, ["KeyW"]), START + 8 * MS)
    inbox.read()
    inbox.click(Click(1, 2, 10.0, "success"), START + 10 * MS)
    inbox.state(state(3, 11, ["KeyW", "KeyY"], axes=[1.0], buttons=[3]), START + 11 * MS)
    inbox.lose("the connection is lost")
    reading = inbox.read()
    assert (reading.connected, reading.clicked) == (False, ("success",))
    assert (reading.keys, reading.axes, reading.buttons) == ({"KeyY"}, (), {3})  # what was held drives no more
    reading = inbox.read()
    assert (reading.connected, reading.keys, reading.buttons) == (False, frozenset(), frozenset())


def test_what_one_operator_clicked_is_not_the_next_ones(inbox):
    driving(inbox)
    inbox.click(Click(1, 1, 10.0, "success"), START + 10 * MS)
    inbox.open(2, "handed over")
    assert inbox.read().clicked == ()


def test_clocks_that_drift_apart_slowly_delay_nothing():
    gauge = DelayGauge()
    for second in range(4000):
        sent = second * 1000.0
        assert gauge.delay(sent, 77.0 + sent * 1.0001) < 10  # 100 ppm: 400 ms over the whole time


@given(st.lists(st.floats(0, 500), min_size=1, max_size=50))
def test_a_delay_is_measured_against_the_quickest_so_far(delays):
    gauge = DelayGauge()
    for i, delay in enumerate(delays):
        sent = i * 50.0
        expected = delay - min(delays[: i + 1])
        assert gauge.delay(sent, 1e6 + sent + delay) == pytest.approx(expected, abs=1e-6)


def test_an_absence_between_two_readings_is_seen_once(inbox):
    driving(inbox)
    inbox.state(state(1, 10, away="this tab is hidden"), START + 10 * MS)
    inbox.state(state(2, 20, ["KeyW"]), START + 20 * MS)
    seen = inbox.read()
    assert (seen.away, seen.connected) == ("this tab is hidden", True)
    assert inbox.read().away == ""
    inbox.state(state(3, 30, away="this tab is hidden"), START + 30 * MS)
    assert [inbox.read().away for _ in range(3)] == ["this tab is hidden"] * 3
    inbox.state(state(4, 40, ["Space"]), START + 40 * MS)
    assert inbox.read().away == ""  # the first key after coming back counts


# What a page may say


def test_every_message_of_the_page_is_read():
    text = (
        '{"type": "state", "epoch": 3, "seq": 9, "sent_ms": 1.5, "keys": ["KeyW", "Fn"], "axes": [0, -1, 0.25], '
        '"buttons": [0, 63], "device": "Xbox 360 Controller (STANDARD GAMEPAD)", "away": ""}'
    )
    name = "Xbox 360 Controller (STANDARD GAMEPAD)"
    assert parse_control(text) == State(
        3, 9, 1.5, frozenset({"KeyW"}), (0.0, -1.0, 0.25), frozenset({0, 63}), name, ""
    )  # Fn is a key of some keyboards that nothing can be bound to
    assert parse_control('{"type": "click", "epoch": 1, "seq": 2, "sent_ms": 3, "control": "stop"}').control == "stop"
    assert parse_control('{"type": "grant", "visitor": 2}').visitor == 2
    assert parse_video('{"type": "shown", "frame": 7, "age_ms": -1}').frame == 7


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
types = ["state", "click", "alive", "ask", "grant", "rebind", "invert", "defaults", "shown", "invite"]
fields = ["epoch", "seq", "sent_ms", "keys", "axes", "buttons", "device", "away", "control", "visitor", "name", "frame"]


@given(
    st.one_of(
        st.text(),
        json_values,
        st.fixed_dictionaries({"type": st.sampled_from(types)}, optional=dict.fromkeys(fields, json_values)),
    )
)
def test_nothing_that_a_page_says_raises_anything_else(value):
    text = value if isinstance(value, str) else json.dumps(value)
    for parse in (parse_control, parse_video):
        with contextlib.suppress(MalformedMessageError):
            parse(text)
