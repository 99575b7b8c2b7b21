"""Ways to make a fingerprint, one file each.

metav       adaptive queries and a meta-verifier (Pan et al., KDD 2022)
cohort      the target among models that its owner trained by the same recipe (metav's own)
liteguard   queries with a small verifier each (ICLR 2026)
ipguard     points next to decision boundaries (Cao et al., AsiaCCS 2021)
deepfoolfp  the least perturbed adversarial examples (Wang and Chang, ISCAS 2021)
conferae    adversarial examples that transfer to derived models only (Lukas et al., ICLR 2021)
modeldiff   distances between answers to pairs of inputs (Li et al., ISSTA 2021)
sac-m       correlations of answers to mixed images (Guan et al., NeurIPS 2022)
akh         inputs that the target misclassifies (Godinot et al., AAAI 2025)
"""

from __future__ import annotations

from collections.abc import Sequence

from metav.errors import UsageError, unknown
from metav.schemes import base
from metav.schemes.akh import AKH
from metav.schemes.base import Ensemble, Needs, Scheme
from metav.schemes.cohort import Cohort
from metav.schemes.conferae import ConferAE
from metav.schemes.deepfool import DeepFoolFP
from metav.schemes.ipguard import IPGuard
from metav.schemes.liteguard import LiteGuard
from metav.schemes.metav import MetaV
from metav.schemes.modeldiff import ModelDiff
from metav.schemes.sac import SACm
from metav.spec import Spec
from metav.text import build, call

SCHEMES: dict[str, type[Scheme]] = {
    "metav": MetaV,
    "cohort": Cohort,
    "liteguard": LiteGuard,
    "ipguard": IPGuard,
    "deepfoolfp": DeepFoolFP,
    "conferae": ConferAE,
    "modeldiff": ModelDiff,
    "sac-m": SACm,
    "akh": AKH,
}


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


def require(text: str, spec: Spec) -> None:
    """Refuse a scheme that models with the interface `spec` do not give what it needs, or what its options ask for.

    Raises
    ------
    UsageError
        One sentence that says what is lacking.
    """
    scheme = get(text)
    base.require(text if getattr(scheme, "labels", 0) else call(text)[0], base.needs_of(scheme), spec)
    base.check_form(getattr(scheme, "valid", 0), spec)


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


__all__ = ["SCHEMES", "Ensemble", "MetaV", "Needs", "Scheme", "check", "get", "require"]
