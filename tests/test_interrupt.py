"""A wish to stop that came in one stage is known to whatever runs the stages."""

import os
import signal

import pytest

from robopref.cli.interrupt import graceful_interrupt


def test_a_wish_within_is_known_outside_and_in_the_next_stage():
    with graceful_interrupt() as outer:
        with graceful_interrupt() as first:
            os.kill(os.getpid(), signal.SIGTERM)
            assert first()
        assert outer()
        assert outer.signal is signal.SIGTERM
        with graceful_interrupt() as second:
            assert second()


def test_nothing_is_left_of_a_wish_afterwards():
    with graceful_interrupt():
        os.kill(os.getpid(), signal.SIGINT)
    with graceful_interrupt() as later:
        assert not later()


def test_the_second_wish_interrupts_also_where_the_first_came_in_an_earlier_stage():
    with graceful_interrupt():
        with graceful_interrupt():
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
