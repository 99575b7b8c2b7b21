"""What threads, memory layout and bfloat16 bring when image models are trained, in one run on one machine.

    python benchmarks/image_speed.py [--steps 4] [--rounds 3] [skin/S fashion/XL ...]

For each architecture of the Skin zoo and the DCGAN of the Fashion zoo, at profile cpu, the images that all cores
together train on in a second: two processes with one thread each against one process with two threads, each with
contiguous and with channels-last activations, in float32 and in bfloat16. Rounds alternate between the ways, so that a
slow minute of the machine hits all; the median of the rounds is printed, and its ratio to what metav does. Starting
processes and loading data is not counted.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from metav import scenarios
from metav.adversarial import Gan, discriminator_loss, generator_loss
from metav.scenarios.fashion_nets import LATENT
from metav.scenarios.skin_nets import Classifier

BATCH = 32
NETWORKS = ["skin/S", "skin/M", "skin/L", "skin/XL", "skin/XXL", "fashion/XL"]
WAYS = [(threads, last, half) for threads in (1, 2) for last in (False, True) for half in (False, True)]


def loss_of(scenario: str, name: str, last: bool) -> tuple[nn.Module, Callable[[], torch.Tensor]]:
    """A model with random weights, and its loss on random examples: of a GAN those of both its players."""
    model = scenarios.load(scenario, "cpu").fresh(name, seed=0).train()
    if isinstance(model, Classifier):
        model.channels_last = last
        x, y = torch.rand(BATCH, 3, 28, 28) * 2 - 1, torch.randint(7, (BATCH,))
        return model, lambda: cross_entropy(model.logits(x).float(), y)
    assert isinstance(model, Gan)
    model.to(memory_format=torch.channels_last if last else torch.contiguous_format)
    z, real = torch.randn(BATCH, LATENT), torch.rand(BATCH, 1, 28, 28)

    def loss() -> torch.Tensor:
        fake = model.generator(z)
        critic = discriminator_loss(model.discriminator(real), model.discriminator(fake.detach()))
        return critic + generator_loss(model.discriminator(fake))

    return model, loss


def work(scenario: str, name: str, threads: int, last: bool, half: bool, steps: int, ready: Barrier) -> None:
    """Train one model for `steps` steps, between two meetings with the process that takes the time."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    model, loss = loss_of(scenario, name, last)
    optimiser = torch.optim.Adam(model.parameters(), fused=True)
    for step in range(steps + 1):
        if step == 1:
            ready.wait()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            error = loss()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
    ready.wait()


def speed(scenario: str, name: str, threads: int, last: bool, half: bool, steps: int) -> float:
    """Images a second of all processes together."""
    processes = 2 // threads
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(processes + 1)
    workers = [
        context.Process(target=work, args=(scenario, name, threads, last, half, steps, ready)) for _ in range(processes)
    ]
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
    parser.add_argument("networks", nargs="*", default=NETWORKS, help="scenario/architecture; without: all")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for scenario, name in (network.split("/") for network in options.networks):
        ours = scenarios.load(scenario, "cpu").fresh(name, seed=0)
        found: dict[tuple[int, bool, bool], list[float]] = {way: [] for way in WAYS}
        for _ in range(options.rounds):
            for way in WAYS:
                found[way].append(speed(scenario, name, *way, options.steps))
        median = {way: statistics.median(values) for way, values in found.items()}
        base = median[1, ours.channels_last if isinstance(ours, Classifier) else True, False]
        for (threads, last, half), value in median.items():
            layout, kind = ("contiguous", "channels last")[last], ("float32", "bfloat16")[half]
            processes = "2 processes of 1 thread" if threads == 1 else "1 process of 2 threads"
            line = (
                f"{scenario} {name:3}  {processes}  {layout:13}  {kind:8}  {value:7.1f} images/s  {value / base:5.2f}"
            )
            print(line, flush=True)


if __name__ == "__main__":
    main()
