"""Recordings killed at random moments: is every finished episode there, and every other one up to the kill?

Each recorder opens the directory, which recovers what the one before it left, and records short episodes one after
the other, some of them discarded, every other time through the thread that ``teleop`` uses. It tells what it does,
until SIGKILL comes: while opening and recovering, recording, or finishing. Nothing is done between one and the next.
Afterwards the directory is opened once more, and all that was told is held against all that is there, value by value.
How much of an episode is missing is the time of the kill less the time of the last step that was kept.

A killed process loses nothing that it had handed to the operating system; this says nothing of a power cut, against
which the journal is synced every second.
"""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, monotonic_ns, sleep

import numpy as np

from robopref.store import EpisodeStore
from robopref.store.background import BackgroundStore
from robopref.store.checking import check
from robopref.store.episode_file import read_episode
from robopref.trajectory import Actor, Episode, EpisodeInfo, Outcome, Step

PIPE_BYTES = 1 << 20


@dataclass
class Told:
    """What a recorder told of an episode before it was killed."""

    length: int
    steps: int = 0
    ending: bool = False  # it had begun to finish it
    finished: str = ""  # the folder
    killed_at: int = 0  # monotonic ns; 0: it was not being recorded when the kill came
    times: list[int] = field(default_factory=list)


def make_step(seed: int, t: int, size: int) -> Step:
    image = np.full((size, size, 3), (seed + 7 * t) % 256, np.uint8)
    action = np.full(4, t, np.float32)
    return Step({"image": image}, action, Actor.POLICY, policy_action=action, reward=t, t_monotonic_ns=monotonic_ns())


def record(directory: Path, pipe: int, chance: random.Random, size: int, background: bool) -> None:
    """Record for ever, telling each thing after it was done (and an end before it is begun as well)."""

    def tell(*words: object) -> None:
        os.write(pipe, (" ".join(map(str, words)) + "\n").encode())

    store = EpisodeStore.create_or_open(directory)
    tell("opened")
    while True:
        seed, length = chance.randrange(256), chance.randint(1, 25)
        info = EpisodeInfo("kill", "", seed=seed)
        writer = (BackgroundStore(store) if background else store).begin(info)
        episode_id = "" if background else writer.info.episode_id  # asking for it would wait for the thread
        tell("begun", seed, length, episode_id)
        for t in range(length):
            step = make_step(seed, t, size)
            writer.append(step)
            tell("step", step.t_monotonic_ns)
            if chance.random() < 0.5:
                sleep(chance.uniform(0, 0.004))
        discarded = chance.random() < 0.1
        tell("ending")
        final = make_step(seed, length, size).observation
        episode_id = writer.discard(final) if discarded else writer.finish(Outcome.SUCCESS, final)
        writer.close()
        tell("finished", "discarded" if discarded else "episodes", episode_id)


def killed_recorder(directory: Path, seed: int, size: int, background: bool) -> tuple[str, list[tuple[str, Told]]]:
    """Start a recorder and kill it -> what it was doing, and the episodes that it told of by id (else by seed)."""
    chance = random.Random(seed)
    delay = chance.choice([chance.uniform(0, 0.01), chance.uniform(0, 0.1), chance.uniform(0, 0.3)])
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    pid = os.fork()
    if pid == 0:
        try:
            record(directory, write_end, chance, size, background)
        finally:
            os._exit(1)  # it never ends by itself
    os.close(write_end)
    sleep(delay)
    # What is told until here was done before the kill.
    killed_at = monotonic_ns()
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    with open(read_end, "rb") as pipe:
        lines = [line.decode().split() for line in pipe.read().splitlines(keepends=True) if line.endswith(b"\n")]
    if not os.WIFSIGNALED(status):
        raise SystemExit(f"a recorder failed by itself (seed {seed}); it had told: {lines[-3:]}")
    return phase(lines), episodes_told(lines, killed_at)


def phase(lines: list[list[str]]) -> str:
    last = lines[-1][0] if lines else ""
    return {"": "opening", "begun": "recording", "step": "recording", "ending": "finishing"}.get(last, "between")


def episodes_told(lines: list[list[str]], killed_at: int) -> list[tuple[str, Told]]:
    episodes: list[tuple[str, Told]] = []
    for word, *values in lines:
        if word == "begun":
            episodes.append((values[2] if len(values) > 2 else f"seed {values[0]}", Told(int(values[1]))))
        elif word == "step":
            episodes[-1][1].times.append(int(values[0]))
        elif word == "ending":
            episodes[-1][1].ending = True
        elif word == "finished":
            episodes[-1][1].finished = values[0]
            episodes[-1] = (values[1], episodes[-1][1])
    if episodes and not episodes[-1][1].finished:
        episodes[-1][1].killed_at = killed_at
    return episodes


def check_values(episode: Episode, size: int) -> bool:
    """Whether these are the first steps that ``make_step`` makes, in full."""
    t = np.arange(len(episode))
    seed = episode.info.seed or 0
    images = np.broadcast_to(((seed + 7 * t) % 256)[:, None, None, None], (len(t), size, size, 3))
    same = (episode.reward == t).all() and (episode.action == t[:, None]).all()
    return bool(same and (episode.observation["image"] == images).all())


@dataclass
class Figures:
    """What was found."""

    phases: Counter[str] = field(default_factory=Counter)
    finished: int = 0
    unfinished: int = 0
    recovered: int = 0
    completed: int = 0  # killed while finishing, and there in full all the same
    none_told: int = 0  # killed before a step was told
    unwritten: int = 0  # all of its few steps were with the thread still
    losses: list[float] = field(default_factory=list)  # seconds
    wrong: list[str] = field(default_factory=list)


def hold_against(directory: Path, told: list[tuple[str, Told]], size: int, figures: Figures) -> None:
    """Open the directory and compare what is there with what was told."""
    store = EpisodeStore.open(directory)
    figures.wrong += [str(problem) for problem in check(directory)]
    figures.wrong += [f"{directory} still has {name}" for name in os.listdir(directory / "journal") if name != ".lock"]
    there: dict[str, tuple[str, Episode]] = {}
    for folder in ("episodes", "discarded"):
        for path in (directory / folder).iterdir():
            there[path.name.removesuffix(".safetensors")] = (folder, read_episode(path))
    for episode_id, (_, episode) in there.items():
        if not check_values(episode, size):
            figures.wrong.append(f"the episode {episode_id} holds other values than were recorded")
    # The thread's unfinished episodes told no id; the time of their first step names them.
    by_time = {int(episode.t_monotonic_ns[0]): episode_id for episode_id, (_, episode) in there.items()}
    for episode_id, one in told:
        name = episode_id if episode_id in there else by_time.get(one.times[0], "") if one.times else ""
        folder, episode = there.get(name, ("", None))
        if one.finished:
            figures.finished += 1
            if episode is None or len(episode) != one.length or folder != one.finished:
                figures.wrong.append(f"the finished episode {episode_id} is not there as it was finished")
            continue
        figures.unfinished += 1
        if not one.times:
            figures.none_told += 1
            continue
        last = int(episode.t_monotonic_ns[-1]) if episode is not None else one.times[0]
        figures.losses.append((one.killed_at - last) / 1e9)
        figures.recovered += episode is not None
        figures.unwritten += episode is None
        figures.completed += episode is not None and episode.info.outcome is Outcome.SUCCESS
        missing = [t for t in one.times if t > last or episode is None]
        if missing and one.killed_at - missing[0] > 1e9:
            figures.wrong.append(f"the episode {episode_id} lacks a step of more than a second before the kill")
    if len(store) > len(there):
        figures.wrong.append("the store lists more than there is")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--size", type=int, default=32, help="pixels a side")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--each", type=int, default=50, help="kills in one directory, before it is looked at")
    parser.add_argument("--directory", type=Path, help="where to write (default: the system's temporary directory)")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # every recovery is a warning
    figures, started = Figures(), monotonic()
    for first in range(0, arguments.kills, arguments.each):
        with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
            told: list[tuple[str, Told]] = []
            for kill in range(first, min(first + arguments.each, arguments.kills)):
                seed = arguments.seed * 1_000_003 + kill
                doing, episodes = killed_recorder(Path(directory), seed, arguments.size, background=kill % 2 == 1)
                figures.phases[doing] += 1
                told += episodes
            hold_against(Path(directory), told, arguments.size, figures)
        print(f"\r{min(first + arguments.each, arguments.kills)} kills", end="", file=sys.stderr, flush=True)
    report(figures, arguments.kills, monotonic() - started)
    raise SystemExit(bool(figures.wrong))


def report(figures: Figures, kills: int, seconds: float) -> None:
    losses = np.array(figures.losses or [0.0]) * 1e3
    phases = ", ".join(f"{count} {name}" for name, count in figures.phases.most_common())
    print(f"\n{kills} kills in {seconds:.0f} s (load {os.getloadavg()[0]:.1f}): {phases}")
    print(f"finished episodes told: {figures.finished}; lost: {sum('finished' in wrong for wrong in figures.wrong)}")
    print(
        f"unfinished episodes: {figures.unfinished}, {figures.none_told} of them before a step was told; "
        f"recovered: {figures.recovered}, {figures.completed} of them in full; not on the disk yet: {figures.unwritten}"
    )
    print(
        f"from the last step kept to the kill: p50 {np.percentile(losses, 50):.2f} ms, "
        f"p99 {np.percentile(losses, 99):.2f} ms, longest {losses.max():.2f} ms"
    )
    print(f"wrong: {len(figures.wrong)}")
    for wrong in figures.wrong[:20]:
        print(f"  {wrong}")


if __name__ == "__main__":
    main()
