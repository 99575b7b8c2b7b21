"""How the training recipe of the Warfarin zoo changes what MetaV reaches on it.

    python benchmarks/warfarin_recipes.py [--jobs 2] [--repeats 5]

Builds one zoo for each recipe (in a temporary folder) and prints a Markdown table: the test error of the target and of
independent models of its architecture, how often such a model agrees with the target (doses within 5 %), and ARUC, AUC
and robustness at 100 % uniqueness of `metav` and of its robust variant.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from metav import benchmark, results
from metav.scenarios.warfarin import Recipe, load
from metav.zoo import Zoo

RECIPES = [
    Recipe(lr=0.001, epochs=30, distillation_epochs=30),
    Recipe(epochs=30, distillation_epochs=30),
    Recipe(epochs=100, distillation_epochs=30),
    Recipe(),
    Recipe(tuning_lr=0.003),
]
SCHEMES = ["metav", "metav(standardise=robust,batch=4)"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(
        "| lr, epochs, students' epochs, tuning lr | error of target / S, mg | agreement | scheme "
        "| ARUC | AUC | robustness at 100 % uniqueness |\n|---|---|---|---|---|---|---|"
    )
    for recipe in RECIPES:
        scenario = load("cpu", recipe)
        with tempfile.TemporaryDirectory() as folder:
            zoo = Zoo(scenario, Path(folder) / "zoo")
            zoo.build(jobs=options.jobs)
            twins = [
                zoo.record(suspect.lineage).quality
                for suspect in scenario.suspects
                if suspect.family == "Independent S" and "(own," in suspect.lineage
            ]
            error, agreement = (
                statistics.mean(twin[key] for twin in twins) for key in ("mae_mg_per_week", "agreement")
            )
            cells = benchmark.run(zoo, benchmark.planned(zoo, SCHEMES, repeats=options.repeats), jobs=options.jobs)
            own = zoo.record("target").quality["mae_mg_per_week"]
            name = (
                f"{recipe.lr}, {recipe.epochs}, {recipe.distillation_epochs}, {recipe.tuning_lr} "
                f"| {own:.2f} / {error:.2f} | {agreement:.2f}"
            )
        for row in results.rows(scenario, cells, ""):
            figures = " | ".join(f"{row[key]['mean']:.3f}" for key in results.METRICS if key != "aruc_exact")
            print(f"| {name} | `{row['scheme']}` | {figures} |", flush=True)


if __name__ == "__main__":
    main()
