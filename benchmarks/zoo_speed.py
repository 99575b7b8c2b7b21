"""How much faster Warfarin's zoo is built than its models are trained one by one, in one run on one machine.

    python benchmarks/zoo_speed.py [--profile cpu] [--jobs 2]

Four ways to train the same models: one after the other in plain PyTorch, as one would write it; one after the other as
metav trains what it cannot stack; side by side with batched weights; and `metav zoo build` with its processes,
start-up, files and digests. The first three run in one process with one thread, which is the fastest for small models.
Prints seconds, ratios to the first, and how far the answers of the ways are apart.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from metav import engine, results, scenarios
from metav.suspects import Draft
from metav.training import Loss, Part, absolute_error
from metav.zoo import Zoo

Models = dict[str, torch.nn.Module]


def plain(drafts: list[Draft], parts: Mapping[str, Part], loss: Loss) -> None:
    """Train drafts one by one with nn.Module, autograd and torch.optim.Adam."""
    for draft in drafts:
        training = draft.training
        draft.model.train()
        if training is None:
            continue
        part = parts[training.data]
        taught = part.y if draft.teacher is None else draft.teacher(part.x)
        parameters = dict(draft.model.named_parameters())
        learnt = [parameters[name].requires_grad_(True) for name in draft.trainable]
        masks = [(p, p.detach() != 0) for p in learnt if p.dim() == 2 and (p == 0).any()]
        optimiser = torch.optim.Adam(learnt, lr=training.lr)
        generator = torch.Generator().manual_seed(training.seed)
        steps, done = training.epochs * -(-len(part.x) // training.batch), 0
        for _ in range(training.epochs):
            for batch in torch.randperm(len(part.x), generator=generator).split(training.batch):
                outputs = draft.model(part.x[batch])
                error = loss(outputs, part.y[batch]).mean()
                if draft.teacher is not None:
                    error = torch.lerp(loss(outputs, taught[batch]).mean(), error, done / steps)
                optimiser.zero_grad()
                error.backward()
                optimiser.step()
                with torch.no_grad():
                    for parameter, mask in masks:
                        parameter *= mask
                done += 1
        draft.model.eval().requires_grad_(False)


def train(zoo: Zoo, fit: Callable[[list[Draft]], None], *, together: bool) -> tuple[float, Models]:
    """Train the zoo in this process, in its groups or one by one; return seconds and the models by lineage."""
    models: Models = {}
    start = time.perf_counter()
    for level in zoo.plan():
        for group in level:
            for part in [group] if together else [(text,) for text in group]:
                lineages = [zoo.scenario.lineage(text) for text in part]
                drafts = [x.step.draft(models.get(x.parent), zoo.scenario.fresh) for x in lineages]
                fit(drafts)
                models.update(zip(part, (draft.model for draft in drafts), strict=True))
    return time.perf_counter() - start, models


def apart(left: Models, right: Models, x: torch.Tensor) -> str:
    """Median and maximum over models of the mean distance of their answers."""
    with torch.no_grad():
        distances = sorted((left[text](x) - right[text](x)).abs().mean().item() for text in left)
    return f"{distances[len(distances) // 2]:.1e} (median), {distances[-1]:.1e} (largest)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="cpu")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    scenario = scenarios.load("warfarin", options.profile)
    with tempfile.TemporaryDirectory() as folder:
        zoo = Zoo(scenario, Path(folder) / "zoo")
        start = time.perf_counter()
        zoo.build(jobs=options.jobs)
        built = time.perf_counter() - start
    parts = scenario.parts
    with engine.one_thread():
        stacked, batched = train(zoo, lambda drafts: scenario.fit(drafts, parts), together=True)
        alone, single = train(zoo, lambda drafts: scenario.fit(drafts, parts), together=False)
        torch.set_flush_denormal(False)  # as PyTorch comes
        literal, reference = train(zoo, lambda drafts: plain(drafts, parts, absolute_error), together=False)
    print(f"{len(single)} models, {scenario.name} ({scenario.profile}), {results.processor()}")
    for name, seconds in {
        "one by one, plain PyTorch": literal,
        "one by one, metav": alone,
        "side by side, metav": stacked,
        f"metav zoo build, {options.jobs} processes": built,
    }.items():
        print(f"{name:32} {seconds:7.1f} s   {literal / seconds:4.1f} times as fast as the first")
    print(f"answers, side by side against one by one: {apart(batched, single, parts['test'].x)} {scenario.spec.unit}")
    print(
        f"answers, one by one against plain PyTorch: {apart(single, reference, parts['test'].x)} {scenario.spec.unit}"
    )


if __name__ == "__main__":
    main()
