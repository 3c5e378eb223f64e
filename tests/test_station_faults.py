"""What goes wrong at the page and on the way, and that the robot is still when nobody is there to drive it."""

import os
import signal
import time
from contextlib import contextmanager

import numpy as np
import pytest
from station_browser import GAMEPAD, chromium_path, insist, until
from station_pages import browser as browser
from station_pages import mode, until_executed, until_mode
from station_session import Session

from robopref.human_io.readings import Control
from robopref.trajectory import Actor, Outcome

pytestmark = [pytest.mark.alone, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def visit(browser):
    """Opens an address as a visitor of his own."""
    contexts = []

    def open_at(address):
        contexts.append(browser.new_context(viewport={"width": 1366, "height": 860}))
        page = contexts[-1].new_page()
        page.goto(address)
        return page

    yield open_at
    for context in contexts:
        context.close()


def until_ready(page):
    until(lambda: "waiting for you" in page.inner_text("#mode-reason"), "it can begin")


def drive(session, page, key="KeyW", action=(0, 1, 0, 0)):
    """Takes over and pushes, until the robot does so."""
    wanted = np.asarray(action, np.float32)
    for _ in range(10):
        insist(page, "Space", lambda: mode(page) == "TAKEOVER", "the operator drives")
        page.keyboard.down(key)
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            if session.operator.state == "TAKEOVER" and np.allclose(session.robot.executed[-1], wanted, atol=0.005):
                return
            time.sleep(0.01)
        page.keyboard.up(key)
    raise AssertionError(f"{action} was never executed")


def judge(session, page, key="KeyY"):
    """Ends the last episode."""
    insist(page, key, lambda: session.played, "the session ends")
    session.wait_until_played()


def is_still(session):
    """Nobody drives, and what is executed is nothing."""
    return session.operator.state == "HOLD" and not np.any(session.robot.executed[-1])


@contextmanager
def a_session(tmp_path, **options):
    with Session(tmp_path / "data", episodes=options.pop("episodes", 1), **options) as session:
        yield session


def checked(session):
    """Every step that the robot made is in the recordings, as it was made."""
    episodes = [session.store.read(episode) for episode in session.store.episode_ids()]
    recorded = np.concatenate([episode.action for episode in episodes])
    np.testing.assert_array_equal(recorded, np.stack(session.robot.executed))
    held = np.concatenate([episode.actor for episode in episodes]) == Actor.HOLD
    assert not recorded[held].any()
    return episodes


def test_a_socket_cut_in_mid_takeover_holds_and_comes_back_without_driving_on(tmp_path, visit):
    with a_session(tmp_path) as session:
        page = visit(session.source.address)
        until_ready(page)
        drive(session, page)
        page.evaluate("station.testing.line.cut()")
        until(lambda: is_still(session), "the robot holds")
        until(lambda: "is back" in page.inner_text("#mode-reason"), "the page is connected again")
        time.sleep(0.3)
        assert is_still(session)  # the key is still down, and that does not make the robot move
        page.keyboard.up("KeyW")
        drive(session, page, "KeyA", (-1, 0, 0, 0))
        page.keyboard.up("KeyA")
        judge(session, page)
    (episode,) = checked(session)
    assert episode.info.outcome is Outcome.SUCCESS
    assert {Actor.HUMAN, Actor.HOLD} <= set(episode.actor)


def test_a_browser_that_is_killed_leaves_an_aborted_episode_with_every_step(tmp_path, browser):
    with a_session(tmp_path, abort_after=3.0) as session:
        victim = browser.browser_type.launch(executable_path=chromium_path(), args=["--no-sandbox"])
        page = victim.new_page()
        page.goto(session.source.address)
        until_ready(page)
        drive(session, page)
        processes = victim.new_browser_cdp_session().send("SystemInfo.getProcessInfo")["processInfo"]
        (main,) = [process["id"] for process in processes if process["type"] == "browser"]
        os.kill(main, signal.SIGKILL)
        until(lambda: is_still(session), "the robot holds")
        assert "closed" in session.operator._reason
        session.wait_until_played()
    (episode,) = checked(session)
    assert episode.info.outcome is Outcome.ABORTED
    assert episode.actor[-1] == Actor.HOLD


def test_a_frozen_page_is_no_sign_of_life(tmp_path, visit):
    with a_session(tmp_path, heartbeat_timeout=0.25) as session:
        page = visit(session.source.address)
        until_ready(page)
        drive(session, page)
        # The worker's timer goes on, but the page that knows the keys does not: it must not be spoken for.
        page.evaluate("() => { const end = performance.now() + 700; while (performance.now() < end); }")
        # ... and while it hung the robot stopped: the recordings say so.
        page.keyboard.up("KeyW")
        judge(session, page, "KeyN")
    (episode,) = checked(session)
    assert (episode.actor == Actor.HOLD).sum() >= 5


def test_stalls_of_300_ms_in_the_page_cost_no_step(tmp_path, visit):
    with a_session(tmp_path, heartbeat_timeout=0.25) as session:
        page = visit(session.source.address)
        until_ready(page)
        for _ in range(6):
            insist(page, "Space", lambda: mode(page) == "TAKEOVER", "the operator drives")
            page.evaluate("() => { const end = performance.now() + 300; while (performance.now() < end); }")
        judge(session, page)
    (episode,) = checked(session)
    assert episode.info.outcome is Outcome.SUCCESS


def test_a_network_that_stands_still_and_then_delivers_all_at_once(tmp_path, visit):
    with a_session(tmp_path) as session:
        page = visit(session.source.address)
        until_ready(page)
        drive(session, page)
        # Messages pile up in the page as they would in a network, and then come in one burst.
        page.evaluate(
            "() => { const send = WebSocket.prototype.send; const held = [];"
            " WebSocket.prototype.send = function (data) {"
            "   this.url.endsWith('/control') ? held.push([this, data]) : send.call(this, data); };"
            " window.deliver = () => { WebSocket.prototype.send = send;"
            "   for (const [socket, data] of held) send.call(socket, data); }; }"
        )
        until(lambda: is_still(session), "the robot holds")
        page.wait_for_timeout(400)
        page.evaluate("deliver()")
        until(lambda: session.source.counts.delayed >= 5, "what came late is counted")
        page.wait_for_timeout(200)
        assert is_still(session)
        page.keyboard.up("KeyW")
        drive(session, page, "KeyD", (1, 0, 0, 0))
    checked(session)


@pytest.mark.parametrize("late_ms", [0, 600])
@pytest.mark.parametrize("by", ["key", "button"])
def test_stop_by_key_or_button_is_obeyed_once_however_late_it_comes(tmp_path, visit, monkeypatch, by, late_ms):
    with a_session(tmp_path) as session:
        page = visit(session.source.address)
        page.evaluate(GAMEPAD)
        until_ready(page)
        drive(session, page)
        obeyed, obey = [], session.operator._obey
        monkeypatch.setattr(session.operator, "_obey", lambda control: (obeyed.append(control), obey(control)))
        page.evaluate(
            "(late) => { const send = WebSocket.prototype.send; WebSocket.prototype.send = function (data) {"
            "   if (this.url.endsWith('/control')) setTimeout(() => send.call(this, data), late);"
            "   else send.call(this, data); }; }",
            late_ms,
        )
        if by == "key":
            page.keyboard.press("Escape", delay=150)  # several ticks and heartbeats long
        else:
            page.evaluate("testPad.button(8, true)")
            page.wait_for_timeout(150)
            page.evaluate("testPad.button(8, false)")
        session.wait_until_played()
    (episode,) = checked(session)
    assert episode.info.outcome is Outcome.ABORTED
    assert session.operator.stop_requested
    assert obeyed == [Control.STOP]


def test_of_two_browsers_one_drives_and_the_other_watches_asks_and_is_handed_the_controls(tmp_path, visit):
    with a_session(tmp_path) as session:
        first = visit(session.source.address)
        until_ready(first)
        second = visit(session.addresses[-1])
        until(lambda: "Read only" in second.inner_text("#watching"), "the second one is told")
        until(lambda: "old" in second.inner_text("#frame-age"), "and sees")
        assert second.locator("#controls button:enabled").count() == 0
        second.keyboard.press("Space")
        second.keyboard.press("Escape")
        drive(session, first)
        assert mode(second) == "TAKEOVER"
        assert second.inner_text("#mode-name") == "The operator drives"
        epoch = session.source.server.lease.epoch
        # A page that pretends to have the lease is not listened to.
        second.evaluate(
            f"station.testing.line.send({{type: 'state', epoch: {epoch}, seq: 999999, sent_ms: performance.now(),"
            " keys: ['KeyS'], axes: [], buttons: [], device: '', away: ''})"
        )
        second.evaluate(
            f"station.testing.line.send({{type: 'click', epoch: {epoch}, seq: 1000000, sent_ms: performance.now(),"
            " control: 'stop'})"
        )
        time.sleep(0.3)
        until_executed(session.robot, (0, 1, 0, 0))
        # Asked, refused, asked again, handed over.
        second.click("#ask")
        until(lambda: first.locator("#asked").is_visible(), "the operator is asked")
        first.get_by_role("button", name="Keep").click()
        until(lambda: "keeps the controls" in second.inner_text("#notice"), "the visitor is answered")
        second.click("#ask")
        first.get_by_role("button", name="Hand over").click()
        until(lambda: second.locator("#controls button:enabled").count() == 8, "the visitor has the controls")
        until(lambda: is_still(session), "nobody drives at the moment of handing over")
        assert session.source.server.lease.epoch == epoch + 1
        first.keyboard.up("KeyW")
        first.keyboard.down("KeyS")  # the old operator's keys mean nothing now
        drive(session, second, "KeyA", (-1, 0, 0, 0))
        first.keyboard.up("KeyS")
        second.keyboard.up("KeyA")
        judge(session, second)
    (episode,) = checked(session)
    assert not (episode.action[:, 1] < -0.25).any()  # nobody's KeyS was ever executed
    assert session.source.counts.accepted > 0


def test_a_flood_ten_times_over_from_the_operators_own_page_is_cut_and_the_robot_holds(tmp_path, visit):
    with a_session(tmp_path) as session:
        page = visit(session.source.address)
        until_ready(page)
        drive(session, page)
        page.evaluate(
            "() => { let n = 0; window.flood = setInterval(() => { for (let i = 0; i < 40; i++)"
            " station.testing.line.send({type: 'alive', sent_ms: performance.now()});"
            " if (++n > 60) clearInterval(flood); }, 20); }"
        )
        until(lambda: session.source.server.closed_for_cause >= 1, "the flood is cut")
        until(lambda: is_still(session), "the robot holds")
        page.keyboard.up("KeyW")
        until(lambda: "is back" in page.inner_text("#mode-reason"), "the page comes back when it is over")
        judge(session, page)
    checked(session)


def test_a_hidden_tab_in_another_window_keeps_its_heart_beating(tmp_path, visit):
    with a_session(tmp_path) as session:
        page = visit(session.source.address)
        until_ready(page)
        page.keyboard.press("KeyH")
        until_mode(page, "AUTONOMOUS")
        # Timers of a page in the background come once a second; those of a worker do not.
        page.evaluate("() => { const later = window.setTimeout; window.setTimeout = (f, t) => later(f, t + 1000); }")
        page.evaluate(
            "Object.defineProperty(document, 'hidden', {value: true, configurable: true});"
            "document.dispatchEvent(new Event('visibilitychange'))"
        )
        before = session.source.counts.accepted
        time.sleep(1.0)
        assert session.source.counts.accepted - before >= 10
        assert session.operator.state == "HOLD"  # nobody sees what the policy would do
        assert "this tab is hidden" in page.inner_text("#mode-reason")  # and not for want of a heartbeat


def test_a_second_tab_of_the_same_session_takes_its_place(tmp_path, visit):
    with a_session(tmp_path) as session:
        page = visit(session.source.address)
        until_ready(page)
        copy = page.context.new_page()
        storage = page.evaluate("JSON.stringify(sessionStorage)")
        copy.add_init_script(f"for (const [k, v] of Object.entries({storage})) sessionStorage.setItem(k, v);")
        copy.goto(session.source.address.split("#")[0])
        until(lambda: "another tab" in page.inner_text("#mode-reason"), "the first tab is told")
        until_ready(copy)
        drive(session, copy)
        time.sleep(0.5)
        assert mode(copy) == "TAKEOVER"  # and the first tab does not fight for it


def test_the_end_of_the_session_is_told(tmp_path, visit):
    with a_session(tmp_path) as session:
        page = visit(session.source.address)
        until_ready(page)
        session.end()
        until(lambda: page.inner_text("#mode-name") == "Session over", "the page says so")
