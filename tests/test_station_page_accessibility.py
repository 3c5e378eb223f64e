"""The page for everybody: without a mouse, with a screen reader, and with enough contrast in every mode."""

import time

import pytest
from station_pages import browser as browser
from station_pages import open_page as open_page
from station_pages import patience as patience
from station_pages import until_executed, until_mode, until_ready
from station_session import Session

pytestmark = [pytest.mark.alone, pytest.mark.slow, pytest.mark.timeout(600)]


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
