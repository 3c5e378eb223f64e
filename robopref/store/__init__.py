"""The crash-safe journal and the store of finished episodes."""

from robopref.store.store import EpisodeStore, Recovery
from robopref.store.writer import EpisodeWriter

__all__ = ["EpisodeStore", "EpisodeWriter", "Recovery"]
