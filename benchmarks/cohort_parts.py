"""What the parts of a matched-teacher cohort cost and bring: fewer teachers, fewer kinds of theft, other options.

    python benchmarks/cohort_parts.py [--scenario warfarin] [--without KIND ...] [--variants NAME ...] [--repeats 5]
        [--jobs 2] [--out FILE]

Each variant is a scheme on the zoo of a smaller cohort, tested by the paper's protocol and in the open world. Minutes
are those of one process for the training of the cohort's models, from the zoo's records. With --without there is one
more, without these kinds of theft; --variants names some, by parts of their names. Writes all rows, and prints a table.
Interrupted, it goes on where it was.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from metav import benchmark, paper, protocols, results, scenarios
from metav.report import head, line
from metav.results import with_interval
from metav.scenarios import Scenario
from metav.scenarios.base import CohortPlan
from metav.scorers.cohort import LEAST_COPIES, LEAST_TEACHERS
from metav.storage import make_folder, write_json
from metav.zoo import Zoo

GROUPS = {  # of kinds of theft, by the first step of each
    "pruning": ("wp", "fp"),
    "tuning and retraining": ("ftll", "ftal", "rtll", "rtal"),
    "students": ("distill",),
    "extractions": ("extract",),
}
OPTIONS = ("sharp=1", "sharp=100", "ridge=0.1", "ridge=2", "independents=0", "near=0", "near=1", "pool=0", "pool=3000")
PROTOCOLS: tuple[protocols.Protocol, ...] = ("paper", "open-world")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", choices=paper.SCENARIOS, default="warfarin")
    parser.add_argument("--without", nargs="+", default=[], help="kinds of theft, e.g. 'FP 0.87'")
    parser.add_argument("--variants", nargs="+", default=[""], help="parts of the names of variants; default: all")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, help="default: results/cohort-parts/SCENARIO.json")
    options = parser.parse_args()
    out = options.out or Path("results/cohort-parts") / f"{options.scenario}.json"
    command = shlex.join(["python", "benchmarks/cohort_parts.py", *sys.argv[1:]])
    scenario = scenarios.load(options.scenario, "cpu")
    heads = ("cohort", "models", "minutes", "paper: ARUC", "missed", "open world: AUC", "false accusations", "missed")
    table, rows = head(*heads), []
    for name, plan, scheme in variants(scenario, options.without):
        enough = plan.teachers >= LEAST_TEACHERS and plan.copies >= LEAST_COPIES
        if not enough or not any(part in name for part in options.variants):
            continue
        zoo = Zoo(replace(scenario, cohort=plan), cohort=True, open_world=True)
        zoo.build(jobs=options.jobs)
        known = {zoo.scenario.lineage(each).text for each in plan.all()} - {"target"}
        minutes = sum(zoo.record(each).seconds for each in known) / 60
        found = []
        for protocol in PROTOCOLS:
            wanted = benchmark.planned(zoo, [scheme], repeats=options.repeats, protocol=protocol)
            cells = benchmark.run(zoo, wanted, jobs=options.jobs)
            found += results.rows(zoo.scenario, cells, command)
        found = [{**row, "variant": name, "cohort_models": len(known), "minutes": minutes} for row in found]
        rows += found
        table.append(shown(*found))
        print(table[-1], flush=True)
        make_folder(out.parent, "--out")
        write_json(out, rows)
    print("\n" + "\n".join(table))


def shown(on_paper: Mapping[str, Any], outside: Mapping[str, Any]) -> str:
    """The row of the printed table, from a variant's rows of both protocols."""
    figures = (with_interval(on_paper["aruc"]), with_interval(on_paper["missed"], 1), with_interval(outside["auc"]))
    counts = (with_interval(outside[key], 1) for key in ("false_accusations", "missed"))
    return line(on_paper["variant"], str(on_paper["cohort_models"]), f"{on_paper['minutes']:.1f}", *figures, *counts)


def variants(scenario: Scenario, without: Sequence[str]) -> Iterator[tuple[str, CohortPlan, str]]:
    """What is measured: a name, the plan of the cohort, and the scheme."""
    plan = scenario.cohort
    assert plan is not None
    yield f"as planned: {plan.teachers} teachers, {plan.copies} copies of the target", plan, "cohort"
    if without:
        kinds = {name: links for name, links in plan.kinds.items() if name not in without}
        yield f"without {' and '.join(without)}", replace(plan, kinds=kinds), "cohort"
    for share in (2, 4, 8):
        fewer = replace(plan, teachers=plan.teachers // share)
        yield f"{fewer.teachers} teachers", fewer, "cohort"
    for share in (2, 8):
        yield f"{plan.copies // share} copies of the target", replace(plan, copies=plan.copies // share), "cohort"
    for group, steps in GROUPS.items():
        kept = {name: links for name, links in plan.kinds.items() if links.partition("(")[0] not in steps}
        if kept != plan.kinds:
            yield f"without {group}", replace(plan, kinds=kept), "cohort"
    if plan.others:
        yield "without its independent models", replace(plan, others=()), "cohort"
    for option in OPTIONS:
        yield f"`{option}`", plan, f"cohort({option})"


if __name__ == "__main__":
    main()
