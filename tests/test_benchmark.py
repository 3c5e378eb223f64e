"""A benchmark of methods: all on the same recordings and layouts, equal steps, stopped and gone on with."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robopref.cli import benchmark_cell
from robopref.cli.benchmark import PRESETS, RESULTS, Benchmark, plan, run_benchmark
from robopref.cli.benchmark_cell import Evaluation, budget_json, run_cell
from robopref.cli.benchmark_methods import METHODS, Method, check_methods
from robopref.cli.benchmark_processes import run_cells
from robopref.cli.benchmark_report import report_benchmark
from robopref.cli.benchmark_results import read_benchmark
from robopref.cli.run_directory import read_json
from robopref.errors import RoboprefError
from robopref.human_io.scripted import ScriptedOperatorConfig
from robopref.store.store import EpisodeStore
from robopref.trajectory import Outcome

TINY = {"preset": "smoke", "demos": 1, "episodes": 2, "evaluation_episodes": 2, "train_steps": 6, "refine_steps": 4,
        "batch_size": 8, "refine_learning_rate": 5e-4, "action_smoothing": 0.05, "workers": 2}  # fmt: skip


def settings(out, **options):
    return Benchmark(out, **TINY | {"tasks": ("reach",), "methods": ("bc", "bc-scratch")} | options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("benchmark") / "run"
    assert run_benchmark(settings(out, tasks=("reach", "push")))
    return out


def evaluations(out):
    """Episode seeds and results by (task, seed, method)."""
    rows = defaultdict(list)
    for row in pq.read_table(out / RESULTS).to_pylist():
        rows[row["task"], row["seed"], row["method"]].append(row)
    return rows


@pytest.mark.slow
def test_every_method_is_evaluated_on_the_same_layouts(finished):
    rows = evaluations(finished)
    assert set(rows) == {(t, 0, m) for t in ("reach", "push") for m in ("base", "bc", "bc-scratch")}
    seeds = {tuple(row["episode_seed"] for row in group) for group in rows.values()}
    assert len(seeds) == 1
    assert len(seeds.pop()) == 2


@pytest.mark.slow
def test_all_refined_policies_have_had_equally_many_optimiser_steps(finished):
    here = finished / "one-round" / "seed-0" / "reach" / "reach"
    trained = {m: read_json(here / m / "config.json")["config"]["steps"] for m in ("bc", "bc-scratch")}
    assert trained == {"bc": 4, "bc-scratch": 6 + 4}  # bc goes on from a base of 6
    rates = {m: read_json(here / m / "config.json")["config"]["learning_rate"] for m in ("bc", "bc-scratch")}
    assert rates == {"bc": 5e-4, "bc-scratch": 1e-3}  # a fresh start is trained as the base was
    trained = [here.parent / "base", here / "bc", here / "bc-scratch"]
    assert {read_json(run / "config.json")["config"]["action_smoothing"] for run in trained} == {0.05}
    told = {key[2]: group[0]["optimiser_steps"] for key, group in evaluations(finished).items() if key[0] == "reach"}
    assert told == {"base": 6, "bc": 10, "bc-scratch": 10}


@pytest.mark.slow
def test_the_control_is_the_base_trained_for_longer_on_the_demonstrations_alone(tmp_path):
    assert run_benchmark(settings(tmp_path / "run", methods=("demos-scratch",), chunk=2))
    here = tmp_path / "run" / "one-round" / "seed-0" / "reach"
    control, base = (
        read_json(run / "config.json")["config"] for run in (here / "reach" / "demos-scratch", here / "base")
    )
    assert (base.pop("steps"), control.pop("steps")) == (6, 6 + 4)
    assert control["demos"] == base["demos"] == [str(here / "demos" / "original" / "reach")]
    assert {**control, "out": None} == {**base, "out": None}
    assert control["chunk"] == 2
    assert {row["optimiser_steps"] for row in evaluations(tmp_path / "run")["reach", 0, "demos-scratch"]} == {10}


@pytest.mark.slow
def test_preferences_may_have_their_turn_after_cloning(tmp_path):
    methods = ("bc-then-apo", "bc-scratch-then-apo", "bc-scratch-then-dpo")
    assert run_benchmark(settings(tmp_path / "run", methods=methods))
    here = tmp_path / "run" / "one-round" / "seed-0" / "reach"

    def made(name, *wanted):
        config = read_json(here / "reach" / name / "config.json")["config"]
        return tuple(config[w] for w in wanted)

    assert made("cloned-2-steps", "policy", "objective", "steps", "from_scratch", "learning_rate") == (
        str(here / "base"), "bc", 2, False, 5e-4,
    )  # fmt: skip
    assert made("bc-then-apo", "policy", "objective", "steps", "learning_rate") == (
        str(here / "reach" / "cloned-2-steps"), "apo", 2, 5e-4,
    )  # fmt: skip
    clone = here / "reach" / "cloned-8-steps-from-scratch"
    assert made(clone.name, "objective", "steps", "from_scratch", "learning_rate") == ("bc", 8, True, 1e-3)
    for objective in ("apo", "dpo"):  # a second start from scratch would throw the clone away
        method = f"bc-scratch-then-{objective}"
        assert made(method, "policy", "objective", "steps", "from_scratch", "learning_rate") == (
            str(clone), objective, 2, False, 1e-4,
        )  # fmt: skip
        assert {row["optimiser_steps"] for row in evaluations(tmp_path / "run")["reach", 0, method]} == {10}


@pytest.mark.slow
def test_nothing_is_evaluated_on_a_layout_that_was_learned_from(finished):
    here = finished / "one-round" / "seed-0" / "reach"
    learned = set()
    for data in (here / "demos" / "original" / "reach", here / "reach" / "interactions"):
        store = EpisodeStore.open(data)
        learned |= {store.info(i).seed for i in store.episode_ids()}
    evaluated = {row["episode_seed"] for group in evaluations(finished).values() for row in group}
    assert len(learned) == 3
    assert not learned & evaluated


@pytest.mark.slow
def test_going_on_adds_what_is_asked_for_and_keeps_the_rest(finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("episodes.jsonl")}
    assert run_benchmark(settings(finished, methods=("bc", "bc-scratch", "apo"), tasks=("reach", "push"), resume=True))
    after = {path: path.stat().st_mtime_ns for path in finished.rglob("episodes.jsonl")}
    assert {path: after[path] for path in before} == before
    assert {path.relative_to(finished).parts[4] for path in set(after) - set(before)} == {"apo"}
    assert ("push", 0, "apo") in evaluations(finished)
    assert run_benchmark(settings(finished, resume=True))  # of reach alone; what there is of push stays
    assert ("push", 0, "apo") in evaluations(finished)
    with pytest.raises(RoboprefError, match="evaluation_episodes"):
        run_benchmark(settings(finished, evaluation_episodes=3, resume=True))


@pytest.mark.slow
def test_a_changed_scene_and_a_policy_of_all_tasks(tmp_path):
    regimes = ("perturbed", "pretrained")
    assert run_benchmark(
        settings(tmp_path / "run", regimes=regimes, tasks=("reach", "push"), methods=("bc",), refined_tasks=("push",))
    )
    rows = pq.read_table(tmp_path / "run" / RESULTS).to_pylist()
    told = {(r["regime"], r["task"], r["method"], r["evaluated_on"], r["scene"]) for r in rows}
    scenes = ("original", "perturbed")
    one = {("perturbed", t, m, t, s) for t in ("reach", "push") for m in ("base", "bc") for s in scenes}
    all_tasks = {("pretrained", "push", m, t, "original") for m in ("base", "bc") for t in ("reach", "push")}
    assert told == one | all_tasks
    here = tmp_path / "run"
    refined = read_json(here / "pretrained" / "seed-0" / "push" / "bc" / "config.json")["config"]
    assert [path.rsplit("/", 1)[1] for path in refined["demos"]] == ["push"]  # the other tasks' are not at hand
    with pytest.raises(RoboprefError, match="was trained on push, reach"):
        run_benchmark(
            settings(here, regimes=("pretrained",), methods=("bc",), tasks=("reach", "window-open"), resume=True)
        )
    deployed = here / "perturbed" / "seed-0" / "reach" / "reach" / "interactions"
    assert read_json(deployed / "summary.json")["perturb"] == ["position"]


@pytest.mark.slow
def test_stopped_in_the_middle_it_goes_on_to_the_same_results(tmp_path, finished):
    out = tmp_path / "run"
    options = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]
    command = [sys.executable, "-m", "robopref.cli.main", "benchmark", f"--out={out}", *options, "--tasks", "reach",
               "--methods", "bc", "bc-scratch"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    waited = time.monotonic()
    while not list(out.rglob("interactions/dataset.json")) and time.monotonic() - waited < 240:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 130, said
    assert "--resume" in said
    assert run_benchmark(settings(out, resume=True))
    rows, whole = evaluations(out), evaluations(finished)
    for key in rows:
        assert [r["success"] for r in rows[key]] == [r["success"] for r in whole[key]]
        assert [r["steps"] for r in rows[key]] == [r["steps"] for r in whole[key]]
    assert len(rows) == 3


@pytest.mark.slow
def test_what_cannot_be_refined_is_said_and_the_base_is_kept(tmp_path):
    nobody = ScriptedOperatorConfig(max_takeovers=0)
    with pytest.raises(RoboprefError, match=r"1 of 1 base policies.*reach, seed 0.*no.* takeover"):
        run_benchmark(settings(tmp_path / "run", operator=nobody))
    assert {key[2] for key in evaluations(tmp_path / "run")} == {"base"}


@pytest.mark.slow
def test_a_method_that_fails_does_not_keep_the_others_from_running(tmp_path, monkeypatch):
    wrong = Method("a window that there is not", "bc", settings={"window": -1})
    monkeypatch.setattr(benchmark_cell, "METHODS", {**METHODS, "bc": wrong})
    (cell,) = plan(settings(tmp_path))
    with pytest.raises(RoboprefError, match=r"^bc on reach: the window"):
        run_cell(cell)
    assert [e.method for e in cell.evaluations() if cell.finished(e)] == ["base", "bc-scratch"]


@pytest.mark.slow
def test_results_of_a_name_that_meant_something_else_are_not_mixed_in(finished, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path / "run")
    again = settings(tmp_path / "run", tasks=("reach", "push"), resume=True)
    assert run_benchmark(again)
    monkeypatch.setattr(benchmark_cell, "METHODS", {**METHODS, "bc": replace(METHODS["bc"], settings={"window": 5})})
    with pytest.raises(RoboprefError, match="refined when bc had other settings"):
        run_benchmark(again)


@pytest.mark.slow
def test_nobody_learns_from_an_episode_that_a_crash_cut_off(finished):
    (cell,) = plan(settings(finished, methods=("hg-dagger",)))
    store = EpisodeStore.open(cell.interactions("reach"))
    whole = store.episode_ids()
    first = store.read(whole[0])
    store.add(replace(first, info=replace(first.info, episode_id="", outcome=Outcome.ABORTED)))
    assert len(store) == 3
    assert run_cell(cell)
    assert store.episode_ids() == whole
    assert len(list((store.path / "discarded").glob("*.safetensors"))) == 1


@pytest.mark.slow
def test_two_processes_do_not_run_in_one_cell(tmp_path):
    import fcntl

    (cell,) = plan(settings(tmp_path))
    cell.directory.mkdir(parents=True)
    with (cell.directory / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        ((_, why),) = run_cells([cell], workers=1, should_stop=lambda: False, every_second=lambda: None)
    assert "another process is still running" in why
    assert not (cell.directory / "demos").exists()


def test_the_presets_have_what_they_promise(tmp_path):
    cells = plan(Benchmark(tmp_path, "full"))
    assert len({cell.tasks for cell in cells}) >= 6
    assert len({cell.seed for cell in cells}) >= 5
    assert all(cell.budget.evaluation_episodes >= 100 for cell in cells)
    assert [cell.seed for cell in cells] == sorted(cell.seed for cell in cells)  # whole seeds first
    objectives = {METHODS[m].objective for m in cells[0].methods}
    assert objectives == {"apo", "kto", "bc", "dpo", "dagger", "hg-dagger", "iwr", "sirius", "tpo", "paired-takeover",
                          "habc", "recap"}  # fmt: skip
    assert any(METHODS[m].from_scratch for m in cells[0].methods)


def test_the_evaluation_of_a_pretrained_base_is_shared_by_its_tasks(tmp_path):
    (cell,) = plan(settings(tmp_path, regimes=("pretrained",), tasks=("reach", "push")))
    first, second = (Evaluation(task, "base", "push", "original") for task in ("reach", "push"))
    assert cell.results(first) == cell.results(second)
    assert cell.results(replace(first, method="bc")) != cell.results(replace(second, method="bc"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ("bcc",)}, "did you mean bc"),
        ({"methods": ("base",)}, "in every benchmark"),
        ({"tasks": ("rech",)}, "did you mean reach"),
        ({"seeds": 0}, "--seeds is at least 1"),
        ({"first_seed": -1}, "--first-seed"),
        ({"evaluation_episodes": 0}, "--evaluation-episodes is at least 1"),
        ({"regimes": ()}, "at least one of the regimes"),
        ({"chunk": 0}, "--chunk is at least 1"),
        ({"workers": -1}, "--workers is at least 1"),
        ({"refine_learning_rate": 0.0}, "--refine-learning-rate is above 0"),
        ({"learning_rate": 0.0}, "--learning-rate is above 0"),
        ({"action_smoothing": 1.0}, r"--action-smoothing lies in \[0, 1\)"),
        ({"refined_tasks": ("push",)}, "--refined-tasks"),
        ({"recipe": "iwr"}, "--recipe"),
    ],
)
def test_settings_that_make_no_benchmark_are_refused_before_anything_is_written(tmp_path, options, message):
    with pytest.raises(RoboprefError, match=message):
        run_benchmark(settings(tmp_path / "run", **options))
    assert not (tmp_path / "run").exists()


def test_settings_that_are_left_open_do_not_tell_versions_apart():
    budget = PRESETS["full"].budget
    assert set(budget_json(budget)) == set(vars(budget)) - {"refine_learning_rate", "action_smoothing", "chunk"}
    assert budget_json(replace(budget, refine_learning_rate=1e-4))["refine_learning_rate"] == 1e-4


@pytest.mark.parametrize(
    ("inputs", "asked", "expected"), [("state", None, 0.03), ("state", 0.0, 0.0), ("image", None, 0)]
)
def test_actions_are_smoothed_as_train_does_unless_told_otherwise(tmp_path, inputs, asked, expected):
    (cell,) = plan(settings(tmp_path / "run", inputs=inputs, action_smoothing=asked))
    assert cell.budget.action_smoothing == expected
    changed = budget_json(replace(cell.budget, action_smoothing=0.1))
    assert changed["action_smoothing"] == 0.1


def test_methods_are_named_once():
    assert check_methods(("bc", "apo", "bc")) == ("bc", "apo")


def test_every_method_fits_the_command():
    from dataclasses import fields

    from robopref.cli.refine import Refine

    known = {f.name for f in fields(Refine)}
    for method in METHODS.values():
        assert set(method.settings) <= known


@pytest.mark.slow
def test_the_published_comparison_runs_by_one_command(tmp_path):
    script = Path(__file__).parents[1] / "scripts" / "reproduce_apo.py"
    command = [sys.executable, str(script), "--out", str(tmp_path / "run"), "--smoke"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True).stdout
    for better, worse in (("apo", "kto"), ("kto", "base"), ("base", "dagger"), ("dagger", "dpo")):
        assert f"{better} over {worse}: published +" in said
    assert "relative gain of apo over the base: published +19 %" in said
    drawn = tmp_path / "drawn"
    again = [
        sys.executable,
        str(script.with_name("draw_benchmark.py")),
        str(tmp_path / "run" / RESULTS),
        "--out",
        str(drawn),
    ]
    subprocess.run(again, capture_output=True, timeout=300, check=True)
    assert (drawn / "results.md").read_text() == (tmp_path / "run" / "results.md").read_text()
    subprocess.run([*again, "--recipe", "bc", "--methods", "bc"], capture_output=True, timeout=300, check=True)
    assert "| bc |" in (text := (drawn / "results.md").read_text())
    assert "| apo |" not in text
    wrong = subprocess.run([*again, "--methods", "bx"], capture_output=True, text=True, timeout=300)
    assert wrong.returncode == 1
    assert "no method bx" in wrong.stderr


@pytest.mark.slow
def test_the_tables_and_figures_are_made_of_the_raw_results(finished):
    text = (finished / "results.md").read_text()
    for method in ("base", "bc", "bc-scratch"):
        assert f"| {method} |" in text
    for picture in ("methods", "tasks", "gains"):
        assert (finished / "figures" / f"one-round-original-{picture}.png").read_bytes().startswith(b"\x89PNG")


def test_a_recipe_that_no_results_hold_is_refused(tmp_path):
    table = pa.table({"method": ["base", "bc"], "regime": ["one-round"] * 2})
    with pytest.raises(RoboprefError, match="choose from base, bc"):
        report_benchmark(table, tmp_path, "apo")


def test_files_that_are_no_results_are_refused(tmp_path):
    with pytest.raises(RoboprefError, match="does not exist"):
        read_benchmark([tmp_path / "absent.parquet"])
    (tmp_path / "text.parquet").write_text("nothing")
    with pytest.raises(RoboprefError, match="no parquet file"):
        read_benchmark([tmp_path / "text.parquet"])
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(RoboprefError, match="other data"):
        read_benchmark([tmp_path / "other.parquet"])


@pytest.mark.slow
def test_result_files_are_put_together_unless_they_overlap(finished, tmp_path):
    path = finished / RESULTS
    table, about = read_benchmark([path])
    assert table.num_rows == pq.read_table(path).num_rows
    assert about[0]["config"]["preset"] == "smoke"
    assert str(finished) not in json.dumps(about)  # a file that is shared tells nobody's paths
    assert json.dumps(about)  # plain values
    with pytest.raises(RoboprefError, match="same evaluation episodes"):
        read_benchmark([path, path])
