"""What the page shows: the pictures as they come, and a way in for those who have no token."""

import json
import re

import numpy as np
import pytest
from station_browser import until
from station_pages import browser as browser
from station_pages import mode, until_mode, until_ready
from station_pages import open_page as open_page
from station_pages import patience as patience
from station_session import LABELS, Session

pytestmark = [pytest.mark.alone, pytest.mark.slow, pytest.mark.timeout(600)]


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
