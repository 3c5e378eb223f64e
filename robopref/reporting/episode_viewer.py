"""A static viewer of recorded episodes: a folder of files that any browser opens from the disk, without a server.

    index.html, episodes.js           the list
    episode.html#<id>                 one episode, which loads
    data/<id>.js                      its numbers, and
    videos/<id>.<n>.mp4               a film for each camera
    viewer.json                       says that the folder is a viewer, which may be written anew

A page may load a script from the disk, but not fetch a file: hence numbers as scripts. Writing a viewer again makes
only the episodes that are new or are labelled otherwise.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from robopref.errors import RoboprefError
from robopref.labeling import LabelingRule
from robopref.reporting.episode_viewer_data import cameras, episode_payload, film_rate, list_row
from robopref.reporting.page import write_page
from robopref.reporting.palette import ACTOR_COLORS, ACTOR_NAMES, BLUE, GREEN, LIGHT_GREY, ORANGE, VERMILLION
from robopref.reporting.videos import write_video
from robopref.store.store import EpisodeStore
from robopref.store.summary import Damaged, readable
from robopref.trajectory import Episode, Label

FORMAT = "robopref-episode-viewer"
_VERSION = 1  # of the pages' data: an episode of another version is written anew
_SIDE = (336, 480)  # pixels: small pictures are enlarged to the first, large ones reduced to the second
_LABEL_LOOKS = {
    Label.UNDESIRABLE: ("undesirable", VERMILLION),
    Label.POLICY: ("policy", BLUE),
    Label.HUMAN: ("human", ORANGE),
    Label.EXPERT: ("expert", GREEN),
    Label.EXCLUDED: ("excluded", LIGHT_GREY),
}


@dataclass(frozen=True)
class Viewer:
    """What was written: the page to open, how many episodes it shows and how many of them were there already."""

    index: Path
    episodes: int
    kept: int
    damaged: tuple[Damaged, ...]


def write_viewer(
    store: EpisodeStore,
    out: Path,
    *,
    rule: LabelingRule,
    ids: Sequence[str] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Viewer:
    """Write the viewer of a store's episodes to a folder, which is made, or is a viewer already.

    Damaged episodes are named on the list and left out. When it is interrupted, run it again.

    Args:
        store: what to show.
        out: the folder.
        rule: how steps are labelled.
        ids: of the episodes to show; None shows all.
        progress: called with episodes done and all episodes.

    Raises:
        RoboprefError: the folder holds something else, or no readable episode is to be shown.
    """
    chosen = store.episode_ids() if ids is None else list(ids)
    if not chosen:
        raise RoboprefError(f"{store.path} holds no finished episode: there is nothing to show.")
    _claim(out)
    damaged: list[Damaged] = []
    rows: list[dict[str, Any]] = []
    kept = 0
    for episode in readable(store.read, chosen, damaged=damaged.append):
        key = _key(store, episode.info.episode_id, rule)
        if _is_there(out, episode.info.episode_id, key):
            kept += 1
        else:
            _write_episode(out, episode, rule, key)
        rows.append(list_row(episode))
        progress(len(rows) + len(damaged), len(chosen))
    if not rows:
        raise RoboprefError(f"none of the episodes in {store.path} can be read: {damaged[0].problem}")
    _write_script(out / "episodes.js", "episodes", rows)
    _remove_others(out, {row["id"] for row in rows})
    contents: dict[str, Any] = {"name": str(store.path.resolve().name), "looks": _looks(), "rule": _rule_text(rule)}
    write_page(out / "episode.html", "episode_viewer_episode.html.j2", contents)
    contents |= {"damaged": [asdict(episode) for episode in damaged], "count": len(rows)}
    index = write_page(out / "index.html", "episode_viewer_list.html.j2", contents)
    return Viewer(index, len(rows), kept, tuple(damaged))


def _claim(out: Path) -> None:
    marker = out / "viewer.json"
    if out.exists() and not marker.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RoboprefError(f"{out} exists and is no viewer of episodes: choose another --out.")
    for folder in ("data", "videos"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    marker.write_text(json.dumps({"format": FORMAT, "version": _VERSION}) + "\n")


def _key(store: EpisodeStore, episode_id: str, rule: LabelingRule) -> str:
    """What an episode's page depends on."""
    told = json.dumps([_VERSION, store.header(episode_id).checksum, asdict(rule)])
    return hashlib.blake2b(told.encode(), digest_size=16).hexdigest()


def _is_there(out: Path, episode_id: str, key: str) -> bool:
    try:
        with open(_script(out, episode_id), encoding="utf-8") as file:
            return file.readline() == f"// {key}\n"
    except FileNotFoundError:
        return False


def _script(out: Path, episode_id: str) -> Path:
    return out / "data" / f"{episode_id}.js"


def _write_episode(out: Path, episode: Episode, rule: LabelingRule, key: str) -> None:
    """The script goes last: where it is, the films are."""
    films = []
    for number, (name, frames) in enumerate(cameras(episode).items()):
        file = f"videos/{episode.info.episode_id}.{number}.mp4"
        size = min(max(_SIDE[0], min(frames.shape[1:3])), _SIDE[1])
        write_video(out / file, frames, film_rate(episode), actors=episode.actor.tolist(), size=size)
        films.append({"key": name, "file": file})
    payload = episode_payload(episode, rule.apply(episode), films)
    _write_script(_script(out, episode.info.episode_id), "episode", payload, comment=key)


def _write_script(path: Path, name: str, value: Any, comment: str = "") -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    head = f"// {comment}\n" if comment else ""
    temporary.write_text(f"{head}window.{name} = {json.dumps(value)};\n", encoding="utf-8")
    os.replace(temporary, path)


def _remove_others(out: Path, ids: set[str]) -> None:
    for path in (out / "data").glob("*.js"):
        if path.name.removesuffix(".js") not in ids:
            path.unlink()
    for path in (out / "videos").glob("*.mp4"):
        if path.name.removesuffix(".mp4").rpartition(".")[0] not in ids:
            path.unlink()


def _looks() -> dict[str, dict[int, dict[str, str]]]:
    return {
        "actors": {int(a): {"name": ACTOR_NAMES[a], "color": color} for a, color in ACTOR_COLORS.items()},
        "labels": {int(label): {"name": name, "color": color} for label, (name, color) in _LABEL_LOOKS.items()},
    }


def _rule_text(rule: LabelingRule) -> str:
    text = f"the policy's {rule.window} steps right before each takeover are undesirable"
    if rule.failure_point == "progress":
        text = (
            "the policy's steps since the reward was last improved on are undesirable where a takeover follows, "
            f"{rule.window} at most"
        )
    if rule.include_policy_steps == "autonomous_success":
        text += "; its own steps in an unaided success count as expert"
    return text
