"""Merging and splitting: every episode arrives whole, once, unchanged; nothing is overwritten, sources stay."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robopref.errors import RoboprefError
from robopref.store import EpisodeStore
from robopref.store.checking import check
from robopref.store.moving import by_fraction, merge, split
from robopref.trajectory import Actor, EpisodeInfo, Outcome, Step

INFO = EpisodeInfo(task="reach", instruction="reach the goal")


def make_step(t: int, size: int = 3) -> Step:
    action = np.full(2, 0.5, np.float32)
    state = np.full(size, t, np.float64)
    return Step({"state": state}, action, Actor.POLICY, policy_action=action, reward=t, t_monotonic_ns=t)


def made(path: Path, episodes: int, size: int = 3) -> EpisodeStore:
    store = EpisodeStore.create_or_open(path)
    for n in range(episodes):
        with store.begin(replace(INFO, seed=n)) as writer:
            for t in range(n % 3 + 1):
                writer.append(make_step(t, size))
            writer.finish((Outcome.SUCCESS, Outcome.FAILURE)[n % 2])
    return store


def contents(directory: Path, folder: str = "episodes") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (directory / folder).iterdir()}


def test_merging_links_every_episode(tmp_path: Path) -> None:
    a, b = made(tmp_path / "a", 3), made(tmp_path / "b", 2)
    seen: list[tuple[int, int]] = []
    moved = merge([a.path, b.path], tmp_path / "all", progress=lambda *done: seen.append(done))
    assert (moved.episodes, moved.steps, moved.linked, moved.copied) == (5, 9, 5, 0)
    assert seen == [(n, 5) for n in range(1, 6)]
    assert contents(tmp_path / "all") == contents(a.path) | contents(b.path)
    name = f"episodes/{a.episode_ids()[0]}.safetensors"
    assert (tmp_path / "all" / name).samefile(a.path / name)
    assert check(tmp_path / "all") == []
    # And from then on the directories have nothing to do with one another.
    made(tmp_path / "all", 1)
    shutil.rmtree(a.path)
    assert len(EpisodeStore.open(tmp_path / "all")) == 6
    assert len(b) == 2
    assert check(tmp_path / "all") == check(b.path) == []


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EMLINK])
def test_without_links_episodes_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*paths: object) -> None:
        raise OSError(code, os.strerror(code))

    a = made(tmp_path / "a", 2)
    monkeypatch.setattr(os, "link", refuse)
    moved = merge([a.path], tmp_path / "all")
    assert (moved.linked, moved.copied) == (0, 2)
    assert contents(tmp_path / "all") == contents(a.path)
    assert not any(path.samefile(a.path / "episodes" / path.name) for path in (tmp_path / "all/episodes").iterdir())
    assert os.listdir(tmp_path / "all/journal") == [".lock"]


def test_across_real_file_systems(tmp_path: Path) -> None:
    import tempfile

    a = made(tmp_path / "a", 2)
    if not os.access("/dev/shm", os.W_OK) or os.stat("/dev/shm").st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("there is no second file system")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        assert merge([a.path], Path(elsewhere) / "all").copied == 2
        assert contents(Path(elsewhere) / "all") == contents(a.path)


@pytest.mark.parametrize("copy", [False, True])
def test_episodes_behind_symbolic_links_arrive_themselves(tmp_path: Path, copy: bool) -> None:
    """As in a download from a hub: every file is a relative link to one in a folder of blobs."""
    a = made(tmp_path / "a", 2)
    expected, blobs = contents(a.path), tmp_path / "blobs"
    blobs.mkdir()
    for path in (a.path / "episodes").iterdir():
        path.rename(blobs / path.name)
        path.symlink_to(Path("../../blobs") / path.name)
    deep = tmp_path / "elsewhere" / "down"
    assert merge([a.path], deep / "all", copy=copy).episodes == 2
    split(a.path, {deep / "part": a.episode_ids()[:1]}, copy=copy)
    shutil.rmtree(blobs)
    assert contents(deep / "all") == expected
    assert contents(deep / "part").items() < expected.items()
    assert not any(path.is_symlink() for path in deep.rglob("*"))
    assert check(deep / "all") == check(deep / "part") == []


def test_merging_again_adds_only_what_is_new(tmp_path: Path) -> None:
    a = made(tmp_path / "a", 3)
    merge([a.path], tmp_path / "all", copy=True)
    before = EpisodeStore.open(tmp_path / "all").fingerprint()
    again = merge([a.path, a.path], tmp_path / "all")
    assert (again.episodes, again.left_out) == (0, tuple(a.episode_ids() * 2))
    made(a.path, 1)
    assert merge([a.path], tmp_path / "all").episodes == 1
    assert before != EpisodeStore.open(tmp_path / "all").fingerprint() == a.fingerprint()


def test_what_cannot_be_merged_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    a, wide = made(tmp_path / "a", 2), made(tmp_path / "wide", 1, size=4)
    target = tmp_path / "all"
    with pytest.raises(
        RoboprefError, match=r"wide and .*a hold different columns.*'observation/state' is float64 \[4\]"
    ):
        merge([a.path, wide.path], target)
    twin = EpisodeStore.create_or_open(tmp_path / "twin")
    first = a.read(a.episode_ids()[0])
    twin.add(replace(first, reward=first.reward + 1))
    with pytest.raises(RoboprefError, match=rf"{a.episode_ids()[0]}.*another one"):
        merge([a.path, twin.path], target)
    with pytest.raises(RoboprefError, match="no finished episode"):
        merge([EpisodeStore.create_or_open(tmp_path / "empty").path], target)
    with pytest.raises(RoboprefError, match="no finished episode"):
        merge([], target)
    assert not target.exists()
    with pytest.raises(RoboprefError, match="a source and the target"):
        merge([a.path], a.path)
    merge([a.path], target)
    before = contents(target)
    for source in (wide, twin):
        with pytest.raises(RoboprefError, match=r"different columns|another one"):
            merge([source.path], target)
    assert contents(target) == before
    # An empty source has no columns to disagree with.
    merge([tmp_path / "empty", a.path], target)


def test_a_damaged_episode_stops_it_and_what_is_whole_arrives(tmp_path: Path) -> None:
    a = made(tmp_path / "a", 3)
    path = a.path / "episodes" / f"{a.episode_ids()[1]}.safetensors"
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(RoboprefError, match=f"{path}.*checksum"):
        merge([a.path], tmp_path / "all", copy=True)
    assert EpisodeStore.open(tmp_path / "all").episode_ids() == a.episode_ids()[:1]
    path.write_bytes(good)
    assert merge([a.path], tmp_path / "all").left_out == (a.episode_ids()[0],)
    assert check(tmp_path / "all") == []


def test_a_full_disk_leaves_whole_episodes_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(read: object, written: object, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    a = made(tmp_path / "a", 2)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", full)
        with pytest.raises(RoboprefError, match=r"disk is full.*run it again"):
            merge([a.path], tmp_path / "all", copy=True)
    assert check(tmp_path / "all") == []
    assert merge([a.path], tmp_path / "all", copy=True).copied == 2


RULE = {"window": 3, "include_policy_steps": "none"}


def test_the_labelling_rule_goes_along_when_all_agree(tmp_path: Path) -> None:
    a, b, c = (made(tmp_path / name, 1) for name in "abc")
    (a.path / "labels.json").write_text(json.dumps({"rule": RULE, "counts": {"human": 5}}))
    (b.path / "labels.json").write_text(json.dumps({"rule": RULE}))
    assert merge([a.path, b.path, c.path], tmp_path / "all").notes == ()
    assert json.loads((tmp_path / "all" / "labels.json").read_text()) == {"rule": RULE}
    (b.path / "labels.json").write_text(json.dumps({"rule": RULE | {"window": 9}}))
    assert "differ" in merge([a.path, b.path], tmp_path / "other").notes[0]
    assert not (tmp_path / "other" / "labels.json").exists()
    assert "differ" in merge([b.path], tmp_path / "all").notes[0]
    assert json.loads((tmp_path / "all" / "labels.json").read_text()) == {"rule": RULE}
    parts = split(a.path, {tmp_path / "part": a.episode_ids()})
    assert parts[tmp_path / "part"].notes == ()
    assert json.loads((tmp_path / "part" / "labels.json").read_text()) == {"rule": RULE}
    (a.path / "labels.json").write_text("{")
    with pytest.raises(RoboprefError, match=r"labels.json holds no labelling rule"):
        merge([a.path], tmp_path / "third")


def test_splitting_at_random_is_repeatable_and_complete(tmp_path: Path) -> None:
    a = made(tmp_path / "a", 10)
    shares = {tmp_path / "train": 0.7, tmp_path / "test": 0.3}
    parts = by_fraction(a, shares, seed=1)
    assert parts == by_fraction(a, shares, seed=1) != by_fraction(a, shares, seed=2)
    assert {path.name: len(ids) for path, ids in parts.items()} == {"train": 7, "test": 3}
    seen: list[tuple[int, int]] = []
    moved = split(a.path, parts, progress=lambda *done: seen.append(done))
    assert seen == [(n, 10) for n in range(1, 11)]
    assert sum(part.steps for part in moved.values()) == sum(a.header(i).steps for i in a.episode_ids())
    train, test = (EpisodeStore.open(path) for path in shares)
    assert sorted(train.episode_ids() + test.episode_ids()) == a.episode_ids()
    assert check(train.path) == check(test.path) == []
    # Together again they are what they were.
    merge(list(shares), tmp_path / "back")
    assert EpisodeStore.open(tmp_path / "back").fingerprint() == a.fingerprint()


def test_splitting_again_deals_only_what_no_part_has(tmp_path: Path) -> None:
    a = made(tmp_path / "a", 10)
    shares = {tmp_path / "train": 0.7, tmp_path / "test": 0.3}
    train, test = shares
    whole = by_fraction(a, shares, seed=1)
    # One that was interrupted goes on with what it had dealt.
    split(a.path, {train: whole[train][:2]})
    assert by_fraction(a, shares, seed=1) == whole
    split(a.path, whole)
    assert by_fraction(a, shares, seed=2) == whole
    made(a.path, 10)
    grown = by_fraction(a, shares, seed=1)
    split(a.path, grown)
    held = {path: EpisodeStore.open(path).episode_ids() for path in shares}
    assert held == grown
    assert all(set(whole[path]) < set(held[path]) for path in shares)
    assert (len(held[train]), len(held[test])) == (14, 6)
    assert sorted(held[train] + held[test]) == a.episode_ids()
    # Other shares: what a part has too much stays there, and the rest goes to the others.
    made(a.path, 5)
    other = by_fraction(a, {train: 0.2, test: 0.6, tmp_path / "third": 0.2}, seed=0)
    assert other[train] == held[train]
    assert set(held[test]) < set(other[test])
    assert sorted(episode_id for ids in other.values() for episode_id in ids) == a.episode_ids()


def test_parts_that_share_an_episode_are_refused(tmp_path: Path) -> None:
    a = made(tmp_path / "a", 4)
    train, test = tmp_path / "train", tmp_path / "test"
    for part in (train, test):
        split(a.path, {part: a.episode_ids()[:1]})
    with pytest.raises(RoboprefError, match=f"{a.episode_ids()[0]} is in {train} and in {test} already"):
        by_fraction(a, {train: 0.5, test: 0.5}, seed=0)
    with pytest.raises(RoboprefError, match="a source and the target"):
        by_fraction(a, {a.path: 0.5, test: 0.5}, seed=0)
    with pytest.raises(RoboprefError, match=r"3 episodes are too few .*third.* the others being in a part already"):
        by_fraction(a, {train: 0.9, tmp_path / "third": 0.1}, seed=0)


def test_splits_that_make_no_sense(tmp_path: Path) -> None:
    a = made(tmp_path / "a", 4)
    ids = a.episode_ids()
    parts: list[tuple[dict[Path, list[str]], str]] = [
        ({tmp_path / "x": ["nobody"]}, "'nobody'"),
        ({tmp_path / "x": ids[:2], tmp_path / "y": ids[1:]}, "another part"),
        ({tmp_path / "x": ids[:2], a.path: ids[2:]}, "a source and the target"),
    ]
    for part, message in parts:
        with pytest.raises(RoboprefError, match=message):
            split(a.path, part)
        assert not (tmp_path / "x").exists()
    for shares in ([0.5, 0.6], [0.0, 1.0], [], [0.01, 0.9]):
        with pytest.raises(RoboprefError, match=r"shares are|too few"):
            by_fraction(a, {tmp_path / str(i): share for i, share in enumerate(shares)}, seed=0)


WORKER = """
import sys
from pathlib import Path
from robopref.store.moving import merge
merge([Path(sys.argv[1])], Path(sys.argv[2]), copy=sys.argv[3] == "copy")
"""
RECORDER = """
import sys
from tests.test_store_moving import made
from pathlib import Path
made(Path(sys.argv[1]), 12)
"""


def start(code: str, *arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], cwd=Path(__file__).parent.parent)


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_writers_readers_and_merges_at_once(tmp_path: Path) -> None:
    a, b = made(tmp_path / "a", 12), made(tmp_path / "b", 12)
    target = EpisodeStore.create_or_open(tmp_path / "all").path
    workers = [start(RECORDER, target), start(RECORDER, target)]
    workers += [
        start(WORKER, a.path, target, "copy"),
        start(WORKER, a.path, target, ""),
        start(WORKER, b.path, target, ""),
    ]
    seen: list[int] = []
    while any(worker.poll() is None for worker in workers):
        store = EpisodeStore.open(target)
        assert store.recovered == ()
        for episode in store:
            np.testing.assert_array_equal(episode.reward, np.arange(len(episode)))
        assert check(target) == []
        seen.append(len(store))
    assert [worker.returncode for worker in workers] == [0] * 5
    assert seen == sorted(seen)
    assert len(EpisodeStore.open(target)) == 48
    assert check(target) == []


def test_a_killed_merge_is_completed_by_another(tmp_path: Path) -> None:
    a = made(tmp_path / "a", 40)
    target = tmp_path / "all"
    worker = start(WORKER, a.path, target, "copy")
    wait(lambda: (target / "episodes").is_dir() and any((target / "episodes").iterdir()))
    worker.kill()
    worker.wait()
    arrived = len(EpisodeStore.open(target))
    moved = merge([a.path], target, copy=True)
    assert (moved.episodes, len(moved.left_out)) == (40 - arrived, arrived)
    assert EpisodeStore.open(target).fingerprint() == a.fingerprint()
    assert all(problem.file.suffix == ".tmp" for problem in check(target))
