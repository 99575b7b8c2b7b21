"""Scenario x scheme x repetition: each cell constructs on one half of a zoo and is tested on the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from metav import cells, engine, kept_cohort, protocols, schemes
from metav.answers import understand
from metav.cells import Cell, CellFiles, CellResult, Failure, Score
from metav.errors import MetavError, SuspectError, UsageError
from metav.fingerprint import Fingerprint
from metav.frozen import folded
from metav.protocols import Protocol
from metav.scenarios import Suspect
from metav.scenarios.base import CohortPlan, Subject
from metav.schemes import Ensemble
from metav.schemes.base import CohortModels, needs_of
from metav.schemes.cohort import Cohort
from metav.spec import Model
from metav.storage import canonical_json, make_folder, sweep
from metav.verification import query
from metav.zoo import Zoo

GLANCE = 8  # inputs that show whether a model without batch norm answers the same

_outsiders: dict[tuple[str, ...], list[Subject]] = {}  # by the target, and what they and their quality are made from
_cohorts: dict[tuple[Path, str, str], CohortModels] = {}  # the last that was read: folder, digest of target, plan


def _none(_: str) -> bool:
    return False


def ensemble(
    zoo: Zoo,
    suspects: Sequence[Suspect],
    *,
    snapshots: bool = False,
    cohort: bool = False,
    left_out: Callable[[str], bool] = _none,
) -> Ensemble:
    """The models of `suspects`, the target and public data, as a scheme takes them.

    With `snapshots` those of the suspects' trainings that the zoo keeps are on their sides too; with `cohort` its
    cohort comes along, but for kinds of lineages that are `left_out`.
    """

    def side(positive: bool) -> list[Model]:
        lineages = [suspect.lineage for suspect in suspects if suspect.positive is positive]
        if snapshots:
            lineages += [each for lineage in lineages for each in zoo.snapshots(lineage)]
        return [load(lineage) for lineage in lineages]

    # a cohort does not fit into memory: its files stay mapped, and folding would copy their weights
    load = zoo.load if cohort else partial(_cheap, zoo)
    public = zoo.scenario.parts["public"]
    return Ensemble(
        target=load("target"),
        positives=side(True),
        negatives=side(False),
        spec=zoo.scenario.spec,
        data=public.x,
        labels=public.y if zoo.scenario.spec.output == "probabilities" else None,
        cohort=_part_of_cohort(zoo, zoo.cohort, left_out) if cohort and zoo.cohort is not None else None,
    )


def _cheap(zoo: Zoo, lineage: str) -> nn.Module:
    """A model that is to be asked often."""
    return folded(zoo.load(lineage), zoo.scenario.parts["public"].x[:GLANCE])


def _part_of_cohort(zoo: Zoo, plan: CohortPlan, left_out: Callable[[str], bool]) -> CohortModels:
    """The models of a zoo's cohort, as a scheme takes them, without what is left out."""
    whole = _cohort(zoo, plan)
    return replace(
        whole,
        kinds={
            kind: models
            for kind, models in whole.kinds.items()
            if not left_out(plan.lineages(kind)[-1])  # of the target; its teachers are of its architecture always
        },
        others=[model for name, model in zip(plan.others, whole.others, strict=True) if not left_out(name)],
    )


def _cohort(zoo: Zoo, plan: CohortPlan) -> CohortModels:
    """All models of a zoo's cohort: thousands of files, which a process reads once, whatever becomes of them then."""
    key = zoo.folder, zoo.record("target").digest, repr(plan)
    if key not in _cohorts:
        _cohorts.clear()
        _cohorts[key] = kept_cohort.read(zoo, plan)
    return _cohorts[key]


def construct(
    zoo: Zoo,
    scheme: str,
    suspects: Sequence[Suspect],
    *,
    queries: int,
    seed: int,
    left_out: Callable[[str], bool] = _none,
) -> Fingerprint:
    """Make a fingerprint of the zoo's target from some of its suspects, and note in it which.

    Models of a cohort are not used if their lineage is `left_out`; stolen ones are for schemes that learn from them.
    """
    maker = schemes.get(scheme)
    suspects = [suspect for suspect in suspects if maker.needs.thefts or not suspect.positive]
    known = ensemble(zoo, suspects, snapshots=maker.needs.snapshots, cohort=maker.needs.cohort, left_out=left_out)
    with engine.one_thread():
        made = maker.construct(known, queries=queries, seed=seed)
        reference = query(known.target, made.queries)
        made.score(reference)  # a fingerprint that cannot even judge its target fails here
    origin = {
        "scenario": zoo.scenario.name,
        "profile": zoo.scenario.profile,
        "target": {"lineage": zoo.scenario.lineage("target").full, "digest": zoo.record("target").digest},
        "suspects": sorted(zoo.scenario.lineage(suspect.lineage).text for suspect in suspects),
    }
    return replace(made, provenance={**made.provenance, **origin}, reference=reference)


def lacking(zoo: Zoo, scheme: str) -> str:
    """What the zoo's models do not give that a scheme needs, in words; empty if it can be used."""
    needs = needs_of(schemes.get(scheme))
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
    maker, plan = schemes.get(scheme), zoo.scenario.cohort
    if maker.needs.cohort and plan is None:
        raise UsageError(
            f"expected a scenario with a matched-teacher cohort for {scheme}, got {zoo.scenario.name}, "
            "which plans none: set teachers in a task of your own, or choose another scheme (metav schemes)."
        )
    schemes.require(scheme, zoo.scenario.spec)
    if isinstance(maker, Cohort) and plan is not None:
        maker.check_size(plan.teachers, plan.copies)


def run_cell(zoo: Zoo, cell: Cell, kept: Path | None = None) -> CellResult:
    """Construct from some suspects of the zoo, score those that the protocol tests.

    The fingerprint is taken from where it was `kept`, and kept there.
    """
    scenario, target = zoo.scenario, zoo.record("target").quality
    left_out = partial(protocols.is_left_out, scenario, cell.protocol, cell.left_out)
    construction, test = protocols.divide(scenario, cell.protocol, cell.left_out, cell.repetition)
    construction = protocols.few(construction, cell.models)
    fingerprint, construct_seconds = _constructed(zoo, cell, construction, left_out, kept)
    tested = open_world(zoo) if cell.protocol == "open-world" else of_zoo(zoo, test)
    views = scenario.views if cell.protocol == "api" else {}
    scores, seconds = [], 0.0
    for suspect in tested:
        start = time.perf_counter()
        answers = query(suspect.model, fingerprint.queries)
        rates = {"": judged(fingerprint, answers)}
        seconds += time.perf_counter() - start
        rates |= {name: judged(fingerprint, change.changed(answers)) for name, change in views.items()}
        scores += [
            Score(
                scheme=cell.scheme,
                queries=cell.queries,
                models=cell.models,
                left_out=cell.left_out,
                view=view,
                repetition=cell.repetition,
                lineage=suspect.name,
                family=suspect.family,
                positive=suspect.positive,
                rate=rate or 0.0,
                threshold=fingerprint.threshold,
                refused=rate is None,
                useful=scenario.merit.is_useful(suspect.quality, target),
                quality=dict(suspect.quality),
            )
            for view, rate in rates.items()
        ]
    return CellResult(cell=cell, scores=tuple(scores), construct_seconds=construct_seconds, verify_seconds=seconds)


def judged(fingerprint: Fingerprint, answers: Tensor) -> float | None:
    """The rate that `metav verify` finds for a suspect's answers; None where it could not give a verdict."""
    with suppress(SuspectError):
        outputs, _ = understand(answers, fingerprint.spec, len(fingerprint.queries), fingerprint.reference)
        return fingerprint.score(outputs)
    return None


def matching_rate(fingerprint: Fingerprint, answers: Tensor) -> float:
    """The matching rate of a suspect's answers; 0 where no verdict is possible, so that nobody is accused."""
    return judged(fingerprint, answers) or 0.0


def _constructed(
    zoo: Zoo, cell: Cell, construction: Sequence[Suspect], left_out: Callable[[str], bool], kept: Path | None
) -> tuple[Fingerprint, float]:
    """The fingerprint of a cell and the seconds it took, of now or of a cell that differs in what it tests alone."""
    if kept is not None and kept.exists():
        with suppress(MetavError, KeyError):  # damaged, or of a scheme that cannot be loaded: it is made again
            found = Fingerprint.load(kept)
            return found, float(found.provenance["seconds"])
    if zoo.cohort is not None and schemes.get(cell.scheme).needs.cohort:
        _cohort(zoo, zoo.cohort)
    start = time.perf_counter()
    made = construct(zoo, cell.scheme, construction, queries=cell.queries, seed=cell.repetition, left_out=left_out)
    seconds = time.perf_counter() - start
    if kept is not None:
        make_folder(kept.parent)
        replace(made, provenance={**made.provenance, "seconds": seconds}).save(kept)
    return made, seconds


def of_zoo(zoo: Zoo, suspects: Sequence[Suspect]) -> list[Subject]:
    """Suspects of a zoo's table or open world, with their models."""
    return [
        Subject(
            name=suspect.lineage,
            family=suspect.family,
            positive=suspect.positive,
            model=zoo.load(suspect.lineage),
            quality=zoo.record(suspect.lineage).quality,
        )
        for suspect in suspects
    ]


def open_world(zoo: Zoo) -> list[Subject]:
    """Suspects of the open world, and outsiders; a process fits the outsiders of a target once."""
    scenario = zoo.scenario
    key = zoo.record("target").digest, canonical_json(zoo.settings), repr(scenario.outsiders), repr(scenario.quality)
    if key not in _outsiders:
        target, test = zoo.load("target"), scenario.parts["test"]
        with engine.one_thread():
            met = scenario.outsiders(target, scenario.part) if scenario.outsiders else ()
            _outsiders[key] = [replace(each, quality=scenario.quality(each.model, target, test)) for each in met]
    return of_zoo(zoo, zoo.open_world) + _outsiders[key]


def planned(
    zoo: Zoo,
    scheme_names: Sequence[str],
    *,
    repeats: int = 5,
    queries: Sequence[int] = (100,),
    models: Sequence[int] = (0,),
    protocol: Protocol = "paper",
    left_out: Sequence[str] | None = None,
) -> list[Cell]:
    """The cells of all schemes that can be used, for `run`.

    Each scheme constructs each number of `queries` from each number of `models` a side, 0 for all of the construction
    half. `left_out` names some of what the protocol leaves out, instead of all in turn.
    """
    return [
        Cell(scheme=name, repetition=repetition, queries=n, models=count, protocol=protocol, left_out=out)
        for name in scheme_names
        if not lacking(zoo, name)
        for n in queries
        for count in models
        for out in protocols.what_is_left_out(zoo.scenario, protocol, left_out)
        for repetition in range(repeats)
    ]


def run(
    zoo: Zoo,
    wanted: Sequence[Cell],
    *,
    jobs: int = 2,
    again: bool = False,
    progress: Callable[[int], None] | None = None,
    failed: Callable[[Failure], None] | None = None,
) -> list[CellResult]:
    """Compute cells, as `planned` names them, on a zoo that is built, in `jobs` processes.

    Cells that an earlier run has computed, on the same zoo by the same code, are taken from where it kept them, unless
    `again`. A cell that fails does not stop the others: it is given to `failed` instead of being returned.

    Raises
    ------
    MetavError
        A cell failed and there is no `failed`; or a process was killed.
    """
    paths = cells.paths(zoo, wanted)
    sweep(folder := cells.folder("cells", zoo))
    if again:
        for path in paths.values():
            path.fingerprint.unlink(missing_ok=True)
            path.result.unlink(missing_ok=True)
    found = {} if again else {cell: result for cell, path in paths.items() if (result := cells.load(path.result, cell))}
    if progress is not None and found:
        progress(len(found))
    missing = [cell for cell in wanted if cell not in found]
    if missing:
        make_folder(folder)
    computed = engine.map(
        partial(_run_and_keep, zoo),
        [(cell, paths[cell]) for cell in missing],
        jobs=jobs,
        progress=None if progress is None else lambda _: progress(1),
    )
    for each in computed:
        if isinstance(each, CellResult):
            found[each.cell] = each
        elif failed is None:
            raise each.exception()
        else:
            failed(each)
    return [found[cell] for cell in wanted if cell in found]


def _run_and_keep(zoo: Zoo, wanted: tuple[Cell, CellFiles]) -> CellResult | Failure:
    """Compute a cell, and keep it at once: a run that is killed loses those it is at."""
    cell, kept = wanted
    try:
        zoo.check_process()
        found = run_cell(zoo, cell, kept.fingerprint)
    except Exception as error:
        return cells.failed(cell, error)
    cells.save(kept.result, found)
    return found
