"""The mapping as the page's dialog shows and changes it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from robopref.errors import RoboprefError
from robopref.human_io.bindings import Binding
from robopref.human_io.mapping import Kind, Mapping
from robopref.human_io.mapping_file import save_mapping
from robopref.human_io.station.messages import Defaults, Invert, Rebind


class MappingDesk:
    """Holds the mapping, changes it as the operator asks, saves it and passes it on.

    Args:
        mapping: to begin with.
        default: what ``Defaults`` goes back to.
        path: the file that every change is saved to; None saves nothing.
        on_change: told of every new mapping, on the thread that asked for it.
    """

    def __init__(
        self,
        mapping: Mapping,
        *,
        default: Mapping | None = None,
        path: Path | None = None,
        on_change: Callable[[Mapping], None] = lambda mapping: None,
    ) -> None:
        self.mapping = mapping
        self.on_change = on_change
        self._default = mapping if default is None else default
        self._path = path
        self._lock = threading.Lock()

    def change(self, message: Rebind | Invert | Defaults) -> None:
        """Do what the page asks.

        Raises:
            RoboprefError: it cannot be done, or the file cannot be written; the mapping is as it was.
        """
        with self._lock:
            changed = self._changed(message)
            if self._path is not None:
                try:
                    save_mapping(self._path, changed)
                except OSError as error:
                    raise RoboprefError(f"the mapping cannot be saved to {self._path}: {error}.") from error
            self.mapping = changed
            self.on_change(changed)  # under the lock: of two changes at once, the later one is passed on last

    def rows(self) -> list[dict[str, Any]]:
        """Every binding, as the page lists them: what it is, its name, the input and its scale."""
        return [
            {"kind": row.kind, "name": str(row.name), "input": row.binding.source, "scale": row.binding.scale}
            for row in self.mapping.rows()
        ]

    def _changed(self, message: Rebind | Invert | Defaults) -> Mapping:
        if isinstance(message, Defaults):
            return self._default
        if isinstance(message, Invert):
            return self.mapping.invert(message.name)
        kind: Kind = "action" if message.kind == "action" else "control"
        if message.old and message.new:
            return self.mapping.rebind(kind, message.name, message.old, message.new)
        if message.new:
            return self.mapping.bind(kind, message.name, Binding(message.new))
        if message.old:
            return self.mapping.unbind(kind, message.name, message.old)
        raise RoboprefError("name the input that is to be added, changed or removed.")
