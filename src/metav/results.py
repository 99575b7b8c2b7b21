"""From scores to rows of results.json: the metrics of each scheme over its repetitions, and by lineage."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import metav
from metav import engine, evaluation, protocols, sources
from metav.cells import Cell, CellResult, Failure
from metav.scenarios import Scenario

METRICS: dict[str, Callable[[Any, Any], float]] = {
    "aruc": evaluation.aruc,
    "aruc_exact": evaluation.aruc_exact,
    "auc": evaluation.auc,
    "robustness_at_full_uniqueness": evaluation.robustness_at_full_uniqueness,
}
COUNTS = ("false_accusations", "missed")
KINDS = ["scheme", "queries", "models", "left_out", "view"]  # what makes a row of its own of scores
SWEPT = ("queries", "models")  # what a benchmark may be run over


def frame(results: Sequence[CellResult]) -> pd.DataFrame:
    """All scores of some cells, one row each: `cells.Score`, the verdict `derived`, a column for each quality."""
    scores = [vars(score) for result in results for score in result.scores]
    table = pd.DataFrame(
        [{**score, "derived": score["rate"] > score["threshold"], **score["quality"]} for score in scores]
    )
    return table.drop(columns="quality")


def swept(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which of `SWEPT` takes more than one value in some rows."""
    figures = [row for row in rows if row["aruc"]]
    return [name for name in SWEPT if len({row[name] for row in figures}) > 1]


def _title(row: Mapping[str, Any], several: bool) -> str:
    """The scheme of a row, with its queries if there are several numbers of them.

    Then how many models a side it had, if not the whole half; what it did not see; what of the answers it was shown.
    """
    count = row["models"]
    parts = [f", {row['queries']} queries"] if several and "not_applicable" not in row else []
    parts += [f", {count} model{'s' * (count > 1)} a side"] if count else []
    parts += [f" without {row['left_out']}"] if row["left_out"] else []
    parts += [f", {row['view']}"] if row["view"] else []
    return "".join([str(row["scheme"]), *parts])


def of_row(scores: pd.DataFrame, row: Mapping[str, Any]) -> pd.DataFrame:
    """The scores that a row was made of."""
    wanted = [row[name] or (0 if name == "models" else "") for name in KINDS]
    return scores[(scores[KINDS] == wanted).all(axis=1)]


def rows(
    scenario: Scenario,
    results: Sequence[CellResult],
    command: str,
    lacking: Mapping[str, str] | None = None,
    failures: Sequence[Failure] = (),
) -> list[dict[str, Any]]:
    """Gather cells into the rows of results.json, one for each of `KINDS`.

    `models` is the number of models of each side to construct from, None for the whole half of the zoo; `left_out` the
    obfuscation or architecture that was kept from construction, `view` what the API let out, each None for nothing.
    `title` tells the rows apart. `failed` has the repetitions that a row should have had.

    Rows without any result come last, then schemes that could not be used, with what they lack: their figures are None,
    never 0.
    """
    shared = {**facts(scenario, command), "protocol": results[0].cell.protocol}
    found = [
        {**_row(scenario, shared, list(kind), results, part), "failed": _failed(failures, *list(kind)[:4])}
        for kind, part in frame(results).groupby(KINDS, sort=False)
    ]
    of_scores = ("positives", "negatives", "useful", "spoilt", "refused", "construct_seconds", "verify_seconds")
    none = dict.fromkeys((*METRICS, *COUNTS, *KINDS, *of_scores))
    empty = {**found[0], **none, "queries": found[0]["queries"], "by_lineage": {}, "failed": []}
    empty |= {"repeats": 0, "seeds": []}
    done = {_kind(result.cell) for result in results}
    for scheme, queries, models, left_out in dict.fromkeys(_kind(failure.cell) for failure in failures):
        if (scheme, queries, models, left_out) in done:
            continue
        kind = {"scheme": scheme, "queries": queries, "models": models or None, "left_out": left_out or None}
        found.append({**empty, **kind, "failed": _failed(failures, scheme, queries, models, left_out)})
    found += [
        {**empty, "scheme": name, "not_applicable": f"needs {reason}"} for name, reason in (lacking or {}).items()
    ]
    several = len({row["queries"] for row in found if row["aruc"] or row["failed"]}) > 1
    return [{**row, "title": _title(row, several)} for row in found]


def _failed(failures: Sequence[Failure], *kind: Any) -> list[dict[str, Any]]:
    """Those of one `_kind`, for results.json."""
    mine = (failure for failure in failures if _kind(failure.cell) == kind)
    return [{"repetition": failure.cell.repetition, "error": failure.error} for failure in mine]


def splits(scenario: Scenario, results: Sequence[CellResult]) -> list[dict[str, Any]]:
    """The lineages that each repetition constructs from, by what is left out of it, and those of the zoo that it tests.

    Numbers of `models` a side take the first of each side; the open world tests no suspect of the zoo.
    """
    cells = (result.cell for result in results)
    wanted = dict.fromkeys((cell.protocol, cell.left_out, cell.repetition) for cell in cells)
    found = []
    for protocol, left_out, repetition in wanted:
        construction, test = protocols.divide(scenario, protocol, left_out, repetition)
        halves = {"construction": construction, "test": [] if protocol == "open-world" else test}
        lineages = {side: [suspect.lineage for suspect in members] for side, members in halves.items()}
        found.append({"left_out": left_out or None, "repetition": repetition, **lineages})
    return found


def _kind(cell: Cell) -> tuple[Any, ...]:
    """What cells of a row have in common, whatever its view."""
    return (cell.scheme, cell.queries, cell.models, cell.left_out)


def facts(scenario: Scenario, command: str) -> dict[str, Any]:
    """What all results say of where they are from."""
    return {
        "scenario": scenario.name,
        "profile": scenario.profile,
        "environment": environment(),
        "command": command,
    }


def _row(
    scenario: Scenario,
    shared: Mapping[str, Any],
    kind: Sequence[Any],
    results: Sequence[CellResult],
    scores: pd.DataFrame,
) -> dict[str, Any]:
    scheme, queries, models, left_out, view = kind
    cells = [result for result in results if _kind(result.cell) == (scheme, queries, models, left_out)]
    repetitions = [part for _, part in scores.groupby("repetition")]
    both = [sides(part) for part in repetitions]
    return {
        **shared,
        "repeats": len(cells),
        "seeds": sorted(cell.cell.repetition for cell in cells),  # of splits and schemes
        "scheme": scheme,
        "queries": int(queries),
        "models": int(models) or None,
        "left_out": left_out or None,
        "view": view or None,
        "positives": _count(len(positives) for positives, _ in both),
        "negatives": _count(len(negatives) for _, negatives in both),
        **{name: summary([metric(p, n) for p, n in both]) for name, metric in METRICS.items()},
        "false_accusations": summary([int((part.derived & ~part.positive).sum()) for part in repetitions]),
        "missed": summary([int((~part.derived & part.positive).sum()) for part in repetitions]),
        "useful": _useful(repetitions),
        "spoilt": _spoilt(repetitions),
        "refused": int(scores.refused.sum()),
        "construct_seconds": summary([cell.construct_seconds for cell in cells]),
        "verify_seconds": summary([cell.verify_seconds for cell in cells]),
        "by_lineage": _by_lineage(scenario, scores, cells[0].scores[0].quality),
    }


def sides(scores: pd.DataFrame) -> tuple[Any, Any]:
    """Rates of positives and of negatives."""
    return scores.loc[scores.positive, "rate"].to_numpy(), scores.loc[~scores.positive, "rate"].to_numpy()


def _count(counts: Iterable[int]) -> float:
    """How many suspects there are in a repetition; the mean where repetitions differ."""
    mean = float(np.mean(list(counts)))
    return int(mean) if mean.is_integer() else mean


def _useful(repetitions: Sequence[pd.DataFrame]) -> dict[str, Any]:
    """Figures where positives that have lost more than a tenth of the target's quality are not counted.

    Over the repetitions in which any others are left.
    """
    kept = [sides(part[part.useful | ~part.positive]) for part in repetitions]
    some = [pair for pair in kept if len(pair[0])]
    return {
        "positives": summary([len(positives) for positives, _ in kept]),
        **{name: summary([metric(p, n) for p, n in some]) if some else None for name, metric in METRICS.items()},
    }


def _spoilt(repetitions: Sequence[pd.DataFrame]) -> dict[str, Any]:
    """The positives that are not counted there: how many, and the share recognised in repetitions that have any."""
    lost = [part[part.positive & ~part.useful] for part in repetitions]
    shares = [float(part.derived.mean()) for part in lost if len(part)]
    return {
        "positives": summary([len(part) for part in lost]),
        "recognised": summary(shares) if shares else None,
    }


def _by_lineage(scenario: Scenario, scores: pd.DataFrame, qualities: Iterable[str]) -> dict[str, Any]:
    """Per row of the zoo's table: test scores over all repetitions, their mean, and the share called derived."""
    found = {}
    known = [suspect.family for suspect in (*scenario.suspects, *scenario.open_world)]
    for family in dict.fromkeys([*known, *scores.family]):
        mine = scores[scores.family == family]
        if len(mine):
            found[family] = {
                "n": len(mine),
                "mean_rate": float(mine.rate.mean()),
                "recognised": float(mine.derived.mean()),
                "positive": bool(mine.positive.iloc[0]),
                "quality": {name: float(mine[name].mean()) for name in qualities},
            }
    return found


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Mean, half of the 95 % interval and values of repetitions, as results.json has them."""
    mean, ci95 = evaluation.interval(values)
    return {"mean": mean, "ci95": ci95, "values": [float(value) for value in values]}


def with_interval(found: Mapping[str, Any] | None, digits: int = 3) -> str:
    """A mean with its interval, e.g. `0.951 ± 0.012`; `n/a` where there is none."""
    if found is None:
        return "n/a"
    half = "" if found["ci95"] is None else f" ± {found['ci95']:.{digits}f}"
    return f"{found['mean']:.{digits}f}{half}"


def environment() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "metav": metav.__version__,
        "commit": sources.COMMIT,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "processor": processor(),
        "cores": engine.cores(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def processor() -> str:
    """The processor's model name where the system tells it, otherwise the machine type."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
