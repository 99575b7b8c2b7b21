"""Runs the parts of the paper's evaluation, and says how long is left."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean

from metav import benchmark, cells, report, results
from metav.cells import Cell, CellResult, Failure
from metav.paper import Part, learning
from metav.storage import make_folder, write_json
from metav.zoo import Zoo

CURVES = "curves.json"


def planned(part: Part, zoo: Zoo) -> list[Cell]:
    """The cells of a part."""
    return benchmark.planned(zoo, part.schemes, repeats=part.repeats, queries=part.queries, models=part.models)


def missing(part: Part, zoo: Zoo) -> list[Cell]:
    """The cells of a part that no earlier run has kept."""
    kept = {cell: each.result for cell, each in cells.paths(zoo, planned(part, zoo)).items()}
    return [cell for cell, file in kept.items() if not (learning.curve_file(file) if part.learning else file).exists()]


def forget(parts: Sequence[Part], zoos: Mapping[str, Zoo]) -> None:
    """Remove what earlier runs have kept of some parts."""
    for part in parts:
        for each in cells.paths(zoos[part.scenario], planned(part, zoos[part.scenario])).values():
            for file in (each.result, each.fingerprint, learning.curve_file(each.result)):
                file.unlink(missing_ok=True)


def work(parts: Sequence[Part], zoos: Mapping[str, Zoo]) -> dict[str, list[Cell]]:
    """What is missing of some parts, by scenario: a cell that two of them share once, learning curves apart."""
    found: dict[str, list[Cell]] = {}
    for part in parts:
        mine = found.setdefault(part.scenario, [])
        mine += [cell for cell in missing(part, zoos[part.scenario]) if part.learning or cell not in mine]
    return found


def run(
    part: Part,
    zoo: Zoo,
    out: Path,
    command: str,
    *,
    jobs: int,
    progress: Callable[[int], None] | None = None,
) -> tuple[list[CellResult], list[Failure]]:
    """Run a part on a zoo that is built, and write what `metav bench` writes into a folder of its name below `out`."""
    folder = make_folder(out / part.name, "--out")
    if part.learning:
        rows, failures = learning.curves(zoo, planned(part, zoo), jobs=jobs, progress=progress)
        if not rows:
            (folder / CURVES).unlink(missing_ok=True)  # of an earlier run, which would pass for this one's
            return [], failures
        facts = {
            **results.facts(zoo.scenario, command),
            "queries": part.queries[0],
            "seeds": sorted({row["repetition"] for row in rows}),
        }
        facts["failed"] = [{**asdict(each.cell), "error": each.error} for each in failures]
        write_json(folder / CURVES, {**facts, "curves": rows})
        return [], failures
    failures = []
    found = benchmark.run(zoo, planned(part, zoo), jobs=jobs, progress=progress, failed=failures.append)
    if not found:
        (folder / "results.json").unlink(missing_ok=True)
    else:
        lacking = {name: reason for name in part.schemes if (reason := benchmark.lacking(zoo, name))}
        report.write(folder, zoo.scenario, found, command, lacking, failures)
    return found, failures


class Forecast:
    """How long fingerprints take, by scenario, scheme and number of queries, as far as it was seen."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, Cell], float] = {}

    def note(self, scenario: str, results: Sequence[CellResult]) -> None:
        """Learn from results, whether computed now or kept by an earlier run."""
        for each in results:
            self._seen[scenario, each.cell] = each.construct_seconds + each.verify_seconds

    def recall(self, part: Part, zoo: Zoo) -> None:
        """Learn from what earlier runs have kept of a part."""
        if not part.learning:
            kept = (cells.load(each.result, cell) for cell, each in cells.paths(zoo, planned(part, zoo)).items())
            self.note(part.scenario, [result for result in kept if result is not None])

    def seconds(self, scenario: str, cell: Cell) -> float | None:
        """Of one process for a cell; where only other numbers of queries were seen, in proportion to these."""
        alike = [
            (each.queries, time)
            for (where, each), time in self._seen.items()
            if (where, each.scheme) == (scenario, cell.scheme)
        ]
        same = [time for queries, time in alike if queries == cell.queries]
        if same:
            return mean(same)
        return mean(time * cell.queries / queries for queries, time in alike) if alike else None

    def left(self, work: Mapping[str, Sequence[Cell]], jobs: int) -> str:
        """How long some cells of some scenarios will take in `jobs` processes, in words."""
        found = [self.seconds(scenario, cell) for scenario, members in work.items() for cell in members]
        known, unknown = [each for each in found if each is not None], found.count(None)
        words = [f"about {_words(sum(known) / jobs)}"] if known or not unknown else []
        words += [f"{unknown} fingerprints of kinds that were not timed so far"] if unknown else []
        return "left: " + " and ".join(words)


def _words(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
