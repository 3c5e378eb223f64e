"""Draw the picture of docs/perturbations.md: three tasks in their original scene and under every perturbation."""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from robopref.envs.perturbations.options import KINDS
from robopref.envs.registry import make_task

_HEADING = 22  # pixels
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 85]  # of another format's file no heed is taken


def main() -> None:
    """Write the sheet: a row for each task, a column for each perturbation and one for two of them together."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/perturbations.jpg"))
    parser.add_argument("--tasks", nargs="+", default=["peg-insert-side", "pick-place", "fetch-push"])
    parser.add_argument("--size", type=int, default=176, help="pixels a side of a picture")
    parser.add_argument("--strength", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=3)
    options = parser.parse_args()
    columns: list[tuple[str, ...]] = [(), *((kind,) for kind in KINDS), KINDS]
    rows = []
    for seed, task in enumerate(options.tasks, start=options.seed):
        env = make_task(task, image_size=options.size, perturb=KINDS, perturb_strength=options.strength)
        pictures = [env.reset(seed=seed, options={"perturb": kinds})[0]["image"] for kinds in columns]
        env.close()
        rows.append(np.concatenate(pictures, axis=1))
    heading = np.full((_HEADING, options.size * len(columns), 3), 255, np.uint8)
    for number, kinds in enumerate(columns):
        text = "original" if not kinds else kinds[0] if len(kinds) == 1 else "all"
        place = (options.size * number + 6, _HEADING - 7)
        cv2.putText(heading, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    sheet = np.concatenate([heading, *rows])
    options.out.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(options.out), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR), _JPEG)


if __name__ == "__main__":
    main()
