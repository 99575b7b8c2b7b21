"""A small tree of errors. Each message is one sentence: what was expected, what came, what to do next."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable, Sequence

BRIEF = 200  # characters


class MetavError(Exception):
    """Base of all errors a user can cause or must know of; `exit_code` is what the command line returns."""

    exit_code = 1


class UsageError(MetavError, ValueError):
    """A wrong argument: a name that does not exist, a number out of range."""

    exit_code = 2


class IntegrityError(MetavError, ValueError):
    """A file is truncated, was edited, or was not written by metav."""


class SettingsError(MetavError, ValueError):
    """A folder or a file belongs to other settings than the ones asked for."""


class StorageError(MetavError, OSError):
    """A file or a folder cannot be read or written."""


class MissingExtraError(MetavError, ImportError):
    """An optional dependency is not installed."""


class SuspectError(MetavError, ValueError):
    """A model, suspect or target, gave answers that cannot be used."""


class OrderError(SuspectError):
    """A suspect's classes, or values, stand in another order than the target's.

    Attributes
    ----------
    places
        For each class or value of the target, its place in the suspect's answers.
    """

    def __init__(self, found: str, places: Sequence[int]) -> None:
        words = " ".join(map(str, places))
        super().__init__(f"{found}: if that is how it documents them, ask with --classes {words}.")
        self.found, self.places = found, tuple(places)

    def __reduce__(self) -> tuple[type[OrderError], tuple[str, tuple[int, ...]]]:
        """As `__init__` takes it, for a process pool."""
        return OrderError, (self.found, self.places)

    def after(self, places: Sequence[int]) -> OrderError:
        """The same, where the answers had been put into the order of `places` before."""
        return OrderError(self.found, [places[each] for each in self.places])


class EndpointError(MetavError, ConnectionError):
    """A suspect could not be asked, or what came back is no answer.

    Attributes
    ----------
    passing
        Whether asking again later may help: time-outs, broken connections, too many requests, a server that is down.
    after
        Seconds that the server wants to be left alone first; None if it does not say.
    """

    def __init__(self, message: str, *, passing: bool = False, after: float | None = None) -> None:
        super().__init__(message)
        self.passing, self.after = passing, after


def missing_extra(wanted: str, got: str, extra: str) -> MissingExtraError:
    """An error for a package that is not installed, of one of metav's extras."""
    return MissingExtraError(f"expected {wanted}, got {got}: run pip install -e '.[{extra}]' in metav's folder.")


def brief(error: Exception) -> str:
    """The message of an error that others raised, on one line and not too long."""
    return " ".join(str(error).split())[:BRIEF]


def described(error: Exception) -> str:
    """An error that nobody foresaw, in words: kind, message, and the file and line where it happened."""
    text = f"{type(error).__name__} ({brief(error)})"
    if isinstance(error, SyntaxError):
        return f"{text} in {error.filename}, line {error.lineno}"
    frames = [each for each in traceback.extract_tb(error.__traceback__) if "importlib" not in each.filename]
    return f"{text} in {frames[-1].filename}, line {frames[-1].lineno}" if frames else text


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """An error for a `name` that is none of the `known` ones, with the nearest of them as a suggestion."""
    choices = sorted(known)
    close = difflib.get_close_matches(name, choices, n=1)
    hint = f"did you mean {close[0]!r}?" if close else "choose one of them."
    article = "an" if kind[0] in "aeiou" else "a"
    return UsageError(f"expected {article} {kind} among {', '.join(choices)}, got {name!r}: {hint}")
