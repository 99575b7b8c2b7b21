"""Cells of a benchmark, and where they are kept, so that an interrupted run loses those it was at and no others."""

from __future__ import annotations

import hashlib
import inspect
import json
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metav import schemes, sources
from metav.errors import MetavError, UsageError, brief
from metav.protocols import Protocol
from metav.storage import canonical_json, home, make_folder, write_atomic
from metav.zoo import Zoo

# protocols that construct from the same suspects, and those that do from the same independent ones
SAME_CONSTRUCTION: tuple[Protocol, ...] = ("paper", "api", "open-world")
SAME_NEGATIVES: tuple[Protocol, ...] = (*SAME_CONSTRUCTION, "unseen-obfuscation")
FAILURES = "failures.txt"  # beside the results
LEARN = [found.version for found in distributions(name="scikit-learn")]  # which fits outsiders of the open world


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One construction and its test: a scheme with its options, and the repetition, which seeds split and scheme.

    `models` is the number of suspects of each side to construct from; 0 for the whole half of the zoo. The `protocol`
    says which suspects are for construction and which for the test; `left_out` is the obfuscation or architecture that
    is for the test alone.
    """

    scheme: str
    repetition: int
    queries: int
    models: int = 0
    protocol: Protocol = "paper"
    left_out: str = ""

    def __str__(self) -> str:
        """The cell in words."""
        models = f", {self.models} a side" if self.models else ""
        left_out = f" without {self.left_out}" if self.left_out else ""
        return f"{self.scheme}, {self.queries} queries{models}{left_out}, repetition {self.repetition}"


@dataclass(frozen=True, kw_only=True)
class Score:
    """One test suspect's matching rate, beside what it truly is, the fingerprint's threshold and its quality.

    `view` is what of its answers the API let out, empty for all; `useful` whether it is about as good as the target;
    `refused` whether its answers allow no verdict, so that its rate is 0.
    """

    scheme: str
    queries: int
    models: int
    left_out: str
    view: str
    repetition: int
    lineage: str
    family: str
    positive: bool
    rate: float
    threshold: float
    useful: bool
    refused: bool
    quality: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """Scores of a cell, one a test suspect, and two timings.

    `construct_seconds` includes loading the suspects to construct from, but not a cohort, which a process loads once,
    nor what its models have answered before (`metav.kept_cohort`);
    `verify_seconds` is for asking and scoring all test suspects.
    """

    cell: Cell
    scores: tuple[Score, ...]
    construct_seconds: float
    verify_seconds: float


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A cell that could not be computed: why, in one sentence, the exit code, and a traceback if nobody foresaw it."""

    cell: Cell
    error: str
    exit_code: int
    trace: str

    def exception(self) -> MetavError:
        """The error, to be raised."""
        return (UsageError if self.exit_code == UsageError.exit_code else MetavError)(self.error)


def failed(cell: Cell, error: Exception) -> Failure:
    """The failure of a cell: in metav's own words, or with name and traceback of an error that nobody foresaw."""
    if isinstance(error, MetavError):
        return Failure(cell=cell, error=str(error), exit_code=error.exit_code, trace="")
    got = f"{type(error).__name__} ({brief(error)})"
    text = f"expected a fingerprint and rates, got {got}: see its traceback in {FAILURES}."
    return Failure(cell=cell, error=text, exit_code=1, trace="".join(traceback.format_exception(error)))


@dataclass(frozen=True, kw_only=True)
class CellFiles:
    """Where the result of a cell is kept, and its fingerprint, which cells that differ in their test alone share."""

    result: Path
    fingerprint: Path


def paths(zoo: Zoo, wanted: Sequence[Cell]) -> dict[Cell, CellFiles]:
    """Where some cells are kept; the record of each model is read once."""
    digest = cache(lambda lineage: zoo.record(lineage).digest)
    found = {}
    for cell in wanted:
        needs = schemes.get(cell.scheme).needs
        same = SAME_CONSTRUCTION if needs.thefts or needs.cohort else SAME_NEGATIVES
        shared = replace(cell, protocol="paper", left_out="") if cell.protocol in same else cell
        fingerprint = path(zoo, shared, digest).with_suffix(".safetensors")
        found[cell] = CellFiles(result=path(zoo, cell, digest), fingerprint=fingerprint)
    return found


def path(zoo: Zoo, cell: Cell, digest: Callable[[str], str]) -> Path:
    """Where the result of a cell is kept: a name made of all that it depends on.

    That is the cell, the models it constructs from and tests, what each is for and in which order, the code of metav
    and of the scheme, and the libraries that compute. `digest` gives that of a lineage's weights.
    """
    scenario = zoo.scenario
    scheme = schemes.get(cell.scheme)
    used = zoo.lineages(cohort=scheme.needs.cohort, open_world=cell.protocol == "open-world")
    kept = [each for lineage in used for each in zoo.snapshots(lineage)] if scheme.needs.snapshots else []
    models = {lineage: digest(lineage) for lineage in (*used, *kept)}
    code = [sources.CODE, sources.digest([Path(inspect.getfile(type(scheme)))])]  # a scheme's may be elsewhere
    plan, unseen = scheme.needs.cohort and zoo.cohort, cell.protocol == "open-world" and zoo.open_world
    table = (scenario.spec, scenario.merit, scenario.views, scenario.suspects, plan, unseen)
    libraries = [torch.__version__, np.__version__, *(LEARN if cell.protocol == "open-world" else ())]
    text = canonical_json([asdict(cell), zoo.settings, models, *map(repr, table), code, libraries])
    name = hashlib.sha256(text.encode()).hexdigest()[:16]
    return folder("cells", zoo) / f"{name}.json"


def folder(what: str, zoo: Zoo) -> Path:
    """Where `what` is kept of a zoo, by this code alone: folders of other code can be deleted."""
    return home() / what / sources.CODE[:8] / zoo.scenario.name / zoo.scenario.profile


def save(file: Path, result: CellResult) -> None:
    """Keep a result."""
    make_folder(file.parent)
    found = asdict(result)
    write_atomic(file, json.dumps({**found, "seal": _seal(found)}).encode())


def load(file: Path, cell: Cell) -> CellResult | None:
    """What was kept of a cell; None if there is nothing, or it is damaged, edited, or another cell's."""
    try:
        found = json.loads(file.read_bytes())
        if found.pop("seal") != _seal(found):  # floats are written so that they are read as they were
            return None
        scores = tuple(Score(**score) for score in found.pop("scores"))
        result = CellResult(cell=Cell(**found.pop("cell")), scores=scores, **found)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None  # it is computed again
    return result if result.cell == cell else None


def _seal(found: Any) -> str:
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
