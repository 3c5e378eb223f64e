"""The cells of a benchmark side by side, one process of one thread each, whose output goes to the cell's log."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import TYPE_CHECKING

from robopref.cli.benchmark_cell import Cell, run_cell
from robopref.cli.interrupt import graceful_interrupt, starting_processes
from robopref.errors import RoboprefError

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

_FAILED, _STOPPED = 2, 3
_LOG, _ERROR = "log.txt", "error.txt"


def run_cells(
    cells: Sequence[Cell], *, workers: int, should_stop: Callable[[], bool], every_second: Callable[[], None]
) -> list[tuple[Cell, str]]:
    """Run the cells in order, ``workers`` at once -> those that failed, with the reason; the others go on.

    When ``should_stop`` says so, the running cells are told once, finish their episode or optimiser step, and stop.
    """
    # Spawned, not forked: OpenGL contexts and torch's thread pools do not survive a fork.
    context = get_context("spawn")
    waiting = [cell for cell in cells if not all(cell.finished(evaluation) for evaluation in cell.evaluations())]
    waiting.reverse()
    running: list[tuple[SpawnProcess, Cell]] = []
    failures: list[tuple[Cell, str]] = []
    told = False
    try:
        while running or (waiting and not should_stop()):
            while waiting and len(running) < workers and not should_stop():
                cell = waiting.pop()
                process = context.Process(target=_in_process, args=(cell,))
                with starting_processes():
                    process.start()
                running.append((process, cell))
            if should_stop() and not told:
                told = True
                for process, _ in running:
                    process.terminate()
            every_second()
            time.sleep(1)
            for process, cell in [entry for entry in running if not entry[0].is_alive()]:
                running.remove((process, cell))
                process.join()
                if process.exitcode not in ((0, _STOPPED, -signal.SIGTERM) if told else (0,)):
                    failures.append((cell, _why(cell, process.exitcode)))
        every_second()
    finally:  # on a second Ctrl-C: what was recorded so far is safe
        for process, _ in running:
            process.kill()
    return failures


def _in_process(cell: Cell) -> None:
    """Run a cell; Ctrl-C in the terminal reaches only the parent, which tells this process once."""
    os.setsid()
    with graceful_interrupt() as interrupt:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGHUP})  # inherited
        cell.directory.mkdir(parents=True, exist_ok=True)
        (cell.directory / _ERROR).unlink(missing_ok=True)
        log = (cell.directory / _LOG).open("a")
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
        threading.Thread(target=_stop_with_the_parent, daemon=True).start()
        os.environ["OMP_NUM_THREADS"] = "1"
        import torch

        torch.set_num_threads(1)
        try:
            with _alone(cell):
                finished = run_cell(cell, interrupt)
        except RoboprefError as error:
            (cell.directory / _ERROR).write_text(str(error))
            sys.exit(_FAILED)
    sys.exit(0 if finished else _STOPPED)


def _stop_with_the_parent() -> None:
    """Ask this process to stop once its parent, who would have, was killed."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _alone(cell: Cell) -> Iterator[None]:
    """Two processes in one cell would write into each other's files.

    Raises:
        RoboprefError: another one is running in it.
    """
    with (cell.directory / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RoboprefError(
                f"another process is still running in {cell.directory}: wait until it has stopped."
            ) from error
        yield


def _why(cell: Cell, exit_code: int | None) -> str:
    path: Path = cell.directory / _ERROR
    if path.exists():
        return path.read_text()
    if exit_code == _STOPPED:
        return "it alone was told to stop; the same command with --resume goes on from there"
    if exit_code is not None and exit_code < 0:
        return f"killed by {signal.Signals(-exit_code).name}"
    return f"see {cell.directory / _LOG}"
