"""What the operator's station keeps of its promises: from key to action, from scene to screen, the pace, the faults.

Runs the real command, ``robopref teleop``, twice, with its page in a real Chromium on the same machine:

1. pace: for some minutes the operator drives by pressing and releasing a key while the video runs. From each press (the
   time that the browser gave the key event) to the beginning of the control tick that executes it (as recorded); from
   the capture of each picture to its being drawn; how late the ticks came, and how many were missed;
2. faults: lines cut, pages stalled, reloaded and blurred, messages malformed, replayed, out of date, too many and too
   large, foreign origins and hosts, bad tokens. The environment notes each action that it executes in a file of its
   own, which is compared with the recordings.

The task is peg-insert-side with its camera image recorded, without an end; the policy is barely trained, on the state.

    python scripts/bench_station.py [--minutes 10] [--faults 1000] [--camera-size 480] [--policy DIR] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from robopref.envs.registry import make_task
from robopref.human_io.mapping import Mapping
from robopref.human_io.mapping_defaults import default_mapping
from robopref.human_io.mapping_file import save_mapping
from robopref.store.store import EpisodeStore
from robopref.trajectory import Actor

HZ = 20.0
LABELS = ("x", "y", "z", "gripper")
KEY = "KeyD"
FORGED = "KeyS"
LOG = "BENCH_STATION_LOG"
PROTOCOL = "robopref-station-1"
CHROMIUM = os.environ.get("ROBOPREF_CHROMIUM", "/usr/bin/chromium")


class ActionLog(gym.Wrapper[Any, Any, Any, Any]):
    """Notes every action that is executed, apart from all that records episodes."""

    def __init__(self, env: gym.Env[Any, Any], path: Path) -> None:
        super().__init__(env)
        self._file = path.open("ab", buffering=0)

    def step(self, action: Any) -> Any:
        """Step, then note it."""
        result = self.env.step(action)
        self._file.write(np.asarray(action, np.float32).tobytes())
        return result


def endless_task() -> gym.Env[Any, Any]:
    """The task; ``--task bench_station:endless_task`` names it."""
    env = make_task("peg-insert-side", image=True, image_size=84, horizon=1_000_000)
    return ActionLog(env, Path(os.environ[LOG]))


def barely_trained(directory: Path) -> Path:
    """A policy that moves."""
    robopref = [sys.executable, "-m", "robopref.cli.main"]
    demos, out = directory / "demos", directory / "train"
    options = ["--task", "peg-insert-side", "--episodes", "2", "--no-image", "--workers", "1"]
    subprocess.run([*robopref, "demos", "--out", demos, *options], check=True, stdout=subprocess.DEVNULL)
    options = ["--inputs", "state", "--steps", "20", "--batch-size", "32", "--wandb", "disabled"]
    subprocess.run(
        [*robopref, "train", "--demos", demos, "--out", out, *options], check=True, stdout=subprocess.DEVNULL
    )
    return out


class Command:
    """``robopref teleop`` in a process of its own."""

    def __init__(self, directory: Path, policy: Path, camera_size: int) -> None:
        self.data, self.log = directory / "data", directory / "actions"
        mapping = directory / "mapping.json"
        save_mapping(mapping, default_mapping("web", LABELS))
        environment = {
            **os.environ,
            LOG: str(self.log),
            "PYTHONPATH": str(Path(__file__).parent),
            "OMP_NUM_THREADS": "1",
        }
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "robopref.cli.main", "teleop", "--policy", policy, "--out", self.data),
                *("--task", "bench_station:endless_task", "--port", "0", "--camera-size", str(camera_size)),
                *("--hz", str(HZ), "--no-open-browser", "--mapping", mapping, "--episodes", "10000"),
                *("--abort-after", "600"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        self._said = ""
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in self._process.stdout or ():
            self._said += line

    @property
    def address(self) -> str:
        """The newest address of the page."""
        until(lambda: "#token=" in self._said or self._process.poll() is not None, "the page is served", 180)
        found = re.findall(r"http://\S+#token=\S+", self._said)
        if not found:
            raise SystemExit(f"robopref teleop did not start:\n{self._said}")
        return str(found[-1])

    def wait(self) -> None:
        """Until it has ended."""
        self._process.wait(60)

    def kill(self) -> None:
        """At once; harmless when it has ended."""
        self._process.kill()
        self._process.wait()


def until(condition: Callable[[], Any], what: str, seconds: float = 30) -> Any:
    """Waits until the condition holds -> its value."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.01)
    raise SystemExit(f"in {seconds} s it never came about that {what}")


@contextmanager
def session(policy: Path, camera_size: int) -> Iterator[tuple[Command, Any]]:
    """The command and its page, waiting for the operator."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as directory, sync_playwright() as playwright:
        command = Command(Path(directory), policy, camera_size)
        try:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1366, "height": 860})
            page.goto(command.address)
            until(lambda: "waiting for you" in page.inner_text("#mode-reason"), "the session begins", 120)
            yield command, page
            browser.close()
        finally:
            command.kill()


def drive(page: Any) -> None:
    """Has the operator drive, whatever happened before."""
    deadline = time.monotonic() + 20
    while page.get_attribute("#mode", "data-mode") != "TAKEOVER":
        if time.monotonic() > deadline:
            raise SystemExit(f"the operator cannot take over: {page.inner_text('#mode')}")
        page.keyboard.press("Space", delay=60)
        page.wait_for_timeout(120)


def stop(page: Any, command: Command) -> None:
    """Ends the session as an operator does."""
    page.keyboard.press("Escape", delay=60)
    command.wait()


WATCH = """(key) => {
  window.presses = [];
  window.addEventListener("keydown", (event) => {
    if (event.code === key && !event.repeat) presses.push(event.timeStamp + station.testing.clock.offset);
  }, { capture: true });
  for (const camera of station.testing.cameras) camera.ages.length = 0;
}"""


def measure_pace(policy: Path, camera_size: int, minutes: float) -> dict[str, Any]:
    """Drives for so many minutes -> the numbers."""
    rng = random.Random(0)
    with session(policy, camera_size) as (command, page):
        drive(page)
        page.wait_for_timeout(2000)  # the page's clock and the caches of both sides settle
        page.evaluate(WATCH, KEY)
        end = time.monotonic() + minutes * 60
        while time.monotonic() < end:
            drive(page)
            page.keyboard.down(KEY)
            page.wait_for_timeout(rng.uniform(150, 400))
            page.keyboard.up(KEY)
            page.wait_for_timeout(rng.uniform(150, 400))
        presses = np.array(page.evaluate("presses"))
        ages = np.array(page.evaluate("station.testing.cameras.flatMap((camera) => camera.ages)"))
        round_trip = page.evaluate("station.testing.clock.roundTrip")
        stop(page, command)
        episodes = list(EpisodeStore.open(command.data))
        logged = logged_actions(command.log)
    waits = key_to_action(presses, episodes, default_mapping("web", LABELS))
    jitters = [episode.info.extra["jitter"] for episode in episodes]
    longest = max(jitters, key=lambda jitter: jitter["ticks"])
    return {
        "presses": len(presses),
        "presses_found": len(waits),
        "key_to_action_ms": spread(waits),
        "clock_error_ms": round_trip / 2,
        "pictures": len(ages),
        "capture_to_shown_ms": spread(ages),
        "jitter": longest,
        "episodes": len(episodes),
        "held_ticks": int(sum((episode.actor == Actor.HOLD).sum() for episode in episodes)),
        "steps_lost": steps_lost(logged, episodes),
    }


def key_to_action(presses: NDArray[Any], episodes: list[Any], mapping: Mapping) -> NDArray[Any]:
    """For each press, milliseconds until the beginning of the tick that first executes it.

    A press in whose 500 ms no such tick began (the robot held, or an episode ended) is left out, and shows in the
    number of presses found.
    """
    ((name, scale),) = [(row.name, row.binding.scale) for row in mapping.rows() if row.binding.source == KEY]
    begun: list[float] = []
    for episode in episodes:
        pushed = (episode.action[:, LABELS.index(name)] * np.sign(scale) > 0) & (episode.actor == Actor.HUMAN)
        rises = np.flatnonzero(pushed & ~np.concatenate([[False], pushed[:-1]]))
        begun += (episode.t_monotonic_ns[rises] / 1e6).tolist()
    times = np.sort(np.array(begun))
    found = np.searchsorted(times, presses)
    waits = times[np.minimum(found, len(times) - 1)] - presses
    return waits[(waits >= 0) & (waits < 500)]


def logged_actions(path: Path) -> NDArray[np.float32]:
    """What the environment executed, by its own log."""
    return np.fromfile(path, np.float32).reshape(-1, len(LABELS))


def steps_lost(logged: NDArray[np.float32], episodes: list[Any]) -> int:
    """Executed steps that are not in the recordings, or not as they were executed."""
    recorded = np.concatenate([episode.action for episode in episodes])
    common = min(len(recorded), len(logged))
    wrong = int((recorded[:common] != logged[:common]).any(axis=1).sum())
    return abs(len(logged) - len(recorded)) + wrong


def spread(values: NDArray[Any]) -> dict[str, float]:
    """Median, 99th percentile and maximum."""
    if not len(values):
        return {"p50": float("nan"), "p99": float("nan"), "max": float("nan")}
    p50, p99 = np.percentile(values, [50, 99])
    return {"p50": float(p50), "p99": float(p99), "max": float(np.max(values))}


# Faults


class Stranger:
    """A client without manners, on a thread of its own, with a visitor's session."""

    def __init__(self, address: str) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._base, _, self._token = address.partition("#token=")
        self._origin = self._base.rstrip("/")
        self._call(self._enter())

    def _call(self, job: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(job, self._loop).result(30)

    async def _enter(self) -> None:
        self._http = aiohttp.ClientSession()
        body, headers = json.dumps({"token": self._token}), {"Origin": self._origin}
        async with self._http.post(f"{self._base}session", data=body, headers=headers) as answer:
            self._key = (await answer.json())["key"]

    async def _socket(self, path: str = "control", **headers: str) -> aiohttp.ClientWebSocketResponse:
        return await self._http.ws_connect(
            f"{self._base}{path}", protocols=(PROTOCOL, self._key), headers={"Origin": self._origin, **headers}
        )

    async def _say(self, path: str, *messages: str) -> None:
        socket = await self._socket(path)
        try:
            for message in messages:
                await socket.send_str(message)
            while not socket.closed:
                await asyncio.wait_for(socket.receive(), 5)
        except (ConnectionError, aiohttp.ClientError):
            pass  # hung up on while it spoke: what a fault is meant to lead to
        finally:
            await socket.close()

    async def _refused(self, **headers: str) -> None:
        try:
            await (await self._socket(**headers)).close()
        except aiohttp.WSServerHandshakeError:
            return
        raise SystemExit(f"let in with {headers}")

    async def _bad_token(self) -> None:
        headers = {"Origin": self._origin}
        async with self._http.post(f"{self._base}session", data='{"token": "guess"}', headers=headers) as answer:
            if answer.status not in (403, 429):
                raise SystemExit(f"a bad token was answered with {answer.status}")

    async def _half_a_handshake(self) -> None:
        base = urlsplit(self._base)
        _, writer = await asyncio.open_connection(base.hostname, base.port)
        writer.write(b"GET /control HTTP/1.1\r\nHost: ")
        await writer.drain()
        writer.transport.abort()

    def leave(self) -> None:
        """End its connections."""
        self._call(self._http.close())

    def faults(self) -> dict[str, Callable[[], Any]]:
        """What it does, by name."""
        alive = '{"type": "alive", "sent_ms": 1}'
        return {
            "bad token": lambda: self._call(self._bad_token()),
            "foreign origin": lambda: self._call(self._refused(Origin="https://attacker.example")),
            "foreign host": lambda: self._call(self._refused(Host="attacker.example")),
            "malformed message": lambda: self._call(self._say("control", '{"type": "state"}')),
            "too large a message": lambda: self._call(self._say("control", "x" * 5000)),
            "flood": lambda: self._call(self._say("control", *[alive] * 1500)),
            "malformed acknowledgement": lambda: self._call(self._say("video/0", "{}")),
            "half a handshake": lambda: self._call(self._half_a_handshake()),
        }


def page_faults(page: Any) -> dict[str, Callable[[], Any]]:
    """What befalls the operator's own page, by name."""
    line = "station.testing.line"
    state = (
        "{type: 'state', epoch: %s, seq: %s, sent_ms: performance.now(), axes: [], buttons: [], device: '', away: '', "
    )
    state += f"keys: ['{FORGED}']}}"

    def reload() -> None:
        page.reload()
        until(lambda: page.locator("#controls button:enabled").count() == 8, "the page is back")

    stall = "() => { const end = performance.now() + 300; while (performance.now() < end); }"
    return {
        "control line cut": lambda: page.evaluate(f"{line}.cut()"),
        "video line cut": lambda: page.evaluate("station.testing.cameras[0].cut()"),
        "300 ms stall": lambda: page.evaluate(stall),
        "blur": lambda: page.evaluate("dispatchEvent(new Event('blur')); dispatchEvent(new Event('focus'))"),
        "malformed message of the operator": lambda: page.evaluate(f"{line}.send({{type: 'nonsense'}})"),
        "replayed message": lambda: page.evaluate(f"{line}.send({state % ('station.testing.lease.epoch', 1)})"),
        "message of an old epoch": lambda: page.evaluate(f"{line}.send({state % (0, 99999999)})"),
        "reload": reload,
    }  # fmt: skip


def measure_faults(policy: Path, camera_size: int, faults: int) -> dict[str, Any]:
    """Injects so many faults while the operator drives -> what was lost."""
    rng = random.Random(0)
    injected: Counter[str] = Counter()
    with session(policy, camera_size) as (command, page):
        visitor = Stranger(command.address)
        stranger = visitor.faults()
        own = page_faults(page)
        while injected.total() < faults:
            # A quarter of the faults befalls the operator, who then takes over again; the others come from strangers.
            if injected.total() % 4 == 0:
                drive(page)
                page.keyboard.down(KEY)
                name = rng.choice(list(own))
                page.wait_for_timeout(rng.uniform(0, 60))
                own[name]()
                page.keyboard.up(KEY)
            else:
                name = rng.choice(list(stranger))
                stranger[name]()
            injected[name] += 1
        visitor.leave()
        drive(page)
        stop(page, command)
        episodes = list(EpisodeStore.open(command.data))
        logged = logged_actions(command.log)
    return {
        "faults": injected.total(),
        "by_kind": dict(injected.most_common()),
        "steps": len(logged),
        "episodes": len(episodes),
        "held_ticks": int(sum((episode.actor == Actor.HOLD).sum() for episode in episodes)),
        "steps_lost": steps_lost(logged, episodes),
        "forged_commands_executed": forged_commands(episodes, default_mapping("web", LABELS)),
    }


def forged_commands(episodes: list[Any], mapping: Mapping) -> int:
    """Ticks at which the operator's command grew towards ``FORGED``, a key that nobody pressed."""
    ((name, scale),) = [(row.name, row.binding.scale) for row in mapping.rows() if row.binding.source == FORGED]
    grown = 0
    for episode in episodes:
        value = episode.action[:, LABELS.index(name)] * np.sign(scale)
        human = episode.actor == Actor.HUMAN
        grown += int((human[1:] & human[:-1] & (value[1:] > 0) & (value[1:] > value[:-1])).sum())
    return grown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--faults", type=int, default=1000)
    parser.add_argument("--camera-size", type=int, default=480)
    parser.add_argument("--policy", type=Path)
    parser.add_argument("--json", type=Path)
    settings = parser.parse_args()

    results: dict[str, Any] = {"cores": os.cpu_count(), "load": os.getloadavg()[0], "hz": HZ}
    print(f"{results['cores']} cores, load {results['load']:.1f}; {HZ:g} Hz, {settings.camera_size} px a side")
    with tempfile.TemporaryDirectory() as directory:
        policy = settings.policy or barely_trained(Path(directory))
        if settings.minutes:
            pace = results["pace"] = measure_pace(policy, settings.camera_size, settings.minutes)
            report_pace(pace, settings.minutes)
        if settings.faults:
            faults = results["faults"] = measure_faults(policy, settings.camera_size, settings.faults)
            report_faults(faults)
    if settings.json:
        settings.json.write_text(json.dumps(results, indent=2) + "\n")


def report_pace(pace: dict[str, Any], minutes: float) -> None:
    """Print the numbers of the first run beside what they are meant to be."""
    period = 1e3 / HZ
    key, shown, jitter = pace["key_to_action_ms"], pace["capture_to_shown_ms"], pace["jitter"]
    print(f"\n{minutes:g} minutes, {pace['presses_found']} of {pace['presses']} presses, {pace['pictures']} pictures")
    print(f"{'':32}{'p50':>9}{'p99':>9}{'max':>9}   aim")
    for name, values, aim in (
        ("key press -> executed (ms)", key, f"p50 <= {period:g}, p99 <= {2 * period:g}"),
        ("capture -> shown (ms)", shown, "p99 < 50"),
        ("tick late by (ms)", {k: jitter[f"{k}_ms"] for k in ("p50", "p99", "max")}, "p99 < 5"),
    ):
        print(f"{name:32}{values['p50']:9.2f}{values['p99']:9.2f}{values['max']:9.2f}   {aim}")
    print(f"{jitter['ticks']} ticks, {jitter['missed']} missed; {pace['held_ticks']} held for want of a heartbeat")
    print(f"steps lost: {pace['steps_lost']}; the page knows the server's clock to {pace['clock_error_ms']:.2f} ms")


def report_faults(faults: dict[str, Any]) -> None:
    """Print what was injected, and what came of it."""
    print(f"\n{faults['faults']} faults in {faults['steps']} steps ({faults['held_ticks']} of them held)")
    for name, count in faults["by_kind"].items():
        print(f"{count:6} {name}")
    print(f"steps lost: {faults['steps_lost']} (aim 0); forged commands executed: {faults['forged_commands_executed']}")


if __name__ == "__main__":
    main()
