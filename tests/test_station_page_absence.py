"""Who lets go or leaves the page commands nothing, and what was held meanwhile must be pressed anew."""

import time

import pytest
from station_browser import GAMEPAD, until
from station_pages import browser as browser
from station_pages import mode, until_executed, until_mode, until_ready
from station_pages import open_page as open_page
from station_pages import patience as patience
from station_session import Session

pytestmark = [pytest.mark.alone, pytest.mark.slow, pytest.mark.timeout(600)]


def test_hold_to_run_is_said_and_ends_with_the_release(tmp_path, open_page):
    with Session(tmp_path / "data", episodes=1, hold_to_run=True, autostart=True) as session:
        page = open_page(session.source.address)
        until(lambda: mode(page) != "WAITING", "the session is shown")
        if mode(page) != "AUTONOMOUS":  # it began before the page was there, and so it waits
            until_ready(page)
            page.keyboard.press("KeyH")
        until_mode(page, "AUTONOMOUS")
        assert "Hold to run" in page.inner_text("#hold-to-run")
        page.keyboard.down("Space")
        page.keyboard.down("KeyW")
        until_executed(session.robot, (0, 1, 0, 0))
        page.keyboard.up("Space")
        until_executed(session.robot, (0, 0, 0, 0))
        until_mode(page, "HOLD")
        page.keyboard.up("KeyW")
        page.keyboard.press("KeyH")
        until_mode(page, "AUTONOMOUS")
        # The button on the screen is such a switch as well.
        box = page.locator("[data-control=take_over]").bounding_box()
        page.mouse.move(box["x"] + 20, box["y"] + 10)

        def press():  # anew: a machine that stalls for a moment has lost the page, and asks for a fresh grip
            page.mouse.up()
            page.wait_for_timeout(150)
            page.mouse.down()
            page.wait_for_timeout(300)
            return mode(page) == "TAKEOVER"

        until(press, "the button held down drives")
        page.mouse.up()
        until_mode(page, "HOLD")


@pytest.mark.parametrize(
    "leaving",
    [
        "window.dispatchEvent(new Event('blur'))",
        "Object.defineProperty(document, 'hidden', {value: true, configurable: true});"
        "document.dispatchEvent(new Event('visibilitychange'))",
    ],
    ids=["blur", "hidden"],
)
def test_a_page_that_is_left_commands_nothing(tmp_path, open_page, leaving):
    with Session(tmp_path / "data", episodes=1) as session:
        page = open_page(session.source.address)
        until_ready(page)
        page.keyboard.press("Space")
        page.keyboard.down("KeyW")
        until_executed(session.robot, (0, 1, 0, 0))
        page.evaluate(leaving)
        until_executed(session.robot, (0, 0, 0, 0))
        until_mode(page, "HOLD")  # which nobody learns from, as they would from an operator who commands nothing
        until(lambda: "do not drive" in page.inner_text("#notice"), "the page says so")
        # The key is still down, and coming back does not make it count, nor does it drive: both are pressed anew.
        page.evaluate("delete document.hidden; window.dispatchEvent(new Event('focus'))")
        time.sleep(0.3)
        until_executed(session.robot, (0, 0, 0, 0))
        assert mode(page) == "HOLD"
        assert "take over" in page.inner_text("#mode-reason")
        page.keyboard.up("KeyW")
        page.keyboard.press("Space")
        until_mode(page, "TAKEOVER")
        page.keyboard.press("KeyP")
        until_mode(page, "PAUSED")
        page.evaluate(leaving)
        time.sleep(0.3)
        assert mode(page) == "PAUSED"
        page.evaluate("delete document.hidden; window.dispatchEvent(new Event('focus'))")
        page.keyboard.press("KeyH")
        until_mode(page, "AUTONOMOUS")
        page.evaluate(leaving)
        until_mode(page, "HOLD")  # nobody would see what the policy does
        until_executed(session.robot, (0, 0, 0, 0))
        page.evaluate("delete document.hidden; window.dispatchEvent(new Event('focus'))")
        time.sleep(0.3)
        assert mode(page) == "HOLD"
        page.keyboard.press("KeyH")
        until_mode(page, "AUTONOMOUS")


@pytest.mark.parametrize("absence", ["blur", "hidden", "dialog", "unplugged"])
def test_what_a_gamepad_holds_through_an_absence_must_be_pressed_anew(tmp_path, open_page, absence):
    hidden = "document.dispatchEvent(new Event('visibilitychange'))"
    leave, come_back = {
        "blur": ("window.dispatchEvent(new Event('blur'))", "window.dispatchEvent(new Event('focus'))"),
        "hidden": (
            f"Object.defineProperty(document, 'hidden', {{value: true, configurable: true}}); {hidden}",
            f"delete document.hidden; {hidden}",
        ),
        "dialog": ("document.getElementById('remap').click()", "document.getElementById('remap-dialog').close()"),
        "unplugged": ("testPad.unplug()", "testPad.plug()"),
    }[absence]
    with Session(tmp_path / "data", episodes=1) as session:
        page = open_page(session.source.address, GAMEPAD)
        until_ready(page)
        page.keyboard.press("Space")
        until_mode(page, "TAKEOVER")
        page.evaluate("testPad.axis(0, -1)")
        until_executed(session.robot, (-1, 0, 0, 0))
        page.evaluate(leave)
        until_executed(session.robot, (0, 0, 0, 0))
        # 8 is stop, which counts in the dialog; but held since before the dialog was closed it is none, as 9 is pause.
        held = 9 if absence == "dialog" else 8
        page.evaluate(f"testPad.button({held}, true); testPad.axis(1, 1)")
        page.evaluate(come_back)
        page.wait_for_timeout(300)
        assert mode(page) == "HOLD"
        page.keyboard.press("Space")
        until_mode(page, "TAKEOVER")
        page.wait_for_timeout(200)
        until_executed(session.robot, (0, 0, 0, 0))
        page.evaluate(f"testPad.button({held}, false); testPad.axis(0, 0)")
        page.wait_for_timeout(100)
        page.evaluate("testPad.axis(0, -1)")
        until_executed(session.robot, (-1, 0, 0, 0))
        page.evaluate("testPad.button(8, true)")
        session.wait_until_played()
