from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from html_page import Page
from hypothesis import given
from hypothesis import strategies as st

from robopref.errors import RoboprefError
from robopref.evaluation.statistics import Estimate, Rate, paired_bootstrap_difference
from robopref.reporting.html import verdict, write_report
from robopref.reporting.outcome_figures import paired_outcomes
from robopref.reporting.results import EvaluatedEpisode, read_results
from robopref.reporting.training_figures import curve_figures, shares_figure
from robopref.reporting.videos import write_video
from robopref.trajectory import Actor


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def episodes(rng: np.random.Generator, n: int, share: float) -> list[dict[str, Any]]:
    success = rng.random(n) < share
    return [
        {
            "task": "t",
            "seed": 1000 + i,
            "success": bool(s),
            "steps": int(rng.integers(40, 200)) if s else 250,
            "total_reward": 1.0,
            "takeovers": int(not s),
            "human_steps": 0,
        }
        for i, s in enumerate(success)
    ]


def curves(rng: np.random.Generator, stage: str, n: int) -> list[dict[str, Any]]:
    rows = []
    for step in [1, *range(20, 20 * n, 20)]:
        t = step / (20 * n)
        row = {"step": step, "loss": 5 - 3 * t + rng.normal() * 0.1, "action_l1/expert": 0.6 - 0.4 * t}
        if stage == "refine":
            row |= {"rewards/chosen": t, "rewards/rejected": -2 * t, "rewards/margins": 3 * t, "kl": 2 * t**2 - 0.1}
            row |= {"weights/desirable": 0.6, "weights/undesirable": 0.4 + 0.1 * t, "action_l1/human": 0.8 - 0.5 * t}
            row |= {"shares/expert": 0.5, "shares/human": 0.25, "shares/undesirable": 0.25}
        rows.append(row)
    return rows


def attempt(rng: np.random.Generator, i: int) -> dict[str, Any]:
    actors, start, undesirable = [], 0, []
    for _ in range(int(rng.integers(0, 4))):
        policy, human = int(rng.integers(20, 60)), int(rng.integers(8, 25))
        actors += [[Actor.POLICY, policy], [Actor.HOLD, 3], [Actor.HUMAN, human]]
        undesirable.append([start + policy - 10, start + policy])
        start += policy + human + 3
    actors.append([Actor.POLICY, int(rng.integers(20, 100))])
    outcome = ["success", "failure", "aborted"][i % 3]
    return {"episode_id": f"e{i}", "seed": i, "outcome": outcome, "actors": actors, "undesirable": undesirable}


def make_run(run: Path, n: int = 12, *, task: str = "drawer-open", better: float = 0.7) -> dict[str, Any]:
    """The result files of a quickstart, with made-up outcomes; returns its summary."""
    rng = np.random.default_rng(0)
    before, after = episodes(rng, n, 0.3), episodes(rng, n, better)
    stages = {"before": before, "after": after}
    measures = {"success": lambda r: r["success"], "intervention_rate": lambda r: r["takeovers"] > 0}
    summary: dict[str, Any] = {"task": task, "method": "apo", "n": n}
    for stage, rows in stages.items():
        write_lines(run / stage / "episodes.jsonl", rows)
        summary[stage] = {m: asdict(Rate.of(sum(map(of, rows)), n)) for m, of in measures.items()}
    summary["difference"] = {
        m: asdict(paired_bootstrap_difference([float(of(r)) for r in before], [float(of(r)) for r in after]))
        for m, of in measures.items()
    }
    summary |= {
        "seeds": {"run": 0, "training": 7, "evaluation": [r["seed"] for r in after]},
        "labels": {"UNDESIRABLE": 300, "POLICY": 900, "HUMAN": 250, "EXPERT": 550, "EXCLUDED": 12},
        "data": {"demonstrations": 10, "episodes": 30, "takeovers": 25, "human_share": 0.2},
        "recipe": {"objective": "apo", "window": None, "trainer": {"learning_rate": 0.0005}, "shares": [0.5, 0.25]},
        "timing": {"demonstrations": 12.3, "refinement": 107.7},
        "versions": {"robopref": "0.1.0", "torch": "2.13.0"},
    }
    (run / "summary.json").write_text(json.dumps(summary))
    for stage in ("train", "refine"):
        write_lines(run / stage / "metrics.jsonl", curves(rng, stage, 30))
    (run / "timeline.json").write_text(json.dumps([attempt(rng, i) for i in range(n)]))
    for name in ("before-seed-1000", "after-seed-1000", "takeover"):
        write_video(run / "videos" / f"{name}.mp4", rng.integers(0, 255, (4, 32, 32, 3), np.uint8), 10, size=64)
        told = {"title": f"Title of {name}", "caption": f"Caption of {name}.", "outcome": "success", "seed": 1000}
        (run / "videos" / f"{name}.json").write_text(json.dumps(told))
    return summary


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run"
    make_run(run)
    return run


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def test_the_report_is_one_accessible_page_that_needs_nothing_from_elsewhere(run: Path) -> None:
    path = write_report(run)
    assert path == run / "report.html"
    assert [p.name for p in run.iterdir() if p.name.startswith(".")] == []
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("h1")) == 1
    assert len(page.all("title")) == 1
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    for _, attrs in page.elements:
        for key in ("src", "href"):
            if key in attrs:
                assert str(attrs[key]).startswith(("data:image/svg+xml;base64,", "videos/"))
    assert "url(" not in text
    assert page.all("script") == []
    for section in page.all("section"):
        assert section["aria-labelledby"] in ids
    images = page.all("img")
    assert len(images) == 4 + 1 + 6 + 1 + 2  # outcomes, timeline, refinement, shares, cloning
    for image in images:
        assert len(image["alt"]) > 15
        drawing = base64.b64decode(image["src"].partition(",")[2])
        assert ElementTree.fromstring(drawing).tag == "{http://www.w3.org/2000/svg}svg"
    videos = page.all("video")
    assert [v["src"] for v in videos] == [
        "videos/before-seed-1000.mp4",
        "videos/after-seed-1000.mp4",
        "videos/takeover.mp4",
    ]
    for video in videos:
        assert (run / video["src"]).exists()
        assert (video["preload"], "muted" in video, "controls" in video) == ("metadata", True, True)
    assert "Left out" not in page.text


def test_the_report_tells_the_numbers_of_the_result_files(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    text = Page(write_report(run).read_text(encoding="utf-8")).text
    for measure in ("success", "intervention_rate"):
        for stage in ("before", "after"):
            rate = summary[stage][measure]
            value, low, high = (f"{100 * rate[k]:.1f}" for k in ("value", "low", "high"))
            assert f"{value} [{low}, {high}] %{rate['successes']} of {rate['n']} episodes" in text
        difference = summary["difference"][measure]
        signed = [f"{100 * difference[k]:+.1f}".replace("-", "−") for k in ("value", "low", "high")]
        assert f"{signed[0]} [{signed[1]}, {signed[2]}] points" in text
    timeline = json.loads((run / "timeline.json").read_text())
    human = sum(n for row in timeline for actor, n in row["actors"] if actor == Actor.HUMAN)
    steps = sum(n for row in timeline for _, n in row["actors"])
    assert f"drove {100 * human / steps:.1f} % [" in text
    assert "n = 12 episodes" in text
    for told in (
        "1000 to 1011 (12)",
        "2.0 min",
        "trainer: learning rate",
        "0.0005",
        "not set",
        "one training run (seed 7)",
    ):
        assert told in text
    assert "Caption of takeover." in text


def test_the_same_results_give_the_same_page(run: Path) -> None:
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first


def test_what_users_and_files_say_is_never_markup(run: Path) -> None:
    attack = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    make_run(run, task=attack)
    (run / "videos/takeover.json").write_text(json.dumps({"title": attack, "caption": attack}))
    (run / "videos/takeover.mp4").rename(run / "videos/take over #1 \"'.mp4")
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert page.all("script") == []
    assert all("onerror" not in attrs for _, attrs in page.elements)
    assert attack in page.text
    assert "videos/take%20over%20%231%20%22%27.mp4" in [v["src"] for v in page.all("video")]


@pytest.mark.parametrize(
    ("missing", "note"),
    [
        ("summary.json", "summary.json"),
        ("timeline.json", "timeline.json"),
        ("videos", "videos/*.mp4"),
        ("train", "train/metrics.jsonl"),
        ("refine", "refine/metrics.jsonl"),
    ],
)
def test_a_missing_file_leaves_its_section_out_and_says_so(run: Path, missing: str, note: str) -> None:
    whole = len(Page(write_report(run).read_text(encoding="utf-8")).elements)
    path = run / missing
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert f"Left out: this run holds no {note}." in page.text
    assert len(page.elements) < whole


def test_an_empty_directory_gives_a_page_of_notes(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert page.all("img") == page.all("video") == []
    assert page.text.count("Left out") == 7


def test_a_lone_evaluation_has_rates_and_lengths_but_nothing_to_compare(run: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(run / "videos", alone / "videos")
    shutil.copy(run / "after/episodes.jsonl", alone)
    summary = json.loads((run / "summary.json").read_text())
    told = {"task": "door-open", "policy_id": "abc123", "result": summary["after"], "seeds": {"evaluation": [1, 2, 5]}}
    (alone / "summary.json").write_text(json.dumps(told))
    page = Page(write_report(alone).read_text(encoding="utf-8"))
    assert len(page.all("img")) == 3
    assert "abc123" in page.text
    assert "1, 2, 5" in page.text
    assert "perturbed" not in page.text
    for absent in ("Left out", "Difference", "refinement", "Deployment"):
        assert absent not in page.text.replace("before-seed", "").replace("after-seed", "")


def test_a_perturbed_evaluation_says_so(tmp_path: Path) -> None:
    rate = {"successes": 1, "n": 2, "value": 0.5, "low": 0.1, "high": 0.9}
    told = {"task": "reach", "perturb": ["lighting", "camera"], "perturb_strength": 2.0,
            "result": {"success": rate, "intervention_rate": rate}}  # fmt: skip
    (tmp_path / "summary.json").write_text(json.dumps(told))
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert page.text.count("reach, perturbed (lighting, camera)") >= 1
    assert "Scene" in page.text


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("summary.json", "{}", "give the directory of a quickstart"),
        ("summary.json", "{", "summary.json is not valid JSON"),
        ("summary.json", '{"before": {}}', "no summary of a run"),
        ("timeline.json", '[{"seed": 1}]', "no timeline"),
        ("before/episodes.jsonl", '{"seed": 1}\n', "line 1, holds no evaluated episode"),
        ("train/metrics.jsonl", "[]\n", "line 1, holds no metrics"),
    ],
)
def test_a_damaged_file_is_named(run: Path, file: str, content: str, message: str) -> None:
    (run / file).write_text(content)
    with pytest.raises(RoboprefError, match=message):
        write_report(run)
    assert not (run / "report.html").exists()


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RoboprefError, match="no run directory"):
        write_report(tmp_path / "absent")


def test_torn_lines_and_null_metrics_are_survived(run: Path) -> None:
    for file in ("before/episodes.jsonl", "refine/metrics.jsonl"):
        with (run / file).open("a") as opened:
            opened.write('{"step": 3')
    write_lines(run / "train" / "metrics.jsonl", [{"step": i, "loss": None} for i in (1, 2)])
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert len(page.all("img")) == 4 + 1 + 6 + 1
    assert len(read_results(run).episodes["before"]) == 12


@pytest.mark.parametrize(
    ("measure", "interval", "kind", "words"),
    [
        ("success", (0.2, 0.05, 0.4), "better", "supports an improvement"),
        ("success", (-0.2, -0.4, -0.05), "worse", "supports a deterioration"),
        ("success", (0.2, 0.0, 0.4), "open", "does not show a change"),
        ("success", (0.0, -0.1, 0.3), "open", "up to 30 points"),
        ("intervention_rate", (-0.2, -0.4, -0.05), "better", "supports an improvement"),
        ("intervention_rate", (0.2, 0.05, 0.4), "worse", "supports a deterioration"),
    ],
)
def test_the_verdict_says_no_more_than_the_interval(
    measure: str, interval: tuple[float, float, float], kind: str, words: str
) -> None:
    told = verdict(measure, Estimate(*interval, 40))
    assert told["kind"] == kind
    assert words in told["text"]
    assert "40" in told["text"]


@given(
    before=st.dictionaries(st.integers(0, 30), st.booleans()), after=st.dictionaries(st.integers(0, 30), st.booleans())
)
def test_paired_outcomes_part_the_shared_seeds(before: dict[int, bool], after: dict[int, bool]) -> None:
    rows = [[EvaluatedEpisode(seed, s, 10, 0) for seed, s in stage.items()] for stage in (before, after)]
    outcomes = paired_outcomes(*rows)
    shared = before.keys() & after.keys()
    if not shared:
        assert outcomes is None
        return
    assert outcomes is not None
    assert sorted(seed for seeds in outcomes.values() for seed in seeds) == sorted(shared)
    net = sum(after[s] for s in shared) - sum(before[s] for s in shared)
    assert len(outcomes["won"]) - len(outcomes["lost"]) == net


def test_curves_name_their_ends_and_leave_out_what_was_not_logged() -> None:
    rows = [{"step": 1, "loss": 2.0, "kl": None}, {"step": 2, "loss": None}, {"step": 3, "loss": 0.5}]
    (chart,) = curve_figures("refine", rows)
    assert chart.name == "refine-loss"
    assert "from 2 to 0.5" in chart.alt


def test_class_shares_are_of_the_recorded_steps_and_of_the_batches() -> None:
    labels = {"EXPERT": 60, "HUMAN": 30, "UNDESIRABLE": 10, "POLICY": 0, "EXCLUDED": 900}
    chart = shares_figure(labels, [{"step": 1, "shares/expert": 1.0}, {"step": 2, "shares/human": 1.0}])
    assert chart is not None
    for told in ("expert 60 percent of the recorded", "human 30 percent of the recorded", "human 50 percent of the tr"):
        assert told in chart.alt
    assert shares_figure(None, []) is None


def test_reporting_needs_neither_torch_nor_a_simulator() -> None:
    script = (
        "import sys, robopref.reporting.html as h; print([m for m in ('torch', 'mujoco', 'wandb') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
