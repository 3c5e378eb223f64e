"""Who drives when the next episode begins: the policy, or nobody until the operator has said so."""

from operator_bench import Bench

from robopref.human_io.handover import State
from robopref.protocols import Mode


def test_a_device_that_is_back_before_the_next_episode_does_not_start_it():
    bench = Bench(abort_after=1.0)
    bench.tick()
    modes = [bench.tick(connected=False).mode for _ in range(30)]
    assert modes[-1] is Mode.STOP
    bench.reset()  # the device is back while the next episode is laid out
    assert [bench.poll() for _ in range(5)] == [State.PAUSED] * 5
    assert "waiting for you" in bench.shown.reason
    assert bench.poll("KeyH") is State.AUTONOMOUS
    bench.tick()
    bench.reset()
    assert bench.operator.state is State.AUTONOMOUS  # that word stands


def test_an_episode_that_ran_out_in_hold_leaves_the_next_one_waiting():
    bench = Bench()
    bench.tick()
    bench.tick(connected=False)
    assert bench.tick().mode is Mode.HOLD  # it is back, and the task's own time limit ends the episode here
    bench.reset()
    assert bench.poll() is State.PAUSED
    bench.tick("Enter")  # ends this one, and is no word on who drives
    bench.reset()
    assert bench.poll() is State.PAUSED
    assert bench.poll("Space") is State.TAKEOVER


def test_letting_go_and_judging_does_not_let_the_policy_start():
    bench = Bench(hold_to_run=True)
    bench.tick()
    bench.tick("Space")
    assert bench.tick().mode is Mode.HOLD
    assert bench.tick("KeyY").mode is Mode.STOP
    bench.reset()
    assert bench.operator.state is State.PAUSED


def test_a_handover_out_of_hold_is_a_word_for_the_next_episode_too():
    bench = Bench()
    bench.tick(connected=False)
    bench.tick()
    assert bench.tick("KeyH").mode is Mode.FOLLOW
    bench.reset()
    assert bench.operator.state is State.AUTONOMOUS


def test_a_pause_asked_for_while_an_episode_is_laid_out_never_starts_it():
    bench = Bench()
    bench.tick(connected=False)
    bench.reset(clicked=("pause",))
    assert bench.operator.state is State.PAUSED
    bench.reset(clicked=("pause",), connected=False)
    assert bench.operator.state is State.PAUSED
    assert bench.poll(clicked=("pause",)) is State.AUTONOMOUS  # seen waiting, then told to go on


def test_stop_between_episodes_is_not_forgotten():
    bench = Bench()
    bench.reset(clicked=("stop",))
    assert bench.operator.stop_requested
    assert bench.tick().mode is Mode.STOP


def test_the_first_episode_waits_for_the_operator_and_the_next_does_not():
    bench = Bench(autostart=False)
    assert bench.operator.state is State.PAUSED
    assert bench.shown.reason.startswith("waiting for you")
    assert bench.poll("Space") is State.TAKEOVER
    bench.reset()
    assert bench.operator.state is State.AUTONOMOUS


def test_what_is_pressed_while_an_episode_is_being_laid_out_counts():
    bench = Bench()
    bench.reset(clicked=("take_over",))
    assert bench.tick().mode is Mode.TAKE_OVER
    bench.reset(clicked=("pause",))
    assert bench.operator.state is State.PAUSED
