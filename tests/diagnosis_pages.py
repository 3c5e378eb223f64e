"""Pages of diagnoses as the tests read them: their text without figures, their tables, and which figures there are."""

from __future__ import annotations

import re
from pathlib import Path

from robopref.diagnosis.results import Diagnosis
from robopref.reporting.diagnosis_report import diagnosis_contents
from robopref.reporting.figures import Chart
from robopref.reporting.page import write_page

FIGURES = {
    "direction", "energy", "spectrum", "power", "radial", "norms", "measures", "peaks", "quotients", "examples", "gaps",
    "distances", "flips", "returns", "attacks",
}  # fmt: skip


def plain(text: str) -> str:
    """With ordinary spaces and minus signs."""
    return text.replace("\u00a0", " ").replace("\u2212", "-")


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
