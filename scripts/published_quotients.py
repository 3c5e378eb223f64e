"""A Markdown table of diagnoses beside the quotients published for vanilla DDQN.

The published values are those of Korkmaz, "Understanding and Diagnosing Deep Reinforcement Learning" (ICML 2024), read
second-hand; they come without intervals, and the strengths of their shifts are not all given.

    python scripts/published_quotients.py runs/diag-pong-ddqn-v2 runs/diag-freeway-ddqn-v1 ...
"""

from __future__ import annotations

import argparse
from pathlib import Path

from robopref.diagnosis import Diagnosis, load_diagnosis
from robopref.evaluation.statistics import Estimate
from robopref.reporting.diagnosis_words import BELOW, told_apart

PUBLISHED = {
    "freeway": {
        "null": 0.9917, "nesterov_fgsm": 0.7868, "elastic_net": 0.7259, "deepfool": 0.6869, "carlini_wagner": 0.9499,
        "brightness_contrast": 0.8676, "jpeg": 0.9056, "perspective": 0.3010, "rotation": 0.1381,
        "gaussian_blur": 0.2657,
    },
    "pong": {
        "null": 0.4934, "nesterov_fgsm": 0.3444, "elastic_net": 0.1053, "deepfool": 0.3277, "carlini_wagner": 0.0408,
        "brightness_contrast": 0.1678, "jpeg": 0.4934, "perspective": 0.4278, "rotation": 0.1365,
        "gaussian_blur": 0.0847,
    },
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("diagnoses", nargs="+", type=Path)
    found = [load_diagnosis(path) for path in parser.parse_args().diagnoses]
    games = list(dict.fromkeys(one.subject.task for one in found))
    names = list(dict.fromkeys(c.name for one in found for c in one.conditions))
    head = ["Lambda", *(one.subject.policy for one in found), *(f"published, {game}" for game in games)]
    print(row(head))
    print(row(["---"] * len(head)))
    for name in names:
        cells = [quotient(one, name) for one in found]
        print(row([name, *cells, *(str(PUBLISHED.get(game, {}).get(name, "")) for game in games)]))
    print()
    print(row(["", *(one.subject.policy for one in found)]))
    print(row(["---"] * (len(found) + 1)))
    for what, value in MEASURES.items():
        print(row([what, *(value(one) for one in found)]))


def quotient(diagnosis: Diagnosis, name: str) -> str:
    """The quotient of a condition, in bold where it is told apart from the null."""
    condition = next((c for c in diagnosis.conditions if c.name == name), None)
    if condition is None:
        return ""
    told = text(condition.quotient)
    return f"**{told}**" if told_apart(condition, diagnosis.null) == BELOW else told


def text(estimate: Estimate | None) -> str:
    """``0.84 [0.80, 0.88]``."""
    return "-" if estimate is None else f"{estimate.value:.2g} [{estimate.low:.2g}, {estimate.high:.2g}]"


def row(cells: list[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


MEASURES = {
    "return": lambda d: text(d.competence.score),
    "states (zero gradients)": lambda d: f"{d.directions.n_states} ({d.directions.n_zero})",
    "lambda_1 / trace": lambda d: text(d.directions.share),
    "lambda_2 / lambda_1": lambda d: text(d.directions.eigengap),
    "gradient norm, mean": lambda d: text(d.instability.mean),
    "gradient norm, variance": lambda d: text(d.instability.variance),
    "gradient norm, variation": lambda d: text(d.instability.variation),
    "gradient norm, oscillation": lambda d: text(d.instability.oscillation),
    "near-ties": lambda d: text(d.decisions.near_ties),
}


if __name__ == "__main__":
    main()
