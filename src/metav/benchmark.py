"""Scenario x scheme x repetition: cells are computed apart, then gathered into rows of results."""

from __future__ import annotations

import datetime
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

import metav
from metav import engine, evaluation, schemes
from metav.errors import UsageError
from metav.scenarios import Scenario, Suspect
from metav.schemes import Ensemble
from metav.verification import verify
from metav.zoo import Zoo

METRICS: dict[str, Callable[[Any, Any], float]] = {
    "aruc": evaluation.aruc,
    "aruc_exact": evaluation.aruc_exact,
    "auc": evaluation.auc,
    "robustness_at_full_uniqueness": evaluation.robustness_at_full_uniqueness,
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One construction and its test: a scheme with its options, and the repetition, which seeds split and scheme."""

    scheme: str
    repetition: int
    queries: int


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """Scores of a cell: one row a test suspect (lineage, family, positive, rate, threshold), and two timings.

    `construct_seconds` excludes loading the models; `verify_seconds` is for all test suspects together.
    """

    cell: Cell
    scores: pd.DataFrame
    construct_seconds: float
    verify_seconds: float


def split(suspects: Sequence[Suspect], seed: int) -> tuple[list[Suspect], list[Suspect]]:
    """Halve positives and negatives at random into construction and test suspects (MetaV, section 5.2).

    Raises
    ------
    UsageError
        A side would have fewer than two suspects in a half.
    """
    generator = np.random.default_rng(seed)
    construction: list[Suspect] = []
    test: list[Suspect] = []
    for positive in (True, False):
        side = [suspect for suspect in suspects if suspect.positive is positive]
        half = len(side) // 2
        if half < 2:
            kind = "positive" if positive else "negative"
            raise UsageError(
                f"expected at least four {kind} suspects, two to construct from and two to test on, got {len(side)}: "
                "add some to the scenario."
            )
        order = generator.permutation(len(side))
        construction += [side[index] for index in order[:half]]
        test += [side[index] for index in order[half:]]
    return construction, test


def ensemble(zoo: Zoo, suspects: Sequence[Suspect]) -> Ensemble:
    """The models of `suspects`, the target and public data, as a scheme takes them."""
    return Ensemble(
        target=zoo.load("target"),
        positives=[zoo.load(suspect.lineage) for suspect in suspects if suspect.positive],
        negatives=[zoo.load(suspect.lineage) for suspect in suspects if not suspect.positive],
        spec=zoo.scenario.spec,
        data=zoo.scenario.parts["public"].x,
    )


def run_cell(zoo: Zoo, cell: Cell) -> CellResult:
    """Construct on one half of the zoo, score the suspects of the other half."""
    construction, test = split(zoo.scenario.suspects, cell.repetition)
    known = ensemble(zoo, construction)
    start = time.perf_counter()
    fingerprint = schemes.get(cell.scheme).construct(known, queries=cell.queries, seed=cell.repetition)
    construct_seconds = time.perf_counter() - start
    models = [zoo.load(suspect.lineage) for suspect in test]
    verdicts = [verify(fingerprint, model) for model in models]
    scores = pd.DataFrame(
        {
            "scheme": cell.scheme,
            "repetition": cell.repetition,
            "lineage": [suspect.lineage for suspect in test],
            "family": [suspect.family for suspect in test],
            "positive": [suspect.positive for suspect in test],
            "rate": [verdict.rate for verdict in verdicts],
            "threshold": fingerprint.threshold,
        }
    )
    return CellResult(
        cell=cell,
        scores=scores,
        construct_seconds=construct_seconds,
        verify_seconds=sum(verdict.seconds for verdict in verdicts),
    )


def run(
    zoo: Zoo,
    scheme_names: Sequence[str],
    *,
    repeats: int = 5,
    queries: int = 100,
    jobs: int = 2,
    progress: Callable[[int], None] | None = None,
) -> list[CellResult]:
    """Compute all cells on a zoo that is built, in `jobs` processes."""
    cells = [
        Cell(scheme=name, repetition=repetition, queries=queries)
        for name in scheme_names
        for repetition in range(repeats)
    ]
    return engine.map(
        partial(run_cell, zoo),
        cells,
        jobs=jobs,
        progress=None if progress is None else lambda _: progress(1),
    )


def rows(scenario: Scenario, results: Sequence[CellResult], command: str) -> list[dict[str, Any]]:
    """Gather cells into the rows of results.json, one a scheme."""
    return [
        _row(scenario, [result for result in results if result.cell.scheme == name], command)
        for name in dict.fromkeys(result.cell.scheme for result in results)
    ]


def _row(scenario: Scenario, results: Sequence[CellResult], command: str) -> dict[str, Any]:
    cell = results[0].cell
    sides = [
        (
            result.scores.loc[result.scores.positive, "rate"].to_numpy(),
            result.scores.loc[~result.scores.positive, "rate"].to_numpy(),
        )
        for result in results
    ]
    scores = pd.concat([result.scores for result in results])
    return {
        "scenario": scenario.name,
        "profile": scenario.profile,
        "scheme": cell.scheme,
        "queries": cell.queries,
        "repeats": len(results),
        **{name: _summary([metric(p, n) for p, n in sides]) for name, metric in METRICS.items()},
        "construct_seconds": _summary([result.construct_seconds for result in results]),
        "verify_seconds": _summary([result.verify_seconds for result in results]),
        "by_lineage": _by_lineage(scenario, scores),
        "environment": environment(),
        "command": command,
    }


def _by_lineage(scenario: Scenario, scores: pd.DataFrame) -> dict[str, Any]:
    """Per row of the zoo's table: test scores over all repetitions, their mean, and the share called derived."""
    found = {}
    for family in dict.fromkeys(suspect.family for suspect in scenario.suspects):
        mine = scores[scores.family == family]
        if len(mine):
            found[family] = {
                "n": len(mine),
                "mean_rate": float(mine.rate.mean()),
                "recognised": float((mine.rate > mine.threshold).mean()),
                "positive": bool(mine.positive.iloc[0]),
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
        "processor": engine.cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
