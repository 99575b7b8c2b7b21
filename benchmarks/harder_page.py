"""Render docs/harder-tables.md from the results of the harder protocols that are in results/.

python benchmarks/harder_page.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from metav.paper import SCENARIOS, page
from metav.report import head, line
from metav.results import with_interval

PAGE, RESULTS = Path("docs/harder-tables.md"), Path("results")
PROTOCOLS = {  # protocol -> heading, and the key of results.json that tells its tests apart
    "open-world": ("Kinds of models that no zoo holds", ""),
    "unseen-obfuscation": ("A way to steal that was left out of construction", "left_out"),
    "unseen-architecture": ("An architecture that was left out of construction", "left_out"),
    "api": ("What the API lets out of the answers", "view"),
}
METRICS = {"ARUC": "aruc", "AUC": "auc", "robustness at 100 % uniqueness": "robustness_at_full_uniqueness"}
USEFUL = "Useful thefts only"
APART = (
    "The paper's protocol without thefts that lost more than a tenth of the target's quality. The last column is the "
    "share of those thefts that is recognised all the same; it is empty where that was not counted."
)

Rows = Sequence[dict[str, Any]]


def rendered() -> str:
    """The page; links are from docs/."""
    lines = [
        "# Harder than the paper: all tables",
        "",
        "Means over repetitions ± half of the 95 % interval, test suspects alone. What they mean is on "
        "[a page of its own](harder.md); rows by kind of suspect are in the reports. Rendered by "
        "`python benchmarks/harder_page.py`.",
    ]
    for protocol, (title, key) in PROTOCOLS.items():
        lines += ["", f"## {title}"]
        for scenario in SCENARIOS:
            lines += ["", f"### {scenario.capitalize()}, `--protocol {protocol}`"]
            folders = sorted(RESULTS.glob(f"{scenario}-{protocol}*"))  # more than one where a zoo was built again
            lines += [each for folder in folders for each in ("", *table(folder, key))] or ["", "Not run yet."]
    lines += ["", f"## {USEFUL}", "", APART]
    for scenario in SCENARIOS:
        folder = RESULTS / "paper" / scenario
        lines += ["", f"### {scenario.capitalize()}", ""]
        lines += list(useful(folder)) if folder.exists() else ["Not run yet."]
    return "\n".join(lines) + "\n"


def read(folder: Path) -> Rows:
    """The rows of a folder that have figures."""
    found = json.loads((folder / "results.json").read_text())
    return [row for row in found if row["aruc"]]


def table(folder: Path, key: str) -> Iterator[str]:
    """One row for each scheme, of each value of `key` (all of them where it is empty)."""
    rows = read(folder)
    heads = [*([key.replace("_", " ")] if key else []), "scheme", *METRICS, "false accusations", "missed"]
    yield from head(*heads)
    values = list(dict.fromkeys(row[key] for row in rows)) if key else [None]
    for value in values:
        for row in rows:
            if key and row[key] != value:
                continue
            named = [value or "everything"] if key else []
            counts = [
                f"{with_interval(row['false_accusations'], 1)} of {row['negatives']:g}",
                f"{with_interval(row['missed'], 1)} of {row['positives']:g}",
            ]
            yield line(*named, f"`{row['scheme']}`", *(with_interval(row[each]) for each in METRICS.values()), *counts)
    yield from _origin(rows[0], folder)


def useful(folder: Path) -> Iterator[str]:
    """As `table`, of the useful thefts beside all, and how many of the others are recognised."""
    rows = read(folder)
    yield from head("scheme", "useful thefts", *METRICS, "recognised of the others")
    for row in rows:
        found, spoilt = row["useful"], row.get("spoilt")  # not in results of before it was counted
        if found:
            figures = (with_interval(found[each]) for each in METRICS.values())
            useful = f"{with_interval(found['positives'], 1)} of {row['positives']:g}"
            yield line(f"`{row['scheme']}`", useful, *figures, with_interval(spoilt["recognised"]) if spoilt else "")
    for note in page.notes(rows, folder.name):
        yield from ("", note)
    yield from _origin(rows[0], folder)


def _origin(row: Mapping[str, Any], folder: Path) -> list[str]:
    environment = row["environment"]
    where = f"{environment['date']}, {environment['processor']}, commit {environment.get('commit') or 'unknown'}"
    return [
        "",
        *page.caveats(row),
        f"[Report](../{folder}/report.md): {where}.",
        "",
        "```",
        row["command"],
        "```",
    ]


if __name__ == "__main__":
    PAGE.write_text(rendered())
    print(PAGE)
