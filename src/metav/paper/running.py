"""Runs the parts of the paper's evaluation, and says how long is left."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from metav import benchmark, figures, report, results
from metav.cells import CellResult, Failure
from metav.paper import Part, learning, plots
from metav.storage import make_folder, write_atomic
from metav.zoo import Zoo

CURVES = "curves.json"


def count(part: Part, zoo: Zoo) -> int:
    """Fingerprints of a part."""
    return len(usable(part, zoo)) * part.repeats * len(part.queries) * len(part.models)


def usable(part: Part, zoo: Zoo) -> list[str]:
    """The schemes of a part that its scenario gives what they need."""
    return [name for name in part.schemes if not benchmark.lacking(zoo, name)]


def run(
    part: Part,
    zoo: Zoo,
    out: Path,
    command: str,
    *,
    jobs: int,
    again: bool = False,
    progress: Callable[[int], None] | None = None,
) -> tuple[list[CellResult], list[Failure]]:
    """Run a part on a zoo that is built, and write what `metav bench` writes into a folder of its name below `out`."""
    folder = make_folder(out / part.name)
    if part.learning:
        (queries,) = part.queries
        rows, failures = learning.curves(
            zoo, part.schemes, repeats=part.repeats, queries=queries, jobs=jobs, again=again, progress=progress
        )
        if not rows:
            return [], failures
        facts = {
            **results.facts(zoo.scenario, command),
            "queries": queries,
            "seeds": sorted({row["repetition"] for row in rows}),
        }
        facts["failed"] = [{**asdict(each.cell), "error": each.error} for each in failures]
        write_atomic(folder / CURVES, (json.dumps({**facts, "curves": rows}, indent=1) + "\n").encode())
        figures.save(plots.learning(rows, part.scenario), folder, part.name)
        return [], failures
    failures = []
    found = benchmark.run(
        zoo,
        part.schemes,
        repeats=part.repeats,
        queries=part.queries,
        models=part.models,
        jobs=jobs,
        again=again,
        progress=progress,
        failed=failures.append,
    )
    if found:
        lacking = {name: reason for name in part.schemes if (reason := benchmark.lacking(zoo, name))}
        report.write(folder, zoo.scenario, found, command, lacking, failures)
    return found, failures


class Pace:
    """How long fingerprints take, by scenario and scheme, as far as it was seen; they take longer for more queries."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], list[float]] = {}

    def note(self, part: Part, results: Sequence[CellResult]) -> None:
        """Learn from results, whether computed now or kept by an earlier run."""
        for each in results:
            seconds = (each.construct_seconds + each.verify_seconds) / each.cell.queries
            self._seen.setdefault((part.scenario, each.cell.scheme), []).append(seconds)

    def seconds(self, part: Part) -> float | None:
        """Seconds of one process for a part; None if there is a scheme that was never seen."""
        times = [self._seen.get((part.scenario, name)) for name in part.schemes]
        rounds = part.repeats * sum(part.queries) * len(part.models)
        known = [statistics.mean(each) for each in times if each]
        return sum(known) * rounds if len(known) == len(times) else None

    def left(self, parts: Sequence[Part], jobs: int) -> str:
        """How long some parts will take in `jobs` processes, in words."""
        found = [self.seconds(part) for part in parts]
        known = sum(each for each in found if each is not None) / jobs
        unknown = sum(each is None for each in found)
        words = [f"about {_words(known)}"] if unknown < len(found) else []
        words += [f"{unknown} part{'s' * (unknown > 1)} of which nothing was measured so far"] if unknown else []
        return "left: " + " and ".join(words)


def _words(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
