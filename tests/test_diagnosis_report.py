"""The report of a diagnosis: what is on the page, the numbers of the results, and the figures beside it."""

from __future__ import annotations

import base64
import os
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from diagnosis_pages import FIGURES, plain, rows_of, text_of
from html_page import Page
from made_diagnoses import CONDITIONS, make_diagnosis

from robopref.diagnosis.results import load_diagnosis, save_diagnosis
from robopref.errors import RoboprefError
from robopref.reporting.diagnosis_comparison_report import comparison_images, write_comparison_report
from robopref.reporting.diagnosis_condition_figures import quotient_figure
from robopref.reporting.diagnosis_direction_figures import power_figure
from robopref.reporting.diagnosis_figure_files import kept_figures, write_figures
from robopref.reporting.diagnosis_instability_figures import norms_figure
from robopref.reporting.diagnosis_report import diagnosis_images, write_diagnosis_report
from robopref.reporting.figures import Chart

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("diagnosis")
    save_diagnosis(directory, make_diagnosis())
    write_diagnosis_report(directory)
    return directory


@pytest.fixture(scope="module")
def page(directory: Path) -> Page:
    return Page((directory / "report.html").read_text(encoding="utf-8"))


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


def test_the_episodes_are_there_one_by_one(directory: Path) -> None:
    text = (directory / "report.html").read_text(encoding="utf-8")
    rows = rows_of(text, "The clean episodes one by one")
    assert list(rows) == ["Episode", "1", "2", "3", "4", "5", "6"]
    norms = load_diagnosis(directory).instability.episodes[1].norms
    oscillation = np.abs(np.diff(norms)).mean() / norms.mean()
    told = [f"{value:.3g}" for value in (norms.mean(), norms.var(), oscillation)]
    assert rows["2"] == ["13", "60", *told, ""]


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
