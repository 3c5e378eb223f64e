"""Whole sessions in a real browser: what a person does at the page, and what of it is in the recordings."""

import json
import re
import time

import numpy as np
import pytest
from station_browser import GAMEPAD, launched, until
from station_session import LABELS, Session

from robopref.human_io.mapping_file import load_mapping
from robopref.trajectory import Actor, Outcome

pytestmark = [pytest.mark.alone, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def browser():
    with launched() as chromium:
        yield chromium


@pytest.fixture
def open_page(browser):
    """Opens an address as a visitor of his own; pages must not complain."""
    contexts, complaints = [], []

    def open_at(address, script=None, **options):
        context = browser.new_context(viewport={"width": 1366, "height": 900}, **options)
        contexts.append(context)
        if script:
            context.add_init_script(script)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda line: complaints.append(line.text) if "Content Security" in line.text else None)
        page.goto(address)
        return page

    yield open_at
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """What a busy machine delivers late counts here; that late commands do not is tested with the faults."""
    monkeypatch.setattr("robopref.human_io.station.inbox.MAX_DELAY_MS", 2500.0)


def mode(page):
    return page.get_attribute("#mode", "data-mode")


def until_mode(page, name):
    until(lambda: mode(page) == name, f"the page shows {name}")


def until_ready(page):
    """Until the control loop has heard the page: what is pressed from then on counts."""
    until(lambda: mode(page) == "PAUSED" and "waiting for you" in page.inner_text("#mode-reason"), "it can begin")


def until_executed(robot, action):
    """Until the robot executes just this action, to two digits."""
    wanted = np.asarray(action, np.float32)
    return until(
        lambda: robot.executed and np.allclose(robot.executed[-1], wanted, atol=0.005), f"{action} is executed"
    )


def recorded(session):
    """The finished episodes, oldest first."""
    return [session.store.read(episode) for episode in session.store.episode_ids()]


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


def test_without_a_mouse(tmp_path, open_page):
    with Session(tmp_path / "data", episodes=1) as session:
        page = open_page(session.source.address)
        until_ready(page)
        reached = []
        while True:
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement === document.body"):
                break  # once round
            reached.append(page.evaluate("document.activeElement.dataset.control ?? document.activeElement.id"))
            outline = page.evaluate("getComputedStyle(document.activeElement).outline")
            assert "solid 3px" in outline, (reached, outline)  # where the focus is can be seen
        for control in ("stop", "take_over", "hand_back", "success", "failure", "discard", "pause", "next", "remap"):
            assert control in reached
        page.focus("[data-control=take_over]")
        page.keyboard.press("Enter")
        until_mode(page, "TAKEOVER")
        page.keyboard.down("KeyA")  # driving goes on while a button has the focus
        until_executed(session.robot, (-1, 0, 0, 0))
        page.keyboard.up("KeyA")
        page.focus("[data-control=pause]")
        page.keyboard.press("Space")  # is the button's, and not the take-over key
        until_mode(page, "PAUSED")


def test_what_screen_readers_are_told(tmp_path, open_page):
    with Session(tmp_path / "data", episodes=1) as session:
        page = open_page(session.source.address)
        until_ready(page)
        page.evaluate(
            "window.said = []; new MutationObserver(() => said.push(document.getElementById('announcer').textContent))"
            ".observe(document.getElementById('announcer'), {childList: true, characterData: true, subtree: true})"
        )
        assert page.get_attribute("#announcer", "aria-live") == "polite"
        page.keyboard.press("KeyH")
        until_mode(page, "AUTONOMOUS")
        page.keyboard.press("Space")
        until_mode(page, "TAKEOVER")
        time.sleep(0.5)
        assert page.evaluate("said") == ["Policy drives", "You drive"]  # changes alone, and none at every tick
        unnamed = page.evaluate(
            "[...document.querySelectorAll('button, canvas, dialog, section')].filter(e =>"
            " !(e.innerText?.trim() || e.getAttribute('aria-label') || e.getAttribute('aria-labelledby'))).length"
        )
        assert unnamed == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_is_aa_in_every_mode(tmp_path, open_page, scheme):
    with Session(tmp_path / "data", episodes=1) as session:
        page = open_page(session.source.address, color_scheme=scheme)
        until_ready(page)
        page.evaluate("document.getElementById('notice').hidden = false")
        page.evaluate("document.getElementById('alarm').hidden = false; alarm.textContent = 'lost'")
        for name in ("AUTONOMOUS", "TAKEOVER", "HOLD", "PAUSED", "STOPPED", "WAITING", "LOST", "OVER"):
            low = page.evaluate(CONTRAST, name)
            assert low == [], (scheme, name)


CONTRAST = """(mode) => {
  const view = document.getElementById("mode");
  view.style.transition = "none";
  const was = view.dataset.mode;
  view.dataset.mode = document.body.dataset.mode = mode;
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] > 0.5) return colour;
    }
    return [255, 255, 255];
  };
  const low = [];
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility() || e.closest(":disabled, svg, dialog:not([open])")) continue;
    const style = getComputedStyle(e);
    const [a, b] = [light(parse(style.color)), light(ground(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    if (ratio < (large ? 3 : 4.5)) low.push([e.id || e.tagName, e.textContent.trim().slice(0, 20), ratio]);
  }
  view.dataset.mode = document.body.dataset.mode = was;
  return low;
}"""


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


def test_keys_are_changed_in_the_dialog_and_kept_in_the_file(tmp_path, open_page):
    path = tmp_path / "mapping.json"
    with Session(tmp_path / "data", episodes=1, mapping_path=path) as session:
        page = open_page(session.source.address)
        until_ready(page)
        page.keyboard.press("Space")
        until_mode(page, "TAKEOVER")
        page.click("#remap")
        page.keyboard.press("KeyH")  # in the dialog keys do not drive
        page.get_by_label("Change x +, D").click()
        page.keyboard.press("KeyU")
        until(path.exists, "the mapping is saved")
        until(lambda: page.get_by_label("Change x +, U").count(), "the dialog shows the new key")
        page.get_by_label("Change x +, U").click()
        page.keyboard.press("KeyW")  # which means y
        until(lambda: "means both" in page.inner_text("#remap-message"), "the conflict is said")
        page.get_by_label("Invert y").first.click()
        until(lambda: page.get_by_label("Change y −, W").count(), "y is inverted")
        page.keyboard.press("Escape")  # closes the dialog and does not stop the robot
        assert mode(page) == "HOLD"
        until(lambda: page.evaluate("document.activeElement === document.body"), "Space is no button's any more")
        page.keyboard.press("Space")
        until_mode(page, "TAKEOVER")
        page.keyboard.down("KeyU")
        page.keyboard.down("KeyW")
        until_executed(session.robot, (1, -1, 0, 0))
        page.keyboard.up("KeyU")
        page.keyboard.up("KeyW")
    bound = load_mapping(path).action_bindings
    assert [b.source for b in bound["x"]][:2] == ["KeyU", "KeyA"]
    assert bound["y"][0].scale == -1


@pytest.mark.parametrize("by", ["button", "key", "gamepad"])
def test_stop_works_in_the_dialog(tmp_path, open_page, by):
    with Session(tmp_path / "data", episodes=2) as session:
        page = open_page(session.source.address, GAMEPAD)
        until_ready(page)
        page.keyboard.press("KeyH")
        until_mode(page, "AUTONOMOUS")
        page.click("#remap")
        until_mode(page, "HOLD")  # the policy does not drive on behind it
        assert "a dialog is open" in page.inner_text("#mode-reason")
        # What is pressed as a new input for it is no Stop, also while it is still held.
        page.get_by_label("Change Stop, Back").click()
        page.evaluate("testPad.button(16, true)")
        until(lambda: page.get_by_label("Change Stop, Guide").count(), "the new button is shown")
        page.get_by_label("Change Stop, Esc").click()
        page.keyboard.press("KeyX")
        until(lambda: page.get_by_label("Change Stop, X").count(), "the new key is shown")
        page.wait_for_timeout(200)
        assert mode(page) == "HOLD"
        page.evaluate("testPad.button(16, false)")
        page.wait_for_timeout(100)
        if by == "button":
            page.click("#remap-stop")
        elif by == "key":
            page.keyboard.press("KeyX")
        else:
            page.evaluate("testPad.button(16, true)")
        session.wait_until_played()
    assert recorded(session)[0].info.outcome is Outcome.ABORTED
    assert session.session.summary.episodes == 1


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


def test_pictures_are_shown_as_they_come_and_their_age_is_said(tmp_path, open_page):
    with Session(tmp_path / "data", episodes=1) as session:
        page = open_page(session.source.address)
        until_ready(page)
        page.keyboard.press("KeyH")
        until_mode(page, "AUTONOMOUS")  # two keys within one tick have no order
        until(lambda: re.fullmatch(r"[\d.]+ m?s old", page.inner_text("#frame-age")), "the age of the picture is shown")
        page.keyboard.press("Space")
        until_mode(page, "TAKEOVER")

        def shown_where_it_is():
            """Whether the page shows the point's colour where the robot says that it is."""
            x, y, _ = session.robot.place
            pixel = page.evaluate(
                "([x, y]) => [...document.querySelector('canvas').getContext('2d').getImageData(x, y, 1, 1).data]",
                [int(240 + x * 216), int(240 - y * 216)],
            )
            return np.abs(np.array(pixel[:3]) - (240, 180, 60)).max() < 25

        until(shown_where_it_is, "the picture is that of the robot")
        session.camera_works = False
        until(lambda: page.locator("#picture.old-picture").count(), "an old picture is marked")
        assert mode(page) == "TAKEOVER"  # the camera delays nothing


def test_a_page_without_a_token_is_told_what_to_do(tmp_path, open_page):
    with Session(tmp_path / "data", episodes=1) as session:
        bare = session.source.address.split("#")[0]
        for address in (bare, f"{bare}#token=guess"):
            page = open_page(address)
            until(lambda p=page: "No entry" in p.inner_text("#alarm"), "it says so")
            assert not page.locator("#controls button:enabled").count()
        page = open_page(session.source.address)
        until_ready(page)
        assert "token" not in page.url
        page.reload()  # the session of the tab goes on
        until(lambda: page.locator("#controls button:enabled").count() == 8, "it has the controls again")
        assert json.loads(page.evaluate("JSON.stringify(station.testing.lease)"))["epoch"] == 2
        assert len(LABELS) == page.locator(".bar-row").count()
