"""Whether the cohort's rates mean what they say: how many strangers are as rare as their rates claim.

    python benchmarks/calibration.py [SCORES.csv ...] [--level 0.005]

A matching rate stands for a p-value, the share of strangers that match at least as well: 0.5 is `level`. Takes the
scores that `metav bench` wrote, and prints the share of independent test suspects with at most each p-value.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from metav.report import head, line
from metav.schemes.cohort import Cohort
from metav.scorers.cohort import SLOPE

SHOWN = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)  # further the law, which is that of a tail, says nothing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="*", default=[Path("results/warfarin-open-world/scores.csv")])
    parser.add_argument("--level", type=float, default=Cohort().level, help="of the fingerprints")
    options = parser.parse_args()
    print(*head("strangers", "scores", *map(str, SHOWN)), sep="\n")
    for file in options.files:
        scores = pd.read_csv(file, keep_default_na=False)
        mine = scores.scheme.str.startswith("cohort") & ~scores.scheme.str.contains("exact") & (scores["view"] == "")
        rates = scores[mine & ~scores.positive].rate.clip(1e-12, 1 - 1e-12)
        p = options.level * ((1 - rates) / rates) ** (1 / SLOPE)
        print(line(str(file), str(len(p)), *(f"{np.mean(p <= value):.3f}" for value in SHOWN)))


if __name__ == "__main__":
    main()
