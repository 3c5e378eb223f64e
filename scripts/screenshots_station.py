"""A picture of the operator's page in each of its modes, from the real command in a real Chromium, to be looked at.

python scripts/screenshots_station.py --out DIR [--policy DIR] [--camera-size 480]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import bench_station


def until_mode(page: Any, mode: str) -> None:
    bench_station.until(lambda: page.get_attribute("#mode", "data-mode") == mode, f"the page shows {mode}")


def take(page: Any, command: bench_station.Command, out: Path) -> None:
    """Goes through the modes, from the first one, PAUSED."""

    def picture(name: str) -> None:
        page.wait_for_timeout(400)
        page.screenshot(path=str(out / f"{name}.png"))

    picture("paused")
    page.keyboard.press("KeyH", delay=60)
    until_mode(page, "AUTONOMOUS")
    page.wait_for_timeout(2000)
    picture("autonomous")
    page.keyboard.press("Space", delay=60)
    until_mode(page, "TAKEOVER")
    page.keyboard.down(bench_station.KEY)
    picture("takeover")
    page.keyboard.up(bench_station.KEY)

    visitor = page.context.browser.new_page(viewport={"width": 1366, "height": 860})
    visitor.goto(command.address)
    visitor.wait_for_timeout(1500)
    visitor.screenshot(path=str(out / "visitor.png"))
    visitor.close()
    page.bring_to_front()

    page.evaluate("window.dispatchEvent(new Event('blur'))")
    until_mode(page, "HOLD")
    picture("hold_away")
    page.evaluate("window.dispatchEvent(new Event('focus'))")
    page.evaluate("station.testing.line.cut()")
    page.wait_for_timeout(1500)
    picture("hold_back")
    page.click("#remap")
    picture("remap")
    page.keyboard.press("Escape", delay=60)
    page.set_viewport_size({"width": 420, "height": 900})
    picture("narrow")
    page.set_viewport_size({"width": 1366, "height": 860})
    page.emulate_media(color_scheme="light")
    picture("light")
    page.keyboard.press("KeyN", delay=60)
    page.wait_for_timeout(1500)
    picture("next_episode")
    page.keyboard.press("Escape", delay=60)
    until_mode(page, "STOPPED")
    picture("stopped")
    command.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--policy", type=Path)
    parser.add_argument("--camera-size", type=int, default=480)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        policy = arguments.policy or bench_station.barely_trained(Path(directory))
        with bench_station.session(policy, arguments.camera_size) as (command, page):
            take(page, command, arguments.out)
    print(f"pictures in {arguments.out}")


if __name__ == "__main__":
    main()
