"""Which options help MetaV, judged on the construction suspects of each split.

    python benchmarks/metav_options.py [--scenario warfarin] [--profile cpu] [--repeats 5]

In each repetition the construction half of the benchmark's split is halved once more: fingerprints are made on a
quarter of the zoo and scored on the other; test suspects of that repetition are not touched, though most are
construction suspects of another one. Builds the zoo if it is not there.
"""

from __future__ import annotations

import argparse
import statistics

from metav import benchmark, engine, evaluation, protocols, schemes, verify
from metav.scenarios import load
from metav.zoo import Zoo

OPTIONS = [
    "metav",
    "metav(start=data)",
    "metav(depth=2)",
    "metav(lr=0.003)",
    "metav(iterations=250,lr=0.004)",
    "metav(iterations=250,lr=0.01)",
    "metav(batch=4)",
    "metav(standardise=robust)",
    "metav(standardise=robust,lr=0.003)",
    "metav(standardise=robust,batch=4)",
    "metav(standardise=robust,batch=4,start=data)",
]


def score(zoo: Zoo, scheme: str, repetition: int) -> tuple[float, float, float]:
    """ARUC, AUC and robustness at 100 % uniqueness on the second quarter, from the first."""
    construction, _ = protocols.split(zoo.scenario.suspects, repetition)
    known, held_out = protocols.split(construction, repetition)
    made = schemes.get(scheme).construct(benchmark.ensemble(zoo, known), queries=100, seed=repetition)
    rates = [(suspect.positive, verify(made, zoo.load(suspect.lineage)).rate) for suspect in held_out]
    positives = [rate for positive, rate in rates if positive]
    negatives = [rate for positive, rate in rates if not positive]
    metrics = (evaluation.aruc, evaluation.auc, evaluation.robustness_at_full_uniqueness)
    return tuple(metric(positives, negatives) for metric in metrics)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", default="warfarin")
    parser.add_argument("--profile", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    zoo = Zoo(load(options.scenario, options.profile))
    zoo.build()
    print("| scheme | ARUC | AUC | robustness at 100 % uniqueness |\n|---|---|---|---|")
    for scheme in OPTIONS:
        with engine.one_thread():
            found = [score(zoo, scheme, repetition) for repetition in range(options.repeats)]
        means = " | ".join(f"{statistics.mean(values):.3f}" for values in zip(*found, strict=True))
        print(f"| `{scheme}` | {means} |", flush=True)


if __name__ == "__main__":
    main()
