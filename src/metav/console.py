"""What commands draw on the terminal: tables and sentences on the output stream, progress and errors on the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def output() -> Console:
    """The output stream; where it is no terminal, wide enough to keep each row of a table on one line."""
    console = _plain()
    return console if console.is_terminal else _plain(width=240)


def _plain(*, width: int | None = None, stderr: bool = False) -> Console:
    """A stream that shows names and messages as they are: [old] is no markup there, and :100: no picture."""
    return Console(width=width, stderr=stderr, markup=False, emoji=False, highlight=False)


def complain(message: str) -> None:
    """Print one sentence on the error stream."""
    _plain(stderr=True).print(f"metav: {message}", style="red", soft_wrap=True)


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar with the time left on the terminal's error stream; yields the function that advances it.

    Where the stream is not a terminal nothing is drawn but the last state.
    """
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=_plain(stderr=True),
    ) as bar:
        task = bar.add_task(title, total=total)

        def advance(by: int) -> None:
            bar.update(task, advance=by)

        yield advance


@contextmanager
def clock(title: str) -> Iterator[None]:
    """How long something has taken, on the terminal's error stream, where nobody knows how much of it is left."""
    with Progress(
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        SpinnerColumn(finished_text=""),
        console=_plain(stderr=True),
    ) as shown:
        task = shown.add_task(title, total=None)
        yield
        shown.update(task, total=1, completed=1)
