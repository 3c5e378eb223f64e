from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_diagnoses import SIDE, make_diagnosis, make_direction, make_spatial
from numpy.typing import NDArray

from robopref.diagnosis.results import Decisions, EpisodeSeries, Peak
from robopref.evaluation.statistics import Estimate
from robopref.reporting.diagnosis_decision_figures import distances_figure, gaps_figure, log_edges
from robopref.reporting.diagnosis_direction_figures import (
    direction_figure,
    half_region,
    power_figure,
    spectrum_figure,
)
from robopref.reporting.diagnosis_drawing import (
    energy_per_frame,
    frame_labels,
    frames_of,
    grouped_rows,
    per_frame,
    robust_limit,
    signed_over_frame,
)
from robopref.reporting.diagnosis_instability_figures import norms_figure, peaks_figure
from robopref.reporting.diagnosis_words import shortened

LUMA = np.array([0.2126, 0.7152, 0.0722])


def test_colour_states_fall_into_frames_of_three_neighbouring_channels() -> None:
    state = np.arange(2 * 3 * 4 * 5).reshape(6, 4, 5)
    frames = frames_of(state, 3)
    assert frames.shape == (2, 4, 5, 3)
    assert frames[1, 2, 4].tolist() == [state[3, 2, 4], state[4, 2, 4], state[5, 2, 4]]
    assert frames_of(state, 1) is state
    assert per_frame(state, 3)[1, 2, 4] == np.mean([state[c, 2, 4] for c in (3, 4, 5)])
    assert energy_per_frame(state, 3)[0, 1, 1] == sum(state[c, 1, 1] ** 2 for c in (0, 1, 2))
    assert per_frame(state, 1).tolist() == state.tolist()
    assert frame_labels(3) == ["t\u22122", "t\u22121", "t"]


@given(
    size=st.floats(0.05, 2.0),
    frame=st.lists(st.integers(0, 255), min_size=6, max_size=6),
)
def test_signs_survive_a_grey_print(size: float, frame: list[int]) -> None:
    """Wherever on the frame: a negative component is darker and a positive one lighter than none at all."""
    grey = np.array(frame, np.uint8).reshape(2, 3)
    pictures = {sign: signed_over_frame(np.full((2, 3), sign * size), grey, 1.0) @ LUMA for sign in (-1, 0, 1)}
    assert (pictures[-1] < pictures[0]).all()
    assert (pictures[1] > pictures[0]).all()
    for picture in pictures.values():
        assert picture.min() >= 0
        assert picture.max() <= 1
    if size >= 1:  # full strength hides the frame: the same everywhere
        assert np.ptp(pictures[-1]) == pytest.approx(0)
        assert np.ptp(pictures[1]) == pytest.approx(0)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=30, unique=True))
def test_larger_components_are_never_drawn_darker(values: list[float]) -> None:
    ordered = np.sort(values)[None]
    luma = (signed_over_frame(ordered, None, 1.0) @ LUMA)[0]
    assert (np.diff(luma) >= -1e-12).all()


def test_a_few_huge_components_do_not_hide_the_rest() -> None:
    values = np.append(np.linspace(-1, 1, 2000), 50.0)
    assert 0.98 < robust_limit(values) <= 1
    assert robust_limit(np.zeros(4)) == 1
    assert robust_limit(np.append(np.zeros(999), -3.0)) == 3


def test_half_of_the_energy_of_an_even_map_lies_on_half_of_it_and_that_of_a_spot_on_little() -> None:
    even, _, share = half_region(np.full((40, 40), 1 / 1600))
    assert share == pytest.approx(0.5, abs=0.01)
    np.testing.assert_allclose(even, 1 / 1600)
    spot = np.zeros((40, 40))
    spot[10, 20] = 1
    smooth, level, share = half_region(spot)
    assert smooth.sum() == pytest.approx(1, rel=1e-6)
    assert smooth[smooth >= level].sum() >= 0.5 > smooth[smooth > level].sum()
    # A Gaussian of 2 pixels holds half of its mass within r^2 = 2 * 4 * ln 2, an area of 17.4 pixels.
    assert 1600 * share == pytest.approx(17.4, abs=4)


def wave(step: int) -> NDArray[np.float32]:
    """One frame [1, SIDE, SIDE] of unit norm that alternates every ``step`` columns."""
    columns = np.where(np.arange(SIDE) // step % 2, -1.0, 1.0)
    image = np.broadcast_to(columns, (1, SIDE, SIDE))
    return (image / np.linalg.norm(image)).astype(np.float32)


@pytest.mark.parametrize(("step", "coarse"), [(1, 0), (SIDE, 100)])
def test_the_spectrum_tells_fine_patterns_from_coarse_ones(step: int, coarse: int) -> None:
    chart = power_figure(make_spatial(wave(step)), 1)
    assert f"{coarse} percent of it lies below 0.1 cycles per pixel" in chart.alt


def test_the_direction_says_how_its_energy_is_spread_over_the_frames() -> None:
    direction = np.zeros((4, SIDE, SIDE), np.float32)
    direction[0, 3, 3], direction[3, 5, 5] = 0.6, -0.8
    chart = direction_figure(direction, None, 1, origin="over 10 states")
    assert "36 percent in frame t\u22123, 0 percent in frame t\u22122" in chart.alt
    assert "64 percent in frame t." in chart.alt
    assert "over 10 states" in chart.caption
    assert "0.8" in chart.caption
    assert "Above" not in chart.caption


def test_the_error_bound_is_said_for_what_it_is() -> None:
    found = make_diagnosis().directions
    exact = spectrum_figure(replace(found, error_bound=6e-6), "here")
    assert "to within 1e\u22126 of the first" in exact.caption
    assert "50.0, 20.0, 5.0 percent" in exact.alt
    streamed = spectrum_figure(replace(found, error_bound=0.6, method="streaming"), "here")
    assert "may lie above its bar by up to 10 % of the first" in streamed.caption


def series(norms: NDArray[np.float64], seed: int = 1) -> EpisodeSeries:
    return EpisodeSeries(seed, 3.0, len(norms), True, norms)


def peak(episode: int, step: int, norm: float) -> Peak:
    state = np.zeros((4, SIDE, SIDE), np.uint8)
    return Peak(episode, step, norm, state, make_direction(), np.array([1.0, 3.0, 2.5], np.float32))


def test_norms_over_many_sizes_get_a_logarithmic_axis_and_those_below_it_are_counted() -> None:
    norms = np.full(200, 0.01)
    norms[50], norms[100:110] = 8.0, 0.0
    chart = norms_figure([series(norms)], [peak(0, 50, 8.0)])
    assert "logarithmic" in chart.caption
    assert "5 % of the states" in chart.caption
    assert "largest 8, at step 50 of episode 1" in chart.alt
    assert "logarithmic" not in norms_figure([series(np.linspace(1, 2, 50))], []).caption


def test_long_and_many_episodes_are_drawn_in_part_and_that_is_said() -> None:
    rng = np.random.default_rng(0)
    episodes = [replace(series(rng.gamma(2, 1, 900), seed), length=1000) for seed in range(13)]
    caption = norms_figure(episodes, []).caption
    assert "Only the first 900 steps were followed." in caption
    assert "The first 12 of 13 episodes are drawn." in caption
    assert "from its lowest to its highest value" in caption


def test_a_peak_says_which_actions_are_in_question() -> None:
    chart = peaks_figure([peak(1, 7, 2.5)], 1, ("NOOP", "UP", "DOWN"), "reward")
    assert "1: episode 2, step 7, norm 2.5" in chart.alt
    assert "[reward]" in chart.caption


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.one_of(st.just(0.0), st.floats(1e-6, 1e6)))
def test_bins_hold_every_value_and_part_at_the_threshold(values: list[float], threshold: float) -> None:
    gaps = np.array(values)
    edges = log_edges(gaps, threshold)
    assert (np.diff(edges) > 0).all()
    assert edges[0] > 0
    assert np.histogram(np.maximum(gaps, edges[0]), edges)[0].sum() == len(gaps)
    if threshold:
        assert np.isclose(edges, threshold, rtol=1e-9).any()


@pytest.mark.filterwarnings("error")  # a bar that runs off to zero on a logarithmic axis breaks the layout
def test_gaps_of_zero_are_counted_where_they_are_drawn() -> None:
    decisions = Decisions(
        np.array([0.0, 0.0, 0.5, 1.0], np.float32), 1.0, 0.05, Estimate(0.5, 0.2, 0.8, 4), Estimate(0.25, 0.0, 0.7, 4),
        np.ones(4), Estimate(1.0, 1.0, 1.0, 4),
    )  # fmt: skip
    chart = gaps_figure(decisions, "reward")
    assert "(2 states)" in chart.caption
    assert "a gap below 5 %" in chart.caption
    assert "50.0\u00a0%\u00a0[20.0,\u00a080.0]" in chart.alt


def test_a_boundary_that_no_picture_reaches_is_said_to_be_out_of_reach() -> None:
    decisions = replace(make_diagnosis().decisions, distances=np.array([1.0, 2.0, 30.0, np.inf]))
    chart = distances_figure(decisions, [], 400)
    assert chart is not None
    assert "longer than 20 (dotted): in 50 % of the states" in chart.caption
    assert "In 1 states the gap does not move" in chart.caption
    near = distances_figure(replace(decisions, distances=np.array([1.0, 2.0])), [], 400)
    assert near is not None
    assert "dotted" not in near.caption


def test_rows_stand_under_their_headers_and_never_on_one_another() -> None:
    rows, headers = grouped_rows([("", ["null"]), ("shifts", ["a", "b"]), ("attacks", []), ("more", ["a"])])
    assert set(headers) == {"shifts", "more"}
    assert rows["", "null"] > headers["shifts"] > rows["shifts", "a"] > rows["shifts", "b"] > headers["more"]
    heights = sorted([*rows.values(), *headers.values()])
    assert np.diff(heights).min() > 0.89


@given(st.text(max_size=80), st.integers(8, 40))
def test_short_names_are_short(text: str, length: int) -> None:
    short = shortened(text, length)
    assert len(short) <= length
    assert short == text if len(text) <= length else "\u2026" in short
