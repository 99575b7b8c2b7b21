"""What the cohort reaches on Warfarin where thieves' students learn from the target's answers alone.

    python benchmarks/plain_students.py [--schemes metav cohort] [--repeats 5] [--jobs 2]

The students of Table 3 learn by teacher annealing: they end with true labels. Here those of the table learn from
answers alone (`extract` instead of `distill`), as long and by the same recipe; all else, the cohort too, is as it was.
Prints a table: the paper's protocol, and with all students left out of construction.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from metav import benchmark, results, scenarios
from metav.report import head, line
from metav.results import with_interval
from metav.scenarios import Suspect
from metav.zoo import Zoo

SHOWN = ("aruc", "auc", "robustness_at_full_uniqueness")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schemes", nargs="+", default=["metav", "cohort"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    scenario = scenarios.load("warfarin", "cpu")
    changed = replace(scenario, suspects=tuple(map(unlabelled, scenario.suspects)))
    heads = "students", "left out", "scheme", "ARUC", "AUC", "robustness", "false accusations", "missed"
    print(*head(*heads), sep="\n")
    with tempfile.TemporaryDirectory() as folder:
        for name, each in (("as in Table 3", scenario), ("of answers alone", changed)):
            zoo = Zoo(each, Path(folder) / "zoo", cohort=True)
            zoo.build(jobs=options.jobs)
            for protocol, left_out in (("paper", None), ("unseen-obfuscation", ["Distillation"])):
                wanted = benchmark.planned(
                    zoo, options.schemes, repeats=options.repeats, protocol=protocol, left_out=left_out
                )
                cells = benchmark.run(zoo, wanted, jobs=options.jobs)
                for row in results.rows(each, cells, ""):
                    counts = (with_interval(row[key], 1) for key in results.COUNTS)
                    figures = (with_interval(row[key]) for key in SHOWN)
                    print(line(name, row["left_out"] or "", f"`{row['scheme']}`", *figures, *counts), flush=True)


def unlabelled(suspect: Suspect) -> Suspect:
    """The same suspect, but for a student, which learns from answers alone."""
    return replace(suspect, lineage=suspect.lineage.replace(">distill(", ">extract("))


if __name__ == "__main__":
    main()
