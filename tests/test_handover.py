"""The state table, cell by cell against an account of its own, and what must hold of any sequence of signals."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from robopref.human_io.handover import TABLE, Signal, State, next_state

# Written down independently: from each state, the signals that lead elsewhere. All others leave it as it is.
MOVES = {
    ("AUTONOMOUS", "TAKE_OVER"): "TAKEOVER",
    ("AUTONOMOUS", "PAUSE"): "PAUSED",
    ("AUTONOMOUS", "AWAY"): "HOLD",
    ("AUTONOMOUS", "LOST"): "HOLD",
    ("AUTONOMOUS", "EXPIRE"): "STOPPED",
    ("AUTONOMOUS", "END"): "STOPPED",
    ("AUTONOMOUS", "STOP"): "STOPPED",
    ("TAKEOVER", "RELEASE"): "HOLD",
    ("TAKEOVER", "HAND_BACK"): "AUTONOMOUS",
    ("TAKEOVER", "PAUSE"): "PAUSED",
    ("TAKEOVER", "AWAY"): "HOLD",
    ("TAKEOVER", "LOST"): "HOLD",
    ("TAKEOVER", "EXPIRE"): "STOPPED",
    ("TAKEOVER", "END"): "STOPPED",
    ("TAKEOVER", "STOP"): "STOPPED",
    ("HOLD", "TAKE_OVER"): "TAKEOVER",
    ("HOLD", "HAND_BACK"): "AUTONOMOUS",
    ("HOLD", "PAUSE"): "PAUSED",
    ("HOLD", "EXPIRE"): "STOPPED",
    ("HOLD", "END"): "STOPPED",
    ("HOLD", "STOP"): "STOPPED",
    ("PAUSED", "TAKE_OVER"): "TAKEOVER",
    ("PAUSED", "HAND_BACK"): "AUTONOMOUS",
    ("PAUSED", "PAUSE"): "AUTONOMOUS",
    ("PAUSED", "END"): "STOPPED",
    ("PAUSED", "STOP"): "STOPPED",
}
MOVING = {State.AUTONOMOUS, State.TAKEOVER}
WORDS = {Signal.TAKE_OVER, Signal.HAND_BACK, Signal.PAUSE}
signals = st.lists(st.sampled_from(Signal), max_size=12)


def test_every_cell_of_the_table():
    assert set(TABLE) == set(State)
    for state, signal in itertools.product(State, Signal):
        expected = MOVES.get((state.name, signal.name), state.name)
        assert TABLE[state][signal].name == expected, (state, signal)


def test_the_table_in_the_documentation_is_the_one_that_is_used():
    import robopref.human_io.handover as module

    lines = [line.split() for line in module.__doc__.splitlines() if line.startswith("    ")]
    rows = {words[0]: words for words in lines}
    columns = ["TAKE_OVER", "RELEASE", "HAND_BACK", "PAUSE", "AWAY", "LOST", "EXPIRE", "END"]
    for state in State:
        for column, cell in zip(columns, rows[state][1:], strict=True):
            expected = state if cell == "-" else State(cell)
            assert TABLE[state][Signal[column]] is expected, (state, column)
        assert TABLE[state][Signal.STOP] is TABLE[state][Signal.END]


@given(st.sampled_from(State), signals)
def test_a_stopped_episode_stays_stopped(state, sequence):
    assert next_state(State.STOPPED, sequence) is State.STOPPED
    assert next_state(next_state(state, [Signal.STOP]), sequence) is State.STOPPED


@given(st.sampled_from(State), st.sampled_from([Signal.LOST, Signal.AWAY]), signals)
def test_nothing_moves_after_silence_or_absence_but_at_the_operators_word(state, gone, sequence):
    state = next_state(state, [gone])
    assert state not in MOVING
    assert next_state(state, [s for s in sequence if s not in WORDS]) not in MOVING


@given(st.sampled_from(State), signals)
def test_signals_are_taken_one_after_another(state, sequence):
    expected = state
    for signal in sequence:
        expected = State(MOVES.get((expected.name, signal.name), expected.name))
    assert next_state(state, sequence) is expected
