"""Spreading work: order, one thread each, errors, and a worker that dies."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from metav import engine
from metav.errors import MetavError, UsageError


def square(x: int) -> tuple[int, int, int]:
    return x * x, torch.get_num_threads(), os.getpid()


def refuse(x: int) -> int:
    if x == 2:
        raise UsageError("expected another number, got 2: try 3.")
    return x


def die(x: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_come_in_order_from_processes_of_one_thread(jobs):
    seen = []
    found = engine.map(square, [3, 1, 2], jobs=jobs, progress=seen.append)
    assert [value for value, _, _ in found] == [9, 1, 4]
    assert {threads for _, threads, _ in found} == {1}
    assert sorted(seen) == [1, 2, 3]
    assert (os.getpid() in {pid for _, _, pid in found}) == (jobs == 1)


def test_threads_are_put_back():
    torch.set_num_threads(2)
    try:
        engine.map(square, [1], jobs=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_denormal_numbers_are_put_back_as_they_were():
    def flushed() -> bool:
        return float(torch.tensor(1e-40) * 1) == 0

    assert not flushed()
    with engine.one_thread():
        with engine.one_thread():
            assert flushed()
        assert flushed()
    assert not flushed()


@pytest.mark.parametrize("jobs", [1, 2])
def test_errors_come_through_as_they_are(jobs):
    with pytest.raises(UsageError, match=r"expected another number, got 2: try 3\."):
        engine.map(refuse, [1, 2, 3], jobs=jobs)


@pytest.mark.filterwarnings("ignore:A worker stopped:UserWarning")
def test_a_killed_worker_is_one_sentence():
    with pytest.raises(MetavError, match="worker processes to finish, got one that was killed"):
        engine.map(die, [1, 2], jobs=2)
    assert [value for value, _, _ in engine.map(square, [1, 2], jobs=2)] == [1, 4]


def _leave(file) -> None:
    time.sleep(0.5)
    file.touch()


def _linger(file: Path) -> None:
    file.write_text(str(os.getpid()))
    time.sleep(0.2 if file.name == "0" else 60)


def _lives(process: int) -> bool:
    with suppress(OSError):
        return bool(Path(f"/proc/{process}/cmdline").read_bytes())  # empty of what is dead and not yet buried
    return False


def test_workers_do_not_outlive_who_asked_for_them(tmp_path):
    files = [tmp_path / str(index) for index in range(2)]
    asker = multiprocessing.get_context("spawn").Process(target=engine.map, args=(_linger, files), kwargs={"jobs": 2})
    asker.start()
    while not all(file.exists() and file.read_text() for file in files) and asker.is_alive():
        time.sleep(0.02)
    workers = [int(file.read_text()) for file in files]
    asker.kill()
    asker.join()
    until = time.monotonic() + 10  # of a minute that one has still to do; the other one is idle
    while any(map(_lives, workers)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(map(_lives, workers))


def test_what_a_killed_process_had_asked_for_is_not_begun(tmp_path):
    files = [tmp_path / str(index) for index in range(8)]
    asker = multiprocessing.get_context("spawn").Process(target=engine.map, args=(_leave, files), kwargs={"jobs": 2})
    asker.start()
    while not any(file.exists() for file in files) and asker.is_alive():
        time.sleep(0.02)
    asker.kill()
    asker.join()
    time.sleep(2)  # four times what one takes
    assert sum(file.exists() for file in files) <= 4


_hoard: list[torch.Tensor] = []


def _grow(item: int) -> int:
    _hoard.append(torch.ones(100_000_000))  # 400 MB
    time.sleep(1.05)  # memory is looked at once a second
    return item


def test_workers_that_grow_are_replaced_and_nothing_is_lost():
    """The warning that says so, taken for an error as in these tests, would end the thread that hands out the work."""
    assert engine.map(_grow, list(range(6)), jobs=2) == list(range(6))


@pytest.mark.parametrize("count", [1, 7, 8, 23])
def test_rows_side_by_side_are_the_same_as_all_at_once(count):
    x, y = torch.arange(float(count)), torch.arange(float(count)).flip(0)
    before = torch.get_num_threads()
    tens, both = engine.in_blocks(lambda a, b: (a * 10, a + b), x, y, size=8)
    assert torch.equal(tens, x * 10)
    assert torch.equal(both, x + y)
    assert torch.get_num_threads() == before


def test_rows_are_computed_in_threads_of_their_own_with_one_torch_thread_each():
    seen = []

    def look(part):
        seen.append((threading.current_thread() is threading.main_thread(), torch.get_num_threads(), len(part)))
        return (part,)

    engine.in_blocks(look, torch.zeros(20), size=8)
    several = len(os.sched_getaffinity(0)) > 1
    assert [main for main, *_ in seen] == [not several] * 3
    assert sorted(size for *_, size in seen) == [4, 8, 8]
    assert {threads for _, threads, _ in seen} == {1} or not several


def test_an_error_in_some_rows_comes_through():
    with pytest.raises(UsageError, match="got 2"):
        engine.in_blocks(lambda part: refuse(len(part) - 2), torch.zeros(20), size=8)
