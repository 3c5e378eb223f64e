"""How far a diagnosis has come and why it ended, in ``status.json``, so that no run ends without saying why.

A process that is killed (SIGKILL: the kernel when memory runs out, a job scheduler, a container that is stopped) cannot
say so itself. Its file still says "running", and where; whoever goes on with the run is told.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from robopref.cli.console import console
from robopref.cli.run_directory import read_json, write_json
from robopref.errors import RoboprefError

STATUS_FILE = "status.json"
_RUNNING = "running"
_EVERY = 5.0  # seconds between two writings of how far a stage has come
_NO_MEMORY = ("can't allocate memory", "bad_alloc", "out of memory")


class RunStatus:
    """The status of a run; ``watch_run`` makes one.

    Attributes:
        stage: what is under way, in words.
        ended: why the run came to its end, once it has: "finished", or a reason.
    """

    def __init__(self, out: Path) -> None:
        self._path = out / STATUS_FILE
        self.stage = "loading"
        self.ended: str | None = None
        self._written = 0.0

    def earlier(self) -> str | None:
        """A sentence about an earlier run in this directory that did not come to its end, if there was one."""
        try:
            last = read_json(self._path)
        except RoboprefError:
            return None
        if last.get("state") == _RUNNING:
            return (
                f"The earlier run (process {last.get('process')}) ended without a word at {last.get('stage')!r}, "
                f"{last.get('time')}: it was killed from outside, most often because memory ran out, or it is still "
                "running."
            )
        if last.get("state") == "finished":
            return None
        return f"The earlier run ended at {last.get('stage')!r}: {last.get('state')}."

    def at(self, stage: str, done: int = 0, total: int = 0) -> None:
        """Note how far the run has come; on disk when the stage is a new one, and every few seconds."""
        text = f"{stage} {done}/{total}" if total else stage
        fresh = stage != self.stage.rpartition(" ")[0] and stage != self.stage
        self.stage = text
        if fresh or time.monotonic() - self._written > _EVERY:
            self._write(_RUNNING)

    def end(self, state: str) -> None:
        """Note why the run ended."""
        self.ended = state
        self._write(state)

    def _write(self, state: str) -> None:
        self._written = time.monotonic()
        told: dict[str, Any] = {"state": state, "stage": self.stage, "process": os.getpid()}
        write_json(self._path, told | {"time": time.strftime("%Y-%m-%d %H:%M:%S")})


@contextmanager
def watch_run(out: Path) -> Iterator[RunStatus]:
    """Keep the status of a run in ``out``; whatever ends it is said on the console and in the file.

    Raises:
        RoboprefError: what the run raised, or that memory ran out, where.
    """
    if not faulthandler.is_enabled() and sys.__stderr__ is not None:
        faulthandler.enable(sys.__stderr__)  # a crash inside a library (the emulator, BLAS) leaves a traceback
    status = RunStatus(out)
    if earlier := status.earlier():
        console.print(earlier, style="yellow", highlight=False)
    status.at("starting")
    try:
        yield status
    except KeyboardInterrupt:
        status.end("interrupted at once (a second Ctrl-C)")
        console.print(f"interrupted at once, at {status.stage!r}; --resume goes on with what was finished before")
        raise
    except BaseException as error:
        if _is_memory(error):
            status.end(f"out of memory: {error}")
            raise RoboprefError(
                f"memory ran out at {status.stage!r} ({error}): lower --memory-limit, --num-envs or --max-states, and "
                "repeat the command with --resume."
            ) from error
        status.end(f"{type(error).__name__}: {error}")
        raise
    status.end(status.ended or "finished")


def _is_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _NO_MEMORY)
    )
