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
from metav.endpoints import Endpoint, connect, size_of_batches
from metav.endpoints.ledger import Ledger, Recorded
from metav.errors import MetavError, StorageError, UsageError
from metav.fingerprint import Fingerprint
from metav.verification import Verdict, verify

REPEAT = 3  # queries asked a second time: three answers that stay the same are no chance
FIELDS = ("suspect", "verdict", "rate", "threshold", "queries", "seconds", "remarks")
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
        facts = {name: getattr(self.verdict, name) for name in ("rate", "threshold", "queries", "seconds")}
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
        endpoint: Endpoint | None = (
            stack.enter_context(closing(connect(suspect, fingerprint.spec, access))) if suspect else None
        )
        if ledger is not None:
            book = stack.enter_context(closing(Ledger(ledger, fingerprint.digest, suspect and _named(suspect))))
            endpoint = Recorded(endpoint, book, size_of_batches(suspect, access))
        if endpoint is None:
            raise UsageError("expected a suspect or a ledger, got neither: name one of them.")
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
    done = finished(out)
    fresh = not out.exists()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        file = out.open("a", newline="")
    except OSError as error:
        raise StorageError(f"expected to write {str(out)!r}, got {error.strerror!r}: choose another --out.") from error

    def one(suspect: str) -> Outcome:
        try:
            book = None if ledgers is None else ledgers / f"{hashlib.sha256(suspect.encode()).hexdigest()[:16]}.jsonl"
            return Outcome(suspect=suspect, verdict=judge(fingerprint, suspect, access, book))
        except MetavError as error:
            return Outcome(suspect=suspect, error=error)

    with file, ThreadPoolExecutor(jobs) as pool:
        writer = csv.DictWriter(file, FIELDS)
        if fresh:
            writer.writeheader()
        waiting = (suspect for suspect in suspects if suspect not in done)
        running = {pool.submit(one, suspect) for suspect in islice(waiting, 2 * jobs)}
        while running:
            ready, running = wait(running, return_when=FIRST_COMPLETED)
            running |= {pool.submit(one, suspect) for suspect in islice(waiting, len(ready))}
            for each in ready:
                outcome = each.result()
                writer.writerow(outcome.row())
                file.flush()
                if progress is not None:
                    progress(1)
                yield outcome


def finished(out: Path) -> dict[str, str]:
    """The verdicts, in words, of the suspects that an earlier run has completed, from its CSV file."""
    if not out.exists():
        return {}
    with out.open(newline="") as file:
        rows = csv.DictReader(file)
        if tuple(rows.fieldnames or ()) != FIELDS:
            raise UsageError(
                f"expected verdicts of metav verify in {str(out)!r}, got another file: choose another --out."
            )
        return {row["suspect"]: row["verdict"] for row in rows if row["verdict"] in (DERIVED, INDEPENDENT)}


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


def _named(suspect: str) -> str:
    """A suspect's name in a ledger: a URL without its query, where keys stand now and then."""
    return suspect.split("?")[0] if "://" in suspect else suspect
