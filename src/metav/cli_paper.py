"""The command `metav bench paper`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from metav.cli_options import Which, at_least_one, command_line, fill
from metav.console import complain, output, progress_bar

if TYPE_CHECKING:
    from metav.zoo import Zoo


def bench_paper(only: list[str] | None, which: Which, out: Path | None, jobs: int, again: bool) -> int:
    """Run all benchmarks of the paper, or some of them, and write the page that shows them.

    Interrupted or killed, it goes on where it was; with `again` from nothing.
    """
    from metav import paper, report, schemes
    from metav.paper import page, running
    from metav.storage import make_folder

    at_least_one("jobs", jobs)
    parts = paper.plan(which.profile, paper.SCENARIOS if only is None else only)
    folder = make_folder(out or Path("metav-results") / f"paper-{which.profile}", "--out")
    zoos: dict[str, Zoo] = {}
    for scenario in dict.fromkeys(part.scenario for part in parts):
        used = {name for part in parts if part.scenario == scenario for name in part.schemes}
        cohort = any(schemes.get(name).needs.cohort for name in used)
        zoos[scenario] = which.open(scenario, cohort=cohort)
        zoos[scenario].prepare()
        fill(zoos[scenario], jobs)
    forecast, failed = running.Forecast(), 0
    if again:
        running.forget(parts, zoos)
    for part in parts:
        forecast.recall(part, zoos[part.scenario])
    for index, part in enumerate(parts):
        zoo = zoos[part.scenario]
        work = running.work(parts[index:], zoos)
        output().print(
            f"Part {index + 1} of {len(parts)}, {part.name} ({part.shows}); {forecast.left(work, jobs)}.",
            soft_wrap=True,
        )
        with progress_bar(part.name, len(running.planned(part, zoo))) as progress:
            found, failures = running.run(part, zoo, folder, command_line(), jobs=jobs, progress=progress)
        forecast.note(part.scenario, found)
        failed += len(failures)
        report.write_tracebacks(folder / part.name, failures)
        for failure in failures:
            complain(f"{part.name}, {failure.cell.scheme}, repetition {failure.cell.repetition}: {failure.error}")
        page.write(folder)
    output().print(f"All results are in {folder}/: open {folder / report.NAME}.", soft_wrap=True)
    return 1 if failed else 0
