"""One way to spread work over processes: `map` over joblib, one torch thread in each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import joblib
import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Item = TypeVar("Item")
Result = TypeVar("Result")

console = Console(stderr=True)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread inside: the same bits for any number of processes, and no oversubscription."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _call(function: Callable[[Item], Result], item: Item) -> Result:
    with one_thread():
        return function(item)


def map(  # noqa: A001 (the name says it)
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    jobs: int = 2,
    backend: str = "loky",
    progress: Callable[[Item], None] | None = None,
) -> list[Result]:
    """Apply `function` to every item, in `jobs` processes, and return the results in the items' order.

    Parameters
    ----------
    function
        A picklable function of one item.
    items
        What to work on; start the longest first.
    jobs
        Number of processes, at least 1; with 1, or a single item, all runs in this process.
    backend
        A joblib backend: `loky` (processes), or one that was registered, such as Ray's or Dask's.
    progress
        Called with each finished item.
    """
    if jobs == 1 or len(items) < 2:
        results = []
        for item in items:
            results.append(_call(function, item))
            if progress:
                progress(item)
        return results
    indexed = joblib.Parallel(n_jobs=jobs, backend=backend, return_as="generator_unordered")(
        joblib.delayed(_indexed)(function, index, item) for index, item in enumerate(items)
    )
    found: dict[int, Result] = {}
    for index, result in indexed:
        found[index] = result
        if progress:
            progress(items[index])
    return [found[index] for index in range(len(items))]


def _indexed(function: Callable[[Item], Result], index: int, item: Item) -> tuple[int, Result]:
    return index, _call(function, item)


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
        console=console,
    ) as bar:
        task = bar.add_task(title, total=total)

        def advance(by: int) -> None:
            bar.update(task, advance=by)

        yield advance


def cpu_name() -> str:
    """The processor's model name where the system tells it, otherwise the machine type."""
    try:
        with open("/proc/cpuinfo") as lines:  # noqa: PTH123 (not a path of ours)
            return next(_after_colon(lines, "model name"))
    except (OSError, StopIteration):
        return os.uname().machine


def _after_colon(lines: Iterable[str], key: str) -> Iterator[str]:
    return (line.split(":", 1)[1].strip() for line in lines if line.startswith(key))
