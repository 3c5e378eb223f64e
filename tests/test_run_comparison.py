"""Methods held against each other pair by pair: known by hand, over whatever runs two of them share."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from benchmark_episodes import episodes, made, table
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from robopref.cli.benchmark_report import report_benchmark
from robopref.cli.benchmark_results import read_benchmark, write_results
from robopref.errors import RoboprefError
from robopref.evaluation.run_comparison import compare_runs
from robopref.evaluation.statistics import student_mean
from robopref.reporting.benchmark_tables import run_markdown, run_rows

THREE = {
    "base": {"reach": (1, 2, 1), "push": (0, 1, 1), "hammer": (2, 2, 2)},
    "apo": {"reach": (3, 4, 3), "push": (2, 1, 4), "hammer": (2, 3, 1)},
    "bc": {"reach": (2, 2, 4), "push": (0, 1, 2), "hammer": (3, 3, 3)},
}


def by_name(rows):
    return {row.method: row for row in rows}


def test_student_interval_by_hand():
    # s = 1, and the table of Student's t gives 4.3027 for two degrees of freedom
    estimate = student_mean([1.0, 2.0, 3.0])
    assert (estimate.value, estimate.n) == (2.0, 3)
    assert estimate.high - 2 == pytest.approx(4.3027 / np.sqrt(3), abs=1e-4)
    assert 2 - estimate.low == pytest.approx(estimate.high - 2)


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=20).filter(lambda values: np.std(values) > 1e-3))
def test_the_interval_ends_where_the_test_rejects(values):
    estimate = student_mean(values)
    for end in (estimate.low, estimate.high):
        assert ttest_1samp(values, end).pvalue == pytest.approx(0.05, abs=1e-6)


@pytest.mark.parametrize("values", [[], [0.5], [0.1, np.nan], [[0.1, 0.2]]])
def test_one_value_has_no_interval(values):
    with pytest.raises(RoboprefError, match="at least two"):
        student_mean(values)


def test_tasks_are_the_units_and_count_alike():
    rows = compare_runs(table(made(THREE)), "one-round", recipe="apo")
    assert [row.method for row in rows] == ["base", "apo", "bc"]  # the base, then by gain
    base, apo, bc = rows
    gains = [6 / 12, 5 / 12, 0]  # of apo, episodes won of each task's twelve: 10 - 4, 7 - 2, 6 - 6
    assert apo.over_base.value == pytest.approx(np.mean(gains))
    half = 4.3027 * np.std(gains, ddof=1) / np.sqrt(3)
    assert apo.over_base.interval == pytest.approx((np.mean(gains) - half, np.mean(gains) + half), abs=1e-4)
    assert (apo.over_base.units, apo.over_base.runs) == (3, 9)
    assert bc.recipe_over.value == pytest.approx((2 + 4 - 3) / 36)
    assert (base.over_base, apo.recipe_over) == (None, None)
    assert base.recipe_over == apo.over_base
    # Ten more seeds of one task do not make it weigh more.
    more = [
        row for seed in range(3, 13) for m, won in (("base", 0), ("apo", 4)) for row in episodes(m, "push", seed, won)
    ]
    gains[1] = (5 / 4 + 10) / 13
    assert by_name(compare_runs(table(made(THREE) + more), "one-round", recipe="apo"))["apo"].over_base.value == (
        pytest.approx(np.mean(gains))
    )


def test_seeds_are_the_units_where_tasks_share_a_base():
    for evaluated, on in (("same", {}), ("others", {"on": "door"})):
        rows = compare_runs(
            table(made(THREE, regime="pretrained", **on)), "pretrained", evaluated=evaluated, recipe="apo"
        )
        gains = [(2 + 2 + 0) / 12, (2 + 0 + 1) / 12, (2 + 3 - 1) / 12]  # by seed
        gain = by_name(rows)["apo"].over_base
        assert gain.value == pytest.approx(np.mean(gains))
        assert gain.interval[1] - gain.value == pytest.approx(4.3027 * np.std(gains, ddof=1) / np.sqrt(3), abs=1e-4)
        assert (gain.units, gain.runs) == (3, 9)
    one_seed = [r for r in made(THREE, regime="pretrained") if r["seed"] == 0]
    gain = by_name(compare_runs(table(one_seed), "pretrained", recipe="apo"))["apo"].over_base
    assert (gain.interval, gain.units, gain.runs) == (None, 1, 3)


def test_only_runs_of_both_are_compared():
    rows = [r for r in made() if (r["method"], r["seed"]) not in {("bc", 1), ("apo", 2)}]
    compared = by_name(compare_runs(table(rows), "one-round", recipe="apo"))
    assert {name: row.success.runs for name, row in compared.items()} == {"base": 6, "apo": 4, "bc": 4}
    assert compared["bc"].recipe_over.runs == 2  # seed 0 of both tasks
    assert compared["bc"].recipe_over.value == pytest.approx(((3 - 2) + (2 - 0)) / 4 / 2)
    assert (compared["bc"].over_base.runs, compared["base"].recipe_over.runs) == (4, 4)


@pytest.mark.parametrize("tasks", [("a", "b"), ("a", "b", "c")])
def test_few_tasks_and_tasks_that_are_all_the_same_have_no_interval(tasks):
    rows = [r for t in tasks for m, won in (("base", 1), ("apo", 3)) for r in episodes(m, t, 0, won)]
    compared = compare_runs(table(rows), "one-round", recipe="apo")
    gain = by_name(compared)["apo"].over_base
    assert (gain.value, gain.interval) == (0.5, None)
    assert run_rows(compared, "one-round", "apo")[1] == [
        "apo",
        f"75.0 % ({len(tasks)} tasks, {len(tasks)} runs)",
        f"+50.0 ({len(tasks)} tasks, {len(tasks)} runs)",
        "–",
    ]


def test_no_rate_lies_beyond_one():
    won = {"base": dict.fromkeys("abc", (0,)), "apo": {"a": (4,), "b": (4,), "c": (1,)}}
    assert student_mean([1, 1, 0.25]).high > 1
    success = by_name(compare_runs(table(made(won)), "one-round", recipe="apo"))["apo"].success
    assert success.interval[1] == 1
    assert 0 <= success.interval[0] < success.value == 0.75


def test_methods_without_a_run_in_common_are_told_and_come_last():
    rows = [r for r in made(THREE) if (r["method"], r["seed"]) not in {("bc", 0), ("bc", 1), ("base", 2), ("apo", 2)}]
    compared = compare_runs(table(rows), "one-round", recipe="apo")
    assert [row.method for row in compared] == ["base", "apo", "bc"]
    assert run_rows(compared, "one-round", "apo")[2][2:] == ["no run in common", "no run in common"]


def test_what_cannot_be_compared_is_refused():
    rows = made()
    rows[-1]["episode_seed"] += 1000
    with pytest.raises(RoboprefError, match="on other episodes"):
        compare_runs(table(rows), "one-round", recipe="apo")
    with pytest.raises(RoboprefError, match="no method sirius; there are apo, base, bc"):
        compare_runs(table(made()), "one-round", recipe="sirius")
    with pytest.raises(RoboprefError, match="base cannot be the recipe"):
        compare_runs(table(made()), "one-round", recipe="base")


def test_printed_with_interval_and_numbers():
    text = run_markdown(compare_runs(table(made(THREE)), "one-round", recipe="apo"), "one-round", "apo")
    assert "| apo | 63.9 % [" in text
    assert text.count("(3 tasks, 9 runs)") == 7  # the base and apo lack a column
    assert "over tasks" in text
    pretrained = made(THREE, regime="pretrained")
    told = run_markdown(compare_runs(table(pretrained), "pretrained", recipe="apo"), "pretrained", "apo")
    assert "(3 seeds, 9 runs)" in told
    assert "share a base policy" in told


def written(path, rows, **said):
    about = {"config": {"inputs": "state", "operator": {"stall_steps": 30}}, "budget": {"refine_steps": 5}} | said
    write_results(path, rows, about)
    return path


def test_files_of_other_seeds_count_together(tmp_path, capsys):
    bc_later = [r for r in made(THREE) if (r["method"], r["seed"]) in {("base", 2), ("bc", 2), ("apo", 2)}]
    before = [r for r in made(THREE) if r["seed"] < 2 and r["method"] != "bc"]
    paths = [written(tmp_path / "a.parquet", before), written(tmp_path / "b.parquet", bc_later)]
    together, _ = read_benchmark(paths)
    scores = report_benchmark(together, tmp_path, "apo")
    assert [s.seeds for s in scores] == [(2,)]
    text = (tmp_path / "results.md").read_text()
    pairs = [line for line in text.splitlines() if "tasks, " in line]
    ours, theirs = (next(line for line in pairs if line.startswith(f"| {m} |")) for m in ("apo", "bc"))
    assert "| +30.6 [" in ours  # 11 of 36 over the base, both files
    assert "(3 tasks, 9 runs)" in ours
    assert "| -8.3 [" in theirs  # 8 of 12 against 9 of 12
    assert "(3 tasks, 3 runs)" in theirs
    said = capsys.readouterr().out
    assert "[points]" in said  # a unit, not markup


def test_an_unfinished_benchmark_has_its_pairs_and_says_what_is_missing(tmp_path):
    rows = [r for r in made(THREE) if (r["method"], r["task"]) != ("bc", "push")]
    assert report_benchmark(table(rows), tmp_path, "apo") == []
    text = (tmp_path / "results.md").read_text()
    assert "No aggregates: " in text
    assert "bc on push" in text
    assert "| apo | 63.9 % [" in text
    assert "(2 tasks, 6 runs)" in text


@pytest.mark.parametrize(
    ("said", "differing"),
    [
        ({"budget": {"refine_steps": 6}}, "refine_steps"),
        ({"budget": {"refine_steps": 5, "refine_learning_rate": 1e-4}}, "refine_learning_rate"),
        ({"config": {"inputs": "image", "operator": {"stall_steps": 30}}}, "inputs"),
        ({"config": {"inputs": "state", "operator": {"stall_steps": 3}}}, "operator"),
    ],
)
def test_files_of_other_settings_are_not_taken_together(tmp_path, said, differing):
    paths = [
        written(tmp_path / "a.parquet", [r for r in made() if r["seed"] == 0]),
        written(tmp_path / "b.parquet", [r for r in made() if r["seed"] == 1], **said),
    ]
    with pytest.raises(RoboprefError, match=rf"different settings \({differing}\)"):
        read_benchmark(paths)
    other = written(tmp_path / "c.parquet", made(regime="perturbed"), **said)
    assert read_benchmark([paths[0], other])[0].num_rows == pq.read_table(paths[0]).num_rows + len(made())


def test_a_view_that_the_recipe_did_not_reach_is_left_out(tmp_path, capsys):
    rows = made() + episodes("base", "push", 0, 1, on="reach", scene="original", first=500)
    report_benchmark(table(rows), tmp_path, "apo")
    assert "other tasks" not in (tmp_path / "results.md").read_text()
    assert "left out: regime one-round, evaluated on other tasks" in capsys.readouterr().out
