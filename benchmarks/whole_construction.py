"""Whole constructions of MetaV: Algorithm 1 with plain autograd, beside metav's, on the same zoo.

    python benchmarks/whole_construction.py [--scenario warfarin] [--schemes ...] [--repeats 5] [--first 0]

Both construct from the same half of the zoo and are tested on the other, one after the other in one process on one
thread. Plain means torchvision's layers, weights that ask for gradients, one torch.optim.Adam and `backward`. Seconds
include loading the suspects. By default the schemes are the literal `metav` and its variant of the scenario.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Sequence

import torch

from construction_speed import plain
from metav import benchmark, evaluation, paper, protocols, scenarios
from metav.engine import one_thread
from metav.fingerprint import Fingerprint
from metav.scenarios import Suspect
from metav.scorers import NEGATIVE, POSITIVE, MetaVerifier
from metav.verification import query
from metav.zoo import Zoo

QUERIES, ITERATIONS, LR = 100, 1000, 0.001  # section 5.5.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", choices=paper.SCENARIOS, default="warfarin")
    parser.add_argument("--schemes", nargs="+", help="default: metav and its variant")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="first repetition, which is its seed")
    options = parser.parse_args()
    zoo = Zoo(scenarios.load(options.scenario, "cpu"))
    zoo.build()
    names = ["plain autograd", *(options.schemes or ["metav", paper.VARIANT[options.scenario]])]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    arucs: dict[str, list[float]] = {name: [] for name in names}
    for seed in range(options.first, options.first + options.repeats):
        construction, test = protocols.split(zoo.scenario.suspects, seed)
        for name in names:
            start = time.perf_counter()
            if name == names[0]:
                made = literal(zoo, construction, seed)
            else:
                made = benchmark.construct(zoo, name, construction, queries=QUERIES, seed=seed)
            seconds[name].append(time.perf_counter() - start)
            arucs[name].append(aruc(zoo, made, test))
            print(f"repetition {seed}, {name}: {seconds[name][-1]:.1f} s, ARUC {arucs[name][-1]:.3f}", flush=True)
    print("\n| | construction, s | times as fast | ARUC |\n|---|---|---|---|")
    for name in names:
        ratio = statistics.median(a / b for a, b in zip(seconds[names[0]], seconds[name], strict=True))
        mean, half = evaluation.interval(arucs[name])
        interval = "" if half is None else f" ± {half:.3f}"
        print(f"| `{name}` | {statistics.median(seconds[name]):.1f} | {ratio:.1f} | {mean:.3f}{interval} |")


def literal(zoo: Zoo, construction: Sequence[Suspect], seed: int) -> Fingerprint:
    """Algorithm 1, one step after the other, as one would first write it."""
    spec = zoo.scenario.spec
    chance = random.Random(seed)
    models = {suspect: plain(zoo.load(suspect.lineage)) for suspect in construction}
    target = plain(zoo.load("target"))
    low, high = spec.bounds()
    middle, half = (high + low) / 2, (high - low) / 2
    sides = [[model for suspect, model in models.items() if suspect.positive is side] for side in (False, True)]
    torch.manual_seed(seed)
    w = torch.randn(QUERIES, *spec.input_shape, requires_grad=True)
    verifier = MetaVerifier(QUERIES * torch.Size(spec.output_shape).numel())
    optimiser = torch.optim.Adam([w, *verifier.parameters()], LR)
    with one_thread():
        for _ in range(ITERATIONS):
            negative, positive = map(chance.choice, sides)
            x = middle + half * w.tanh()
            log_p = verifier(torch.stack([model(x).flatten() for model in (negative, target, positive)]))
            loss = -(log_p[2, POSITIVE] + log_p[1, POSITIVE] + log_p[0, NEGATIVE])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    queries = spec.clamp(middle + half * w.detach().tanh())
    return Fingerprint(queries=queries, scorer=verifier.eval().requires_grad_(False), spec=spec)


def aruc(zoo: Zoo, made: Fingerprint, test: Sequence[Suspect]) -> float:
    """ARUC on the paper's grid, of test suspects."""
    rates = [benchmark.matching_rate(made, query(zoo.load(suspect.lineage), made.queries)) for suspect in test]
    sides = [
        [rate for rate, suspect in zip(rates, test, strict=True) if suspect.positive is side] for side in (True, False)
    ]
    return evaluation.aruc(*sides)


if __name__ == "__main__":
    main()
