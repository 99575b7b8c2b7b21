"""What threads, memory layout, products on few pixels, parts of kernels and bfloat16 bring when image models learn.

    python benchmarks/image_speed.py [--steps 4] [--rounds 3] [skin/S fashion/XL ...]

For each architecture of the Skin zoo and the DCGAN of the Fashion zoo, at profile cpu, the images that all cores
together train on in a second: as metav does (two processes of one thread, channels last, convolutions on few pixels
as products, without the weights that meet padding alone, float32), and with one of these changed at a time. Rounds
alternate between the ways, so that a slow minute of the machine hits all; the median of the rounds is printed, and
its ratio to what metav does. Starting processes and loading data is not counted. bfloat16 is n/a where the processor
would only emulate it.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from metav import scenarios
from metav.adversarial import Gan, discriminator_loss, generator_loss
from metav.optim import Adam
from metav.scenarios.fashion_nets import LATENT
from metav.scenarios.few_pixels import Convolution, trimmed
from metav.scenarios.skin_nets import Classifier

BATCH = 32
NETWORKS = ["skin/S", "skin/M", "skin/L", "skin/XL", "skin/XXL", "fashion/XL"]


@dataclass(frozen=True, kw_only=True)
class Way:
    """How it is trained: `last` for channels last, `products` on few pixels, `part` of kernels, `half` for bfloat16."""

    threads: int = 1
    last: bool = True
    products: bool = True
    part: bool = True
    half: bool = False


WAYS = {
    "as metav does": Way(),
    "one process of two threads": Way(threads=2),
    "channels first": Way(last=False),
    "whole kernels": Way(part=False),
    "torch's convolutions": Way(products=False, part=False),
    "bfloat16": Way(half=True),
}
HALF = "avx512_bf16" in Path("/proc/cpuinfo").read_text()


def loss_of(scenario: str, name: str, way: Way) -> tuple[nn.Module, Callable[[], torch.Tensor]]:
    """A model with random weights, and its loss on random examples: of a GAN those of both its players."""
    model = scenarios.load(scenario, "cpu").fresh(name, seed=0).train()
    if isinstance(model, Classifier):
        model.channels_last = way.last
        for module in model.modules():
            if isinstance(module, Convolution):
                if not way.last:
                    module.weight.data = module.weight.data.contiguous()
                if not way.products:
                    module.__class__ = nn.Conv2d
        x, y = torch.rand(BATCH, 3, 28, 28) * 2 - 1, torch.randint(7, (BATCH,))
        return model, lambda: cross_entropy(model.logits(x).float(), y)
    assert isinstance(model, Gan)
    model.to(memory_format=torch.channels_last if way.last else torch.contiguous_format)
    z, real = torch.randn(BATCH, LATENT), torch.rand(BATCH, 1, 28, 28)

    def loss() -> torch.Tensor:
        fake = model.generator(z)
        critic = discriminator_loss(model.discriminator(real), model.discriminator(fake.detach()))
        return critic + generator_loss(model.discriminator(fake))

    return model, loss


def work(scenario: str, name: str, way: Way, steps: int, ready: Barrier) -> None:
    """Train one model for `steps` steps, between two meetings with the process that takes the time."""
    torch.set_num_threads(way.threads)
    torch.set_flush_denormal(True)
    model, loss = loss_of(scenario, name, way)
    part = way.part and isinstance(model, Classifier)
    with trimmed(model, torch.zeros(1, 3, 28, 28)) if part else contextlib.nullcontext():
        optimiser = Adam(model.parameters(), lr=0.001)
        for step in range(steps + 1):
            if step == 1:
                ready.wait()
            with torch.autocast("cpu", torch.bfloat16, enabled=way.half):
                error = loss()
            optimiser.step(torch.autograd.grad(error, optimiser.parameters))
        ready.wait()


def speed(scenario: str, name: str, way: Way, steps: int) -> float:
    """Images a second of all processes together."""
    processes = 2 // way.threads
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(processes + 1, timeout=600)  # seconds, so that a process that fails ends all
    workers = [context.Process(target=work, args=(scenario, name, way, steps, ready)) for _ in range(processes)]
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
    print(f"| | {' | '.join(WAYS)} |\n|---|{'---|' * len(WAYS)}")
    for network in options.networks:
        scenarios.load(network.split("/")[0], "cpu")  # what is missing is said here, not by each process
        found: dict[str, list[float]] = {name: [] for name in WAYS}
        for _ in range(options.rounds):
            for name, way in WAYS.items():
                if HALF or not way.half:
                    found[name].append(speed(*network.split("/"), way, options.steps))
        median = [statistics.median(values) if values else None for values in found.values()]
        cells = [
            f"{median[0]:.0f} images/s",
            *("n/a" if each is None else f"{each / median[0]:.2f}" for each in median[1:]),
        ]
        print(f"| {network} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
