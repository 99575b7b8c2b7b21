"""Ways to make a fingerprint, one file each.

metav  adaptive queries and a meta-verifier (Pan et al., KDD 2022)
"""

from __future__ import annotations

from metav.errors import unknown
from metav.schemes.base import Ensemble, Scheme
from metav.schemes.metav import MetaV
from metav.text import build, call

SCHEMES: dict[str, type[MetaV]] = {"metav": MetaV}


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


__all__ = ["SCHEMES", "Ensemble", "MetaV", "Scheme", "get"]
