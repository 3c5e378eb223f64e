"""Diagnoses out of the ordinary: untrained, constant, without gradients, of vectors: said, and reported nonetheless."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
from diagnosis_pages import FIGURES, plain, rows_of, text_of
from html_page import Page
from made_diagnoses import (
    CONDITIONS,
    SIDE,
    make_comparison,
    make_condition,
    make_diagnosis,
    make_direction,
    make_instability,
    make_spatial,
)

from robopref.diagnosis.results import Directions, Habit, save_diagnosis
from robopref.evaluation.statistics import Estimate
from robopref.reporting.diagnosis_comparison_report import comparison_charts
from robopref.reporting.diagnosis_instability_figures import measures_figure
from robopref.reporting.diagnosis_report import (
    diagnosis_charts,
    diagnosis_contents,
    diagnosis_images,
    write_diagnosis_report,
)


def test_an_untrained_policy_is_reported_loudly(tmp_path: Path) -> None:
    found = make_diagnosis()
    statements = ("UNTRAINED: it plays at chance.", "2 episodes repeat another.")
    competence = replace(found.competence, untrained=True)
    text = text_of(replace(found, statements=statements, competence=competence), tmp_path)
    page = Page(text)
    assert [p["class"] for p in page.all("p") if "warning" in p.get("class", "")] == ["warning alarm", "warning"]
    assert text.index("UNTRAINED: it plays at chance.") < text.index("At a glance")
    assert "UNTRAINED" in re.findall(r"<title>(.*?)</title>", text)[0]
    assert "nothing shows that this policy learned to play" in page.text
    assert "2 episodes repeat another." in page.text


def test_too_few_episodes_are_not_called_a_policy_at_chance(tmp_path: Path) -> None:
    found = make_diagnosis()
    competence = replace(found.competence, untrained=True, undecided=True)
    statements = ("Perhaps UNTRAINED: so few cannot show that this is no chance.",)
    page = Page(text_of(replace(found, statements=statements, competence=competence), tmp_path))
    assert "nothing shows that this policy learned to play" not in page.text
    assert "Perhaps UNTRAINED" in page.text


def test_a_constant_policy_is_reported_loudly(tmp_path: Path) -> None:
    found = make_diagnosis()
    habit = Habit((1,), Estimate(1.0, 0.54, 1.0, 6), 360)
    decisions = replace(found.decisions, habit=habit, choices=np.array([[0, 60, 0]] * 6))
    statements = ("ALWAYS UP: the greedy action is UP in every one of 360 visited states.",)
    text = text_of(replace(found, statements=statements, decisions=decisions), tmp_path)
    page = Page(text)
    assert [p["class"] for p in page.all("p") if "warning" in p.get("class", "")] == ["warning alarm"]
    assert text.index("ALWAYS UP") < text.index("At a glance")
    assert "CONSTANT" in re.findall(r"<title>(.*?)</title>", text)[0]
    told = "It chooses UP in 100.0 % [54.0, 100.0] of 360 visited states: its decision boundary is never met on them."
    assert told in plain(page.text)
    assert rows_of(text, "The clean episodes one by one")["3"][-1] == "UP, 100.0 %"


def test_synonyms_are_told_apart(tmp_path: Path) -> None:
    found = make_diagnosis()
    rotation = replace(CONDITIONS[1], synonym_flips=Estimate(0.1, 0.08, 0.13, 6))
    subject = replace(found.subject, synonyms=((1, 2),))
    decisions = replace(found.decisions, synonym_ties=Estimate(0.2, 0.1, 0.3, 6))
    diagnosis = replace(found, subject=subject, decisions=decisions, conditions=(CONDITIONS[0], rotation))
    text = text_of(diagnosis, tmp_path)
    assert rows_of(text, "Flipped actions and returns")["rotation"][:2] == ["23.4 % [20.0, 27.0]", "10.0 % [8.0, 13.0]"]
    assert rows_of(text, "intervals over n episodes")["Near-ties among synonyms only"][0] == "20.0 % [10.0, 30.0]"
    assert "UP = DOWN" in text
    figure = next(c for c in diagnosis_charts(diagnosis)["decisions"] if c.name == "flips")
    assert "between synonyms 10.0 % [8.0, 13.0]" in plain(figure.alt)
    assert "Hatched" in figure.caption


def test_vanished_gradients_leave_the_direction_out_and_say_so(tmp_path: Path) -> None:
    found = make_diagnosis()
    still = replace(
        make_instability(),
        episodes=tuple(replace(e, norms=np.zeros_like(e.norms)) for e in found.instability.episodes),
        variation=None, oscillation=None, high_frequency=None, peaks=(),
    )  # fmt: skip
    nothing = Directions(
        np.zeros((1, 4, SIDE, SIDE), np.float32), np.zeros(3), 0.0, None, None, 321, 321, 0.0, "exact", True
    )
    spatial = make_spatial(np.zeros((4, SIDE, SIDE)))
    conditions = (make_condition("null", "null", None), make_condition("jpeg", "shift", None, flips=(0.1, 0.0, 0.2)))
    decisions = replace(found.decisions, distances=np.full(5, np.inf), median_distance=None)
    diagnosis = replace(
        found, directions=nothing, spatial=spatial, instability=still, conditions=conditions, decisions=decisions
    )
    save_diagnosis(tmp_path, diagnosis)
    page = Page(write_diagnosis_report(tmp_path).read_text(encoding="utf-8"))
    for told in (
        "all gradients vanish at T = 0.5, so there is no principal direction.",
        "the gradient norm is zero in every state.",
        "this diagnosis holds no attacks.",
        "\u039b is not defined for null control, JPEG: gradients vanish.",
        "no distance to the boundary is finite.",
        "nothing was played under a shift, so there are no returns.",
        "321 of 321, 100.0 %",
        "not defined",
    ):
        assert told in page.text, told
    assert set(diagnosis_images(tmp_path)) == {"examples", "gaps", "flips"}
    assert "nan" not in page.text.lower().split()


def test_one_episode_has_no_interval(tmp_path: Path) -> None:
    one = Estimate(0.4, 0.4, 0.4, 1)
    found = make_diagnosis()
    diagnosis = replace(
        found,
        conditions=(make_condition("null", "null", (0.9, 0.9, 0.9), n=1),),
        directions=replace(found.directions, eigengap=one, share=one),
        instability=make_instability(1),
    )
    text = plain(Page(text_of(diagnosis, tmp_path)).text)
    assert "0.4 (no interval, n = 1)" in text
    assert "no intervals (n = 1)" in text
    assert "0.4 [0.4, 0.4]" not in text
    assert "no intervals (n = 1)" in plain(measures_figure(diagnosis.instability).caption)


def test_one_decision_of_an_action_token_policy_is_reported_with_what_it_has(tmp_path: Path) -> None:
    direction = make_direction(stack=1, channels=3)
    found = make_diagnosis()
    subject = replace(
        found.subject, task="drawer-open", shape=(3, SIDE, SIDE), frame_stack=1, channels_per_frame=3,
        actions=("bin 0", "bin 1", "bin 2"), head="action dimension 3 of 4", value_unit="logit",
    )  # fmt: skip
    conditions = (
        make_condition("null", "null", (0.9, 0.8, 0.95), channels=3),
        make_condition("jpeg", "shift", (0.5, 0.4, 0.6), (0.4, 0.3, 0.5), flips=(0.1, 0.05, 0.2), channels=3),
    )
    save_diagnosis(
        tmp_path,
        replace(
            found,
            subject=subject,
            conditions=conditions,
            directions=replace(found.directions, directions=direction[None]),
            spatial=make_spatial(direction),
            instability=make_instability(stack=1, channels=3),
        ),
    )
    page = Page(write_diagnosis_report(tmp_path).read_text(encoding="utf-8"))
    assert set(diagnosis_images(tmp_path)) == FIGURES - {"returns", "attacks"}
    for told in ("action dimension 3 of 4", "Colour channels are averaged", "bin 1", "[logit]"):
        assert told in page.text


def test_vectors_are_drawn_as_vectors() -> None:
    direction = np.zeros((1, 1, 5), np.float32)
    direction[0, 0, 3], direction[0, 0, 1] = -0.8, 0.6
    found = make_diagnosis(conditions=CONDITIONS)
    subject = replace(found.subject, shape=(1, 1, 5), frame_stack=1, policy="a")
    found = replace(
        found,
        subject=subject,
        directions=replace(found.directions, directions=direction[None]),
        spatial=make_spatial(direction),
    )
    charts = diagnosis_charts(found)
    assert [chart.name for chart in charts["direction"]] == ["direction", "spectrum"]
    assert "a: largest at coordinate 3, 0.8." in charts["direction"][0].alt
    assert charts["spectra"] == []
    assert not {"peaks", "examples"} & {chart.name for chart in charts["time"] + charts["shifts"]}
    missing = diagnosis_contents(found, charts)["missing"]
    assert missing["spectra"] == ["the states are vectors and have no spatial frequencies."]
    both = make_comparison(
        subjects=(subject, subject), directions=np.stack([direction, direction]), energies=np.square(direction)
    )
    names = [chart.name for section in comparison_charts(both).values() for chart in section]
    assert names == ["angles", "direction", "overlap", "ratios", "quotients"]
