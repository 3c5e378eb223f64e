"""What recording costs a step and reading costs a look, against ordinary ways in the same run.

Writing: the journal against PNG frames (cv2), against ``np.savez`` of the whole episode, which loses it in a crash, and
against h5py as robomimic writes (datasets of a whole episode, uncompressed); and what the thread of ``teleop`` costs
a control loop at 20 Hz. Reading: one random step of a stored episode against ``np.load``; shuffled
single steps of all episodes against h5py, its file held open and its data sets looked up as robomimic does, or held
open as well; and opening a directory of many steps.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import cv2
import h5py
import numpy as np
from numpy.typing import NDArray

from robopref.store import EpisodeStore
from robopref.store.background import BackgroundStore
from robopref.store.steps import StepReader
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

    background = BackgroundStore(store).begin(INFO)
    paced = []
    for step in steps[: int(5 * hertz)]:
        paced.append(timed(background.append, step))
        sleep(1 / hertz)
    row(f"write: in the background at {hertz:.0f} Hz", paced)
    background.finish(Outcome.SUCCESS)
    background.close()

    robomimic = directory / "robomimic.hdf5"
    row("write: h5py of the episode, over the steps", [timed(write_hdf5, robomimic, columns) / count], baseline)
    with h5py.File(directory / "stepwise.hdf5", "w") as file:
        dataset = file.create_dataset("image", (0, size, size, 3), np.uint8, maxshape=(None, size, size, 3))
        row("write: h5py, a step at a time", [timed(grow, dataset, step) for step in steps], baseline)
    sizes = {
        "PNG": sum(file.stat().st_size for file in png.iterdir()),
        "h5py": robomimic.stat().st_size,
        "robopref": (store.path / "episodes" / f"{store.episode_ids()[0]}.safetensors").stat().st_size,
    }
    print("  bytes a step: " + ", ".join(f"{name} {total / count:.0f}" for name, total in sizes.items()))

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


def write_hdf5(path: Path, columns: dict[str, NDArray[Any]]) -> None:
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file[f"data/demo_0/{name}"] = values
        file.flush()


def grow(dataset: Any, step: Step) -> None:
    dataset.resize(len(dataset) + 1, axis=0)
    dataset[-1] = step.observation["image"]


def bench_shuffled(directory: Path, size: int, episodes: int, steps: int, batch: int) -> None:
    """Single steps in random order: image, action and proprio, one after another and as batches."""
    store = EpisodeStore.create_or_open(directory / "store")
    made = make_steps(frames(steps, size))
    with h5py.File(directory / "all.hdf5", "w") as file:
        for number in range(episodes):
            writer = store.begin(INFO)
            for step in made:
                writer.append(step)
            writer.finish(Outcome.SUCCESS)
            for name in ("image", "proprio"):
                file[f"data/demo_{number}/obs/{name}"] = np.stack([step.observation[name] for step in made])
            file[f"data/demo_{number}/actions"] = np.stack([step.action for step in made])
    rng = np.random.default_rng(2)
    order = rng.permutation(episodes * steps)[:2000]
    reader = StepReader(store, ("observation/image", "observation/proprio", "action"))
    print(
        f"shuffled steps of {episodes} episodes of {steps}, {size} x {size} x 3{'':<4}{'rate':>11}{'p50':>11}{'p99':>9}"
    )
    with h5py.File(directory / "all.hdf5", "r") as file:
        demos = [file[f"data/demo_{number}"] for number in range(episodes)]  # as robomimic holds them

        def from_h5py(index: int) -> Any:
            demo, step = demos[index // steps], index % steps
            return demo["obs/image"][step], demo["obs/proprio"][step], demo["actions"][step]

        for index in order[:200]:
            from_h5py(int(index)), reader[int(index)]
        slow = row("read: h5py, one step", [timed(from_h5py, int(index)) for index in order])
        row("read: StepReader, one step", [timed(reader.__getitem__, int(index)) for index in order], slow)
        batches = [order[at : at + batch] for at in range(0, len(order) - batch, batch)]

        held_open = [(demo["obs/image"], demo["obs/proprio"], demo["actions"]) for demo in demos]

        def from_datasets(index: int) -> Any:
            return [dataset[index % steps] for dataset in held_open[index // steps]]

        row("read: h5py, one step, data sets held open", [timed(from_datasets, int(index)) for index in order], slow)

        def batch_h5py(indices: NDArray[Any]) -> Any:
            return [np.stack(values) for values in zip(*map(from_h5py, indices.tolist()), strict=True)]

        slow = row(f"read: h5py, {batch} steps as a batch", [timed(batch_h5py, b) / batch for b in batches])
        row(f"read: StepReader, {batch} steps as a batch", [timed(reader.read, b) / batch for b in batches], slow)


def bench_open(directory: Path, episodes: int, steps: int) -> None:
    """Opening many small episodes in a process of its own, which says what memory it takes."""
    store = EpisodeStore.create_or_open(directory / "many")
    made = make_steps(frames(steps, 8))
    for _ in range(episodes):
        writer = store.begin(INFO)
        for step in made:
            writer.append(step)
        writer.finish(Outcome.SUCCESS)
    subprocess.run([sys.executable, "-c", _OPENING, str(store.path)], check=True)


_OPENING = """
import os, sys, time
from pathlib import Path
from robopref.store import EpisodeStore
from robopref.store.steps import StepReader

def megabytes():  # of this process alone; what the system counts as its peak begins with its parent's
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20

before, began = megabytes(), time.perf_counter()
reader = StepReader(EpisodeStore.open(sys.argv[1]))
seconds, opened = time.perf_counter() - began, megabytes()
for start in range(0, len(reader), 50):
    reader.read(range(start, start + 50))
print(f"{len(reader)} steps opened in {seconds:.2f} s;", end=" ")
print(f"{before} MB before, {opened} MB when opened, {megabytes()} MB when all are read")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--sizes", type=int, nargs="+", default=[84, 480])
    parser.add_argument("--open-steps", type=int, default=100_000)
    parser.add_argument("--hertz", type=float, default=20.0)
    parser.add_argument("--directory", type=Path, help="where to write (default: the system's temporary directory)")
    arguments = parser.parse_args()
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
            bench(Path(directory), size, arguments.steps, arguments.hertz)
        with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
            bench_shuffled(Path(directory), size, 20, arguments.steps, 32)
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        bench_open(Path(directory), arguments.open_steps // arguments.steps, arguments.steps)


if __name__ == "__main__":
    main()
