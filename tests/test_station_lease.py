import pytest
from hypothesis import given
from hypothesis import strategies as st

from robopref.human_io.station.lease import FREE, Lease


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def lease(clock):
    return Lease(grace=15, silence=2, clock=clock)


def test_the_first_visitor_drives_and_the_second_watches(lease):
    lease.join(1)
    lease.join(2)
    assert (lease.holder, lease.epoch) == (1, 1)
    assert lease.asking == []


def test_the_operator_hands_over_to_one_who_asked(lease):
    lease.join(1)
    lease.join(2)
    lease.grant(1, 2)  # nobody asked
    assert lease.holder == 1
    lease.ask(2)
    lease.ask(2)
    assert (lease.holder, lease.asking) == (1, [2])
    lease.grant(2, 2)  # nobody helps himself
    assert lease.holder == 1
    lease.grant(1, 2)
    assert (lease.holder, lease.epoch, lease.asking) == (2, 2, [])


def test_refused_and_withdrawn_wishes_are_gone(lease):
    for visitor in (1, 2, 3):
        lease.join(visitor)
    lease.ask(2)
    lease.ask(3)
    lease.refuse(2, 3)  # not the operator's word
    assert lease.asking == [2, 3]
    lease.refuse(1, 2)
    lease.withdraw(3)
    assert (lease.holder, lease.asking, lease.epoch) == (1, [], 1)


def test_whoever_comes_back_within_the_grace_drives_on_under_a_new_epoch(lease, clock):
    lease.join(1)
    lease.leave(1)
    assert (lease.holder, lease.connected) == (1, False)
    clock.now += 14
    assert not lease.tick()
    lease.join(2)
    assert lease.holder == 1
    lease.join(1)
    assert (lease.holder, lease.epoch, lease.connected) == (1, 2, True)


def test_after_the_grace_the_lease_is_free_for_whoever_asks(lease, clock):
    lease.join(1)
    lease.join(2)
    lease.leave(1)
    clock.now += 15
    assert lease.tick()
    assert lease.holder == FREE  # one who only watches does not find himself at the controls
    lease.ask(2)
    assert lease.holder == 2
    lease.join(1)
    assert lease.holder == 2


@pytest.mark.parametrize("gone", [True, False])
def test_a_silent_holder_cannot_keep_one_who_asks_waiting(lease, clock, gone):
    lease.join(1)
    lease.join(2)
    if gone:
        lease.leave(1)
    clock.now += 1.9
    lease.ask(2)
    assert lease.holder == 1
    lease.heard(2)  # the signs of life of others do not count
    clock.now += 0.2
    assert lease.tick()
    assert lease.holder == 2


def test_a_holder_who_speaks_is_not_silent(lease, clock):
    lease.join(1)
    lease.join(2)
    lease.ask(2)
    for _ in range(20):
        clock.now += 1
        lease.heard(1)
        assert not lease.tick()


def test_put_down_the_lease_goes_to_the_first_who_asked_else_to_nobody(lease):
    for visitor in (1, 2, 3):
        lease.join(visitor)
    lease.ask(3)
    lease.ask(2)
    lease.release(2)
    assert lease.holder == 1
    lease.release(1)
    assert (lease.holder, lease.asking) == (3, [2])
    lease.leave(2)
    lease.release(3)
    assert lease.holder == FREE
    lease.join(1)
    assert lease.holder == 1


verbs = st.tuples(
    st.sampled_from(["join", "leave", "ask", "withdraw", "heard", "release", "grant", "refuse", "wait"]),
    st.integers(1, 4),
    st.integers(1, 4),
)


@given(st.lists(verbs, max_size=60))
def test_whatever_happens_the_lease_has_one_holder_and_its_epoch_only_grows(happenings):
    clock = Clock()
    lease = Lease(grace=15, silence=2, clock=clock)
    for verb, who, whom in happenings:
        holder, epoch = lease.holder, lease.epoch
        if verb == "wait":
            clock.now += whom
            lease.tick()
        elif verb in ("grant", "refuse"):
            getattr(lease, verb)(who, whom)
        else:
            getattr(lease, verb)(who)
        assert lease.epoch >= epoch
        if lease.holder != holder:
            assert lease.epoch > epoch
        assert lease.holder not in lease.asking
        assert len(set(lease.asking)) == len(lease.asking)
        if lease.holder == FREE:
            assert not lease.connected
