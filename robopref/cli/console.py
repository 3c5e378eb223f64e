"""What the commands print: progress with the time left, and tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

console = Console()


def say(text: str, style: str | None = None) -> None:
    """Print a line as it is: nothing is markup, and the terminal wraps it, so that paths can be copied."""
    console.print(escape(text), style=style, highlight=False, soft_wrap=True)


@contextmanager
def progress_bar(description: str, total: int, window: float = 30.0) -> Iterator[Callable[[int, int], None]]:
    """A bar with the time left, judged by the last ``window`` seconds; call the result with (done, total).

    On a pipe it prints a line at the end only.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, refresh_per_second=4, speed_estimate_period=window) as progress:
        task = progress.add_task(description, total=total)
        yield lambda done, total: progress.update(task, completed=done, total=total)
