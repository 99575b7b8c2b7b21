"""From a fingerprint and the names of suspects to verdicts: one of them, or a list of any length."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from io import SEEK_END, StringIO
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any, TextIO

from filelock import FileLock, Timeout

from metav.access import Access
from metav.endpoints import check, connect, content_of, named, shaping
from metav.endpoints.ledger import Ledger
from metav.endpoints.wrappers import Traffic
from metav.errors import (
    EndpointError,
    MetavError,
    OrderError,
    SettingsError,
    SuspectError,
    UsageError,
    brief,
)
from metav.fingerprint import Fingerprint
from metav.storage import canonical_json, make_folder, make_place, unwritten
from metav.verification import Verdict, verify

REPEAT = 3  # queries asked a second time: three answers that stay the same are no chance
FIELDS = ("suspect", "verdict", "rate", "threshold", "p_value", "queries", "seconds", "remarks", "campaign", "content")
_HEADER = f"{','.join(FIELDS)}\r\n".encode()
DERIVED, INDEPENDENT, FAILED = "evidence of copying", "no evidence of copying", "could not complete"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one suspect: a verdict, or the reason why there is none, or the row of an earlier run."""

    suspect: str
    verdict: Verdict | None = None
    error: MetavError | None = None
    content: str = ""
    earlier: Mapping[str, str] | None = None

    @property
    def word(self) -> str:
        """The outcome in words."""
        if self.earlier is not None:
            return self.earlier["verdict"]
        if self.verdict is None:
            return FAILED
        return DERIVED if self.verdict.derived else INDEPENDENT

    def row(self) -> dict[str, Any]:
        """The outcome as a row of `FIELDS`."""
        if self.earlier is not None:
            return dict(self.earlier)
        found: dict[str, Any] = dict.fromkeys(FIELDS, "")
        found |= {"suspect": self.suspect, "verdict": self.word, "content": self.content}
        if self.verdict is None:
            return {**found, "remarks": str(self.error)}
        return {**found, **facts(self.verdict), "remarks": "; ".join(self.verdict.remarks)}


def facts(verdict: Verdict) -> dict[str, Any]:
    """The numbers of a verdict, by name."""
    return {name: getattr(verdict, name) for name in ("rate", "threshold", "p_value", "queries", "seconds")}


def judge(
    fingerprint: Fingerprint,
    suspect: str,
    access: Access,
    ledger: Path | None = None,
    content: str = "",
    traffic: Traffic | None = None,
) -> Verdict:
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
    content
        Its `content_of`, where that is known already.
    traffic
        As for `connect`.
    """
    said: list[str] = []
    with ExitStack() as stack:

        def open_ledger() -> Ledger:
            whose = (named(suspect), content or content_of(suspect, access)) if suspect else ("", "")
            opened = Ledger(ledger or Path(), fingerprint.digest, *whose, said=replace(access, classes=()).remarks())
            if not suspect:
                said.extend(opened.header.get("said", ()))
            return stack.enter_context(closing(opened))

        endpoint = connect(suspect, fingerprint.spec, access, None if ledger is None else open_ledger, traffic)
        stack.enter_context(closing(endpoint))
        try:
            verdict = verify(fingerprint, endpoint, repeat=REPEAT)
        except SuspectError as error:
            if ledger is None or isinstance(error, OrderError):  # for which nothing need be asked again
                raise
            raise SuspectError(
                f"{str(error).rstrip('.')}; its answers are kept in {str(ledger)!r}, delete it to ask again."
            ) from error
        return replace(verdict, remarks=(*verdict.remarks, *said, *access.remarks()))


def judge_all(
    fingerprint: Fingerprint,
    suspects: Iterator[str],
    access: Access,
    *,
    out: Path,
    ledgers: Path | None = None,
    jobs: int = 2,
    progress: Callable[[int], None] | None = None,
    interrupted: Callable[[], None] | None = None,
) -> Iterator[Outcome]:
    """Judge suspects in `jobs` threads; each writes its outcomes to the CSV file `out` as soon as they are there.

    What that file already has is not asked again, but for suspects that could not be completed, and files that are
    others now: of several rows the last counts. Outcomes come in the order in which they are ready; only those under
    way are held in memory. Interrupted, it calls `interrupted` and waits for these, as their answers have been asked
    for, but not for servers that want to be left alone for a while: their suspects could not be completed.
    """
    check(access, fingerprint.spec)
    if ledgers is not None:
        make_folder(ledgers, "--ledger")
    campaign = campaign_of(fingerprint, access)
    lock, traffic = Lock(), Traffic()
    with _opened(out, campaign) as (done, file):
        writer = csv.DictWriter(file, FIELDS)
        if not file.tell():
            with _writing(out):
                writer.writeheader()
                file.flush()

        def one(suspect: str) -> Outcome:
            name, content = named(suspect), ""
            try:
                content = content_of(suspect, access)
                if name in done and done[name]["content"] == content:
                    return Outcome(suspect=name, earlier=done[name])
                mark = hashlib.sha256(f"{fingerprint.digest}{suspect}{content}".encode()).hexdigest()[:16]
                ledger = None if ledgers is None else ledgers / f"{mark}.jsonl"
                verdict = judge(fingerprint, suspect, access, ledger, content, traffic)
                outcome = Outcome(suspect=name, content=content, verdict=verdict)
            except MetavError as error:
                outcome = Outcome(suspect=name, content=content, error=error)
            except Exception as error:
                wrapped = EndpointError(
                    f"expected answers from {name}, got {type(error).__name__} ({brief(error)}): ask it alone."
                )
                outcome = Outcome(suspect=name, content=content, error=wrapped)
            with lock, _writing(out):
                writer.writerow({**outcome.row(), "campaign": campaign})
                file.flush()
            return outcome

        pool = ThreadPoolExecutor(jobs)
        try:
            waiting = (pool.submit(one, suspect) for suspect in _once(suspects))
            running = set(islice(waiting, 2 * jobs))
            while running:
                ready, running = wait(running, return_when=FIRST_COMPLETED)
                running |= set(islice(waiting, len(ready)))
                for each in ready:
                    if progress is not None:
                        progress(1)
                    yield each.result()
        except KeyboardInterrupt:
            traffic.halt.set()
            if interrupted is not None:
                interrupted()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise unwritten(out, error, "choose another --out") from error


@contextmanager
def _opened(out: Path, campaign: str) -> Iterator[tuple[dict[str, dict[str, str]], TextIO]]:
    """What an earlier run has finished, and its file, open at the end of its last whole line; for one run alone."""
    make_place(out, "--out")
    with ExitStack() as stack:
        try:
            stack.enter_context(FileLock(out.with_name(f".{out.name}.lock"), timeout=0))
            done = finished(out, campaign)
            file = out.open("a", newline="", encoding="utf-8")
            stack.callback(_close, file)
            file.truncate(len(_whole_lines(out.read_bytes())))
            file.seek(0, SEEK_END)
        except Timeout as error:
            raise SettingsError(
                f"expected {str(out)!r} alone, got it in use by another run: choose another --out."
            ) from error
        except OSError as error:
            raise unwritten(out, error, "choose another --out") from error
        yield done, file


def _close(file: TextIO) -> None:
    with suppress(OSError):  # of a full disk, which was said when it was written to
        file.close()


def _once(suspects: Iterator[str]) -> Iterator[str]:
    names = set()
    for suspect in suspects:
        if named(suspect) not in names:
            names.add(named(suspect))
            yield suspect


def campaign_of(fingerprint: Fingerprint, access: Access) -> str:
    """Names a fingerprint and how suspects are asked, so that verdicts of others are not taken for these."""
    how = canonical_json({**shaping(access), "classes": access.classes})
    return hashlib.sha256(f"{fingerprint.digest}{how}".encode()).hexdigest()[:16]


def finished(out: Path, campaign: str) -> dict[str, dict[str, str]]:
    """The rows of the suspects that an earlier run has completed, by name, from its CSV file.

    Raises
    ------
    UsageError
        It is another file, or of another campaign.
    """
    found: dict[str, dict[str, str]] = {}
    try:
        content = out.read_bytes() if out.exists() else b""
        rows = csv.DictReader(StringIO(_whole_lines(content).decode(), newline=""))
        names = FIELDS if _HEADER.startswith(content) else tuple(rows.fieldnames or ())
        for row in rows if names == FIELDS else ():
            if row["campaign"] != campaign:
                raise UsageError(
                    f"expected verdicts of this fingerprint, asked for in this way, in {str(out)!r}, got others: "
                    "choose another --out."
                )
            found.pop(row["suspect"], None)
            if row["verdict"] in (DERIVED, INDEPENDENT):
                found[row["suspect"]] = row
    except (UnicodeDecodeError, csv.Error):
        names = ()
    except OSError as error:
        raise UsageError(
            f"expected a CSV file at {str(out)!r}, got {error.strerror!r}: choose another --out."
        ) from error
    if names != FIELDS:
        raise UsageError(f"expected verdicts of metav verify in {str(out)!r}, got another file: choose another --out.")
    return found


def _whole_lines(content: bytes) -> bytes:
    """A file's content but for a last line that is not whole, as a kill leaves it."""
    return content[: content.rfind(b"\n") + 1]


def listed(path: Path) -> Iterator[str]:
    """The suspects of a list: a CSV file with a column `suspect`; relative paths are relative to it.

    Raises
    ------
    UsageError
        There is no such file, or no such column, or nothing in it.
    """
    some = False
    if path.exists() and not path.is_file():  # it is read twice
        raise UsageError(f"expected a CSV file for --suspects, got {str(path)!r}: save the list as a file first.")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if "suspect" not in (rows.fieldnames or ()):
                raise UsageError(
                    f"expected a CSV file with a column suspect, got {str(path)!r} with "
                    f"{', '.join(rows.fieldnames or ()) or 'nothing'}: name the column."
                )
            for row in rows:
                name = (row["suspect"] or "").strip()
                if name:
                    some = True
                    yield name if "://" in name else str(path.parent / name)
    except UnicodeDecodeError as error:
        raise UsageError(
            f"expected a CSV file in UTF-8 for --suspects, got other bytes in {str(path)!r}: save it as UTF-8."
        ) from error
    except (OSError, csv.Error) as error:
        raise UsageError(f"expected a CSV file for --suspects, got {str(path)!r} ({error}): check the path.") from error
    if not some:
        raise UsageError(f"expected suspects in {str(path)!r}, got none: write one a line below the column's name.")
