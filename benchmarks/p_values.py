"""Whether the p-values of `cohort(exact=1)` hold for strangers, and what power they have: on several Warfarin targets.

    python benchmarks/p_values.py [--targets 0 1 2 3 4] [--jobs 2] [--out FILE]

Each target is trained from another seed; teachers and thefts from them serve all. Strangers are all independent models
of the zoo and of the open world. Writes every p-value, draws their distribution beside FILE, and prints the share of
strangers with a p-value of at most some levels: a valid p-value's is the level at most, but for chance.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from metav import benchmark, engine, figures, results
from metav.scenarios.warfarin import Recipe, load
from metav.storage import make_folder, write_atomic
from metav.verification import query
from metav.zoo import Zoo

SCHEME = "cohort(exact=1)"
LEVELS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("results/warfarin-p-values/p-values.json"))
    options = parser.parse_args()
    for target in options.targets:
        zoo_of(target).build(jobs=options.jobs)
    found = engine.map(p_values, options.targets, jobs=options.jobs)
    table = pd.DataFrame([row for rows in found for row in rows])
    strangers, thefts = table[~table.positive], table[table.positive]
    print(f"{strangers.name.nunique()} strangers, {len(options.targets)} targets: {len(strangers)} p-values")
    print("| level | strangers at most | of one target, at most | thefts of the open world | thefts of the zoo |")
    for level in LEVELS:
        share = (strangers.p <= level).mean()
        # one target's p-values hang together, as all its strangers meet the same queries and teachers
        largest = strangers.groupby("target").p.apply(lambda p, level=level: (p <= level).mean()).max()
        caught = thefts.groupby("from").p.apply(lambda p, level=level: (p <= level).mean())
        print(f"| {level} | {share:.3f} | {largest:.3f} | {caught['open world']:.3f} | {caught['zoo']:.3f} |")
    make_folder(options.out.parent)
    facts = results.facts(load("cpu"), shlex.join(["python", "benchmarks/p_values.py", *sys.argv[1:]]))
    rows = json.loads(table.to_json(orient="records"))
    write_atomic(options.out, (json.dumps({**facts, "scheme": SCHEME, "rows": rows}, indent=1) + "\n").encode())
    figures.save(drawn(strangers), options.out.parent, options.out.stem)


def zoo_of(target: int) -> Zoo:
    """The zoo of the target trained from a seed."""
    return Zoo(load("cpu", Recipe(target_seed=target)), cohort=True, open_world=True)


def p_values(target: int) -> list[dict[str, Any]]:
    """The p-value of every suspect of the zoo and of the open world."""
    zoo = zoo_of(target)
    made = benchmark.construct(zoo, SCHEME, zoo.scenario.suspects, queries=100, seed=target)
    suspects = [("zoo", each) for each in benchmark.of_zoo(zoo, zoo.scenario.suspects)]
    suspects += [("open world", each) for each in benchmark.open_world(zoo)]
    return [
        {
            "target": target,
            "from": origin,
            "name": each.name,
            "family": each.family,
            "positive": each.positive,
            "p": 1 - made.score(query(each.model, made.queries)),
        }
        for origin, each in suspects
    ]


def drawn(strangers: pd.DataFrame) -> Figure:
    """The share of strangers with at most each p-value, a thin line for each target; the diagonal is uniform."""
    with mpl.rc_context(figures.STYLE):
        figure = Figure(figsize=(4.2, 4), layout="constrained")
        ax = figure.subplots()
        grid = np.linspace(0, 1, 258)
        for _, mine in strangers.groupby("target"):
            ax.plot(grid, (mine.p.to_numpy()[:, None] <= grid).mean(0), color=figures.SHADE, linewidth=1)
        shares = (strangers.p.to_numpy()[:, None] <= grid).mean(0)
        ax.plot(grid, shares, color=figures.colour("cohort"), linewidth=2)
        ax.plot([0, 1], [0, 1], color=figures.INK, linewidth=0.8, linestyle=(0, (4, 3)))
        ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="p-value", ylabel="share of strangers with at most that p-value")
        ax.text(0.98, 0.06, "dashed: uniform\nthin: single targets", ha="right", color=figures.INK)
    return figure


if __name__ == "__main__":
    main()
