"""How the report writes numbers, and the names of conditions."""

from __future__ import annotations

from dataclasses import replace

import pytest
from diagnosis_pages import plain
from hypothesis import given
from hypothesis import strategies as st
from made_diagnoses import CONDITIONS

from robopref.evaluation.statistics import Estimate
from robopref.reporting.diagnosis_words import condition_names, estimate_text, number, percent_text


@given(st.floats(-1e12, 1e12))
def test_numbers_keep_three_digits(value: float) -> None:
    told = number(value)
    assert "-" not in told
    assert "\u2212e" not in told
    read = float(told.replace("\u2212", "-").replace("\u202f", ""))
    assert read == pytest.approx(value, rel=5.001e-3, abs=1e-300)


def test_numbers_are_written_as_people_write_them() -> None:
    assert number(41234.5) == "41\u202f234"
    assert number(-0.012345) == "\u22120.0123"
    assert number(3.14e-9) == "3.14e\u22129"
    assert plain(estimate_text(Estimate(-0.5, -0.75, 0.25, 3), 100)) == "-50 [-75, 25]"
    assert plain(percent_text(Estimate(0.123, 0.1, 0.2, 3))) == "12.3 % [10.0, 20.0]"
    assert estimate_text(None) == percent_text(None) == "not defined"


def test_conditions_of_one_name_are_told_apart_by_their_settings() -> None:
    mild, strong = (replace(CONDITIONS[1], detail=f"rotation:degrees={degrees}") for degrees in (2, 5))
    asked = replace(CONDITIONS[1], name="gaussian_blur:sigma=2")
    assert condition_names([mild, strong, CONDITIONS[2], asked]) == [
        "rotation (degrees=2)",
        "rotation (degrees=5)",
        "JPEG",
        "Gaussian blur (sigma=2)",
    ]
