import io
from xml.etree import ElementTree

import pytest
from benchmark_episodes import TASKS, WON, episodes, made, table
from PIL import Image
from rich.console import Console
from rich.table import Table

from robopref.evaluation.benchmark_scores import score_methods
from robopref.evaluation.statistics import Estimate, wilson_interval
from robopref.reporting.benchmark_figures import benchmark_charts
from robopref.reporting.benchmark_tables import (
    compared,
    markdown,
    percent_text,
    reading,
    summary_header,
    summary_rows,
    task_header,
    task_rows,
)


@pytest.fixture(scope="module")
def scores():
    return score_methods(table(made()), "one-round", n_resamples=200)


@pytest.fixture(scope="module")
def one_run():
    won = {m: {t: seeds[:1] for t, seeds in tasks.items()} for m, tasks in WON.items()}
    return score_methods(table(made(won)), "one-round", n_resamples=50)


def test_estimates_are_printed_with_interval_and_n():
    estimate = Estimate(0.125, -0.05, 0.3, 12)
    assert percent_text(estimate, one_run=False) == "12.5 % [-5.0, 30.0] (n=12)"
    assert percent_text(estimate, one_run=False, difference=True) == "+12.5 [-5.0, +30.0] (n=12)"
    assert percent_text(estimate, one_run=True) == "12.5 % (one run a task, n=12)"
    assert percent_text(estimate, one_run=True, difference=True) == "+12.5 (one run a task, n=12)"


def test_tables_show_the_best_first(scores):
    rows = summary_rows(scores)
    assert [row[0] for row in rows] == ["apo", "bc", "base"]
    assert all(len(row) == len(summary_header(scores)) for row in rows)
    # by hand: the interquartile means are 3/4, 7/16 and 1/4, the means 17, 11 and 6 of 24
    assert [row[1].split()[0] for row in rows] == ["75.0", "43.8", "25.0"]
    assert [row[2].split()[0] for row in rows] == ["70.8", "45.8", "25.0"]
    assert [row[3].split()[0] for row in rows] == ["+50.0", "+18.8", "–"]
    assert [row[4].split()[0] for row in rows] == ["–", "+31.2", "+50.0"]
    assert rows[1][5].startswith("75.0 % [")
    assert [row[6] for row in rows] == ["101", "101", "0"]
    for row in rows:
        assert all(cell == "–" or ("[" in cell and "(n=6)" in cell) for cell in row[1:6])


def test_success_by_task_counts_the_episodes_of_all_runs(scores):
    assert task_header(scores) == ["method", "push", "reach"]
    low, high = wilson_interval(7, 12)
    assert task_rows(scores)[0][1] == f"58.3 % [{100 * low:.1f}, {100 * high:.1f}] (n=12)"


def test_markdown_is_tables_between_what_was_compared_and_how_to_read_it(scores):
    text = markdown(scores)
    lines = text.splitlines()
    assert lines[0] == (
        "Regime one-round, evaluated on the task refined on in the original scene: 3 runs of each of 2 tasks, the same "
        "for every method."
    )
    assert "With 3 runs of each task they are narrower than they should be." in text
    tabular = [line for line in lines if line.startswith("|")]
    assert len(tabular) == 2 * (2 + 3)
    assert {line.count("|") for line in tabular[:5]} == {8}
    assert {line.count("|") for line in tabular[5:]} == {4}


def test_a_terminal_prints_every_cell_as_it_is(scores, one_run):
    # Square brackets are markup to rich; none of these may look like it.
    for some in (scores, one_run):
        printed = Table(*summary_header(some))
        for row in summary_rows(some):
            printed.add_row(*row)
        console = Console(file=io.StringIO(), width=400)
        console.print(printed)
        for row in summary_rows(some):
            assert all(cell in console.file.getvalue() for cell in row)


def test_left_out_seeds_are_told():
    rows = [r for r in made() if (r["method"], r["task"], r["seed"]) != ("bc", "push", 1)]
    told = compared(score_methods(table(rows), "one-round", n_resamples=20))
    assert told.endswith("1 seed was left out as incomplete; missing: bc on push, seed 1.")


def test_one_run_is_never_given_an_interval(one_run):
    for row in summary_rows(one_run):
        assert all(cell == "–" or ("one run a task, n=2" in cell and "[" not in cell) for cell in row[1:6])
    assert "support no claim" in reading(one_run)
    methods, tasks, gains = benchmark_charts(one_run)
    assert "support no claim" in methods.caption
    assert "[" not in methods.alt
    assert "one run a task" in gains.alt
    assert "[" in tasks.alt  # episodes of a run do have an interval


def test_runs_that_never_varied_are_not_taken_for_certain():
    rows = [
        row
        for method, won in {"base": 0, "apo": 4}.items()
        for task in TASKS
        for seed in range(12)
        for row in episodes(method, task, seed, won)
    ]
    assert "without width says that these runs did not vary" in reading(
        score_methods(table(rows), "one-round", n_resamples=20)
    )


def test_charts_are_pictures_that_tell_their_numbers(scores):
    charts = benchmark_charts(scores, "one-round-")
    assert [chart.name for chart in charts] == ["one-round-methods", "one-round-tasks", "one-round-gains"]
    for chart in charts:
        assert ElementTree.fromstring(chart.svg).tag.endswith("svg")
        assert Image.open(io.BytesIO(chart.png)).format == "PNG"
        assert "3 runs of each of 2 tasks" in chart.caption
    methods, tasks, gains = charts
    for row in summary_rows(scores):
        assert f"{row[0]} {row[1]}" in methods.alt
    assert "apo better with probability 75.0 % [" in methods.alt
    assert task_rows(scores)[0][1] in tasks.alt
    # by hand: 17 less 6 of 24
    assert "apo, runs with 5 to 7 takeovers: mean gain in points +45.8 [" in gains.alt
    assert charts == benchmark_charts(scores, "one-round-")


def test_many_methods_have_looks_of_their_own():
    won = {**WON, **{f"method {i}": WON["bc"] for i in range(9)}}
    charts = benchmark_charts(score_methods(table(made(won)), "one-round", n_resamples=10))
    assert all("method 8" in chart.alt for chart in charts)
