"""The commands of `metav zoo`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cyclopts import App
from rich.table import Table

from metav.cli_options import (
    Archive,
    Cohort,
    DataPath,
    Jobs,
    Listing,
    OpenWorld,
    ProfileName,
    ScenarioName,
    Snapshots,
    ZooPath,
    a_file,
    at_least_one,
    command_line,
    fill,
    open_zoo,
)
from metav.console import complain, output, progress_bar
from metav.errors import UsageError

if TYPE_CHECKING:
    from metav.zoo import Zoo

zoo_app = App(name="zoo", help="Build, list, verify, export or import the suspects of a scenario.")


@zoo_app.command
def build(
    scenario: ScenarioName,
    *,
    profile: ProfileName = "cpu",
    zoo: ZooPath = None,
    data: DataPath = None,
    snapshots: Snapshots = False,
    cohort: Cohort = False,
    open_world: OpenWorld = False,
    jobs: Jobs = 2,
) -> int:
    """Train the suspects that are missing. Interrupted or killed, it goes on where it was."""
    at_least_one("jobs", jobs)
    found = open_zoo(scenario, profile, zoo, data, snapshots=snapshots, cohort=cohort, open_world=open_world)
    _check_planned(found, cohort=cohort, open_world=open_world)
    found.prepare()
    fill(found, jobs)
    output().print(f"{len(found.lineages())} models are in {found.folder}.", soft_wrap=True)
    return 0


@zoo_app.command(name="list")
def list_(
    scenario: ScenarioName,
    *,
    profile: ProfileName = "cpu",
    zoo: ZooPath = None,
    data: DataPath = None,
    out: Listing = None,
) -> int:
    """Show each suspect: lineage, size, seconds of training, quality and agreement with the target."""
    from metav import listing, sheets
    from metav.storage import make_folder

    if out is not None:
        a_file(out, "zoo.json")
        if out.suffix == ".png":
            raise UsageError(
                f"expected a JSON file for --out, got {str(out)!r}, where its picture goes: name it .json."
            )
    found = open_zoo(scenario, profile, zoo, data)
    rows = listing.rows(found)
    quality = list(found.record("target").quality)
    table = Table("family", "truly", "weights", "seconds", *quality, "lineage")
    for row in rows:
        figures = (f"{row[name]:.3f}" for name in quality)
        size, seconds = str(row["parameters"]), f"{row['seconds']:.2f}"
        table.add_row(row["family"], row["truly"], size, seconds, *figures, row["lineage"])
    output().print(table)
    if out is not None:
        make_folder(out.parent)
        listing.write(found, rows, out, command_line())
        sheet = sheets.write(found, rows, out.with_suffix(".png"))
        output().print(f"Written: {out}, {sheet}.", soft_wrap=True)
    return 0


@zoo_app.command
def verify(
    scenario: ScenarioName,
    *,
    profile: ProfileName = "cpu",
    zoo: ZooPath = None,
    data: DataPath = None,
    snapshots: Snapshots = False,
    cohort: Cohort = False,
    open_world: OpenWorld = False,
) -> int:
    """Check every suspect's files against their digests; exit 1 if one is missing or damaged."""
    found = open_zoo(scenario, profile, zoo, data, snapshots=snapshots, cohort=cohort, open_world=open_world)
    _check_planned(found, cohort=cohort, open_world=open_world)
    problems = found.verify()
    for problem in problems:
        complain(problem)
    total = len(found.everything())
    output().print(f"{total - len(problems)} of {total} models in {found.folder} are whole.", soft_wrap=True)
    return 1 if problems else 0


@zoo_app.command
def export(
    scenario: ScenarioName,
    *,
    out: Archive,
    profile: ProfileName = "cpu",
    zoo: ZooPath = None,
    data: DataPath = None,
    snapshots: Snapshots = False,
    cohort: Cohort = False,
    open_world: OpenWorld = False,
) -> int:
    """Write a whole zoo into one archive, after checking its digests."""
    from metav import archive
    from metav.storage import make_folder

    a_file(out, "zoo.tar")
    found = open_zoo(scenario, profile, zoo, data, snapshots=snapshots, cohort=cohort, open_world=open_world)
    _check_planned(found, cohort=cohort, open_world=open_world)
    found.check_settings()
    make_folder(out.parent)
    with progress_bar(f"exporting {scenario}", len(found.everything())) as progress:
        archive.export(found, out, progress)
    output().print(f"{out}: {len(found.everything())} models.", soft_wrap=True)
    return 0


@zoo_app.command(name="import")
def import_(
    scenario: ScenarioName,
    file: Archive,
    *,
    profile: ProfileName = "cpu",
    zoo: ZooPath = None,
    data: DataPath = None,
    snapshots: Snapshots = False,
    cohort: Cohort = False,
    open_world: OpenWorld = False,
) -> int:
    """Take what the zoo lacks from an archive, after checking its digests."""
    from metav import archive

    found = open_zoo(scenario, profile, zoo, data, snapshots=snapshots, cohort=cohort, open_world=open_world)
    _check_planned(found, cohort=cohort, open_world=open_world)
    archive.check(found, file)  # before a bar is drawn
    with progress_bar(f"importing {scenario}", len(found.everything())) as progress:
        taken = archive.import_(found, file, progress)
    output().print(f"{taken} models were added to {found.folder}.", soft_wrap=True)
    return 0


def _check_planned(found: Zoo, *, cohort: bool, open_world: bool) -> None:
    """Refuse what was asked for beside the table and the scenario does not plan."""
    for option, asked, planned in (
        ("--cohort", cohort, found.scenario.cohort),
        ("--open-world", open_world, found.scenario.strangers),
    ):
        if asked and not planned:
            raise UsageError(
                f"expected a scenario that plans models for {option}, got {found.scenario.name}: leave it out."
            )
