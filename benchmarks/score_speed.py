"""The size of fingerprints, and how long it takes to judge a suspect's answers that are there already.

    python benchmarks/score_speed.py FILE.safetensors ...

Prints megabytes, and the median milliseconds to score answers on one thread: of the target, repeated.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from metav import engine
from metav.fingerprint import Fingerprint

ROUNDS = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    for file in parser.parse_args().files:
        made = Fingerprint.load(file)
        assert made.reference is not None
        taken = []
        with engine.one_thread():
            for _ in range(ROUNDS):
                start = time.perf_counter()
                made.score(made.reference)
                taken.append(time.perf_counter() - start)
        megabytes = file.stat().st_size / 1e6
        name, queries = made.provenance["scheme"], len(made.queries)
        print(f"{file.name}: {name}, {queries} queries, {megabytes:.2f} MB, {1000 * statistics.median(taken):.1f} ms")


if __name__ == "__main__":
    main()
