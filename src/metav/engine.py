"""Spread work over processes (`map` over joblib, one torch thread in each), or rows over threads."""

from __future__ import annotations

import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from threading import Thread
from typing import TypeVar

import joblib
import torch
from joblib.externals.loky.process_executor import TerminatedWorkerError
from torch import Tensor

from metav.errors import MetavError

DENORMAL = 1e-40
WATCH = 0.5  # seconds between two looks at who asked
_PARENT = os.getppid()  # of a worker the process that asked for it

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread inside, with denormal numbers taken as zero.

    One thread gives the same bits for any number of processes. Adam's moments of weights that get no gradient any
    more decay into denormal numbers, which cost half of the time of a long training. Afterwards both are as before.
    """
    before = torch.get_num_threads()
    flushed = float(torch.tensor(DENORMAL) * 1) == 0  # torch cannot be asked
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed)
        torch.set_num_threads(before)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generator inside, and put it back as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def device() -> torch.device:
    """Where models are trained: CUDA, if there is one. All else is computed, and all tensors are kept, on the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _call(function: Callable[[Item], Result], item: Item) -> Result:
    with one_thread():
        return function(item)


def in_blocks(function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor, size: int = 50) -> tuple[Tensor, ...]:
    """Apply `function` to `size` rows of some tensors at a time, side by side in threads, and join what it returns.

    For functions of rows that do not depend on each other. Used outside of the processes of `map` it takes all cores;
    the parts, and so the result, are the same for any number of them.
    """
    parts = list(zip(*(tensor.split(size) for tensor in tensors), strict=True))
    if multiprocessing.parent_process() is not None or cores() == 1 or len(parts) == 1:
        found = [function(*part) for part in parts]
    else:
        with one_thread(), ThreadPoolExecutor(cores(), initializer=torch.set_flush_denormal, initargs=(True,)) as pool:
            found = list(pool.map(lambda part: function(*part), parts))
    return tuple(torch.cat(each) for each in zip(*found, strict=True))


def map(  # noqa: A001 (the name says it)
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    jobs: int = 2,
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
    progress
        Called with each finished item.

    Raises
    ------
    MetavError
        A process was killed from outside. Errors of `function` come through as they are.
    """
    if jobs == 1 or len(items) < 2:
        results = []
        for item in items:
            results.append(_call(function, item))
            if progress:
                progress(item)
        return results
    with warnings.catch_warnings():
        # a worker whose memory has grown is replaced by a new one, and says so
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs")
        return _map_parallel(function, items, jobs, progress)


def _map_parallel(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    jobs: int,
    progress: Callable[[Item], None] | None,
) -> list[Result]:
    indexed = joblib.Parallel(n_jobs=jobs, backend="loky", return_as="generator_unordered")(
        joblib.delayed(_indexed)(function, index, item) for index, item in enumerate(items)
    )
    found: dict[int, Result] = {}
    try:
        for index, result in indexed:
            found[index] = result
            if progress:
                progress(items[index])
    except TerminatedWorkerError as error:
        raise MetavError(
            "expected the worker processes to finish, got one that was killed, perhaps for want of memory: "
            "run the same command again, with fewer --jobs if it happens again."
        ) from error
    return [found[index] for index in range(len(items))]


def _indexed(function: Callable[[Item], Result], index: int, item: Item) -> tuple[int, Result]:
    _watch()
    return index, _call(function, item)


@cache
def _watch() -> None:
    """End this worker soon after the process that asked for it was killed: nobody waits for what it does."""

    def watch() -> None:
        while os.getppid() == _PARENT:
            time.sleep(WATCH)
        os._exit(1)

    Thread(target=watch, daemon=True).start()
