"""The operator's page opened in a browser: fixtures that tests of the page import, and what they wait for there."""

import numpy as np
import pytest
from station_browser import launched, until


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
    assert complaints == [], complaints


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
