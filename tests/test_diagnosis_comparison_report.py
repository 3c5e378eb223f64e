"""The report of a comparison: two policies side by side, and what it does not hold."""

from __future__ import annotations

import re
from pathlib import Path

from diagnosis_pages import plain, rows_of
from html_page import Page
from made_diagnoses import make_comparison

from robopref.diagnosis.results import save_comparison
from robopref.reporting.diagnosis_comparison_report import comparison_images, write_comparison_report


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
