from __future__ import annotations

import csv
import json
import math
import signal
import struct
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robopref.errors import RoboprefError
from robopref.tracking import Tracker, has_api_key, read_metrics, resolve_mode


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def offline_records(directory: Path) -> Iterator[Any]:
    """The records of every offline run under ``directory``, read as W&B writes them: a LevelDB log of protobufs."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # offline, W&B's service still writes after a run is finished; this waits for its end
    for path in sorted(directory.glob("wandb/offline-run-*/run-*.wandb"), key=lambda p: p.stat().st_mtime_ns):
        data, position, parts = path.read_bytes(), 7, b""
        assert data[:4] == b":W&B"
        while position + 7 <= len(data):
            if 32768 - position % 32768 < 7:  # a block's tail too short for a header is padding
                position += 32768 - position % 32768
                continue
            _, length, kind = struct.unpack_from("<IHB", data, position)
            parts += data[position + 7 : position + 7 + length]
            position += 7 + length
            if kind in (1, 4):  # whole, or the last part
                record = Record()
                record.ParseFromString(parts)
                parts = b""
                yield record


def offline_history(directory: Path) -> list[dict[str, Any]]:
    rows = []
    for record in offline_records(directory):
        if record.WhichOneof("record_type") == "history":
            row = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
            rows.append(row)
    return rows


def test_the_offline_run_holds_the_same_numbers_as_the_plain_file(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with Tracker(tmp_path, name="train", config={"beta": 0.1, "nested": {"lr": 1e-3}}) as tracker:
            assert tracker.wandb_mode == "offline"
            for step in range(1, 400, 7):  # more than one 32 KB block
                tracker.log({f"rewards/{i}": x for i, x in enumerate(generator.normal(size=40))}, step)
            tracker.summary({"success": 0.5})
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 400, 7))
    history = offline_history(tmp_path)
    assert len(history) == len(rows)
    for row, sent in zip(rows, history, strict=True):
        assert sent.pop("_step") == row.pop("step")
        assert {k: v for k, v in sent.items() if not k.startswith("_")} == row
    config = {
        item.key: json.loads(item.value_json)
        for record in offline_records(tmp_path)
        if record.WhichOneof("record_type") == "run"
        for item in record.run.config.update
    }
    assert config["beta"] == 0.1
    assert config["nested"] == {"lr": 1e-3}
    assert json.loads((tmp_path / "tracked.json").read_text()) == {"success": 0.5}


def test_numbers_that_are_not_finite_are_null_in_the_file_and_kept_by_wandb(tmp_path: Path) -> None:
    with Tracker(tmp_path, name="x", config={}) as tracker:
        tracker.log({"loss": float("nan"), "kl": float("inf"), "grad_norm": np.float32(0.5)}, 1)
        tracker.summary({"best": [float("nan"), 1.0]})
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": None, "kl": None, "grad_norm": 0.5}]
    assert json.loads((tmp_path / "tracked.json").read_text()) == {"best": [None, 1.0]}
    (sent,) = offline_history(tmp_path)
    assert math.isnan(float(sent["loss"]))
    assert math.isinf(float(sent["kl"]))


def test_media_and_tables_reach_the_offline_run(tmp_path: Path) -> None:
    from robopref.reporting.videos import write_video

    write_video(tmp_path / "film.mp4", np.zeros((3, 32, 32, 3), np.uint8), 10)
    with Tracker(tmp_path / "run", name="x", config={}) as tracker:
        tracker.log({"loss": 1.0}, 5)
        tracker.log_table("eval/seeds", ["seed", "note"], [[1, 'a "quoted", note'], [2, ""]])
        tracker.log_video("eval/film", tmp_path / "film.mp4")
        with pytest.raises(RoboprefError, match="no file"):
            tracker.log_image("eval/picture", tmp_path / "absent.png")
    with (tmp_path / "run/tables/eval/seeds.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["seed", "note"], ["1", 'a "quoted", note'], ["2", ""]]
    (sent,) = offline_history(tmp_path / "run")  # one step, one row
    assert (sent["loss"], sent["_step"]) == (1.0, 5)
    media = next((tmp_path / "run/wandb").glob("offline-run-*/files/media"))
    assert [p.read_bytes() for p in media.rglob("*.mp4")] == [(tmp_path / "film.mp4").read_bytes()]
    assert len(list(media.rglob("*.table.json"))) == 1


@given(
    logged=st.lists(st.integers(1, 50), min_size=1, max_size=20, unique=True).map(sorted),
    resume_step=st.integers(1, 60),
    cut=st.integers(0, 200),
)
def test_a_resumed_curve_has_no_step_twice_wherever_the_kill_tore_it(
    tmp_path_factory: pytest.TempPathFactory, logged: list[int], resume_step: int, cut: int
) -> None:
    directory = tmp_path_factory.mktemp("run")
    with Tracker(directory, name="x", config={}, wandb_mode="disabled") as tracker:
        for step in logged:
            tracker.log({"loss": 1 / step}, step)
    path = directory / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[: max(0, len(whole) - cut)])
    survived = path.read_bytes().count(b"\n")
    with Tracker(directory, name="x", config={}, wandb_mode="disabled", resume_step=resume_step) as tracker:
        tracker.log({"loss": 0.0}, resume_step + 1)
    expected = [step for step in logged[:survived] if step <= resume_step] + [resume_step + 1]
    assert [row["step"] for row in read_metrics(path)] == expected


def test_a_run_from_the_start_begins_the_file_anew(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        with Tracker(tmp_path, name="x", config={}, wandb_mode="disabled") as tracker:
            tracker.log({"loss": value}, 0)
            tracker.summary({f"best_{value}": value})
    assert json.loads((tmp_path / "tracked.json").read_text()) == {"best_2.0": 2.0}
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 0, "loss": 2.0}]


def test_a_resumed_run_keeps_its_identity(tmp_path: Path) -> None:
    with Tracker(tmp_path, name="x", config={}) as tracker:
        tracker.log({"loss": 1.0}, 1)
        tracker.log({"loss": 0.5}, 2)
    with Tracker(tmp_path, name="x", config={}, resume_step=1) as tracker:
        tracker.log({"loss": 0.6}, 2)
    ids = {r.run.run_id for r in offline_records(tmp_path) if r.WhichOneof("record_type") == "run"}
    assert len(ids) == 1
    assert [row["loss"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1.0, 0.6]


def test_every_line_is_on_disk_when_the_process_is_killed_and_nothing_is_printed(tmp_path: Path) -> None:
    script = f"""
    import os, signal
    from pathlib import Path
    from robopref.tracking import Tracker
    tracker = Tracker(Path({str(tmp_path)!r}), name="x", config={{}})
    for step in range(1, 21):
        tracker.log({{"loss": 1.0}}, step)
    os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL
    assert (done.stdout, done.stderr) == ("", "")
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == list(range(1, 21))


def test_training_goes_on_with_one_warning_when_wandb_dies(tmp_path: Path) -> None:
    # In a process of its own: W&B complains at exit about its service being gone.
    script = f"""
    import time, warnings
    from pathlib import Path
    import psutil
    from robopref.tracking import Tracker
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Tracker(Path({str(tmp_path)!r}), name="x", config={{}}) as tracker:
            tracker.log({{"loss": 1.0}}, 1)
            (service,) = [p for p in psutil.Process().children() if "wandb-core" in p.name()]
            helpers = service.children(recursive=True)  # would hold the pipes of this process open
            for process in (service, *helpers):
                process.kill()
            service.wait()
            time.sleep(0.5)
            for step in range(2, 9):
                tracker.log({{"loss": 1.0}}, step)
            tracker.log_table("t", ["a"], [[1]])
            tracker.summary({{"s": 1}})
        print([str(w.message) for w in caught if w.category is UserWarning])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (message,) = eval(done.stdout)
    assert message.startswith("W&B could not")
    assert "metrics.jsonl" in message
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == list(range(1, 9))
    assert (tmp_path / "tables/t.csv").exists()


def test_wandb_may_die_while_the_run_is_being_closed(tmp_path: Path) -> None:
    script = f"""
    import threading
    from pathlib import Path
    import psutil
    from robopref.tracking import Tracker
    with Tracker(Path({str(tmp_path)!r}), name="x", config={{}}) as tracker:
        tracker.log({{"loss": 1.0}}, 1)
        (service,) = [p for p in psutil.Process().children() if "wandb-core" in p.name()]
        helpers = service.children(recursive=True)  # would hold the pipes of this process open
        service.suspend()
        threading.Timer(1, lambda: [process.kill() for process in (service, *helpers)]).start()
    print("went on")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert "went on" in done.stdout, done.stderr
    assert "W&B could not" in done.stderr


def test_training_goes_on_when_wandb_cannot_start(tmp_path: Path) -> None:
    (tmp_path / "wandb").write_text("a file where W&B wants a folder")
    script = f"""
    from pathlib import Path
    from robopref.tracking import Tracker
    with Tracker(Path({str(tmp_path)!r}), name="", config={{}}, project="not/a project") as tracker:
        tracker.log({{"loss": 1.0}}, 1)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "W&B could not start" in done.stderr
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 1.0}]


def test_the_mode_is_what_was_said_or_what_the_machine_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_mode(None) == "offline"
    (tmp_path / "netrc").write_text("machine example.org\n  login a\n  password b\n")
    assert not has_api_key()
    (tmp_path / "netrc").write_text("machine api.wandb.ai\n  login user\n  password x\n")
    assert resolve_mode(None) == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert resolve_mode(None) == "disabled"
    assert resolve_mode("offline") == "offline"
    with pytest.raises(RoboprefError, match="online, offline, disabled"):
        resolve_mode("on")
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(RoboprefError, match="WANDB_MODE"):
        resolve_mode(None)


def test_online_without_a_key_is_kept_offline_without_asking(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="no API key"):
        tracker = Tracker(tmp_path, name="x", config={}, wandb_mode="online")
    with tracker:
        tracker.log({"loss": 1.0}, 1)
    assert len(offline_history(tmp_path)) == 1


def test_disabled_writes_no_wandb_files(tmp_path: Path) -> None:
    with Tracker(tmp_path, name="x", config={}, wandb_mode="disabled") as tracker:
        tracker.log({"loss": 1.0}, 1)
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_bad_input_is_refused(tmp_path: Path) -> None:
    with Tracker(tmp_path, name="x", config={}, wandb_mode="disabled") as tracker:
        with pytest.raises(RoboprefError, match="'step'"):
            tracker.log({"step": 1.0}, 1)
        with pytest.raises(RoboprefError, match="loss"):
            tracker.log({"loss": "low"}, 1)  # type: ignore[dict-item]
        for name in ("../escape", "/absolute", "a//b", ""):
            with pytest.raises(RoboprefError, match="cannot name a table"):
                tracker.log_table(name, ["a"], [])
        with pytest.raises(RoboprefError, match="2 columns"):
            tracker.log_table("t", ["a", "b"], [[1]])
    assert (tmp_path / "metrics.jsonl").read_text() == ""
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nnonsense\n')
    with pytest.raises(RoboprefError, match="line 2"):
        Tracker(tmp_path, name="x", config={}, wandb_mode="disabled", resume_step=1)


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs the device /dev/full")
def test_a_full_disk_is_told_in_one_sentence(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, name="x", config={}, wandb_mode="disabled")
    tracker._file.close()
    tracker._file = Path("/dev/full").open("a")  # noqa: SIM115
    with pytest.raises(RoboprefError, match="free some space"):
        tracker.log({"loss": 1.0}, 1)
