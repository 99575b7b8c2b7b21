"""Learning curves of MetaV: ARUC on test suspects and loss against wall-clock time (MetaV, Fig. 4)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from metav import benchmark, cells, engine, evaluation, protocols, schemes
from metav.cells import Cell, Failure
from metav.schemes import MetaV
from metav.storage import make_folder, write_atomic
from metav.verification import query
from metav.zoo import Zoo

POINTS = 16  # of a curve


def curves(
    zoo: Zoo,
    wanted: Sequence[Cell],
    *,
    jobs: int = 2,
    progress: Callable[[int], None] | None = None,
) -> tuple[list[dict[str, Any]], list[Failure]]:
    """A row for each cell and point: iterations, seconds, loss, ARUC and AUC on the test half.

    The seconds are those of learning alone, without loading and testing. Curves that an earlier run has computed, on
    the same zoo by the same code, are taken from where it kept them. One that fails does not stop the others.
    """
    found = engine.map(
        partial(_kept, zoo), wanted, jobs=jobs, progress=None if progress is None else lambda _: progress(1)
    )
    rows = [row for each in found if not isinstance(each, Failure) for row in each]
    return rows, [each for each in found if isinstance(each, Failure)]


def curve_file(result: Path) -> Path:
    """Where the curve of a cell is kept, beside its `result`."""
    return result.with_suffix(".learning.json")


def _kept(zoo: Zoo, cell: Cell) -> list[dict[str, Any]] | Failure:
    try:
        zoo.check_process()
        file = curve_file(cells.paths(zoo, [cell])[cell].result)
        if found := _read(file):
            return found
        found = curve(zoo, cell)
    except Exception as error:
        return cells.failed(cell, error)
    make_folder(file.parent)
    write_atomic(file, json.dumps(found).encode())
    return found


def _read(file: Path) -> list[dict[str, Any]]:
    try:
        return list(json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError):
        return []  # it is computed again


def curve(zoo: Zoo, cell: Cell) -> list[dict[str, Any]]:
    """The learning curve of one repetition of a variant of MetaV."""
    scheme = schemes.get(cell.scheme)
    assert isinstance(scheme, MetaV)  # noqa: S101 (for the type checker: the plan asks for no other)
    construction, test = protocols.divide(zoo.scenario, cell.protocol, cell.left_out, cell.repetition)
    ensemble = benchmark.ensemble(zoo, construction)
    sides = [[zoo.load(each.lineage) for each in test if each.positive is positive] for positive in (True, False)]
    at = np.unique(np.geomspace(1, scheme.iterations, POINTS).round().astype(int))
    course = scheme.course(ensemble, queries=cell.queries, seed=cell.repetition, at=set(at.tolist()))
    rows: list[dict[str, Any]] = []
    seconds, start = 0.0, time.perf_counter()
    for stage in course:
        seconds += time.perf_counter() - start
        made = stage.fingerprint
        rates = ([benchmark.matching_rate(made, query(model, made.queries)) for model in side] for side in sides)
        positives, negatives = rates
        rows.append(
            {
                "scheme": cell.scheme,
                "repetition": cell.repetition,
                "iterations": stage.iteration,
                "seconds": seconds,
                "loss": stage.loss,
                "aruc": evaluation.aruc(positives, negatives),
                "auc": evaluation.auc(positives, negatives),
            }
        )
        start = time.perf_counter()
    return rows
