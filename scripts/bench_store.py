"""What recording costs a step and reading costs a look, against ordinary ways in the same run.

Writing: the journal against PNG frames (cv2) and against ``np.savez`` of the whole episode, which loses it in a crash.
Reading: one random step of a stored episode against ``np.load`` of the same episode in an ``.npz``.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from robopref.store import EpisodeStore
from robopref.trajectory import Actor, EpisodeInfo, Outcome, Step

INFO = EpisodeInfo(task="bench", instruction="")


def frames(steps: int, size: int) -> list[NDArray[np.uint8]]:
    """Pictures of about the entropy of a rendered scene: smooth shapes with a little noise, moving."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 255, (12, 12, 3), np.uint8)
    base: Any = cv2.resize(small, (size, size), interpolation=cv2.INTER_CUBIC)
    noise = rng.integers(0, 4, (size, size, 3), np.uint8)
    return [np.roll(base, t, axis=0) // 2 + np.roll(noise, 7 * t, axis=1) for t in range(steps)]


def make_steps(images: list[NDArray[np.uint8]]) -> list[Step]:
    action = np.zeros(4, np.float32)
    proprio = np.zeros(4, np.float32)
    return [
        Step({"image": image, "proprio": proprio}, action, Actor.POLICY, policy_action=action, t_monotonic_ns=t)
        for t, image in enumerate(images)
    ]


def timed(function: Any, *arguments: Any) -> float:
    started = perf_counter()
    function(*arguments)
    return perf_counter() - started


def row(name: str, seconds: list[float], baseline: float | None = None) -> float:
    """Print one line -> mean seconds."""
    p50, p99 = np.percentile(seconds, [50, 99]) * 1e3
    mean = float(np.mean(seconds))
    ratio = "" if baseline is None else f"{baseline / mean:9.1f}x"
    print(f"  {name:<46}{1 / mean:10.0f}/s{p50:9.3f}{p99:9.3f} ms{ratio}")
    return mean


def bench(directory: Path, size: int, count: int, hertz: float) -> None:
    steps = make_steps(frames(count, size))
    print(f"{size} x {size} x 3, {count} steps{'':<24}{'rate':>10}{'p50':>11}{'p99':>9}   faster than the first")

    png = directory / "png"
    png.mkdir()
    baseline = row(
        "write: PNG a frame (cv2)",
        [timed(cv2.imwrite, str(png / f"{t}.png"), step.observation["image"]) for t, step in enumerate(steps)],
    )
    store = EpisodeStore.create_or_open(directory / "store")
    writer = store.begin(INFO)
    journalled = [timed(writer.append, step) for step in steps]
    row("write: journal", journalled, baseline)
    finishing = timed(writer.finish, Outcome.SUCCESS)
    row("write: journal + finish, spread over the steps", [t + finishing / count for t in journalled], baseline)

    paced_writer = store.begin(INFO)
    paced = []
    for step in steps[: int(5 * hertz)]:
        paced.append(timed(paced_writer.append, step))
        sleep(1 / hertz)
    row(f"write: journal at {hertz:.0f} Hz, synced every second", paced)
    paced_writer.finish(Outcome.SUCCESS)

    columns = {
        "image": np.stack([step.observation["image"] for step in steps]),
        "action": np.stack([step.action for step in steps]),
    }
    npz = directory / "episode.npz"
    row("write: np.savez of the episode, over the steps", [timed(lambda: np.savez(npz, **columns)) / count], baseline)

    rng = np.random.default_rng(1)
    episode_id = store.episode_ids()[0]

    def look_npz() -> None:
        np.load(npz)["image"][rng.integers(count)].sum()

    def look_store() -> None:
        store.read(episode_id).observation["image"][rng.integers(count)].sum()

    episode = store.read(episode_id)

    def look_open() -> None:
        episode.observation["image"][rng.integers(count)].sum()

    look_store()  # imports what reading needs
    slow = row("read a step: np.load of the episode", [timed(look_npz) for _ in range(10)])
    row("read a step: open the stored episode", [timed(look_store) for _ in range(200)], slow)
    row("read a step: of an episode already open", [timed(look_open) for _ in range(1000)], slow)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--sizes", type=int, nargs="+", default=[84, 480])
    parser.add_argument("--hertz", type=float, default=20.0)
    parser.add_argument("--directory", type=Path, help="where to write (default: the system's temporary directory)")
    arguments = parser.parse_args()
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
            bench(Path(directory), size, arguments.steps, arguments.hertz)


if __name__ == "__main__":
    main()
