"""``robopref diagnose compare``: two finished diagnoses against one another."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro
from rich.table import Table

from robopref.cli.console import console
from robopref.cli.diagnose_print import short_text
from robopref.cli.run_directory import start_run, to_json
from robopref.errors import RoboprefError

if TYPE_CHECKING:
    from robopref.diagnosis import Comparison


@dataclass(frozen=True)
class DiagnoseCompare:
    """Hold two diagnosed policies against one another: principal directions, instability, sensitive regions."""

    a: tyro.conf.Positional[Path]
    """Directory of the first diagnosis."""
    b: tyro.conf.Positional[Path]
    """Directory of the second; ratios and differences are of it to the first."""
    out: Path
    """Where the comparison and its report go."""
    names: tuple[str, str] | None = None
    """What to call the two; default: the names of their directories."""
    k: int = 2
    """Directions of the subspaces between which principal angles are taken."""
    top_share: float = 0.05
    """Share of the pixels, those with the most energy, that count as sensitive."""
    resamples: int = 1000
    """Of the bootstrap."""
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    seed: int = 0
    resume: bool = False
    """Write an earlier comparison of the same two anew."""


def run_diagnose_compare(config: DiagnoseCompare) -> bool:
    """Compare and report."""
    from robopref.diagnosis import compare, load_diagnosis
    from robopref.diagnosis.results import SUMMARY_FILE, save_comparison
    from robopref.reporting.diagnosis_comparison_report import write_comparison_report

    diagnoses = [load_diagnosis(path) for path in (config.a, config.b)]
    names = config.names or _directory_names(config.a, config.b)
    if config.resamples < 100:
        raise RoboprefError(f"--resamples must be at least 100, got {config.resamples}.")
    comparison = compare(
        diagnoses[0],
        diagnoses[1],
        names,
        k=config.k,
        top_share=config.top_share,
        n_resamples=config.resamples,
        seed=config.seed,
    )
    identity = {
        side: hashlib.sha256((path / SUMMARY_FILE).read_bytes()).hexdigest()[:16]
        for side, path in (("digest_a", config.a), ("digest_b", config.b))
    }
    start_run(config.out, "diagnose compare", config, resume=config.resume, identity=identity)
    save_comparison(config.out, comparison)
    report = write_comparison_report(config.out)
    _track(config, comparison)
    print_comparison(comparison)
    console.print(f"report: {report}", soft_wrap=True)
    return True


def _directory_names(a: Path, b: Path) -> tuple[str, str]:
    """The last parts of the two paths; as much of them as tells them apart."""
    first, second = a.resolve().parts, b.resolve().parts
    for count in range(1, max(len(first), len(second)) + 1):
        names = "/".join(first[-count:]), "/".join(second[-count:])
        if names[0] != names[1]:
            return names
    raise RoboprefError(f"{a} and {b} are the same directory: give two diagnoses.")


def print_comparison(comparison: Comparison) -> None:
    """What must be said first, then the numbers beside what is mere chance."""
    for statement in comparison.statements:
        console.print(statement, style="yellow", highlight=False)
    first, second = comparison.names
    table = Table(title=f"{second} against {first}")
    for heading in ("", "between the two", f"{first}: clean to null", f"{second}: clean to null"):
        table.add_column(heading)
    table.add_row("angle of G_S, degrees", *map(short_text, (comparison.angle, *comparison.own_angles)))
    overlaps = (comparison.overlap, *comparison.own_overlaps)
    table.add_row("common sensitive pixels", *(short_text(None if o is None else o.common) for o in overlaps))
    table.add_row("Bhattacharyya overlap", *(short_text(None if o is None else o.bhattacharyya) for o in overlaps))
    for name, ratio in comparison.ratios.items():
        table.add_row(f"ratio of {name.replace('_', ' ')}", short_text(ratio), "", "")
    console.print(table)


def _track(config: DiagnoseCompare, comparison: Comparison) -> None:
    """Numbers with their intervals, the table of quotients, and the figures, as files and in W&B."""
    from robopref.reporting.diagnosis_comparison_report import comparison_images
    from robopref.tracking import Tracker

    mode = None if config.wandb == "auto" else config.wandb
    name = f"compare {' and '.join(comparison.names)}"
    parts = ("value", "low", "high", "n")
    with Tracker(config.out, name=name, config=to_json(config), wandb_mode=mode) as tracker:
        numbers = {
            "angle": comparison.angle,
            "overlap/common": comparison.overlap.common,
            "overlap/bhattacharyya": comparison.overlap.bhattacharyya,
            **{f"ratio/{measure}": ratio for measure, ratio in comparison.ratios.items()},
        }
        tracker.log(
            {
                f"{label}/{part}": getattr(estimate, part)
                for label, estimate in numbers.items()
                if estimate is not None
                for part in parts
            },
            step=1,
        )
        tracker.log_table(
            "quotients",
            ["condition", *(f"{side}_{part}" for side in ("a", "b", "difference") for part in parts)],
            [
                [condition, *(getattr(estimate, part, None) for estimate in estimates for part in parts)]
                for condition, estimates in comparison.quotients.items()
            ],
        )
        for figure, path in comparison_images(config.out).items():
            tracker.log_image(figure, path)
        tracker.summary({"names": list(comparison.names), "statements": list(comparison.statements)})
