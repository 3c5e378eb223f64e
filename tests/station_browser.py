"""A real Chromium for the tests of the operator's page."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

GAMEPAD = """
(() => {
  const pad = { id: "Test Pad (STANDARD GAMEPAD)", index: 0, connected: true, mapping: "standard", timestamp: 0,
    axes: [0, 0, 0, 0], buttons: Array.from({ length: 17 }, () => ({ pressed: false, touched: false, value: 0 })) };
  window.testPad = {
    plugged: true,
    axis(i, value) { pad.axes[i] = value; },
    button(i, down) { pad.buttons[i] = { pressed: down, touched: down, value: down ? 1 : 0 }; },
    unplug() { this.plugged = false; window.dispatchEvent(new Event("gamepaddisconnected")); },
    plug() { this.plugged = true; window.dispatchEvent(new Event("gamepadconnected")); },
  };
  navigator.getGamepads = () => [window.testPad.plugged ? pad : null, null, null, null];
})();
"""
"""A standard gamepad that scripts of the test push about."""


def chromium_path() -> str | None:
    """The system's browser, or the one that ROBOPREF_CHROMIUM names."""
    return os.environ.get("ROBOPREF_CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)


@contextmanager
def launched(**options: Any) -> Iterator[Any]:
    """A browser; the test is skipped, with a message that nobody overlooks, where there is none."""
    path = chromium_path()
    if path is None:
        pytest.skip(
            "NO BROWSER: the operator's page was NOT tested. Install Chromium (apt-get install chromium) or set "
            "ROBOPREF_CHROMIUM to one."
        )
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # The sandbox needs rights that a container's root does not give; the page comes from the test itself.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"], **options)
        try:
            yield browser
        finally:
            browser.close()


def until(condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    """Waits until the condition holds -> its value."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError(f"in {seconds} s it never came about that {what}")


def insist(page: Any, key: str, condition: Callable[[], Any], what: str, seconds: float = 60.0) -> None:
    """Presses a key as a person does whom nobody listens to: again, until it has worked.

    What is pressed in the moment in which a line or a busy machine comes back does not count, and rightly so.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        page.keyboard.press(key, delay=80)
        for _ in range(40):
            if condition():
                return
            time.sleep(0.01)
    raise AssertionError(f"in {seconds} s of pressing {key} it never came about that {what}")
