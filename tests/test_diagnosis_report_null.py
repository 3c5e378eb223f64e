"""What the report calls told apart from the null control, and what it does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from diagnosis_pages import plain, rows_of, text_of
from html_page import Page
from hypothesis import given
from hypothesis import strategies as st
from made_diagnoses import CONDITIONS, make_condition, make_diagnosis, make_distortion

from robopref.evaluation.statistics import Estimate
from robopref.reporting.diagnosis_words import BELOW, told_apart


@given(
    quotient=st.tuples(*[st.floats(0, 1)] * 3).map(sorted),
    null=st.tuples(*[st.floats(0, 1)] * 3).map(sorted),
    difference=st.tuples(*[st.floats(-1, 1)] * 3).map(sorted),
    n=st.integers(1, 20),
)
def test_nothing_is_told_apart_that_the_intervals_do_not_tell_apart(
    quotient: list[float], null: list[float], difference: list[float], n: int
) -> None:
    middle = [1, 0, 2]
    shift = make_condition("x", "shift", tuple(quotient[i] for i in middle), tuple(difference[i] for i in middle), n=n)
    control = make_condition("null", "null", tuple(null[i] for i in middle), n=n)
    overlapping = max(quotient[0], null[0]) <= min(quotient[2], null[2])
    holds_zero = difference[0] <= 0 <= difference[2]
    verdict = told_apart(shift, control)
    assert ("not told apart" in verdict) == (overlapping or holds_zero or n == 1)
    if verdict == BELOW:
        assert quotient[2] < null[0]
    assert told_apart(shift, None) == told_apart(control, control) == ""


def test_an_attack_that_changed_nothing_is_not_told_apart(tmp_path: Path) -> None:
    attack = replace(CONDITIONS[3], distortion=make_distortion(scale=0.0, flipped=0))
    assert told_apart(attack, CONDITIONS[0]) == "the attack changed nothing"
    text = text_of(make_diagnosis(conditions=(*CONDITIONS[:3], attack)), tmp_path)
    assert "None of 1 attacks changed a single state." in Page(text).text
    assert rows_of(text, "Attacks on clean states")["Carlini-Wagner strength=2.0, steps=7"][2] == "none flipped"


def test_an_attack_is_held_against_its_own_states_and_a_null_of_its_size(tmp_path: Path) -> None:
    small = Estimate(0.6, 0.55, 0.7, 6)
    attack = replace(
        CONDITIONS[3], n_states=100, null_states=100, null_quotient=small, below_null=Estimate(0.08, 0.01, 0.2, 6),
        clean_quotient=Estimate(0.93, 0.9, 0.95, 6), below_clean=Estimate(0.41, 0.3, 0.5, 6),
    )  # fmt: skip
    # below the whole null, and not below one of as many states
    assert attack.quotient.high < CONDITIONS[0].quotient.low
    assert "intervals overlap" in told_apart(attack, CONDITIONS[0])
    low = replace(attack, quotient=Estimate(0.4, 0.3, 0.5, 6))
    assert told_apart(low, CONDITIONS[0]) == BELOW
    # nor where the same states are as low before the attack
    assert told_apart(replace(low, below_clean=Estimate(0.0, -0.1, 0.1, 6)), CONDITIONS[0]) == "not told apart"
    assert told_apart(replace(low, below_clean=Estimate(-0.2, -0.3, -0.1, 6)), CONDITIONS[0]) == "not told apart"
    text = text_of(make_diagnosis(conditions=(CONDITIONS[0], low)), tmp_path)
    cells = rows_of(text, "Feature correlation quotients")["Carlini-Wagner strength=2.0, steps=7"]
    assert cells[1:5] == ["0.6 [0.55, 0.7], 100 states", "0.08 [0.01, 0.2]", "0.41 [0.3, 0.5]", "below the null"]
    assert "\u039b lies below that of the same states unattacked by 0.41 [0.3, 0.5]" in plain(Page(text).text)


def test_without_a_null_control_nothing_is_told_apart(tmp_path: Path) -> None:
    page = Page(text_of(make_diagnosis(conditions=CONDITIONS[1:2]), tmp_path))
    assert "no null control was played, so no shift can be told apart from chance." in page.text
    assert "told apart from the null control:" not in page.text
    assert "below the null" not in page.text
