"""What threads, memory layout and bfloat16 bring when image models are trained, in one run on one machine.

    python benchmarks/image_speed.py [--steps 4] [--rounds 3]

For each architecture of the Skin zoo at profile cpu, the images that all cores together train on in a
second: two processes with one thread each against one process with two threads, each with contiguous and with
channels-last activations, in float32 and in bfloat16. Rounds alternate between the ways, so that a slow minute of the
machine hits all; the median of the rounds is printed, and its ratio to what metav does. Starting processes and loading
data is not counted.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from multiprocessing.synchronize import Barrier

import torch
from torch.nn.functional import cross_entropy

from metav import scenarios
from metav.scenarios.skin import SIZES
from metav.scenarios.skin_nets import Classifier

BATCH = SIZES["cpu"].batch
WAYS = [(threads, last, half) for threads in (1, 2) for last in (False, True) for half in (False, True)]


def work(name: str, threads: int, last: bool, half: bool, steps: int, ready: Barrier) -> None:
    """Train one model for `steps` steps, between two meetings with the process that takes the time."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    model = scenarios.load("skin", "cpu").fresh(name, seed=0).train()
    assert isinstance(model, Classifier)
    model.channels_last = last
    x, y = torch.rand(BATCH, 3, 28, 28) * 2 - 1, torch.randint(7, (BATCH,))
    optimiser = torch.optim.Adam(model.parameters(), fused=True)
    for step in range(steps + 1):
        if step == 1:
            ready.wait()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = cross_entropy(model.logits(x).float(), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    ready.wait()


def speed(name: str, threads: int, last: bool, half: bool, steps: int) -> float:
    """Images a second of all processes together."""
    processes = 2 // threads
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(processes + 1)
    workers = [context.Process(target=work, args=(name, threads, last, half, steps, ready)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    ready.wait()
    start = time.perf_counter()
    ready.wait()
    seconds = time.perf_counter() - start
    for worker in workers:
        worker.join()
    return processes * steps * BATCH / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--networks", nargs="*", default=["S", "M", "L", "XL", "XXL"])
    options = parser.parse_args()
    for name in options.networks:
        ours = scenarios.load("skin", "cpu").fresh(name, seed=0)
        assert isinstance(ours, Classifier)
        found: dict[tuple[int, bool, bool], list[float]] = {way: [] for way in WAYS}
        for _ in range(options.rounds):
            for way in WAYS:
                found[way].append(speed(name, *way, options.steps))
        median = {way: statistics.median(values) for way, values in found.items()}
        base = median[1, ours.channels_last, False]
        for (threads, last, half), value in median.items():
            layout, kind = ("contiguous", "channels last")[last], ("float32", "bfloat16")[half]
            processes = "2 processes of 1 thread" if threads == 1 else "1 process of 2 threads"
            print(
                f"{name:4} {processes}  {layout:13}  {kind:8}  {value:7.1f} images/s  {value / base:5.2f}", flush=True
            )


if __name__ == "__main__":
    main()
