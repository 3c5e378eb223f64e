"""``robopref data view``: a folder of pages on which recorded episodes are looked at, in any browser."""

from __future__ import annotations

import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from robopref.cli.console import progress_bar, say
from robopref.cli.relabel import stored_rule
from robopref.errors import RoboprefError


@dataclass(frozen=True)
class DataView:
    """Write pages that show episodes: film, actions, who acted, labels. They open from the disk, without a server."""

    data: tyro.conf.Positional[Path]
    """The data directory."""
    out: Path
    """The folder to make; a viewer that is there already is brought up to date."""
    episodes: tuple[str, ...] = ()
    """Ids of the episodes to show, or how they begin; default: all."""
    open: bool = False
    """Open it in the browser of this machine."""


def run_data_view(config: DataView) -> bool:
    """Write the viewer; a damaged episode is named on its list and left out.

    Raises:
        RoboprefError: an unknown episode, and as ``robopref.reporting.episode_viewer.write_viewer``.
    """
    from robopref.reporting.episode_viewer import write_viewer
    from robopref.store.store import EpisodeStore

    store = EpisodeStore.open(config.data)
    ids = chosen_episodes(store.episode_ids(), config.episodes, config.data)
    with progress_bar("episodes", len(ids)) as progress:
        viewer = write_viewer(store, config.out, rule=stored_rule([config.data]), ids=ids, progress=progress)
    for episode in viewer.damaged:
        say(f"damaged, left out: {episode.problem}", style="red")
    kept = f" ({viewer.kept} as they were)" if viewer.kept else ""
    say(f"{viewer.episodes} episodes{kept}: {viewer.index}")
    if config.open and not webbrowser.open(viewer.index.resolve().as_uri()):
        say("no browser here: copy the folder to a machine that has one, and open index.html")
    return True


def chosen_episodes(ids: Sequence[str], beginnings: Sequence[str], where: Path) -> list[str]:
    """The ids that begin with one of ``beginnings``, all when there are none.

    Raises:
        RoboprefError: with one of them begins none.
    """
    for beginning in beginnings:
        if not any(episode_id.startswith(beginning) for episode_id in ids):
            raise RoboprefError(f"{where} has no finished episode whose id begins with {beginning!r}.")
    return [i for i in ids if not beginnings or i.startswith(tuple(beginnings))]
