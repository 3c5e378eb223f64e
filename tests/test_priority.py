"""The loop's priority, as far as this machine lets a test see it."""

import os
import sys
import threading

import pytest

from robopref.human_io.priority import real_time_priority

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux has these schedulers"),
]


def policy():
    return os.sched_getscheduler(0)


def test_it_ends_with_the_block_and_threads_started_inside_have_it():
    before, seen = policy(), []
    with real_time_priority() as allowed:
        assert policy() == (os.SCHED_RR if allowed else before)
        thread = threading.Thread(target=lambda: seen.append(policy()))
        thread.start()
        thread.join()
        assert seen == [policy()]
    assert policy() == before


def test_where_it_is_forbidden_nothing_changes(monkeypatch):
    def forbidden(*arguments):
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", forbidden)
    before = policy()
    with real_time_priority() as allowed:
        assert not allowed
        assert policy() == before
