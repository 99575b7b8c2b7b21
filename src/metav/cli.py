"""The command line: one function per command. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App, CoercionError, CycloptsError, MissingArgumentError, UnusedCliTokensError
from rich.table import Table

import metav
from metav.cli_options import (
    WHICH,
    Again,
    BenchName,
    File,
    Jobs,
    LeftOut,
    Models,
    Only,
    ProtocolName,
    Queries,
    Repeats,
    Results,
    ScenarioName,
    SchemeName,
    Schemes,
    Seed,
    Snapshots,
    Sweep,
    Which,
    a_file,
    at_least_one,
    command_line,
    command_words,
    fill,
)
from metav.cli_paper import bench_paper
from metav.cli_verify import verify
from metav.cli_zoo import zoo_app
from metav.console import clock, complain, output, progress_bar
from metav.errors import MetavError, UsageError

if TYPE_CHECKING:
    from metav.cells import Failure

app = App(
    name="metav", help="Was that model derived from mine?", version=metav.__version__, suppress_keyboard_interrupt=False
)
app.command(zoo_app)
app.command(verify)


@app.command
def bench(
    scenario: BenchName,
    *,
    scheme: Schemes = None,
    only: Only = None,
    which: Which = WHICH,
    repeats: Repeats = 5,
    queries: Sweep = None,
    models: Models = None,
    snapshots: Snapshots = False,
    protocol: ProtocolName = "paper",
    left_out: LeftOut = None,
    out: Results = None,
    jobs: Jobs = 2,
    again: Again = False,
) -> int:
    """Build what is missing of a scenario's zoo, construct fingerprints, and judge suspects they have not seen.

    Interrupted or killed, it goes on where it was. With paper as the scenario: all benchmarks of the paper; then it
    takes --only, --profile, --out, --data, --jobs and --again.
    """
    if scenario == "paper":
        fixed = {
            "--scheme": scheme,
            "--queries": queries,
            "--models": models,
            "--left-out": left_out,
            "--zoo": which.zoo,
            "--repeats": None if repeats == 5 else repeats,
            "--snapshots": snapshots or None,
            "--protocol": None if protocol == "paper" else protocol,
        }
        if refused := [name for name, value in fixed.items() if value is not None]:
            raise UsageError(
                f"expected --profile, --only, --out, --data, --jobs or --again beside paper, got {refused[0]}: leave "
                "it out, or name one scenario."
            )
        return bench_paper(only, which, out, jobs, again)
    if only is not None:
        raise UsageError(f"expected --only beside paper alone, got it beside {scenario}: leave it out.")
    from metav import benchmark, protocols, schemes
    from metav.schemes.base import check_queries
    from metav.storage import make_folder

    names = ["metav"] if scheme is None else scheme
    schemes.check(names)
    numbers = list(dict.fromkeys(queries or [100]))
    for number in numbers:
        check_queries(number)
    at_least_one("repeats", repeats)
    at_least_one("jobs", jobs)
    for count in models or ():
        at_least_one("models", count)
    cohort = any(schemes.get(name).needs.cohort for name in names)
    open_world = protocol == "open-world"
    zoo = which.open(scenario, snapshots=snapshots, cohort=cohort, open_world=open_world)
    tested = protocols.check(zoo.scenario, protocol)
    counts = list(dict.fromkeys(models or [0]))
    protocols.check_enough(zoo.scenario, tested, counts, repeats, left_out)
    lacking = {name: reason for name in names if (reason := benchmark.lacking(zoo, name))}
    for name in [name for name in names if name not in lacking] or names:
        benchmark.require(zoo, name)
    zoo.prepare()
    usual = ((which.profile, "cpu"), (tested, "paper"))
    parts = [scenario, *(each for each, default in usual if each != default)]
    folder = make_folder(out or Path("metav-results") / "-".join(parts), "--out")
    fill(zoo, jobs)
    wanted = benchmark.planned(
        zoo, names, repeats=repeats, queries=numbers, models=counts, protocol=tested, left_out=left_out
    )
    failures: list[Failure] = []
    with progress_bar("constructing fingerprints", len(wanted)) as progress:
        results = benchmark.run(zoo, wanted, jobs=jobs, again=again, progress=progress, failed=failures.append)
    from metav import report

    report.write_tracebacks(folder, failures)
    if not results and (folder / report.NAME).exists():
        complain(f"{folder / report.NAME} is of an earlier run.")
    if not results and len({failure.error for failure in failures}) == 1:
        raise failures[0].exception()
    for failure in failures:
        complain(f"{failure.cell}: {failure.error}")
    if not results:
        raise MetavError(f"expected figures of {len(wanted)} fingerprints, got none: see the errors above.")

    rows = report.write(folder, zoo.scenario, results, command_line(), lacking, failures)
    output().print(report.summary(rows))
    output().print(f"Report, results and figures are in {folder}/: open {folder / report.NAME}.", soft_wrap=True)
    return 1 if failures else 0


@app.command
def fingerprint(
    scenario: ScenarioName,
    *,
    scheme: SchemeName = "metav",
    which: Which = WHICH,
    queries: Queries = 100,
    seed: Seed = 0,
    snapshots: Snapshots = False,
    out: File,
    jobs: Jobs = 2,
) -> int:
    """Construct a fingerprint of a scenario's target from its whole zoo, and save it.

    Exits with 1 if it does not recognise its own target, or accuses most of the independent models that it was made
    from; it is saved all the same.
    """
    from metav import benchmark, flaws, schemes
    from metav.paper import VARIANT
    from metav.schemes.base import check_queries
    from metav.storage import make_place

    check_queries(queries)
    schemes.get(scheme)
    at_least_one("jobs", jobs)
    a_file(out, "fp.safetensors")
    if not 0 <= seed < 2**32:
        raise UsageError(f"expected --seed of at least 0 and below 2**32, got {seed}: give another number.")
    cohort = schemes.get(scheme).needs.cohort
    zoo = which.open(scenario, snapshots=snapshots, cohort=cohort)
    benchmark.require(zoo, scheme)
    zoo.prepare()
    make_place(out, "--out")
    fill(zoo, jobs)
    if scheme == "metav" and (spec := zoo.scenario.spec).output == "probabilities" and len(spec.input_shape) == 3:
        better = f"--scheme '{VARIANT['skin']}'"
        output().print(f"On Skin's classifiers of images {better} was better than metav alone.", soft_wrap=True)
    with clock(f"constructing {scheme}"):
        made = benchmark.construct(zoo, scheme, zoo.scenario.suspects, queries=queries, seed=seed)
    digest = made.save(out)
    output().print(f"{out}: {len(made.queries)} queries, digest {digest}", soft_wrap=True)
    if problem := flaws.flaw(zoo, made):
        complain(problem)
        return 1
    return 0


@app.command(name="schemes")
def schemes_() -> int:
    """Show what each scheme needs of the target and of a suspect."""
    from metav.schemes import SCHEMES
    from metav.schemes.base import ANSWERS

    table = Table("scheme", "suspect gives", "target gives", "learns from", "inputs")
    for column, width in zip(table.columns, (10, None, 12, None, 8), strict=True):  # whole words in 80 columns
        column.min_width = width
    for name, scheme in SCHEMES.items():
        needs = scheme.needs
        table.add_row(
            name,
            ANSWERS[needs.answers] + ("" if needs.per_query == 1 else f", {needs.per_query} N of them"),
            "gradients" if needs.gradients else "answers",
            "independent models, teachers, thefts from target and teachers (a cohort)"
            if needs.cohort
            else ("stolen and independent models" if needs.thefts else "target, independent models")
            + (", snapshots (--snapshots)" if needs.snapshots else ""),
            "images" if needs.images else ("examples" if needs.data else "none"),
        )
    output().print(table)
    return 0


@app.command
def inspect(file: File) -> int:
    """Show what a fingerprint holds, after checking its digest."""
    from metav.fingerprint import Fingerprint

    made = Fingerprint.load(file)
    table = Table(show_header=False)
    spec = made.spec
    facts = {
        "queries": f"{len(made.queries)} of shape {spec.input_shape}, in {spec.box}",
        "answers": f"{spec.output} of shape {spec.output_shape}{f', {spec.unit}' if spec.unit else ''}",
        "scorer": ", ".join([made.scorer.kind, *(f"{k} {v}" for k, v in made.scorer.settings().items())]),
        "threshold": f"derived if the matching rate is above {made.threshold:g}",
        **{name: _plain(value) for name, value in made.provenance.items()},
        "digest": made.digest,
    }
    for name, value in facts.items():
        table.add_row(name, value)
    output().print(table)
    return 0


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    return f"{len(value)} models" if isinstance(value, list) else str(value)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code.

    0, or of verify 10 (evidence of copying); 1 (could not complete), 2 (usage) or 130 (interrupted).
    """
    command_words[:] = sys.argv[1:] if arguments is None else arguments
    data = os.environ.get("METAV_DATA")  # which --data sets, for this run
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # no verdict is lost to a letter that a terminal lacks
    try:
        _refuse_empty(command_words)
        code = app(command_words, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        complain(_wrong_usage(error))
        return 2
    except MetavError as error:
        complain(str(error))
        return error.exit_code
    except OSError as error:
        complain(f"expected to read and write files, got {error}: check the path and its permissions.")
        return 1
    except KeyboardInterrupt:
        complain("interrupted: run the same command again, and what is on disk is not done twice.")
        return 130
    finally:
        os.environ.pop("METAV_DATA", None)
        if data is not None:
            os.environ["METAV_DATA"] = data
    return code if isinstance(code, int) else 0


def _refuse_empty(words: Sequence[str]) -> None:
    """Refuse an empty word, as a shell makes of a variable that is not set: as a path it would be the current folder.

    Raises
    ------
    UsageError
        A word is empty, or an option's value after =.
    """
    for before, word in pairwise(["metav", *words]):
        option, equals, value = word.partition("=")
        if not word or (option.startswith("--") and equals and not value):
            raise UsageError(f"expected a value after {option or before}, got an empty one: give one, or leave it out.")


def _wrong_usage(error: CycloptsError) -> str:
    """What the parser found wrong, in one sentence with the next step."""
    command = " ".join(["metav", *(error.command_chain or ())])
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        name = error.argument.name
        positional = error.argument.field_info.is_positional
        return f"expected {name.strip('-').upper() if positional else f'{name} VALUE'}, got none: see {command} --help."
    if isinstance(error, CoercionError) and error.token is not None and error.target_type in (int, float):
        wanted = "a whole number" if error.target_type is int else "a number"
        return f"expected {wanted} for {error.token.keyword}, got {error.token.value!r}: see {command} --help."
    if isinstance(error, UnusedCliTokensError):
        return f"expected no more words, got {' '.join(map(repr, error.unused_tokens or ()))}: see {command} --help."
    return f"{' '.join(str(error).split())} See {command} --help."
