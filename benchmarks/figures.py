"""Write reports of results/ again from what was measured, and draw figures: theirs, of zoos of predictors, of p-values.

python benchmarks/figures.py [FOLDER ...]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

import p_values
from metav import figures, report, sheets
from metav.storage import write_atomic


def main() -> None:
    folders = [Path(name) for name in sys.argv[1:]] or [Path("results")]
    for file in sorted(file for folder in folders for file in folder.rglob("*.json")):
        content = json.loads(file.read_text())
        if file.name == "results.json":
            scores = pd.read_csv(file.parent / "scores.csv", keep_default_na=False)
            names = report.draw(file.parent, content, scores)
            if "seeds" in content[0]:  # which the oldest results do not note
                write_atomic(file.parent / report.NAME, report.markdown(content, names).encode())
            print(f"{file.parent}: {', '.join(names)}")
        elif file.name == "p-values.json":
            figures.save(p_values.drawn(table(content["p"])), file.parent, file.stem)
            print(file)
        elif file.parent.name == "zoo" and file.stem != "fashion":
            of_zoo(file, content["models"])
            print(file)


def table(found: dict[str, dict[str, float]]) -> pd.DataFrame:
    """Columns target and p."""
    return pd.DataFrame([{"target": int(target), "p": p} for target, mine in found.items() for p in mine.values()])


def of_zoo(file: Path, models: Sequence[dict[str, Any]]) -> None:
    """As `metav zoo list` draws it."""
    sheets.save(sheets.quality(file.stem.partition("-")[0], models), file.with_suffix(".png"), dots=150)


if __name__ == "__main__":
    main()
