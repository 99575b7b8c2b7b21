"""What each step brought to MetaV's construction, by architecture of the Skin or Fashion zoo.

    python benchmarks/construction_speed.py [--scenario skin] [--queries 100] [--rounds 3]

A step of Algorithm 1 asks a model all queries and takes the gradient of its answers with respect to them. Milliseconds
of that, on one thread, as plain PyTorch does it, and then with one thing more changed at a time: weights that ask for
no gradients; the layout and the products that metav's networks have; batch norm as part of the weights; bfloat16.
Rounds alternate between the ways; their median is printed. The last row is an iteration of Algorithm 1, which asks the
target, a positive and a negative suspect: the mean over the scenario's suspects. The matrix work alone is the time
that the same matrix products take (`torch.mm`, one for each convolution or linear layer and as many for its gradient,
of the sizes that an unrolled convolution has), in float32 and in bfloat16: what the processor can do.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from metav import scenarios
from metav.engine import one_thread
from metav.frozen import CONVOLUTIONS, folded, halved
from metav.scenarios.base import Scenario
from metav.scenarios.few_pixels import Convolution
from metav.scenarios.skin_nets import MEAN, STD, Classifier
from metav.spec import Model

Sizes = Counter[tuple[int, int, int]]


class Plain(Classifier):
    """Torch's own resizing, channels first."""

    def logits(self, x: Tensor) -> Tensor:
        mean, std = (x.new_tensor(each)[:, None, None] for each in (MEAN, STD))
        large = nn.functional.interpolate((x - mean) / std, size=(self.side, self.side), mode="bilinear")
        found: Tensor = self.net(large)
        return found


def plain(model: nn.Module) -> nn.Module:
    """As torchvision has it: weights with gradients, channels first, its own convolutions and resizing."""
    found = copy.deepcopy(model).eval().requires_grad_(True)
    if type(found) is Classifier:
        found.__class__ = Plain
    for module in found.modules():
        if type(module) is Convolution:
            module.__class__ = nn.Conv2d
            module.weight.data = module.weight.data.contiguous()
    return found


WAYS: dict[str, Callable[[nn.Module, Tensor], Model]] = {
    "plain autograd": lambda model, _: plain(model),
    "frozen weights": lambda model, _: plain(model).requires_grad_(False),
    "layout and products": lambda model, _: model,
    "batch norm folded": lambda model, x: folded(model, x),
    "bfloat16": lambda model, x: halved(folded(model, x)),
}


def step(model: Model, x: Tensor) -> None:
    """Answers to all queries and their gradient, as `backward` does it: for the weights too where they ask for it."""
    weights = [p for p in model.parameters() if p.requires_grad] if isinstance(model, nn.Module) else []
    torch.autograd.grad(model(x).square().sum(), [x, *weights])


def seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def products(model: nn.Module, x: Tensor) -> Sizes:
    """Sizes (rows, inner, columns) of the matrix products of a model's layers, without the parts that meet padding."""
    found: Sizes = Counter()

    def note(layer: nn.Module, given: tuple[Tensor, ...], answer: Tensor) -> None:
        if isinstance(layer, nn.Linear):
            found[len(given[0]), layer.in_features, layer.out_features] += 1
            return
        transposed = "Transpose" in type(layer).__name__
        pixels = given[0] if transposed else answer
        kernel = layer.kernel_size[0] * layer.kernel_size[1]
        seen = min(kernel, given[0][0, 0].numel()) if not transposed else kernel
        inner, columns = (
            layer.in_channels * (1 if transposed else seen),
            layer.out_channels * (seen if transposed else 1),
        )
        found[len(pixels) * pixels[0, 0].numel(), inner, columns] += 1

    layers = [each for each in model.modules() if isinstance(each, (nn.Linear, *CONVOLUTIONS))]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return found


def matrix_work(sizes: Sizes, kind: torch.dtype) -> float:
    """Seconds of the products alone, and of as many for the gradient with respect to what they were given."""
    total = 0.0
    for (rows, inner, columns), count in sizes.items():
        a, b, c = (torch.rand(*shape).to(kind) for shape in ((rows, inner), (inner, columns), (rows, columns)))

        def both(a: Tensor = a, b: Tensor = b, c: Tensor = c) -> None:
            torch.mm(a, b)
            torch.mm(c, b.T)

        both()
        total += count * min(seconds(both) for _ in range(3))
    return total


def measure(scenario: Scenario, name: str, queries: int, rounds: int) -> list[float]:
    """Seconds of a step in each of the ways, and of the matrix work in float32 and bfloat16."""
    fresh = scenario.fresh(name, 0).eval().requires_grad_(False)
    model = getattr(fresh, "generator", fresh)
    x = torch.rand(queries, *scenario.spec.input_shape).requires_grad_(True)
    ways = {way: change(model, x.detach()) for way, change in WAYS.items()}
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for index in range(rounds + 1):
        for way, each in ways.items():
            found = seconds(lambda each=each: step(each, x))
            if index:  # the first round warms up
                taken[way].append(found)
    sizes = products(model, x.detach())
    medians = [statistics.median(found) for found in taken.values()]
    return [*medians, *(matrix_work(sizes, kind) for kind in (torch.float32, torch.bfloat16))]


def asked(scenario: Scenario) -> dict[str, float]:
    """How often an iteration asks models of each architecture, on average."""
    found = Counter({scenario.lineage("target").architecture: 1.0})
    for positive in (True, False):
        side = [each.lineage for each in scenario.suspects if each.positive is positive]
        for lineage in side:
            found[scenario.lineage(lineage).architecture] += 1 / len(side)
    return found


def row(name: str, found: Sequence[float]) -> str:
    *ways, in_float32, in_bfloat16 = found
    plain, *_, folded_, half = ways
    cells = [f"{each * 1e3:.0f}" for each in ways]
    return (
        f"| {name} | {' | '.join(cells)} | {plain / half:.1f} | {in_float32 / folded_:.2f} | {in_bfloat16 / half:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenario", default="skin")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    scenario = scenarios.load(options.scenario, "cpu")
    heads = [*WAYS, "all together, times", "matrix work / float32", "matrix work / bfloat16"]
    print(f"| ms a step | {' | '.join(heads)} |\n|{'---|' * (len(heads) + 1)}")
    total = [0.0] * (len(WAYS) + 2)
    with one_thread():
        for name, often in sorted(asked(scenario).items()):
            found = measure(scenario, name, options.queries, options.rounds)
            print(row(name, found), flush=True)
            total = [old + often * new for old, new in zip(total, found, strict=True)]
    print(row("an iteration", total))


if __name__ == "__main__":
    main()
