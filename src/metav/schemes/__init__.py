"""Ways to make a fingerprint, one file each.

metav  adaptive queries and a meta-verifier (Pan et al., KDD 2022)
"""

from __future__ import annotations

from collections.abc import Sequence

from metav.errors import UsageError, unknown
from metav.schemes.base import Ensemble, Scheme
from metav.schemes.metav import MetaV
from metav.text import build, call

SCHEMES: dict[str, type[Scheme]] = {"metav": MetaV}


def get(text: str) -> Scheme:
    """Return a scheme from its name and options, e.g. `metav` or `metav(standardise=robust,batch=4)`.

    Raises
    ------
    UsageError
        There is no such scheme or option.
    """
    name, args = call(text)
    if name not in SCHEMES:
        raise unknown("scheme", name, SCHEMES)
    return build(SCHEMES[name], args)


def check(texts: Sequence[str]) -> None:
    """Refuse an empty list of schemes, unknown ones, and two that are the same.

    Raises
    ------
    UsageError
        The message says which.
    """
    if not texts:
        raise UsageError("expected at least one scheme, got none: name one, e.g. --scheme metav.")
    seen: list[Scheme] = []
    for text in texts:
        scheme = get(text)
        if scheme in seen:
            raise UsageError(f"expected each scheme once, got {text!r} again: leave one out.")
        seen.append(scheme)


__all__ = ["SCHEMES", "Ensemble", "MetaV", "Scheme", "check", "get"]
