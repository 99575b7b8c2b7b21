"""Schemes on several targets of a scenario, by the paper's protocol and in the open world.

    python benchmarks/open_world.py [--scenario warfarin] [--targets 0 1 2 3 4] [--protocols ...] [--schemes ...]
        [--repeats 5] [--jobs 2] [--out FILE]

Each target is trained from another seed; teachers and thefts from them serve all of them, so that only what is made
from the target is built anew. Writes one row for each target, protocol and scheme, as in results.json with the key
`target` (and, with unseen obfuscations, for each that is left out), and prints means over the targets. Interrupted, it
goes on where it was.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
from pathlib import Path

from metav import benchmark, paper, protocols, results
from metav.scenarios import Scenario, fashion, skin, warfarin
from metav.storage import make_folder, write_json
from metav.zoo import Zoo

SEED = 1000  # of other targets than the scenario's own
SHOWN_PROTOCOLS: tuple[protocols.Protocol, ...] = ("paper", "unseen-obfuscation", "open-world")
SHOWN = ("aruc", "auc", "robustness_at_full_uniqueness", *results.COUNTS, "construct_seconds")


def load(name: str, target: int) -> Scenario:
    """A scenario with its target, number 0, or another one, from a seed that no other model of it starts from."""
    seed = target and SEED + target
    if name == "warfarin":
        return warfarin.load("cpu", warfarin.Recipe(target_seed=seed))
    return (skin if name == "skin" else fashion).load("cpu", seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", choices=paper.SCENARIOS, default="warfarin")
    parser.add_argument("--targets", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--protocols", nargs="+", choices=SHOWN_PROTOCOLS, default=SHOWN_PROTOCOLS)
    parser.add_argument("--schemes", nargs="+", help="default: metav, its variant and the cohort")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, help="default: results/open-world/SCENARIO.json")
    options = parser.parse_args()
    name = options.scenario
    schemes = options.schemes or ["metav", paper.VARIANT[name], "cohort"]
    out = options.out or Path("results/open-world") / f"{name}.json"
    command = shlex.join(["python", "benchmarks/open_world.py", *sys.argv[1:]])
    rows = []
    for target in options.targets:
        zoo = Zoo(load(name, target), cohort=True, open_world=True)
        zoo.build(jobs=options.jobs)
        for protocol in options.protocols:
            wanted = benchmark.planned(zoo, schemes, repeats=options.repeats, protocol=protocol)
            cells = benchmark.run(zoo, wanted, jobs=options.jobs)
            for row in results.rows(zoo.scenario, cells, command):
                for found in row["by_lineage"].values():
                    del found["quality"]["agreement"]  # it is with the target that the models were first built for
                rows.append({"target": target, **row})
                print(target, protocol, row["title"], *(f"{row[key]['mean']:.3f}" for key in SHOWN), flush=True)
        make_folder(out.parent, "--out")
        write_json(out, rows)
    print(f"\n| protocol | scheme | {' | '.join(SHOWN)} |\n|---|---|{'---|' * len(SHOWN)}")
    for protocol, title in dict.fromkeys((row["protocol"], row["title"]) for row in rows):
        mine = [row for row in rows if (row["protocol"], row["title"]) == (protocol, title)]
        means = (statistics.mean(row[key]["mean"] for row in mine) for key in SHOWN)
        print(f"| {protocol} | `{title}` | {' | '.join(f'{mean:.3f}' for mean in means)} |")


if __name__ == "__main__":
    main()
