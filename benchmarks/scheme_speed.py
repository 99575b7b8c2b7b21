"""What moving all queries together brings against a loop over single images, on the Skin target, in one run.

    python benchmarks/scheme_speed.py [--queries 100] [--profile cpu] [--each 2] [--schemes ...]

IPGuard and DeepFoolFP move the same points twice with the same arithmetic: all at once, where those that are done cost
nothing any more, and one image after the other. Prints seconds, their ratio, and how many recorded labels differ; then
what constructing with each scheme takes that needs no training of its own, from the suspects of the construction half
that are there, so many of each family. One process; its comparison on one thread. The target must be in the zoo:
metav zoo build skin.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from metav import benchmark, protocols, scenarios, schemes
from metav.engine import one_thread
from metav.scenarios.base import thin
from metav.schemes.base import Ensemble, labels, log_probabilities
from metav.schemes.deepfool import DeepFoolFP, deepfool
from metav.schemes.ipguard import IPGuard, scale
from metav.schemes.points import starts
from metav.zoo import Zoo

SCHEMES = ["ipguard", "deepfoolfp", "modeldiff", "akh", "sac-m", "conferae"]


def ipguard(ensemble: Ensemble, x: Tensor, i: Tensor, j: Tensor, k: float) -> Tensor:
    return IPGuard().move(ensemble, x, i, j, k)[0]


def fooled(ensemble: Ensemble, x: Tensor) -> Tensor:
    scheme, spec = DeepFoolFP(), ensemble.spec
    return deepfool(ensemble.target, x, scheme.steps, scheme.candidates, scheme.overshoot, spec)[0]


def compare(name: str, ensemble: Ensemble, move: Callable[..., Tensor], *rows: Tensor) -> None:
    """Move all rows at once, then one by one."""
    start = time.perf_counter()
    together = move(*rows)
    middle = time.perf_counter()
    alone = torch.cat([move(*(each[index : index + 1] for each in rows)) for index in range(len(rows[0]))])
    end = time.perf_counter()
    other = int((labels(ensemble.target, together) != labels(ensemble.target, alone)).sum())
    apart = (together - alone).abs().flatten(1).amax(1).median().item()
    print(
        f"{name:12} together {middle - start:6.1f} s   one by one {end - middle:6.1f} s   ratio "
        f"{(end - middle) / (middle - start):5.1f}   other labels {other} of {len(rows[0])}, median largest difference "
        f"{apart:.1e}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--profile", default="cpu")
    parser.add_argument("--schemes", nargs="+", default=SCHEMES, help="which to construct with")
    parser.add_argument("--each", type=int, default=2, help="suspects of each family to construct from")
    options = parser.parse_args()
    zoo = Zoo(scenarios.load("skin", options.profile))
    there = [suspect for suspect in protocols.split(zoo.scenario.suspects, 0)[0] if zoo.has(suspect.lineage)]
    ensemble = benchmark.ensemble(zoo, thin(there, options.each))
    generator = torch.Generator().manual_seed(0)
    with one_thread():
        x = starts(ensemble, options.queries, generator)
        with torch.no_grad():
            z = log_probabilities(ensemble.target, x)
        i = z.argmax(1)
        j = (i + torch.randint(1, z.shape[1], i.shape, generator=generator)) % z.shape[1]
        k = IPGuard().margin * scale(z)
        compare("ipguard", ensemble, lambda x, i, j: ipguard(ensemble, x, i, j, k), x, i, j)
        compare("deepfoolfp", ensemble, lambda x: fooled(ensemble, x), x)
    for name in options.schemes:
        start = time.perf_counter()
        made = schemes.get(name).construct(ensemble, queries=options.queries, seed=0)
        seconds = time.perf_counter() - start
        print(f"{name:12} construct {seconds:6.1f} s   {made.provenance.get('candidates', '')}", flush=True)


if __name__ == "__main__":
    main()
