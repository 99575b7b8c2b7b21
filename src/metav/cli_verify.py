"""metav verify: is that suspect derived from mine?"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import fields, replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.table import Table

from metav.access import ACCESS, Access, WholeNumber
from metav.cli_options import File, a_file, at_least_one
from metav.console import complain, output, progress_bar
from metav.errors import UsageError

if TYPE_CHECKING:
    from metav.fingerprint import Fingerprint

OF_SERVERS = ("--header", "--request", "--answer", "--rate", "--timeout", "--attempts")  # what a file does not have
EVIDENCE = 10  # exit code: a suspect is derived from the target
SHOWN = 20  # rows of a long list's table

Suspect = Annotated[
    str,
    Parameter(
        help="model.onnx, or the URL of an inference server: .../v2/models/NAME, .../invocations, or any other with "
        "--request and --answer."
    ),
]
LedgerPath = Annotated[
    Path | None,
    Parameter(
        name="--ledger",
        help="A file for all answers: a run that dies goes on from it, and without a suspect the verdict is computed "
        "from it alone. With --suspects a folder.",
    ),
]
AsJson = Annotated[bool, Parameter(name="--json", negative="", help="Print the verdict as JSON.")]
Suspects = Annotated[Path | None, Parameter(help="A CSV file with a column suspect: judge all of them.")]
Verdicts = Annotated[
    Path | None,
    Parameter(
        help="With --suspects, the CSV file of the verdicts, by default verdicts.csv; those in it are not redone."
    ),
]
Threads = Annotated[WholeNumber, Parameter(help="With --suspects, how many are asked at once.")]


def verify(
    file: File,
    suspect: Suspect = "",
    *,
    ledger: LedgerPath = None,
    json_: AsJson = False,
    suspects: Suspects = None,
    out: Verdicts = None,
    jobs: Threads = 2,
    access: Access = ACCESS,
) -> int:
    """Ask a suspect the queries of a fingerprint, and say whether it was derived from the target.

    Exits with 0 for no evidence of copying, 10 for evidence of copying, 1 if it could not be completed, and 2 for
    wrong usage.
    """
    at_least_one("jobs", jobs)
    if suspects is not None and suspect:
        raise UsageError(f"expected one suspect or --suspects, got both {suspect!r} and {str(suspects)!r}: leave one.")
    if suspects is None and out is not None:
        raise UsageError(
            "expected --out beside --suspects alone, got it with one suspect: leave it out, or use --json."
        )
    if suspects is not None and json_:
        raise UsageError(
            "expected --json beside one suspect alone, got it with --suspects: read the CSV file of --out."
        )
    if suspects is None and not suspect and ledger is None:
        raise UsageError(
            "expected a suspect before all options, got none: give model.onnx, a URL, or an earlier run's --ledger."
        )
    if file.suffix == ".onnx":
        raise UsageError(f"expected a fingerprint first, then the suspect, got {str(file)!r} first: swap them.")
    if out is not None:
        a_file(out, "verdicts.csv")
    if ledger is not None and suspects is None:
        a_file(ledger, "ledger.jsonl", "--ledger")
    given = [name for name in _options(access) if name in OF_SERVERS]
    if given and suspect and "://" not in suspect:
        raise UsageError(
            f"expected a URL beside {' and '.join(given)}, got {suspect!r}: begin it with http:// or https://, or "
            "leave out what a file has not."
        )
    if suspects is None and not suspect and (idle := _options(replace(access, classes=()))):
        raise UsageError(
            f"expected no {' and '.join(idle)} beside a ledger alone, as nobody is asked, got it: leave it out."
        )
    from metav.fingerprint import Fingerprint

    with suppress(ImportError):  # its own lines on each retry; what finally fails is said
        from stamina.instrumentation import set_on_retry_hooks

        set_on_retry_hooks([])
    found = Fingerprint.load(file)
    if suspects is None:
        return _one(found, suspect, access, ledger, json_)
    return _all(found, suspects, access, ledger, out or Path("verdicts.csv"), jobs)


def _options(access: Access) -> list[str]:
    """Those that were given."""
    names = (each.name for each in fields(access))
    return [f"--{name.replace('_', '-')}" for name in names if getattr(access, name) != getattr(ACCESS, name)]


def _one(found: Fingerprint, suspect: str, access: Access, ledger: Path | None, as_json: bool) -> int:
    from metav.campaign import Outcome, facts, judge
    from metav.endpoints import named

    verdict = judge(found, suspect, access, ledger)
    name = named(suspect) or str(verdict.about.get("suspect", ledger))
    word = Outcome(suspect=name, verdict=verdict).word
    if as_json:
        about = {"remarks": list(verdict.remarks), "about": dict(verdict.about), "fingerprint": found.digest}
        output().print_json(
            json.dumps({"suspect": name, "verdict": word, **facts(verdict), **about}), ensure_ascii=True
        )
    else:
        p_value = "" if verdict.p_value is None else f"p-value of a false accusation {verdict.p_value:.4f}, "
        output().print(
            f"{name}: {word} ({p_value}matching rate {verdict.rate:.4f}, "
            f"threshold {verdict.threshold:.4f}, {verdict.queries} queries, {verdict.seconds:.2f} s)",
            soft_wrap=True,
        )
        for remark in verdict.remarks:
            output().print(f"  {remark}", soft_wrap=True)
    return EVIDENCE if verdict.derived else 0


def _all(found: Fingerprint, suspects: Path, access: Access, ledgers: Path | None, out: Path, jobs: int) -> int:
    from metav.campaign import DERIVED, FAILED, INDEPENDENT, judge_all, listed
    from metav.endpoints import named

    counts = dict.fromkeys((DERIVED, INDEPENDENT, FAILED), 0)
    total = len({named(name) for name in listed(suspects)})
    shown: dict[str, list[tuple[str, ...]]] = {DERIVED: [], FAILED: [], INDEPENDENT: []}  # in the table's order
    with progress_bar("suspects", total) as progress:
        for outcome in judge_all(
            found,
            listed(suspects),
            access,
            out=out,
            ledgers=ledgers,
            jobs=jobs,
            progress=progress,
            interrupted=lambda: complain(f"interrupted: the suspects that are being asked are still written to {out}."),
        ):
            counts[outcome.word] += 1
            row = outcome.row()
            if len(shown[outcome.word]) < SHOWN:
                rate = f"{float(row['rate']):.4f}" if row["rate"] != "" else ""
                shown[outcome.word].append((row["suspect"], row["verdict"], rate, row["remarks"]))
    table = Table("suspect", "verdict", "matching rate", "remarks")
    for cells in islice(chain.from_iterable(shown.values()), SHOWN):
        table.add_row(*cells)
    if table.row_count:
        output().print(table)
    if more := sum(counts.values()) - table.row_count:
        output().print(f"{more} more are in the file alone.")
    said = ", ".join(f"{number} {word}" for word, number in counts.items())
    output().print(f"{total} suspects: {said}. All verdicts are in {out}.", soft_wrap=True)
    return EVIDENCE if counts[DERIVED] else int(counts[FAILED] > 0)
