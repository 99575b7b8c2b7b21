"""What a benchmark leaves in its folder: results.json, scores.csv, report.md and the figures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from metav import figures, results
from metav.cells import FAILURES, CellResult, Failure
from metav.results import with_interval
from metav.scenarios import Scenario
from metav.storage import write_atomic, write_json

NAME = "report.md"
_VERDICTS = {  # key of a row -> head of a column
    "aruc": "ARUC (grid, ceiling 0.980)",
    "aruc_exact": "ARUC (exact, ceiling 1)",
    "auc": "AUC",
    "robustness_at_full_uniqueness": "robustness at 100 % uniqueness",
    "false_accusations": "false accusations at the fingerprint's own threshold",
    "missed": "missed at that threshold",
    "construct_seconds": "construction, s",
    "verify_seconds": "verification of all test suspects, s",
}
_BY_USE = {  # part of a row, key in it -> head of a column
    ("useful", "positives"): "useful thefts",
    ("useful", "aruc"): "ARUC, useful alone",
    ("useful", "auc"): "AUC, useful alone",
    ("useful", "robustness_at_full_uniqueness"): "robustness at 100 % uniqueness, useful alone",
    ("spoilt", "positives"): "spoilt thefts",
    ("spoilt", "recognised"): "share of the spoilt that is recognised",
}
_USE = (
    "Useful: thefts that have lost at most a tenth of the target's quality. Spoilt: those that have lost more. Their "
    "numbers are over all repetitions, other figures over those that have any; n/a: none, or not counted."
)


def write(
    folder: Path,
    scenario: Scenario,
    cells: Sequence[CellResult],
    command: str,
    lacking: Mapping[str, str] | None = None,
    failures: Sequence[Failure] = (),
) -> list[dict[str, Any]]:
    """Write all files into `folder`, and return the rows of results.json, with the arguments of `results.rows`."""
    rows = results.rows(scenario, cells, command, lacking, failures)
    scores = results.frame(cells)
    (folder / "results.json").unlink(missing_ok=True)  # of an earlier run; it is written last: all is there with it
    write_json(folder / "splits.json", results.splits(scenario, cells))
    write_atomic(folder / "scores.csv", scores.to_csv(index=False).encode())
    before = _drawn_before(folder, scenario.name)
    names = draw(folder, rows, scores)
    write_atomic(folder / NAME, markdown(rows, names).encode())
    write_json(folder / "results.json", rows)
    for name in before - set(names):
        for suffix in ("svg", "png"):
            (folder / f"{name}.{suffix}").unlink(missing_ok=True)
    return rows


def draw(folder: Path, rows: Sequence[dict[str, Any]], scores: pd.DataFrame) -> list[str]:
    """Draw a report's figures from the rows of its results.json and its scores.csv; return their names."""
    used, swept = [row for row in rows if row["by_lineage"]], results.swept(rows)
    titles = swept or [row["title"] for row in used]
    names = apart([slug(f"{rows[0]['scenario']}-{title}") for title in titles])
    if swept:
        drawn = (figures.sweep(used, name) for name in swept)
    else:
        drawn = (figures.overview(row, results.of_row(scores, row)) for row in used)
    for name, figure in zip(names, drawn, strict=True):
        figures.save(figure, folder, name)
    return names


def _drawn_before(folder: Path, scenario: str) -> set[str]:
    """Names of the figures of an earlier report in a folder."""
    file, name = folder / NAME, re.escape(slug(scenario))
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    return set(re.findall(rf"\]\(({name}-[a-z0-9.-]*)\.svg\)", before))


def write_tracebacks(folder: Path, failures: Sequence[Failure]) -> None:
    """Write the tracebacks of cells that failed, or take away those of an earlier run."""
    file = folder / FAILURES
    traces = [f"{failure.cell}\n{failure.trace}" for failure in failures if failure.trace]
    if traces:
        write_atomic(file, "\n".join(traces).encode())
    else:
        file.unlink(missing_ok=True)


def summary(rows: Sequence[dict[str, Any]]) -> Table:
    """The rows of results.json as a table for the terminal."""
    heads = ["ARUC", "ARUC exact", "AUC", "robustness at\n100 % uniqueness"]
    heads += [f"false\naccusations\nof {_range(rows, 'negatives')}", f"missed\nof {_range(rows, 'positives')}"]
    table = Table("scheme", *heads, "construction,\ns")
    for row in rows:
        metrics = (with_interval(row[key]) for key in results.METRICS)
        counts = (with_interval(row[key], 1) for key in (*results.COUNTS, "construct_seconds"))
        table.add_row(row["title"], *metrics, *counts)
    return table


def slug(text: str) -> str:
    """A file name from a scheme with options."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")


def apart(names: Sequence[str]) -> list[str]:
    """Names of files, with a number where several would be the same."""
    return [
        name if names.count(name) == 1 else f"{name}-{names[:index].count(name)}" for index, name in enumerate(names)
    ]


def line(*cells: str) -> str:
    """A row of a table in Markdown."""
    return f"| {' | '.join(cells)} |"


def head(*cells: str) -> list[str]:
    """The first two lines of a table in Markdown."""
    return [line(*cells), "|---" * len(cells) + "|"]


def _counts(rows: Sequence[dict[str, Any]]) -> str:
    """How many test suspects there are of each side, e.g. `35 derived and 35 independent`; means where it differs."""
    return f"{_range(rows, 'positives')} derived and {_range(rows, 'negatives')} independent"


def _range(rows: Sequence[dict[str, Any]], key: str) -> str:
    """A number that rows share, or from the least to the largest of them."""
    numbers = sorted({row[key] for row in rows if row[key] is not None})
    return f"{numbers[0]:g}" if len(numbers) == 1 else f"{numbers[0]:g} to {numbers[-1]:g}"


def _shown(found: Mapping[str, Any] | None, key: str) -> str:
    """A mean with its interval, with as many digits as are of use for what it is of."""
    counts = (*results.COUNTS, "positives")
    return with_interval(found, 2 if key.endswith("seconds") else 1 if key in counts else 3)


def markdown(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """The report: the metrics of each scheme, then each scheme's figure and its rows by family.

    Where the benchmark was run over several numbers of queries or models, their figures instead.
    """
    first = max(rows, key=lambda row: len(row["seeds"]))  # others may lack repetitions that failed
    environment = first["environment"]
    commit = f", commit {environment['commit']}" if environment["commit"] else ""
    lines = [
        f"# {first['scenario']}, profile {first['profile']}, protocol {first['protocol']}",
        "",
        f"`{first['command']}` on {environment['date']}: {first['repeats']} repetitions, seeds "
        f"{', '.join(map(str, first['seeds']))}, {_range(rows, 'queries')} queries, "
        f"{environment['processor']} ({environment['cores']} cores), Python {environment['python']}, "
        f"torch {environment['torch']}, metav {environment['metav']}{commit}.",
        "",
        f"{_counts(rows)} test suspects in each repetition. Mean over repetitions ± half-width of the 95 % interval.",
        "",
        *head("scheme", *_VERDICTS.values()),
        *(line(f"`{row['title']}`", *(_shown(row[key], key) for key in _VERDICTS)) for row in rows),
        "",
        _USE,
        "",
        *head("scheme", *_BY_USE.values()),
        *(
            line(f"`{row['title']}`", *(_shown((row.get(part) or {}).get(key), key) for part, key in _BY_USE))
            for row in rows
        ),
    ]
    qualities = list(next(iter(first["by_lineage"].values()))["quality"])
    for row in rows:
        for each in row.get("failed", ()):
            lines += ["", f"`{row['title']}`, repetition {each['repetition']}: {each['error']}"]
        if row.get("refused"):
            lines += ["", f"`{row['title']}`: {row['refused']} times answers allow no verdict; their rate counts as 0."]
        if "not_applicable" in row:
            lines += ["", f"`{row['scheme']}` is n/a: it {row['not_applicable']}."]
    if results.swept(rows):
        for name in names:
            lines += ["", f"![ARUC, a line for each scheme]({name}.svg)"]
        return "\n".join(lines) + "\n"
    for row, name in zip(rows, names, strict=False):  # those that are n/a come last, and have no figure
        lines += [
            "",
            f"## `{row['title']}`",
            "",
            f"![R and U against the threshold, and rates by family]({name}.svg)",
            "",
            "n counts test scores over all repetitions; recognised: the share with a rate above the fingerprint's "
            "threshold (for independent models these are false accusations); then means of the suspects' own quality "
            "and of their agreement with the target.",
            "",
            *head("family", "truly", "n", "mean rate", "recognised as derived", *qualities),
        ]
        for family, found in row["by_lineage"].items():
            cells = [
                family,
                "derived" if found["positive"] else "independent",
                str(found["n"]),
                f"{found['mean_rate']:.3f}",
                f"{found['recognised']:.1%}",
                *(f"{value:.2f}" for value in found["quality"].values()),
            ]
            lines.append(line(*cells))
    return "\n".join(lines) + "\n"
