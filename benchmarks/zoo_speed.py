"""How much faster a zoo is built than its models are trained one by one, in one run on one machine.

    python benchmarks/zoo_speed.py [--profile cpu] [--scenario warfarin] [--jobs 2]

Three ways to train the same models: one after the other with all threads; side by side with batched weights in one
process with one thread; `metav zoo build` with its processes, files and digests. Prints seconds and ratios, and
checks that the first two give the same weights to rounding.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from metav import engine, scenarios
from metav.zoo import Zoo


def drafts(zoo: Zoo, group: tuple[str, ...], models: dict[str, torch.nn.Module]):
    lineages = [zoo.scenario.lineage(text) for text in group]
    return [x.step.draft(models.get(x.parent), zoo.scenario.fresh) for x in lineages]


def train(zoo: Zoo, *, together: bool) -> tuple[float, dict[str, torch.nn.Module]]:
    """Train the whole zoo in this process, in its groups or one by one; return seconds and models by lineage."""
    models: dict[str, torch.nn.Module] = {}
    start = time.perf_counter()
    for level in zoo.plan():
        for group in level:
            for part in [group] if together else [(text,) for text in group]:
                found = drafts(zoo, part, models)
                zoo.scenario.fit(found, zoo.scenario.parts)
                models.update(zip(part, (draft.model for draft in found), strict=True))
    return time.perf_counter() - start, models


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", default="warfarin")
    parser.add_argument("--profile", default="cpu")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    scenario = scenarios.load(options.scenario, options.profile)
    with tempfile.TemporaryDirectory() as folder:
        zoo = Zoo(scenario, Path(folder) / "zoo")
        start = time.perf_counter()
        zoo.build(jobs=options.jobs)
        built = time.perf_counter() - start
    with engine.one_thread():
        together, batched = train(zoo, together=True)
        alone, single = train(zoo, together=False)
    threads = torch.get_num_threads()
    default, _ = train(zoo, together=False)
    worst = max(
        (a - b).abs().max().item()
        for text, model in single.items()
        for a, b in zip(model.parameters(), batched[text].parameters(), strict=True)
    )
    with torch.no_grad():
        x = scenario.parts["test"].x
        answers = max((single[text](x) - batched[text](x)).abs().mean().item() for text in single)
    best = min(alone, default)
    print(f"{len(single)} models, {scenario.name} ({scenario.profile}), {engine.cpu_name()}")
    print(f"one by one, 1 thread               {alone:8.1f} s")
    print(f"one by one, {threads} threads              {default:8.1f} s")
    print(f"side by side, 1 process, 1 thread  {together:8.1f} s   {best / together:5.1f} times faster")
    print(f"metav zoo build, {options.jobs} processes       {built:8.1f} s   {best / built:5.1f} times faster")
    print(f"largest difference of a weight {worst:.1e}, of a model's mean answer {answers:.1e} {scenario.spec.unit}")


if __name__ == "__main__":
    main()
