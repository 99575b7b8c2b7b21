"""What a benchmark says of suspects like those it met: intervals over suspects instead of splits and seeds.

    python benchmarks/over_suspects.py [SCORES.csv ...] [--draws 2000] [--unrelated]

The intervals of a report are over repetitions, all of which meet the same models (in the open world all of them, else
other halves). Takes the scores that `metav bench` wrote, and prints for each scheme the mean AUC with its 95 %
interval by bootstrap over suspects (positives and negatives each drawn with replacement), the most strangers that one
repetition accuses, and the 95 % upper bound of the share of strangers that this leaves open (Clopper and Pearson).
The first AUC ranks rates to the last digit that the file has; the second one takes those that are within 1e-5 of one
another for ties, as two processors may compute them (some files have nine digits alone). With `--unrelated` thefts are
left out that were made from a model of which suspects of the construction half are, or were made, too.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from metav import evaluation
from metav.report import head, line
from metav.schemes.base import ROUNDING

COLUMNS = [
    "AUC",
    "95 % over suspects",
    "AUC, rates to 1e-5",
    "accused in the worst fingerprint",
    "share accused, 95 % upper bound",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="*", default=[Path("results/warfarin-open-world/scores.csv")])
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--unrelated", action="store_true")
    options = parser.parse_args()
    for file in options.files:
        print("", file, "", *head("", *COLUMNS), sep="\n")
        scores = pd.read_csv(file, keep_default_na=False)
        whole = scores[scores["view"] == ""]
        if options.unrelated:
            whole = unrelated(whole, json.loads((file.parent / "splits.json").read_text()))
        told = ["scheme", *(name for name in ("queries", "models", "left_out") if whole[name].nunique() > 1)]
        for names, mine in whole.groupby(told, sort=False):
            low, high = np.quantile(drawn(mine, options.draws), (0.025, 0.975))
            each = [auc(part) for _, part in mine.groupby("repetition")]
            coarse = mine.assign(rate=(mine.rate / ROUNDING).round())
            tied = [auc(part) for _, part in coarse.groupby("repetition")]
            strangers = mine[~mine.positive].assign(accused=lambda rows: rows.rate > rows.threshold)
            count = strangers.groupby("repetition").accused.agg(["sum", "size"]).sort_values("sum").iloc[-1]
            innocent = count["size"] - count["sum"]
            bound = stats.beta.ppf(0.95, count["sum"] + 1, innocent) if innocent else 1.0
            accused = f"{count['sum']} of {count['size']}"
            print(
                line(
                    f"`{', '.join(map(str, names))}`",
                    f"{np.mean(each):.3f}",
                    f"{low:.3f} to {high:.3f}",
                    f"{np.mean(tied):.3f}",
                    accused,
                    f"{bound:.3f}",
                )
            )


def unrelated(scores: pd.DataFrame, splits: list[dict[str, Any]]) -> pd.DataFrame:
    """Scores without thefts that share more than the target with a suspect of the repetition's construction half."""
    known = {(each["repetition"], _origin(lineage)) for each in splits for lineage in each["construction"]}
    met = [(repetition, _origin(name)) for repetition, name in zip(scores.repetition, scores.lineage, strict=True)]
    return scores[[not (positive and each in known) for positive, each in zip(scores.positive, met, strict=True)]]


def _origin(lineage: str) -> str:
    return ">".join(lineage.split(">")[:2])


def drawn(scores: pd.DataFrame, draws: int) -> list[float]:
    """Mean AUCs of all repetitions, each with the suspects drawn anew; a suspect has its scores of all repetitions."""
    random = np.random.default_rng(0)
    tables = [
        scores[scores.positive == positive].pivot_table(index="lineage", columns="repetition", values="rate")
        for positive in (True, False)
    ]
    found = []
    for _ in range(draws):
        positives, negatives = (table.to_numpy()[random.integers(len(table), size=len(table))] for table in tables)
        pairs = zip(positives.T, negatives.T, strict=True)
        found.append(float(np.mean([evaluation.auc(p[~np.isnan(p)], n[~np.isnan(n)]) for p, n in pairs])))
    return found


def auc(scores: pd.DataFrame) -> float:
    """The AUC of some scores."""
    return evaluation.auc(scores[scores.positive].rate, scores[~scores.positive].rate)


if __name__ == "__main__":
    main()
