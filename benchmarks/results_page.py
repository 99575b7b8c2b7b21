"""Render docs/results.md from what `metav bench paper --out results/paper` has left.

python benchmarks/results_page.py
"""

from __future__ import annotations

from pathlib import Path

from metav.paper import page


def main() -> None:
    for where in (None, Path("docs/results.md")):
        print(page.write(Path("results/paper"), where))


if __name__ == "__main__":
    main()
