"""From a fingerprint and the names of suspects to verdicts: one of them, or a list of any length."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from metav.access import Access
from metav.endpoints import check, connect, fingerprint_of, named
from metav.endpoints.ledger import Ledger
from metav.errors import EndpointError, MetavError, StorageError, UsageError
from metav.fingerprint import Fingerprint
from metav.verification import Verdict, verify

REPEAT = 3  # queries asked a second time: three answers that stay the same are no chance
FIELDS = ("suspect", "verdict", "rate", "threshold", "p_value", "queries", "seconds", "remarks", "campaign")
DERIVED, INDEPENDENT, FAILED = "evidence of copying", "no evidence of copying", "could not complete"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one suspect: a verdict, or the reason why there is none."""

    suspect: str
    verdict: Verdict | None = None
    error: MetavError | None = None

    @property
    def word(self) -> str:
        """The outcome in words."""
        if self.verdict is None:
            return FAILED
        return DERIVED if self.verdict.derived else INDEPENDENT

    def row(self) -> dict[str, Any]:
        """The outcome as a row of `FIELDS`."""
        found: dict[str, Any] = dict.fromkeys(FIELDS, "")
        found |= {"suspect": self.suspect, "verdict": self.word}
        if self.verdict is None:
            return {**found, "remarks": str(self.error)}
        facts = {name: getattr(self.verdict, name) for name in ("rate", "threshold", "p_value", "queries", "seconds")}
        return {**found, **facts, "remarks": "; ".join(self.verdict.remarks)}


def judge(fingerprint: Fingerprint, suspect: str, access: Access, ledger: Path | None = None) -> Verdict:
    """Ask one suspect, and judge it; with a ledger no answer is lost, and none asked for twice.

    Parameters
    ----------
    fingerprint
        The fingerprint.
    suspect
        A path or a URL; empty to judge by the answers in the ledger alone.
    access
        How it is asked.
    ledger
        The file of its answers.
    """
    with ExitStack() as stack:

        def book() -> Ledger:
            facts = (named(suspect), fingerprint_of(suspect, access)) if suspect else ("", "")
            return stack.enter_context(closing(Ledger(ledger or Path(), fingerprint.digest, *facts)))

        endpoint = connect(suspect, fingerprint.spec, access, None if ledger is None else book)
        stack.enter_context(closing(endpoint))
        return verify(fingerprint, endpoint, repeat=REPEAT)


def judge_all(
    fingerprint: Fingerprint,
    suspects: Iterator[str],
    access: Access,
    *,
    out: Path,
    ledgers: Path | None = None,
    jobs: int = 2,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Outcome]:
    """Judge suspects in `jobs` threads, and write each outcome to the CSV file `out` as soon as it is there.

    What that file already has is not asked again, but for suspects that could not be completed. Outcomes come in the
    order in which they are ready; only those under way are held in memory.
    """
    check(access, fingerprint.spec)
    campaign = campaign_of(fingerprint, access)
    done = set(finished(out, campaign))
    fresh = not out.exists()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        file = out.open("a", newline="")
    except OSError as error:
        raise StorageError(f"expected to write {str(out)!r}, got {error.strerror!r}: choose another --out.") from error

    def one(suspect: str) -> Outcome:
        name = named(suspect)
        try:
            book = None if ledgers is None else ledgers / f"{hashlib.sha256(suspect.encode()).hexdigest()[:16]}.jsonl"
            return Outcome(suspect=name, verdict=judge(fingerprint, suspect, access, book))
        except MetavError as error:
            return Outcome(suspect=name, error=error)
        except Exception as error:
            text = " ".join(str(error).split())[:120]
            wrapped = EndpointError(f"expected answers from {name}, got {type(error).__name__} ({text}): ask it alone.")
            return Outcome(suspect=name, error=wrapped)

    def missing() -> Iterator[str]:
        for suspect in suspects:
            if named(suspect) not in done:
                done.add(named(suspect))
                yield suspect

    pool = ThreadPoolExecutor(jobs)
    try:
        writer = csv.DictWriter(file, FIELDS)
        if fresh:
            writer.writeheader()
        waiting = missing()
        running = {pool.submit(one, suspect) for suspect in islice(waiting, 2 * jobs)}
        while running:
            ready, running = wait(running, return_when=FIRST_COMPLETED)
            running |= {pool.submit(one, suspect) for suspect in islice(waiting, len(ready))}
            for each in ready:
                outcome = each.result()
                writer.writerow({**outcome.row(), "campaign": campaign})
                file.flush()
                if progress is not None:
                    progress(1)
                yield outcome
    finally:
        pool.shutdown(cancel_futures=True)
        file.close()


def campaign_of(fingerprint: Fingerprint, access: Access) -> str:
    """Names a fingerprint and how suspects are asked, so that verdicts of others are not taken for these."""
    return hashlib.sha256(f"{fingerprint.digest}{access}".encode()).hexdigest()[:16]


def finished(out: Path, campaign: str) -> dict[str, str]:
    """The verdicts, in words, of the suspects that an earlier run has completed, from its CSV file.

    Raises
    ------
    UsageError
        It is another file, or of another campaign.
    """
    if not out.exists():
        return {}
    with out.open(newline="") as file:
        rows = csv.DictReader(file)
        if tuple(rows.fieldnames or ()) != FIELDS:
            raise UsageError(
                f"expected verdicts of metav verify in {str(out)!r}, got another file: choose another --out."
            )
        found = {}
        for row in rows:
            if row["campaign"] != campaign:
                raise UsageError(
                    f"expected verdicts of this fingerprint, asked for in this way, in {str(out)!r}, got others: "
                    "choose another --out."
                )
            if row["verdict"] in (DERIVED, INDEPENDENT):
                found[row["suspect"]] = row["verdict"]
        return found


def listed(path: Path) -> Iterator[str]:
    """The suspects of a list: a CSV file with a column `suspect`; relative paths are relative to it.

    Raises
    ------
    UsageError
        There is no such file, or no such column.
    """
    try:
        with path.open(newline="") as file:
            rows = csv.DictReader(file)
            if "suspect" not in (rows.fieldnames or ()):
                raise UsageError(
                    f"expected a CSV file with a column suspect, got {str(path)!r} with "
                    f"{', '.join(rows.fieldnames or ()) or 'nothing'}: name the column."
                )
            for row in rows:
                name = (row["suspect"] or "").strip()
                if name:
                    yield name if "://" in name else str(path.parent / name)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"expected a CSV file for --suspects, got {str(path)!r} ({error}): check the path.") from error
