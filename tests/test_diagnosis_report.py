from __future__ import annotations

import base64
import os
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from html_page import Page
from hypothesis import given
from hypothesis import strategies as st
from made_diagnoses import (
    CONDITIONS,
    SIDE,
    make_comparison,
    make_condition,
    make_diagnosis,
    make_direction,
    make_distortion,
    make_instability,
    make_spatial,
)

from robopref.diagnosis.results import (
    Diagnosis,
    Directions,
    Habit,
    load_diagnosis,
    save_comparison,
    save_diagnosis,
)
from robopref.errors import RoboprefError
from robopref.evaluation.statistics import Estimate
from robopref.reporting.diagnosis_comparison_report import comparison_charts, comparison_images, write_comparison_report
from robopref.reporting.diagnosis_condition_figures import quotient_figure
from robopref.reporting.diagnosis_direction_figures import power_figure
from robopref.reporting.diagnosis_figure_files import kept_figures, write_figures
from robopref.reporting.diagnosis_instability_figures import measures_figure, norms_figure
from robopref.reporting.diagnosis_report import (
    diagnosis_charts,
    diagnosis_contents,
    diagnosis_images,
    write_diagnosis_report,
)
from robopref.reporting.diagnosis_words import BELOW, condition_names, estimate_text, number, percent_text, told_apart
from robopref.reporting.figures import Chart
from robopref.reporting.page import write_page

PNG = b"\x89PNG\r\n\x1a\n"
FIGURES = {
    "direction", "energy", "spectrum", "power", "radial", "norms", "measures", "peaks", "quotients", "examples", "gaps",
    "distances", "flips", "returns", "attacks",
}  # fmt: skip


def plain(text: str) -> str:
    """With ordinary spaces and minus signs."""
    return text.replace("\u00a0", " ").replace("\u2212", "-")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("diagnosis")
    save_diagnosis(directory, make_diagnosis())
    write_diagnosis_report(directory)
    return directory


@pytest.fixture(scope="module")
def page(directory: Path) -> Page:
    return Page((directory / "report.html").read_text(encoding="utf-8"))


def text_of(diagnosis: Diagnosis, directory: Path) -> str:
    """The page without its figures, which take most of the time."""
    nothing: dict[str, list[Chart]] = {
        section: [] for section in ("direction", "spectra", "time", "shifts", "decisions")
    }
    contents = diagnosis_contents(diagnosis, nothing)
    return write_page(directory / "page.html", "diagnosis.html.j2", contents).read_text(encoding="utf-8")


def rows_of(page_text: str, caption: str) -> dict[str, list[str]]:
    """The cells of the table with that caption by row header, out of the HTML."""
    table = next(t for t in re.findall(r"<table.*?</table>", page_text, re.S) if caption in t)
    rows = {}
    for row in re.findall(r"<tr>(.*?)</tr>", table, re.S):
        cells = [
            " ".join(plain(re.sub(r"<[^>]+>", " ", cell)).split())
            for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S)
        ]
        rows[cells[0]] = cells[1:]
    return rows


def test_the_page_is_accessible_and_needs_nothing_from_elsewhere(directory: Path, page: Page) -> None:
    text = (directory / "report.html").read_text(encoding="utf-8")
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("h1")) == len(page.all("title")) == len(page.all("main")) == 1
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    for section in page.all("section"):
        assert section["aria-labelledby"] in ids
    for _, attrs in page.elements:
        for key in ("src", "href"):
            assert str(attrs.get(key, "data:image/svg+xml;base64,")).startswith("data:image/svg+xml;base64,")
    assert "url(" not in text
    assert page.all("script") == []
    assert not re.search(r"https?://", text)
    for header in page.all("th"):
        assert header["scope"] in ("row", "col")
    assert len(page.all("caption")) == len(page.all("table"))
    images = page.all("img")
    assert len(images) == len(FIGURES)
    for image in images:
        assert len(image["alt"]) > 15
        drawing = base64.b64decode(image["src"].partition(",")[2]).decode()
        assert ElementTree.fromstring(drawing).tag == "{http://www.w3.org/2000/svg}svg"
        for address in re.findall(r'href="([^"]*)"', drawing):
            assert address.startswith(("#", "data:image/png;base64,"))
    assert "Left out" not in page.text
    assert "Read this first" not in page.text


def test_the_tables_hold_the_numbers_of_the_results(directory: Path) -> None:
    text = (directory / "report.html").read_text(encoding="utf-8")
    quotients = rows_of(text, "Feature correlation quotients")
    name = "rotation strength=2.0, steps=7"
    against = "0.9 [0.82, 0.95], other states"
    assert quotients["null control"] == ["0.9 [0.82, 0.95]", "", "", "", "321 (5)", "6"]
    assert quotients[name] == ["0.31 [0.21, 0.41]", against, "0.59 [0.45, 0.71]", "below the null", "321 (5)", "6"]
    assert quotients["JPEG strength=2.0, steps=7"][3] == "not told apart"
    assert "by at most 1 %" in plain(text)  # the largest reduction error
    flips = rows_of(text, "Flipped actions and returns")
    assert flips["rotation"] == ["23.4 % [20.0, 27.0]", "3 [1, 5]", "6", "-9 [-12, -6]"]
    assert flips["Carlini-Wagner"][:2] == ["97.5 % [94.0, 100.0]", "0.5 [0, 1] in 40 steps"]
    attacks = rows_of(text, "Attacks on clean states")
    cells = attacks["Carlini-Wagner strength=2.0, steps=7"]
    assert cells == [
        "97.5 % [94.0, 100.0]", "313 of 321 [95.2, 98.7] %", "1.11 [0.999, 1.33]", "1.23 [1.11, 1.48]",
        "45.6 [41, 54.7]", "0.0789 [0.071, 0.0947]", "123 [111, 148]",
    ]  # fmt: skip
    overview = rows_of(text, "intervals over n episodes")
    assert overview["Return of the policy"] == ["12 [10, 14]", "6"]
    assert overview["Return of random actions"] == ["1.5 [0.5, 2.5]", "9"]
    assert overview["Share of L(S) along G_S"] == ["50.0 % [44.0, 58.0]", "6"]
    assert overview["Near-ties"] == ["36.1 % [33.0, 39.0]", "6"]
    instability = load_diagnosis(directory).instability
    measures = rows_of(text, "Gradient norm over all clean states")
    for label, estimate in (("Oscillation", instability.oscillation), ("Variance of the norm", instability.variance)):
        assert estimate is not None
        told = f"{estimate.value:.3g} [{estimate.low:.3g}, {estimate.high:.3g}]"
        assert measures[label][0] == told


def test_the_facts_behind_the_direction_are_said(page: Page) -> None:
    text = plain(page.text)
    for told in (
        "321 of 6 episodes", "7 of 321, 2.2 %", "Temperature T0.5", "exact, in memory", "1e-7 of \u03bb\u2081",
        "0.4 [0.31, 0.52]", "over 321 states of 6 episodes at T = 0.5 (7 with zero gradient)",
    ):  # fmt: skip
        assert told in re.sub(r"\s+", " ", text), told


def test_shifts_are_judged_against_the_null_in_words_and_in_the_figure(page: Page) -> None:
    text = plain(page.text)
    assert "1 of 2 natural shifts are told apart from the null control: rotation." in text
    assert "\u039b lies below the null's by 0.59 [0.45, 0.71] (rotation)." in text
    assert "1 of 1 attacks are told apart from the null control: Carlini-Wagner." in text
    figure = next(plain(image["alt"]) for image in page.all("img") if "below the null control" in image["alt"])
    assert "2 of 3 lie below the null control" in figure
    assert "JPEG 0.88 [0.8, 0.94], not told apart" in figure
    assert "rotation 0.31 [0.21, 0.41], below the null" in figure


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


def test_the_episodes_are_there_one_by_one(directory: Path) -> None:
    text = (directory / "report.html").read_text(encoding="utf-8")
    rows = rows_of(text, "The clean episodes one by one")
    assert list(rows) == ["Episode", "1", "2", "3", "4", "5", "6"]
    norms = load_diagnosis(directory).instability.episodes[1].norms
    oscillation = np.abs(np.diff(norms)).mean() / norms.mean()
    told = [f"{value:.3g}" for value in (norms.mean(), norms.var(), oscillation)]
    assert rows["2"] == ["13", "60", *told, ""]


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


def test_without_a_null_control_nothing_is_told_apart(tmp_path: Path) -> None:
    page = Page(text_of(make_diagnosis(conditions=CONDITIONS[1:2]), tmp_path))
    assert "no null control was played, so no shift can be told apart from chance." in page.text
    assert "told apart from the null control:" not in page.text
    assert "below the null" not in page.text


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


def test_what_a_model_says_of_itself_is_never_markup(tmp_path: Path) -> None:
    attack = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)> $x^{$ \\frac"
    found = make_diagnosis()
    subject = replace(found.subject, policy=attack, task=attack, architecture=attack, actions=(attack,) * 3)
    shift = replace(CONDITIONS[1], name=attack, detail=attack)
    save_diagnosis(
        tmp_path,
        replace(
            found, subject=subject, conditions=(CONDITIONS[0], shift), statements=(attack,), versions={attack: attack}
        ),
    )
    page = Page(write_diagnosis_report(tmp_path).read_text(encoding="utf-8"))
    assert page.all("script") == []
    assert all("onerror" not in attrs for _, attrs in page.elements)
    assert attack in page.text


def test_the_same_results_give_the_same_bytes(directory: Path, tmp_path: Path) -> None:
    found = load_diagnosis(directory)
    assert text_of(found, tmp_path) == text_of(make_diagnosis(), tmp_path)
    for chart in (
        power_figure(found.spatial, 1),
        norms_figure(found.instability.episodes, found.instability.peaks),
        quotient_figure(found.conditions),
    ):
        assert chart is not None
        assert (directory / "figures" / f"{chart.name}.svg").read_text() == chart.svg
        assert (directory / "figures" / f"{chart.name}.png").read_bytes() == chart.png


def test_figures_lie_beside_the_report_and_are_handed_to_trackers(directory: Path) -> None:
    images = diagnosis_images(directory)
    assert set(images) == FIGURES
    for name, path in images.items():
        assert path == directory / "figures" / f"{name}.png"
        assert path.read_bytes().startswith(PNG)
        assert ElementTree.fromstring(path.with_suffix(".svg").read_text()).tag.endswith("svg")
    kept = {name: path.stat().st_mtime_ns for name, path in images.items()}
    assert {name: path.stat().st_mtime_ns for name, path in diagnosis_images(directory).items()} == kept


def test_figures_of_an_older_report_are_not_taken_for_new_ones(tmp_path: Path) -> None:
    report, result, folder = tmp_path / "report.html", tmp_path / "summary.json", tmp_path / "figures"
    charts = [Chart(name, f"<svg>{name}</svg>", "", "", "", png=PNG) for name in ("a", "b")]
    written = write_figures(folder, charts)
    result.write_text("{}")
    assert kept_figures(folder, report, result) is None
    report.write_text("page")
    assert kept_figures(folder, report, result) == written == {"a": folder / "a.png", "b": folder / "b.png"}
    os.utime(report, (1, 1))
    assert kept_figures(folder, report, result) is None
    (folder / "notes.txt").write_text("mine")
    write_figures(folder, charts[1:])
    assert {path.name for path in folder.iterdir()} == {"b.svg", "b.png", "notes.txt"}


def test_a_directory_without_results_is_refused(tmp_path: Path) -> None:
    for write in (write_diagnosis_report, diagnosis_images, write_comparison_report, comparison_images):
        with pytest.raises(RoboprefError, match="there is no"):
            write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_two_policies_side_by_side(tmp_path: Path) -> None:
    save_comparison(tmp_path, make_comparison(statements=("vanilla: UNTRAINED: it plays at chance.",)))
    path = write_comparison_report(tmp_path)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    said = plain(page.text)
    for told in (
        "The principal directions lie 84.2 [80.1, 87.3] degrees apart (n = 6).",
        "Chance alone, within one policy: 12.5 [8.5, 20.5] for vanilla.",
        "Variance of the gradient norm, certified over vanilla: 4.22 [2.5, 7] (n = 6); certified has more.",
        "Variation of the gradient norm, certified over vanilla: 1.1 [0.9, 1.4] (n = 6); the two are not told apart.",
        "Oscillation of the gradient norm, certified over vanilla: 0.5 [0.4, 0.7] (n = 6); certified has less.",
        "(top 5 % of the pixels) have 0.21 [0.12, 0.3] of their union in common; by chance it would be 0.0256.",
        "Not defined: high-frequency share.",
    ):
        assert told in said, told
    rows = rows_of(text, "Feature correlation quotients")
    assert rows["null control"] == ["0.9 [0.8, 0.95]", "0.71 [0.5, 0.8]", "-0.19 [-0.4, -0.05]"]
    assert rows["JPEG"] == ["not defined", "0.33 [0.2, 0.4]", "not defined"]
    numbers = rows_of(text, "intervals over n episodes of each policy")
    assert numbers["Angle of certified, clean to null [degrees]"] == ["not defined", ""]
    assert numbers["Bhattacharyya overlap"] == ["0.63 [0.5, 0.7]", "6"]
    assert [p["class"] for p in page.all("p") if "warning" in p.get("class", "")] == ["warning alarm"]
    names = {"angles", "directions", "profiles", "overlap", "energies", "ratios", "quotients"}
    assert set(comparison_images(tmp_path)) == names
    assert len(page.all("img")) == len(names)
    assert path.read_bytes() == write_comparison_report(tmp_path).read_bytes()
    assert not re.search(r"https?://", text)


def test_a_comparison_says_what_it_does_not_hold(tmp_path: Path) -> None:
    comparison = make_comparison(
        directions=None, spatials=(), quotients={}, ratios={"mean": None}, own_angles=(None, None)
    )
    save_comparison(tmp_path, comparison)
    page = Page(write_comparison_report(tmp_path).read_text(encoding="utf-8"))
    for told in (
        "this comparison does not hold the directions and their spectra.",
        "no ratio is defined.",
        "the two diagnoses have no defined quotient in common.",
        "No null control says what chance does.",
    ):
        assert told in page.text
    assert set(comparison_images(tmp_path)) == {"angles", "overlap", "energies"}


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
