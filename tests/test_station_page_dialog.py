"""The page's dialog of keys: what is changed there is kept, and Stop works in it."""

import pytest
from station_browser import GAMEPAD, until
from station_pages import browser as browser
from station_pages import mode, recorded, until_executed, until_mode, until_ready
from station_pages import open_page as open_page
from station_pages import patience as patience
from station_session import Session

from robopref.human_io.mapping_file import load_mapping
from robopref.trajectory import Outcome

pytestmark = [pytest.mark.alone, pytest.mark.slow, pytest.mark.timeout(600)]


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
