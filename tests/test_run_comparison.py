"""Methods held against each other run by run: known by hand, over whatever runs two of them share."""

import numpy as np
import pytest
from benchmark_episodes import episodes, made, table
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from robopref.cli.benchmark_report import report_benchmark
from robopref.errors import RoboprefError
from robopref.evaluation.run_comparison import compare_runs
from robopref.evaluation.statistics import student_mean
from robopref.reporting.benchmark_tables import run_markdown, run_rows


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


def test_comparison_by_hand():
    rows = compare_runs(table(made()), "one-round", recipe="apo")
    assert [row.method for row in rows] == ["base", "apo", "bc"]  # the base, then by gain
    base, apo, bc = rows
    gains = [0.5, 0.5, 0.5, 0.5, 0, 0.75]  # of apo: reach .75 1 .75 - .25 .5 .25, push .5 .25 1 - 0 .25 .25
    assert apo.over_base.value == pytest.approx(np.mean(gains))
    assert apo.over_base.high == pytest.approx(np.mean(gains) + 2.5706 * np.std(gains, ddof=1) / np.sqrt(6), abs=1e-4)
    assert apo.over_base.n == apo.success.n == 6
    assert bc.recipe_over.value == pytest.approx((17 - 11) / 24)
    assert (base.over_base, apo.recipe_over) == (None, None)
    assert base.recipe_over == apo.over_base


def test_only_runs_of_both_are_compared():
    rows = [r for r in made() if (r["method"], r["seed"]) not in {("bc", 1), ("apo", 2)}]
    compared = by_name(compare_runs(table(rows), "one-round", recipe="apo"))
    assert {name: row.success.n for name, row in compared.items()} == {"base": 6, "apo": 4, "bc": 4}
    assert compared["bc"].recipe_over.n == 2  # seed 0 of both tasks
    assert compared["bc"].recipe_over.value == pytest.approx(((3 - 2) + (2 - 0)) / 4 / 2)
    assert (compared["bc"].over_base.n, compared["base"].recipe_over.n) == (4, 4)


def test_one_run_is_told_and_gets_no_interval():
    rows = episodes("base", "push", 0, 1) + episodes("apo", "push", 0, 3)
    compared = compare_runs(table(rows), "one-round", recipe="apo")
    assert by_name(compared)["apo"].success is None
    assert run_rows(compared, "apo")[1] == ["apo", "fewer than two runs", "fewer than two runs", "–"]


def test_methods_evaluated_on_other_episodes_are_refused():
    rows = made()
    rows[-1]["episode_seed"] += 1000
    with pytest.raises(RoboprefError, match="on other episodes"):
        compare_runs(table(rows), "one-round", recipe="apo")
    with pytest.raises(RoboprefError, match="no method sirius; there are apo, base, bc"):
        compare_runs(table(made()), "one-round", recipe="sirius")


def test_printed_with_interval_and_n():
    text = run_markdown(compare_runs(table(made()), "one-round", recipe="apo"), "apo")
    assert "| apo | 70.8 % [" in text
    assert "apo over it [points]" in text
    assert text.count("(n=6)") == 7  # the base and apo lack a column
    assert "Student intervals" in text


def test_runs_made_at_different_times_are_reported_together(tmp_path, capsys):
    rows = [r for r in made() if (r["method"], r["seed"]) not in {("bc", 0), ("bc", 1), ("apo", 2)}]
    assert report_benchmark(table(rows), tmp_path, "apo") == []  # no seed has both
    text = (tmp_path / "results.md").read_text()
    assert "Run by run:" in text
    assert "no aggregates" in capsys.readouterr().out


def test_a_view_that_the_recipe_did_not_reach_is_left_out(tmp_path, capsys):
    rows = made() + episodes("base", "push", 0, 1, on="reach", scene="original", first=500)
    report_benchmark(table(rows), tmp_path, "apo")
    assert "other tasks" not in (tmp_path / "results.md").read_text()
    assert "left out: regime one-round, evaluated on other tasks" in capsys.readouterr().out


def test_no_rate_lies_beyond_one():
    rows = made({"base": {"reach": (0, 4), "push": (0, 0)}, "apo": {"reach": (4, 4), "push": (4, 0)}})
    apo = by_name(compare_runs(table(rows), "one-round", recipe="apo"))["apo"]
    assert student_mean([1, 1, 1, 0]).high > 1
    assert apo.success.high == 1
    assert 0 <= apo.success.low < apo.success.value == 0.75
