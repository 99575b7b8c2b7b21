"""Whether the p-values of `cohort(exact=1)` hold: Warfarin targets from many seeds, each met by all strangers.

    python benchmarks/p_values.py [--targets 20] [--jobs 2] [--out FILE]

Strangers are all independent models of the zoo and of the open world, and the zoo's from other seeds. Teachers and
thefts from them serve all targets. The p-values of strangers against one target hang together, as they share queries
and teachers: what counts is how many targets there are. Writes every p-value, draws their distribution beside FILE, and
prints the mean share of strangers with a p-value of at most some levels, with its 95 % interval over targets: for a
valid one it is the level at most.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from metav import benchmark, engine, evaluation, figures, results
from metav.scenarios.warfarin import Recipe, load
from metav.storage import make_folder, write_json
from metav.verification import query
from metav.zoo import Zoo

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCHEME = "cohort(exact=1)"
SEED, LATER = re.compile(r"\bseed=(\d+)"), 1000  # of strangers that the zoo does not hold
FAR = 3.0  # times the share that a uniform p-value has: a target that is named in the figure
LEVELS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("results/warfarin-p-values/p-values.json"))
    options = parser.parse_args()
    for target in range(options.targets):
        zoo_of(target).build(jobs=options.jobs)
    found = engine.map(p_values, range(options.targets), jobs=options.jobs)
    table = pd.DataFrame([row for rows in found for row in rows])
    print(f"{table.name.nunique()} strangers, {options.targets} targets: {len(table)} p-values")
    print("| level | mean share of strangers with p at most that |\n|---|---|")
    for level in LEVELS:
        shares = table.groupby("target").p.apply(lambda p, level=level: (p <= level).mean())
        mean, half = evaluation.interval(shares.to_numpy())
        print(f"| {level} | {mean:.3f} ± {half or 0:.3f} |")
    make_folder(options.out.parent, "--out")
    facts = results.facts(load("cpu"), shlex.join(["python", "benchmarks/p_values.py", *sys.argv[1:]]))
    rows = {str(target): mine.set_index("name").p.round(6).to_dict() for target, mine in table.groupby("target")}
    write_json(options.out, {**facts, "scheme": SCHEME, "p": rows})
    figures.save(drawn(table), options.out.parent, options.out.stem)


def zoo_of(target: int) -> Zoo:
    """The strangers, the cohort, and of the target from a seed what the scheme needs: one theft of each kind."""
    scenario = load("cpu", Recipe(target_seed=target))
    assert scenario.cohort is not None
    pruned = next(each for each in scenario.suspects if each.family == "WP")  # an ensemble must have a theft
    known, met = ([each for each in side if not each.positive] for side in (scenario.suspects, scenario.open_world))
    more = [replace(each, lineage=SEED.sub(later, each.lineage)) for each in known]
    cohort = replace(scenario.cohort, copies=1)
    some = replace(scenario, suspects=(pruned, *known), open_world=(*met, *more), cohort=cohort)
    return Zoo(some, cohort=True, open_world=True)


def later(seed: re.Match[str]) -> str:
    """Another seed in its place."""
    return f"seed={int(seed[1]) + LATER}"


def p_values(target: int) -> list[dict[str, Any]]:
    """The p-value of every stranger."""
    zoo = zoo_of(target)
    made = benchmark.construct(zoo, SCHEME, zoo.scenario.suspects, queries=100, seed=target)
    met = [*benchmark.of_zoo(zoo, zoo.scenario.suspects), *benchmark.open_world(zoo)]
    return [
        {"target": target, "name": each.name, "p": made.p_value(query(each.model, made.queries))}
        for each in met
        if not each.positive
    ]


def drawn(strangers: pd.DataFrame) -> Figure:
    """The share of strangers with at most each p-value, a thin line for each target; the diagonal is uniform."""
    with figures.drawing(5, 4.6) as figure:
        ax = figure.subplots()
        grid = np.arange(1, 258) / 257 + 1e-9  # of 256 teachers and the target
        for target, mine in strangers.groupby("target"):
            shares = (mine.p.to_numpy()[:, None] <= grid).mean(0)
            ax.step(grid, np.where(shares > 0, shares, np.nan), color=figures.SHADE, linewidth=1, where="post")
            if shares[int(0.05 * 257)] > FAR * 0.05:
                ax.text(0.05, 1.1 * shares[int(0.05 * 257)], f"target {target}", ha="right", color=figures.INK)
        shares = (strangers.p.to_numpy()[:, None] <= grid).mean(0)
        ax.step(grid, shares, color=figures.colour("cohort"), linewidth=2, where="post", label="all targets")
        ax.plot([0.001, 1], [0.001, 1], color=figures.INK, linewidth=0.8, linestyle=(0, (4, 3)), label="uniform")
        ax.plot([], [], color=figures.SHADE, linewidth=1, label="single targets")
        ax.axvline(LEVELS[0], color=figures.INK, linewidth=0.6)
        ax.text(1.06 * LEVELS[0], 0.0013, f"built-in level {LEVELS[0]}", color=figures.INK)
        ax.set(xscale="log", yscale="log", xlim=(0.0038, 1), ylim=(0.001, 1), xlabel="p-value")
        ax.set_ylabel("share of strangers with at most that p-value")
        ax.legend(loc="lower right", frameon=False)
    return figure


if __name__ == "__main__":
    main()
