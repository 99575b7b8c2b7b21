"""From scores to rows of results.json: the metrics of each scheme over its repetitions, and by lineage."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import metav
from metav import evaluation
from metav.cells import CellResult
from metav.scenarios import Scenario

METRICS: dict[str, Callable[[Any, Any], float]] = {
    "aruc": evaluation.aruc,
    "aruc_exact": evaluation.aruc_exact,
    "auc": evaluation.auc,
    "robustness_at_full_uniqueness": evaluation.robustness_at_full_uniqueness,
}
COUNTS = ("false_accusations", "missed")


def frame(results: Sequence[CellResult]) -> pd.DataFrame:
    """All scores of some cells, one row each: `cells.Score`, the verdict `derived`, a column for each quality."""
    scores = [vars(score) for result in results for score in result.scores]
    table = pd.DataFrame(
        [{**score, "derived": score["rate"] > score["threshold"], **score["quality"]} for score in scores]
    )
    return table.drop(columns="quality")


def title(row: Mapping[str, Any]) -> str:
    """The scheme of a row, and how many models a side it had where that was not the whole half."""
    count = row["models"]
    return str(row["scheme"]) + (f", {count} model{'s' * (count > 1)} a side" if count else "")


def rows(
    scenario: Scenario, results: Sequence[CellResult], command: str, lacking: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Gather cells into the rows of results.json, one a scheme and number of models to construct from.

    `models` is that number for each side, None for the whole half of the zoo.

    Schemes that could not be used, with what they lack, come last: their figures are None, never 0.
    """
    kinds = dict.fromkeys((result.cell.scheme, result.cell.models) for result in results)
    found = [_row(scenario, [r for r in results if (r.cell.scheme, r.cell.models) == kind], command) for kind in kinds]
    none = dict.fromkeys((*METRICS, *COUNTS, "construct_seconds", "verify_seconds"))
    return found + [
        {**found[0], **none, "scheme": name, "models": None, "by_lineage": {}, "not_applicable": f"needs {reason}"}
        for name, reason in (lacking or {}).items()
    ]


def _row(scenario: Scenario, results: Sequence[CellResult], command: str) -> dict[str, Any]:
    cell = results[0].cell
    scores = frame(results)
    repetitions = list(scores.groupby("repetition"))
    sides = [
        (part.loc[part.positive, "rate"].to_numpy(), part.loc[~part.positive, "rate"].to_numpy())
        for _, part in repetitions
    ]
    return {
        "scenario": scenario.name,
        "profile": scenario.profile,
        "scheme": cell.scheme,
        "queries": cell.queries,
        "models": cell.models or None,
        "protocol": cell.protocol,
        "repeats": len(results),
        "positives": len(sides[0][0]),
        "negatives": len(sides[0][1]),
        **{name: _summary([metric(p, n) for p, n in sides]) for name, metric in METRICS.items()},
        "false_accusations": _summary([int((part.derived & ~part.positive).sum()) for _, part in repetitions]),
        "missed": _summary([int((~part.derived & part.positive).sum()) for _, part in repetitions]),
        "construct_seconds": _summary([result.construct_seconds for result in results]),
        "verify_seconds": _summary([result.verify_seconds for result in results]),
        "by_lineage": _by_lineage(scenario, scores, results[0].scores[0].quality),
        "environment": environment(),
        "command": command,
    }


def _by_lineage(scenario: Scenario, scores: pd.DataFrame, qualities: Iterable[str]) -> dict[str, Any]:
    """Per row of the zoo's table: test scores over all repetitions, their mean, and the share called derived."""
    found = {}
    known = [suspect.family for suspect in (*scenario.suspects, *scenario.strangers)]
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


def _summary(values: Sequence[float]) -> dict[str, Any]:
    mean, ci95 = evaluation.interval(values)
    return {"mean": mean, "ci95": ci95, "values": [float(value) for value in values]}


def environment() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "metav": metav.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
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
