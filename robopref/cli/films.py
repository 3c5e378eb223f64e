"""What a report shows beside numbers: who drove when during the deployment, and films with captions."""

from __future__ import annotations

import shutil
from itertools import groupby
from pathlib import Path

import numpy as np

from robopref.cli.evaluate import read_results
from robopref.cli.relabel import stored_rule
from robopref.cli.run_directory import write_json
from robopref.trajectory import Actor, Episode, Label

_FPS = 20


def write_timeline(data: Path, path: Path) -> None:
    """Run lengths of who acted, and the undesirable windows, of every episode in ``data``."""
    from robopref.store.store import EpisodeStore

    store, rule = EpisodeStore.open(data), stored_rule([data])
    timeline = []
    for episode in map(store.read, store.episode_ids()):
        undesirable = np.flatnonzero(rule.apply(episode) == Label.UNDESIRABLE)
        runs = np.split(undesirable, np.flatnonzero(np.diff(undesirable) > 1) + 1)
        timeline.append(
            {
                "episode_id": episode.info.episode_id,
                "seed": episode.info.seed,
                "outcome": episode.info.outcome.value,
                "actors": [[int(actor), len(list(steps))] for actor, steps in groupby(episode.actor.tolist())],
                "undesirable": [[int(run[0]), int(run[-1]) + 1] for run in runs if len(run)],
            }
        )
    write_json(path, timeline)


def collect_films(run: Path) -> None:
    """Bring the films of both evaluations, and one of a recorded takeover, to ``run/videos`` with captions."""
    from robopref.reporting.videos import write_video
    from robopref.store.store import EpisodeStore

    videos = run / "videos"
    videos.mkdir(exist_ok=True)
    for stage, title in (("before", "Before refinement"), ("after", "After refinement")):
        outcomes = {result.seed: result for result in read_results(run / stage)}
        for film in sorted((run / stage / "videos").glob("seed-*.mp4")):
            result = outcomes[int(film.stem.removeprefix("seed-"))]
            outcome = "success" if result.success else "failure"
            shutil.copy2(film, videos / f"{stage}-{film.name}")
            caption = f"Evaluation seed {result.seed}, the policy alone: {outcome} after {result.steps} steps."
            write_json(
                videos / f"{stage}-{film.stem}.json",
                {"title": title, "caption": caption, "outcome": outcome, "seed": result.seed},
            )
    store = EpisodeStore.open(run / "interactions")
    takeover = next((e for e in map(store.read, store.episode_ids()) if _shows_takeover(e)), None)
    if takeover is not None:
        write_video(videos / "takeover.mp4", takeover.observation["image"], _FPS, actors=takeover.actor.tolist())
        human = int((takeover.actor == Actor.HUMAN).sum())
        write_json(
            videos / "takeover.json",
            {
                "title": "A takeover during deployment",
                "caption": f"As recorded, {len(takeover)} steps, {human} of them driven by the operator.",
                "outcome": takeover.info.outcome.value,
                "seed": takeover.info.seed,
            },
        )


def _shows_takeover(episode: Episode) -> bool:
    return "image" in episode.observation and bool((episode.actor == Actor.HUMAN).any())
