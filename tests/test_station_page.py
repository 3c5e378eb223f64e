"""Whole sessions in a real browser: what a person does at the page, and what of it is in the recordings."""

import time

import numpy as np
import pytest
from station_browser import GAMEPAD, until
from station_pages import browser as browser
from station_pages import open_page as open_page
from station_pages import patience as patience
from station_pages import recorded, until_executed, until_mode, until_ready
from station_session import Session

from robopref.trajectory import Actor, Outcome

pytestmark = [pytest.mark.alone, pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_whole_session_by_keyboard_is_in_the_recordings_as_it_was_played(tmp_path, open_page):
    proposed = (0.5, -0.2, 0.0, 0.0)
    with Session(tmp_path / "data", episodes=1, proposed=proposed) as session:
        page = open_page(session.source.address)
        until_ready(page)  # nothing moves before the operator says so
        assert session.robot.executed == []
        page.keyboard.press("KeyH")
        until_mode(page, "AUTONOMOUS")
        until_executed(session.robot, proposed)
        page.keyboard.press("Space")
        until_mode(page, "TAKEOVER")
        page.keyboard.down("KeyD")
        page.keyboard.down("KeyS")
        until_executed(session.robot, (1, -1, 0, 0))
        page.keyboard.up("KeyS")
        until_executed(session.robot, (1, 0, 0, 0))
        page.keyboard.up("KeyD")
        until_executed(session.robot, (0, 0, 0, 0))
        page.keyboard.press("KeyH")
        until_executed(session.robot, proposed)
        page.keyboard.press("KeyY")
        session.wait_until_played()
    (episode,) = recorded(session)
    assert episode.info.outcome is Outcome.SUCCESS
    assert episode.info.operator_id == "web"
    np.testing.assert_array_equal(episode.action, np.stack(session.robot.executed))  # not a step is missing
    drove = episode.actor == Actor.HUMAN
    first, last = np.flatnonzero(drove)[[0, -1]]
    assert drove[first : last + 1].all()  # one takeover, from one handover to the other
    np.testing.assert_array_equal(episode.human_action[drove], episode.action[drove])
    assert (episode.actor[-1], *episode.action[-1]) == (Actor.HOLD, 0, 0, 0, 0)  # judged, and left at rest
    watched = episode.actor == Actor.POLICY
    np.testing.assert_allclose(episode.action[watched], np.tile(proposed, (watched.sum(), 1)), atol=1e-6)
    np.testing.assert_allclose(episode.policy_action, np.tile(proposed, (len(episode), 1)), atol=1e-6)
    assert np.abs(np.diff(episode.action[first - 1 : last + 1], axis=0)).max() <= 1.0  # a release is at once
    x, y = episode.human_action[drove][:, :2].T
    assert x.max() == 1
    assert y.min() == -1
    assert np.abs(np.diff(x[: x.argmax() + 1])).max() <= 0.34  # and a push has a ramp of 0.15 s


def test_by_gamepad(tmp_path, open_page):
    with Session(tmp_path / "data", episodes=1) as session:
        page = open_page(session.source.address, GAMEPAD)

        def tap(button):
            page.evaluate(f"testPad.button({button}, true)")
            page.wait_for_timeout(80)
            page.evaluate(f"testPad.button({button}, false)")

        until_ready(page)
        until(lambda: "Test Pad" in page.inner_text("#device"), "the page names the gamepad")
        assert session.source.gamepad == "Test Pad (STANDARD GAMEPAD)"
        tap(4)  # hand back
        until_mode(page, "AUTONOMOUS")
        tap(5)  # take over
        until_mode(page, "TAKEOVER")
        page.evaluate("testPad.axis(0, -0.55); testPad.axis(3, -1)")
        until_executed(session.robot, (-0.5, 0, 1, 0))  # a dead zone of 0.1: (0.55 - 0.1) / 0.9
        page.evaluate("testPad.unplug()")
        until_executed(session.robot, (0, 0, 0, 0))
        until_mode(page, "HOLD")
        page.evaluate("testPad.plug()")
        page.wait_for_timeout(400)
        tap(5)
        until_mode(page, "TAKEOVER")
        page.wait_for_timeout(200)
        until_executed(session.robot, (0, 0, 0, 0))  # still pushed: it must be pushed anew
        page.evaluate("testPad.axis(0, 0.05)")
        page.wait_for_timeout(100)
        page.evaluate("testPad.axis(0, -0.55)")
        until_executed(session.robot, (-0.5, 0, 0, 0))  # and the other stick was not let go
        page.evaluate("testPad.axis(0, 0); testPad.axis(3, 0)")
        until_executed(session.robot, (0, 0, 0, 0))
        tap(1)  # failure
        session.wait_until_played()
    (episode,) = recorded(session)
    assert episode.info.outcome is Outcome.FAILURE
    np.testing.assert_array_equal(episode.action, np.stack(session.robot.executed))


def test_a_stick_on_a_fast_display_is_no_flood(tmp_path, open_page):
    fast = "window.requestAnimationFrame = (frame) => setTimeout(() => frame(performance.now()), 1);"
    with Session(tmp_path / "data", episodes=1) as session:
        page = open_page(session.source.address, GAMEPAD + fast)
        until_ready(page)
        page.keyboard.press("Space")
        until_mode(page, "TAKEOVER")
        sent = page.evaluate(
            """async () => {
              const send = WebSocket.prototype.send, times = [];
              WebSocket.prototype.send = function (data) {
                const message = JSON.parse(data);
                if (message.type === "state") times.push([performance.now(), message.axes[0], message.buttons.length]);
                return send.call(this, data);
              };
              const begin = performance.now();
              for (let n = 0; performance.now() - begin < 2000; n++) {
                testPad.axis(0, -0.5 - 0.4 * Math.sin(n));
                await new Promise((go) => setTimeout(go, 3));
              }
              const seconds = (performance.now() - begin) / 1000;
              const rate = times.length / seconds;
              testPad.button(9, true); // nobody waits for a button
              while (!times.some(([, , buttons]) => buttons)) await new Promise((go) => setTimeout(go, 1));
              testPad.button(9, false);
              testPad.axis(0, -0.55);
              await new Promise((go) => setTimeout(go, 300));
              return { rate, last: times.at(-1)[1] };
            }"""
        )
        assert 20 < sent["rate"] < 90  # 62 of the stick and 20 heartbeats, where the server takes 150
        assert sent["last"] == -0.55
        assert session.source.server.closed_for_cause == 0


def test_with_the_mouse_and_every_button(tmp_path, open_page):
    with Session(tmp_path / "data", episodes=4) as session:
        page = open_page(session.source.address)
        until_ready(page)

        def click(control):
            page.click(f"[data-control={control}]")

        click("take_over")
        until_mode(page, "TAKEOVER")
        assert page.evaluate("document.activeElement === document.body")  # Space drives, and does not press it again
        click("pause")
        until_mode(page, "PAUSED")
        steps = len(session.robot.executed)
        time.sleep(0.2)
        assert len(session.robot.executed) == steps  # time stands still
        click("pause")
        until_mode(page, "AUTONOMOUS")
        for number, control in enumerate(["success", "discard", "next"], start=2):
            click(control)
            until(lambda n=number: page.inner_text("#episode").startswith(f"{n} of"), "the next episode begins")
        until(lambda: "1 success" in page.inner_text("#outcomes"), "the success is counted")
        click("stop")
        until(lambda: "over" in page.inner_text("#connection").lower() or not session._thread.is_alive(), "it ends")
        session.wait_until_played()
    assert recorded(session)[0].info.outcome is Outcome.SUCCESS
    assert session.session.summary.outcomes["discarded"] == 1


def test_a_game_is_played_by_keys(tmp_path, open_page):
    labels = ("NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE")
    with Session(tmp_path / "data", episodes=1, proposed=1, labels=labels, discrete=True, hz=15) as session:
        page = open_page(session.source.address)
        until_ready(page)
        page.keyboard.press("KeyH")
        until_executed(session.robot, 1)
        until(lambda: "policy" in page.locator(".choice", has_text="FIRE").first.inner_text(), "its choice is shown")
        page.keyboard.press("Space")
        until_executed(session.robot, 0)
        page.keyboard.down("ArrowUp")  # Pong's paddle goes up with RIGHT
        page.keyboard.down("KeyF")
        until_executed(session.robot, 4)
        page.keyboard.up("KeyF")
        until_executed(session.robot, 2)
        page.keyboard.up("ArrowUp")
        until_executed(session.robot, 0)
        page.keyboard.press("KeyY")
        session.wait_until_played()
    (episode,) = recorded(session)
    assert episode.action.tolist() == [int(action) for action in session.robot.executed]
    assert episode.info.outcome is Outcome.SUCCESS
