"""The commands of `metav zoo`."""

from __future__ import annotations

from cyclopts import App
from rich.table import Table

from metav.cli_options import (
    WHICH,
    WHOLE,
    Archive,
    Jobs,
    Listing,
    ScenarioName,
    Which,
    Whole,
    a_file,
    at_least_one,
    command_line,
    fill,
)
from metav.console import complain, output, progress_bar
from metav.errors import UsageError

zoo_app = App(name="zoo", help="Build, list, verify, export or import the suspects of a scenario.")


@zoo_app.command
def build(
    scenario: ScenarioName,
    *,
    which: Whole = WHOLE,
    jobs: Jobs = 2,
) -> int:
    """Train the suspects that are missing. Interrupted or killed, it goes on where it was."""
    at_least_one("jobs", jobs)
    zoo = which.opened(scenario)
    zoo.prepare()
    fill(zoo, jobs)
    output().print(f"{len(zoo.lineages())} models are in {zoo.folder}.", soft_wrap=True)
    return 0


@zoo_app.command(name="list")
def list_(
    scenario: ScenarioName,
    *,
    which: Which = WHICH,
    out: Listing = None,
) -> int:
    """Show each suspect: lineage, size, seconds of training, quality and agreement with the target."""
    from metav import listing, sheets
    from metav.storage import make_place

    if out is not None:
        a_file(out, "zoo.json")
        if out.suffix == ".png":
            raise UsageError(
                f"expected a JSON file for --out, got {str(out)!r}, where its picture goes: name it .json."
            )
    zoo = which.open(scenario)
    rows = listing.rows(zoo)
    quality = list(zoo.record("target").quality)
    table = Table("family", "truly", "weights", "seconds", *quality, "lineage")
    for row in rows:
        figures = (f"{row[name]:.3f}" for name in quality)
        size, seconds = str(row["parameters"]), f"{row['seconds']:.2f}"
        table.add_row(row["family"], row["truly"], size, seconds, *figures, row["lineage"])
    output().print(table)
    if out is not None:
        make_place(out, "--out")
        listing.write(zoo, rows, out, command_line())
        sheet = sheets.write(zoo, rows, out.with_suffix(".png"))
        output().print(f"Written: {out}, {sheet}.", soft_wrap=True)
    return 0


@zoo_app.command
def verify(
    scenario: ScenarioName,
    *,
    which: Whole = WHOLE,
) -> int:
    """Check every suspect's files against their digests; exit 1 if one is missing or damaged."""
    zoo = which.opened(scenario)
    problems = zoo.verify()
    for problem in problems:
        complain(problem)
    total = len(zoo.everything())
    output().print(f"{total - len(problems)} of {total} models in {zoo.folder} are whole.", soft_wrap=True)
    return 1 if problems else 0


@zoo_app.command
def export(
    scenario: ScenarioName,
    *,
    out: Archive,
    which: Whole = WHOLE,
) -> int:
    """Write a whole zoo into one archive, after checking its digests."""
    from metav import archive
    from metav.storage import make_place

    a_file(out, "zoo.tar")
    zoo = which.opened(scenario)
    zoo.check_settings()
    make_place(out, "--out")
    with progress_bar(f"exporting {scenario}", len(zoo.everything())) as progress:
        archive.export(zoo, out, progress)
    output().print(f"{out}: {len(zoo.everything())} models.", soft_wrap=True)
    return 0


@zoo_app.command(name="import")
def import_(
    scenario: ScenarioName,
    file: Archive,
    *,
    which: Whole = WHOLE,
) -> int:
    """Take what the zoo lacks from an archive, after checking its digests."""
    from metav import archive

    zoo = which.opened(scenario)
    archive.check(zoo, file)  # before a bar is drawn
    with progress_bar(f"importing {scenario}", len(zoo.everything())) as progress:
        taken = archive.import_(zoo, file, progress)
    output().print(f"{taken} models were added to {zoo.folder}.", soft_wrap=True)
    return 0
