import numpy as np
import pytest
from benchmark_episodes import TASKS, WON, episodes, made, table

from robopref.errors import RoboprefError
from robopref.evaluation.benchmark_runs import views
from robopref.evaluation.benchmark_scores import score_methods
from robopref.evaluation.statistics import Rate, paired_bootstrap_difference


def test_scores_by_hand():
    scores = score_methods(table(made()), "one-round")
    assert [row.method for row in scores.rows] == ["base", "apo", "bc"]
    assert (scores.tasks, scores.seeds, scores.dropped_seeds, scores.missing) == (("push", "reach"), (0, 1, 2), (), ())
    np.testing.assert_array_equal(scores.success["apo"], [[0.5, 0.75], [0.25, 1], [1, 0.75]])
    base, apo, bc = scores.rows
    # One of six off each end. apo: .25 (.5 .75 .75 1) 1; base: 0 (.25 .25 .25 .25) .5; bc: 0 (.25 .5 .5 .5) 1
    assert apo.interquartile_mean.value == pytest.approx(0.75)
    assert base.interquartile_mean.value == pytest.approx(0.25)
    assert bc.interquartile_mean.value == pytest.approx(1.75 / 4)
    assert apo.interquartile_mean.n == 6
    assert apo.mean.value == pytest.approx(17 / 24)
    assert apo.tasks == {"push": Rate.of(7, 12), "reach": Rate.of(10, 12)}
    assert apo.over_base.value == pytest.approx(0.5)
    assert bc.recipe_over.value == pytest.approx(0.75 - 1.75 / 4)
    # push: .5 .25 1 against 0 .25 .5: 2.5 + 1.5 + 3 of 9 pairs; reach: .75 1 .75 against .5 .5 1: 2 + 2.5 + 2 of 9
    assert bc.recipe_improves.value == pytest.approx((7 / 9 + 6.5 / 9) / 2)
    assert (base.over_base, apo.recipe_over, apo.recipe_improves) == (None, None, None)
    assert [row.optimiser_steps for row in scores.rows] == [0, 101, 101]
    assert scores.row("bc") is bc
    assert not scores.one_run


def test_gains_are_paired_by_episode():
    scores = score_methods(table(made()), "one-round")
    assert {gain.method for gain in scores.gains} == {"apo", "bc"}
    gain = next(g for g in scores.gains if (g.method, g.task, g.seed) == ("apo", "push", 2))
    assert gain.takeovers == 7
    assert gain.gain == paired_bootstrap_difference([1, 0, 0, 0], [1, 1, 1, 1], n_resamples=2000)
    assert gain.gain.n == 4


def test_rows_may_come_in_any_order():
    rows = made()
    shuffled = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    one, other = (score_methods(table(r), "one-round", n_resamples=50) for r in (rows, shuffled))
    assert (one.rows, one.gains) == (other.rows, other.gains)


def test_a_seed_that_one_method_lacks_is_left_out_for_all():
    rows = [r for r in made() if (r["method"], r["task"], r["seed"]) != ("bc", "push", 1)]
    scores = score_methods(table(rows), "one-round")
    assert (scores.seeds, scores.dropped_seeds, scores.missing) == ((0, 2), (1,), ("bc on push, seed 1",))
    np.testing.assert_array_equal(scores.success["apo"], [[0.5, 0.75], [1, 0.75]])
    assert scores.row("apo").tasks["push"] == Rate.of(6, 8)
    without = score_methods(table(rows), "one-round", methods=["base", "apo"])
    assert (without.seeds, [row.method for row in without.rows]) == ((0, 1, 2), ["base", "apo"])
    one_task = score_methods(table(rows), "one-round", tasks=["reach"])
    assert (one_task.tasks, one_task.seeds) == (("reach",), (0, 1, 2))


def test_nothing_complete_is_refused():
    rows = [r for r in made() if not (r["method"] == "bc" and r["task"] == "push")]
    with pytest.raises(RoboprefError, match=r"no seed .* bc on push, seed 0; bc on push, seed 1; .*Finish"):
        score_methods(table(rows), "one-round")


@pytest.mark.parametrize("change", [{"n": 3}, {"first": 101}])
def test_methods_evaluated_on_other_episodes_are_refused(change):
    rows = [r for r in made() if (r["method"], r["seed"]) != ("bc", 1)]
    rows += [row for task in TASKS for row in episodes("bc", task, 1, 2, **change)]
    with pytest.raises(
        RoboprefError, match=r"on push, seed 1, bc was evaluated on other episodes than base .*3 of them"
    ):
        score_methods(table(rows), "one-round")


def test_tables_that_cannot_be_scored_are_refused():
    rows = made()
    for message, wrong in {
        "there twice": [*rows, rows[0]],
        "no value for success": [{**rows[0], "success": None}, *rows[1:]],
        "no method base": [r for r in rows if r["method"] != "base"],
        "no method apo": [r for r in rows if r["method"] != "apo"],
        "nothing of the regime 'one-round'; it holds other": [{**r, "regime": "other"} for r in rows],
        "no such evaluation": [{**r, "scene": "perturbed"} for r in rows],
    }.items():
        with pytest.raises(RoboprefError, match=message):
            score_methods(table(wrong), "one-round")
    with pytest.raises(RoboprefError, match="lacks the columns success"):
        score_methods(table(rows).drop_columns(["success"]), "one-round")
    with pytest.raises(RoboprefError, match="no method kto; there are apo, base, bc"):
        score_methods(table(rows), "one-round", methods=["kto"])
    with pytest.raises(RoboprefError, match="the base cannot be the recipe"):
        score_methods(table(rows), "one-round", recipe="base")
    with pytest.raises(RoboprefError, match="no task was chosen; there are push, reach"):
        score_methods(table(rows), "one-round", tasks=[])
    with pytest.raises(RoboprefError, match="no method 'kto' was compared, only base, apo, bc"):
        score_methods(table(rows), "one-round", n_resamples=10).row("kto")


def test_one_run_says_so():
    one = {m: {t: seeds[:1] for t, seeds in tasks.items()} for m, tasks in WON.items()}
    scores = score_methods(table(made(one)), "one-round")
    assert scores.one_run
    apo = scores.row("apo")
    assert apo.over_base.low == apo.over_base.high == apo.over_base.value
    assert apo.tasks["push"] == Rate.of(2, 4)


def test_other_tasks_and_other_scenes_are_scores_of_their_own():
    rows = made(regime="pretrained")
    # Refined on one task, evaluated on two others: four episodes of which one or three are solved, in all 4 of 8.
    others = {"base": (1, 1), "apo": (1, 3), "bc": (0, 1)}
    for method, counts in others.items():
        for task in TASKS:
            for seed in range(3):
                for on, won in zip(("drawer", "window"), counts, strict=True):
                    rows += episodes(method, task, seed, won, regime="pretrained", on=on)
    rows += made(regime="perturbed") + made(regime="perturbed", scene="perturbed") + made()
    mixed = table(rows)
    assert views(mixed, "one-round") == (("same", "original"),)
    assert views(mixed, "perturbed") == (("same", "original"), ("same", "perturbed"))
    same, other = (score_methods(mixed, "pretrained", evaluated=e, scene=s) for e, s in views(mixed, "pretrained"))
    assert (same.evaluated, other.evaluated) == ("same", "others")
    assert same.row("apo").interquartile_mean.value == pytest.approx(0.75)
    assert other.row("apo").interquartile_mean.value == pytest.approx(4 / 8)
    assert other.row("bc").tasks["push"] == Rate.of(3, 24)
    assert other.row("apo").over_base.value == pytest.approx(0.25)
    assert other.view == "regime pretrained, evaluated on other tasks in the original scene"


def test_an_evaluation_that_is_not_on_all_tasks_yet_does_not_count():
    rows = []
    for method in ("base", "apo"):
        for seed in range(2):
            for on in ("drawer", "window"):
                if (method, seed, on) != ("apo", 1, "window"):  # stopped before it
                    rows += episodes(method, TASKS[0], seed, 1, regime="pretrained", on=on)
    scores = score_methods(table(rows), "pretrained", evaluated="others")
    assert scores.seeds == (0,)
    assert scores.dropped_seeds == (1,)
