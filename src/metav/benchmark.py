"""Scenario x scheme x repetition: each cell constructs on one half of a zoo and is tested on the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from metav import cells, engine, schemes
from metav.cells import PROTOCOLS, Cell, CellResult, Protocol, Score
from metav.errors import UsageError, unknown
from metav.fingerprint import Fingerprint
from metav.scenarios import Suspect
from metav.scenarios.base import CohortPlan, Outsider
from metav.schemes import Ensemble
from metav.schemes.base import CohortModels
from metav.spec import Model
from metav.stacks import together
from metav.verification import verify
from metav.zoo import Zoo

_outsiders: dict[str, list[Outsider]] = {}  # by the digest of the target


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


def few(construction: Sequence[Suspect], models: int) -> list[Suspect]:
    """The first `models` suspects of each side; those of fewer are among those of more.

    Raises
    ------
    UsageError
        A side has fewer.
    """
    chosen = []
    for positive in (True, False):
        side = [suspect for suspect in construction if suspect.positive is positive]
        if len(side) < models:
            raise UsageError(
                f"expected at most {len(side)} models a side to construct from, got {models}: ask for fewer."
            )
        chosen += side[: models or None]
    return chosen


def ensemble(zoo: Zoo, suspects: Sequence[Suspect], *, snapshots: bool = False, cohort: bool = False) -> Ensemble:
    """The models of `suspects`, the target and public data, as a scheme takes them.

    With `snapshots` those of the suspects' trainings that the zoo keeps are on their sides too; with `cohort` its
    cohort comes along.
    """

    def side(positive: bool) -> list[Model]:
        lineages = [suspect.lineage for suspect in suspects if suspect.positive is positive]
        if snapshots:
            lineages += [each for lineage in lineages for each in zoo.snapshots(lineage)]
        return [zoo.load(lineage) for lineage in lineages]

    public = zoo.scenario.parts["public"]
    return Ensemble(
        target=zoo.load("target"),
        positives=side(True),
        negatives=side(False),
        spec=zoo.scenario.spec,
        data=public.x,
        labels=public.y if zoo.scenario.spec.output == "probabilities" else None,
        cohort=_cohort(zoo, zoo.cohort) if cohort and zoo.cohort is not None else None,
    )


def _cohort(zoo: Zoo, plan: CohortPlan) -> CohortModels:
    """The models of a zoo's cohort, as a scheme takes them."""
    return CohortModels(
        teachers=plan.teachers,
        kinds={kind: together([zoo.load(each) for each in plan.lineages(kind)]) for kind in plan.kinds},
        others=[zoo.load(each) for each in plan.others],
    )


def construct(zoo: Zoo, scheme: str, suspects: Sequence[Suspect], *, queries: int, seed: int) -> Fingerprint:
    """Make a fingerprint of the zoo's target from some of its suspects, and note in it which."""
    maker = schemes.get(scheme)
    known = ensemble(zoo, suspects, snapshots=maker.needs.snapshots, cohort=maker.needs.cohort)
    with engine.one_thread():
        made = maker.construct(known, queries=queries, seed=seed)
    origin = {
        "scenario": zoo.scenario.name,
        "profile": zoo.scenario.profile,
        "target": {"lineage": zoo.scenario.lineage("target").full, "digest": zoo.record("target").digest},
        "suspects": sorted(zoo.scenario.lineage(suspect.lineage).text for suspect in suspects),
    }
    return replace(made, provenance={**made.provenance, **origin})


def lacking(zoo: Zoo, scheme: str) -> str:
    """What the zoo's models do not give that a scheme needs, in words; empty if it can be used."""
    needs = schemes.get(scheme).needs
    if needs.cohort and zoo.scenario.cohort is None:
        return "a matched-teacher cohort"
    return needs.lacking(zoo.scenario.spec)


def require(zoo: Zoo, scheme: str) -> None:
    """Refuse a scheme that the zoo does not give what it needs.

    Raises
    ------
    UsageError
        One sentence that says what is lacking.
    """
    if schemes.get(scheme).needs.cohort and zoo.scenario.cohort is None:
        raise UsageError(
            f"expected a scenario with a matched-teacher cohort for {scheme}, got {zoo.scenario.name}, "
            "which plans none: choose another scheme (metav schemes)."
        )
    schemes.require(scheme, zoo.scenario.spec)


def check_protocol(zoo: Zoo, name: str) -> Protocol:
    """Return a protocol by its name.

    Raises
    ------
    UsageError
        There is none of that name, or the scenario has no open world.
    """
    if name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS)
    if name == "open-world" and not zoo.scenario.strangers and zoo.scenario.outsiders is None:
        raise UsageError(
            f"expected a scenario with an open world, got {zoo.scenario.name}, which has none: use --protocol paper."
        )
    return name


def run_cell(zoo: Zoo, cell: Cell) -> CellResult:
    """Construct on one half of the zoo, score the suspects of the other half, or those of the open world."""
    construction, test = split(zoo.scenario.suspects, cell.repetition)
    construction = few(construction, cell.models)
    start = time.perf_counter()
    fingerprint = construct(zoo, cell.scheme, construction, queries=cell.queries, seed=cell.repetition)
    construct_seconds = time.perf_counter() - start
    tested = _of_zoo(zoo, test) if cell.protocol == "paper" else _open_world(zoo)
    verdicts = [verify(fingerprint, suspect.model) for suspect in tested]
    scores = tuple(
        Score(
            scheme=cell.scheme,
            models=cell.models,
            repetition=cell.repetition,
            lineage=suspect.name,
            family=suspect.family,
            positive=suspect.positive,
            rate=verdict.rate,
            threshold=verdict.threshold,
            quality=dict(suspect.quality),
        )
        for suspect, verdict in zip(tested, verdicts, strict=True)
    )
    return CellResult(
        cell=cell,
        scores=scores,
        construct_seconds=construct_seconds,
        verify_seconds=sum(verdict.seconds for verdict in verdicts),
    )


def _of_zoo(zoo: Zoo, suspects: Sequence[Suspect]) -> list[Outsider]:
    return [
        Outsider(
            name=suspect.lineage,
            family=suspect.family,
            positive=suspect.positive,
            model=zoo.load(suspect.lineage),
            quality=zoo.record(suspect.lineage).quality,
        )
        for suspect in suspects
    ]


def _open_world(zoo: Zoo) -> list[Outsider]:
    """Strangers and outsiders; a process fits the outsiders of a target once."""
    scenario, digest = zoo.scenario, zoo.record("target").digest
    if digest not in _outsiders:
        target, test = zoo.load("target"), scenario.parts["test"]
        with engine.one_thread():
            met = scenario.outsiders(target, scenario.part) if scenario.outsiders else ()
            _outsiders[digest] = [replace(each, quality=scenario.quality(each.model, target, test)) for each in met]
    return _of_zoo(zoo, zoo.strangers) + _outsiders[digest]


def run(
    zoo: Zoo,
    scheme_names: Sequence[str],
    *,
    repeats: int = 5,
    queries: int = 100,
    models: Sequence[int] = (0,),
    protocol: Protocol = "paper",
    jobs: int = 2,
    again: bool = False,
    progress: Callable[[int], None] | None = None,
) -> list[CellResult]:
    """Compute the cells of all schemes that can be used, on a zoo that is built, in `jobs` processes.

    Each scheme constructs from each number of `models` a side, 0 for all of the construction half. Cells that an
    earlier run has computed, on the same zoo by the same code, are taken from where it kept them, unless `again`.
    """
    usable = [name for name in scheme_names if not lacking(zoo, name)]
    wanted = [
        Cell(scheme=name, repetition=repetition, queries=queries, models=count, protocol=protocol)
        for name in usable
        for count in models
        for repetition in range(repeats)
    ]
    paths = cells.paths(zoo, wanted)
    found = {} if again else {cell: result for cell, path in paths.items() if (result := cells.load(path))}
    if progress is not None and found:
        progress(len(found))
    missing = [cell for cell in wanted if cell not in found]
    computed = engine.map(
        partial(_run_and_keep, zoo),
        [(cell, paths[cell]) for cell in missing],
        jobs=jobs,
        progress=None if progress is None else lambda _: progress(1),
    )
    found.update(zip(missing, computed, strict=True))
    return [found[cell] for cell in wanted]


def _run_and_keep(zoo: Zoo, wanted: tuple[Cell, Path]) -> CellResult:
    """Compute a cell, and keep it at once: a run that is killed loses those it is at."""
    cell, path = wanted
    found = run_cell(zoo, cell)
    cells.save(path, found)
    return found
