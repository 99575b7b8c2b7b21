"""The ledger: what a suspect answered is on disk before it is asked for more, and can be read again later."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from filelock import BaseFileLock, FileLock, Timeout
from torch import Tensor

from metav.endpoints.base import Endpoint, query_checked
from metav.errors import EndpointError, IntegrityError, MetavError, SettingsError, StorageError
from metav.storage import make_folder, sync

FORMAT = 1
_BEGIN = b'{"content":"ledger",'
_OTHER = "give another file to --ledger."


class Ledger:
    """One suspect's answers to a fingerprint's queries, as they came.

    JSON lines. The first names the fingerprint and the suspect; each further one holds the SHA-256 of a query, how
    often it was asked before, the time, and the answer. Each is sealed together with all before it, so that a changed
    or a missing line is noticed; a last line that is not whole, as a kill leaves it, was not acknowledged, and is
    dropped. One process at a time writes to it.

    Parameters
    ----------
    path
        The file; made if it is not there.
    fingerprint
        Digest of the fingerprint.
    suspect
        What the suspect is called; empty to read what the file says, which must then be there.
    how
        Digest of what it is and how it is asked; answers to other requests are not its answers.
    said
        The same in words, as far as verdicts tell of it.

    Raises
    ------
    SettingsError
        The file is of another fingerprint, or another suspect, or in use.
    IntegrityError
        A line was changed, removed or added by somebody else.
    StorageError
        It cannot be read or written, or is not there and no suspect was named.
    """

    def __init__(
        self, path: Path, fingerprint: str, suspect: str = "", how: str = "", said: Sequence[str] = ()
    ) -> None:
        self.path = path
        self.header: dict[str, Any] = {}
        self.answers: dict[tuple[str, int], Any] = {}
        self._seal = ""
        self._file: BinaryIO | None = None
        self._lock: BaseFileLock | None = None
        try:
            if suspect:
                make_folder(path.parent, "--ledger")
                self._lock = FileLock(path.with_name(f".{path.name}.lock"))
                self._lock.acquire(timeout=0)
            whole = self._read() if path.exists() else 0
            named = {"fingerprint": fingerprint, "suspect": suspect, "how": how}
            if whole:
                self._check(named if suspect else {"fingerprint": fingerprint})
            elif not suspect:
                raise StorageError(f"expected a ledger at {str(path)!r}, got none: name the suspect to ask it.")
            if suspect:
                self._file = path.open("r+b" if path.exists() else "w+b")
                self._file.truncate(whole)
                self._file.seek(whole)
                if not whole:
                    self.header = {"content": "ledger", "format": FORMAT, **named, "said": list(said)}
                    self._append([self.header])
                    sync(path.parent)
        except Timeout as error:
            raise SettingsError(
                f"expected a ledger that no other run uses, got {str(path)!r}, which is in use: {_OTHER}"
            ) from error
        except MetavError:
            self.close()
            raise
        except OSError as error:
            self.close()
            raise StorageError(
                f"expected a ledger at {str(path)!r}, got {error.strerror or error}: {_OTHER}"
            ) from error

    def add(self, keys: list[tuple[str, int]], answers: Tensor) -> None:
        """Write answers, one a key, and return when they are on disk."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        rows = answers.tolist()
        self._append(
            [
                {"query": query, "asked": asked, "time": now, "answer": row}
                for (query, asked), row in zip(keys, rows, strict=True)
            ]
        )
        self.answers.update(zip(keys, rows, strict=True))

    def close(self) -> None:
        """Let others write to it."""
        if self._file is not None:
            with suppress(OSError):  # of a full disk, which was said when it was written to
                self._file.close()
        if self._lock is not None:
            self._lock.release()

    def _append(self, rows: list[Mapping[str, Any]]) -> None:
        text = bytearray()
        for row in rows:
            self._seal = _sealed(self._seal, row)
            text += json.dumps({**row, "seal": self._seal}, separators=(",", ":")).encode() + b"\n"
        if self._file is None:
            raise StorageError(
                f"expected a ledger to write to, got {str(self.path)!r}, opened to be read: name the suspect."
            )
        try:
            self._file.write(text)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StorageError(
                f"expected to write {str(self.path)!r}, got {error.strerror or error}: make room, or {_OTHER}"
            ) from error

    def _read(self) -> int:
        """Take in all whole lines; return where they end."""
        end = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    if number == 1 and not _BEGIN.startswith(line[: len(_BEGIN)]):
                        raise IntegrityError(f"expected a ledger in {str(self.path)!r}, got another file: {_OTHER}")
                    break
                try:
                    row = json.loads(line)
                    seal = row.pop("seal")
                    if seal != _sealed(self._seal, row):
                        raise ValueError("the seal is broken")
                    if number == 1:
                        self.header = row
                    else:
                        self.answers[row["query"], row["asked"]] = row["answer"]
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise IntegrityError(
                        f"expected a ledger as metav wrote it in {str(self.path)!r}, got another line {number} "
                        f"({error}): use an unchanged copy, or ask the suspect again into a new file."
                    ) from error
                self._seal, end = seal, end + len(line)
        return end

    def _check(self, wanted: Mapping[str, str]) -> None:
        if self.header.get("format") != FORMAT:
            raise IntegrityError(
                f"expected a ledger of format {FORMAT} in {str(self.path)!r}, got format {self.header.get('format')}: "
                "use the metav release that wrote it."
            )
        for name in ("fingerprint", "suspect"):
            if self.header[name] != wanted.get(name, self.header[name]):
                raise SettingsError(
                    f"expected a ledger for the {name} {wanted[name]} in {str(self.path)!r}, got one for "
                    f"{self.header[name]}: {_OTHER}"
                )
        if self.header["how"] != wanted.get("how", self.header["how"]):
            raise SettingsError(
                f"expected answers to the same requests of the same suspect in {str(self.path)!r}, got those of "
                f"another file, address or request: {_OTHER}"
            )


def _sealed(before: str, row: Mapping[str, Any]) -> str:
    return hashlib.sha256(f"{before}{json.dumps(row, sort_keys=True)}".encode()).hexdigest()


class Recorded(Endpoint):
    """An endpoint that answers from a ledger what is in it, and asks a suspect the rest, `size` queries at a time.

    Without a suspect nothing is asked. A query that is asked again has a second answer, kept under its own count.
    """

    def __init__(self, inner: Endpoint | None, ledger: Ledger, size: int = 1) -> None:
        self.inner, self.ledger, self.size = inner, ledger, size
        self._asked: Counter[str] = Counter()

    def query(self, batch: Tensor) -> Tensor:
        """Answers of the ledger, after the missing ones were asked for and written to it."""
        keys = []
        for row in batch.detach().cpu().contiguous():
            name = hashlib.sha256(row.numpy().tobytes()).hexdigest()
            keys.append((name, self._asked[name]))
            self._asked[name] += 1
        missing = [index for index, key in enumerate(keys) if key not in self.ledger.answers]
        for start in range(0, len(missing), self.size):
            chosen = missing[start : start + self.size]
            answers = self._ask(batch[chosen])
            for known in islice(self.ledger.answers.values(), 1):
                if answers.shape[1:] != np.shape(known):  # not kept, so that it can be asked for again
                    raise EndpointError(
                        f"expected answers of shape {np.shape(known)} from {self.about['suspect']}, as before, got "
                        f"{tuple(answers.shape[1:])}: look at what it answers, and run the same command again."
                    )
            self.ledger.add([keys[index] for index in chosen], answers)
        try:
            found = np.array([self.ledger.answers[key] for key in keys], dtype=np.float64)  # null is NaN
            return torch.from_numpy(found)
        except (ValueError, TypeError) as error:
            raise EndpointError(
                f"expected answers of one shape in {str(self.ledger.path)!r}, got several ({error}): look at what "
                "the suspect answers, and delete the file to ask it again."
            ) from error

    def _ask(self, batch: Tensor) -> Tensor:
        if self.inner is None:
            raise EndpointError(
                f"expected all answers in {str(self.ledger.path)!r}, got only some: name the suspect too, and "
                "the rest is asked."
            )
        return query_checked(self.inner, batch)

    def close(self) -> None:
        """Close the suspect; the ledger is its opener's to close."""
        if self.inner is not None:
            self.inner.close()

    @property
    def about(self) -> Mapping[str, str]:
        """What the suspect reports, or is called in the ledger."""
        return {"suspect": str(self.ledger.header["suspect"])} if self.inner is None else self.inner.about
