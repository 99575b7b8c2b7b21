"""The command line: one function per command, no logic. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, CycloptsError, Parameter
from rich.table import Table

import metav
from metav.console import complain, output, progress_bar
from metav.errors import MetavError, UsageError

if TYPE_CHECKING:
    from metav.scenarios import Scenario
    from metav.zoo import Zoo as ZooFolder

app = App(name="metav", help="Was that model derived from mine?", version=metav.__version__)
zoo_app = App(name="zoo", help="Build, list, verify, export or import the suspects of a scenario.")
app.command(zoo_app)

_arguments: list[str] = []  # of this run, for the results
ScenarioName = Annotated[str, Parameter(help="warfarin, skin or fashion.")]
Schemes = Annotated[
    list[str] | None,
    Parameter(
        name="--scheme",
        consume_multiple=True,
        negative="",
        help="One or more schemes, with options where wanted: metav 'metav(standardise=robust,batch=4)'.",
    ),
]
SchemeName = Annotated[str, Parameter(help="A scheme, with options where wanted.")]
ProfileName = Annotated[
    str,
    Parameter(
        help="Size: smoke (seconds, for trying out), cpu (all suspects, on two cores), paper (the paper's sizes)."
    ),
]
Repeats = Annotated[int, Parameter(help="Repetitions, each with another split of the zoo.")]
Queries = Annotated[int, Parameter(help="N, the queries of a fingerprint.")]
Models = Annotated[
    list[int] | None,
    Parameter(
        consume_multiple=True,
        negative="",
        help="One or more numbers of suspects a side to construct from; by default half of the zoo.",
    ),
]
Snapshots = Annotated[
    bool,
    Parameter(
        negative="", help="Keep the weights at several points of each training, for schemes that learn from them."
    ),
]
ProtocolName = Annotated[
    str,
    Parameter(
        name="--protocol",
        help="paper: test on the other half of the zoo. open-world: on models of kinds that the zoo does not hold.",
    ),
]
OpenWorld = Annotated[bool, Parameter(negative="", help="With the networks of the open world (--protocol open-world).")]
Again = Annotated[
    bool, Parameter(negative="", help="Compute everything anew, also what an earlier run has computed and kept.")
]
Cohort = Annotated[
    bool, Parameter(negative="", help="With the matched-teacher cohort, for schemes that need it (scheme cohort).")
]
Seed = Annotated[int, Parameter(help="Seed of the construction.")]
Results = Annotated[
    Path | None,
    Parameter(
        help="Folder for results.json, report.md and figures; by default metav-results/SCENARIO or SCENARIO-PROFILE."
    ),
]
File = Annotated[Path, Parameter(help="A fingerprint, a safetensors file.")]
ZooPath = Annotated[
    Path | None, Parameter(name="--zoo", help="The zoo's folder; by default in METAV_HOME or ~/.cache/metav.")
]
DataPath = Annotated[
    Path | None,
    Parameter(name="--data", help="The folder to look for data sets in first, as METAV_DATA."),
]
Listing = Annotated[
    Path | None, Parameter(help="A JSON file for the table; generators get a sheet of samples beside it, as PNG.")
]
Archive = Annotated[Path, Parameter(help="The archive, a tar file.")]
Jobs = Annotated[int, Parameter(help="Processes.")]


@app.command
def bench(
    scenario: ScenarioName,
    *,
    scheme: Schemes = None,
    profile: ProfileName = "cpu",
    repeats: Repeats = 5,
    queries: Queries = 100,
    models: Models = None,
    snapshots: Snapshots = False,
    protocol: ProtocolName = "paper",
    out: Results = None,
    zoo: ZooPath = None,
    data: DataPath = None,
    jobs: Jobs = 2,
    again: Again = False,
) -> int:
    """Build what is missing of a scenario's zoo, construct fingerprints, and judge suspects they have not seen.

    Interrupted or killed, it goes on where it was.
    """
    from metav import benchmark, schemes
    from metav.schemes.base import check_queries
    from metav.storage import make_folder

    names = ["metav"] if scheme is None else scheme
    schemes.check(names)
    check_queries(queries)
    _at_least_one("repeats", repeats)
    _at_least_one("jobs", jobs)
    for count in models or ():
        _at_least_one("models", count)
    cohort = any(schemes.get(name).needs.cohort for name in names)
    open_world = protocol == "open-world"
    found = _zoo(scenario, profile, zoo, data, snapshots=snapshots, cohort=cohort, open_world=open_world)
    tested = benchmark.check_protocol(found, protocol)
    for count in models or ():
        benchmark.few(benchmark.split(found.scenario.suspects, 0)[0], count)
    lacking = {name: reason for name in names if (reason := benchmark.lacking(found, name))}
    if len(lacking) == len(names):
        benchmark.require(found, names[0])
    found.prepare()
    parts = [scenario, *([] if profile == "cpu" else [profile]), *([] if tested == "paper" else [tested])]
    folder = make_folder(out or Path("metav-results") / "-".join(parts))
    _build(found, jobs)
    counts = models or [0]
    with progress_bar("constructing fingerprints", (len(names) - len(lacking)) * len(counts) * repeats) as progress:
        results = benchmark.run(
            found,
            names,
            repeats=repeats,
            queries=queries,
            models=counts,
            protocol=tested,
            jobs=jobs,
            again=again,
            progress=progress,
        )
    from metav import report
    from metav.results import COUNTS, METRICS, title

    rows = report.write(folder, found.scenario, results, _command(), lacking)
    heads = ["ARUC", "ARUC exact", "AUC", "robustness at\n100 % uniqueness", "false\naccusations", "missed"]
    table = Table("scheme", *heads, "construction,\ns")
    for row in rows:
        shown = [report.cell(row[key]) for key in METRICS] + [report.cell(row[key], 1) for key in COUNTS]
        table.add_row(title(row), *shown, report.cell(row["construct_seconds"], 1))
    output().print(table)
    output().print(f"Report, results and figures are in {folder}/: open {folder / 'report.md'}.", soft_wrap=True)
    return 0


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
    _at_least_one("jobs", jobs)
    found = _zoo(scenario, profile, zoo, data, snapshots=snapshots, cohort=cohort, open_world=open_world)
    found.prepare()
    _build(found, jobs)
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

    found = _zoo(scenario, profile, zoo, data)
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
        listing.write(found, out, _command())
        written = [out, *sheets.write(found, out.with_suffix(".png"))]
        output().print(f"Written: {', '.join(map(str, written))}.", soft_wrap=True)
    return 0


@zoo_app.command
def verify(
    scenario: ScenarioName,
    *,
    profile: ProfileName = "cpu",
    zoo: ZooPath = None,
    data: DataPath = None,
    cohort: Cohort = False,
) -> int:
    """Check every suspect's files against their digests; exit 1 if one is missing or damaged."""
    found = _zoo(scenario, profile, zoo, data, cohort=cohort)
    problems = found.verify()
    for problem in problems:
        complain(problem)
    total = len(found.lineages())
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
) -> int:
    """Write a whole zoo into one archive, after checking its digests."""
    from metav import archive
    from metav.storage import make_folder

    found = _zoo(scenario, profile, zoo, data)
    found.check_settings()
    make_folder(out.parent)
    with progress_bar(f"exporting {scenario}", len(found.lineages())) as progress:
        archive.export(found, out, progress)
    output().print(f"{out}: {len(found.lineages())} models.", soft_wrap=True)
    return 0


@zoo_app.command(name="import")
def import_(
    scenario: ScenarioName,
    file: Archive,
    *,
    profile: ProfileName = "cpu",
    zoo: ZooPath = None,
    data: DataPath = None,
) -> int:
    """Take what the zoo lacks from an archive, after checking its digests."""
    from metav import archive

    found = _zoo(scenario, profile, zoo, data)
    archive.check(found, file)
    with progress_bar(f"importing {scenario}", len(found.lineages())) as progress:
        taken = archive.import_(found, file, progress)
    output().print(f"{taken} models were added to {found.folder}.", soft_wrap=True)
    return 0


@app.command
def fingerprint(
    scenario: ScenarioName,
    *,
    scheme: SchemeName = "metav",
    profile: ProfileName = "cpu",
    queries: Queries = 100,
    seed: Seed = 0,
    out: File,
    zoo: ZooPath = None,
    data: DataPath = None,
    jobs: Jobs = 2,
) -> int:
    """Construct a fingerprint of a scenario's target from its whole zoo, and save it."""
    from metav import benchmark, schemes
    from metav.schemes.base import check_queries
    from metav.storage import make_folder

    check_queries(queries)
    schemes.get(scheme)
    _at_least_one("jobs", jobs)
    if out.is_dir():
        raise UsageError(f"expected a file for --out, got the folder {str(out)!r}: add a name, e.g. fp.safetensors.")
    found = _zoo(scenario, profile, zoo, data, cohort=schemes.get(scheme).needs.cohort)
    benchmark.require(found, scheme)
    found.prepare()
    make_folder(out.parent)
    _build(found, jobs)
    made = benchmark.construct(found, scheme, found.scenario.suspects, queries=queries, seed=seed)
    digest = made.save(out)
    output().print(f"{out}: {len(made.queries)} queries, digest {digest}", soft_wrap=True)
    return 0


@app.command(name="schemes")
def schemes_() -> int:
    """Show what each scheme needs of the target and of a suspect."""
    from metav.schemes import SCHEMES
    from metav.schemes.base import ANSWERS

    table = Table(
        "scheme", "a suspect answers with", "answers asked of it", "the target gives", "learns from", "inputs"
    )
    for name, scheme in SCHEMES.items():
        needs = scheme.needs
        table.add_row(
            name,
            ANSWERS[needs.suspect],
            "N" if needs.per_query == 1 else f"{needs.per_query} N",
            "gradients" if needs.gradients else "answers",
            "stolen and independent models" if needs.suspects else "the target alone",
            "images of the task" if needs.images else ("examples of the task" if needs.data else "none needed"),
        )
    output().print(table)
    return 0


@app.command
def inspect(file: File) -> int:
    """Show what a fingerprint holds, after checking its digest."""
    from metav.fingerprint import Fingerprint

    found = Fingerprint.load(file)
    table = Table(show_header=False)
    spec = found.spec
    facts = {
        "queries": f"{len(found.queries)} of shape {spec.input_shape}, in [{spec.low:g}, {spec.high:g}]",
        "answers": f"{spec.output} of shape {spec.output_shape}{f', {spec.unit}' if spec.unit else ''}",
        "scorer": ", ".join([found.scorer.kind, *(f"{k} {v}" for k, v in found.scorer.settings().items())]),
        "threshold": f"derived if the matching rate is above {found.threshold:g}",
        **{name: _plain(value) for name, value in found.provenance.items()},
        "digest": found.digest,
    }
    for name, value in facts.items():
        table.add_row(name, value)
    output().print(table)
    return 0


def _zoo(
    name: str,
    profile: str,
    folder: Path | None,
    data: Path | None,
    *,
    snapshots: bool = False,
    cohort: bool = False,
    open_world: bool = False,
) -> ZooFolder:
    if data is not None:
        os.environ["METAV_DATA"] = str(data)  # for the worker processes too
    from metav import scenarios
    from metav.zoo import SNAPSHOTS, Zoo

    scenario: Scenario = scenarios.load(name, profile)
    return Zoo(scenario, folder, SNAPSHOTS if snapshots else (), cohort=cohort, open_world=open_world)


def _build(found: ZooFolder, jobs: int) -> None:
    output().print(f"Data: {found.scenario.data}.", soft_wrap=True)
    with progress_bar(f"zoo {found.scenario.name}", len(found.lineages())) as progress:
        found.build(jobs=jobs, progress=progress)


def _command() -> str:
    """The command line as it was given."""
    return shlex.join(["metav", *_arguments])


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise UsageError(f"expected --{name} of at least 1, got {value}: give a larger number.")


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    return f"{len(value)} models" if isinstance(value, list) else str(value)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, 1 (could not complete), 2 (usage) or 130 (interrupted)."""
    _arguments[:] = sys.argv[1:] if arguments is None else arguments
    data = os.environ.get("METAV_DATA")  # which --data sets, for this run
    try:
        code = app(_arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        complain(f"{' '.join(str(error).split())} See metav --help.")
        return 2
    except MetavError as error:
        complain(str(error))
        return error.exit_code
    except OSError as error:
        complain(f"expected to read and write files, got {error}: check the path and its permissions.")
        return 1
    except KeyboardInterrupt:
        complain("interrupted: run the same command again, it goes on where it was.")
        return 130
    finally:
        os.environ.pop("METAV_DATA", None)
        if data is not None:
            os.environ["METAV_DATA"] = data
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    raise SystemExit(main())
