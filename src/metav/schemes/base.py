"""What a scheme is given and what it returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from metav.errors import UsageError
from metav.fingerprint import Fingerprint
from metav.spec import Model, Spec


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """The models and data a scheme may use: M- and M+ of the paper, the target F, and public inputs.

    Models are frozen callables on batches; `data` has shape (n, *spec.input_shape). Nothing of the test suspects is
    in here.
    """

    target: Model
    positives: Sequence[Model]
    negatives: Sequence[Model]
    spec: Spec
    data: Tensor

    def __post_init__(self) -> None:
        for side, models in (("positive", self.positives), ("negative", self.negatives)):
            if len(models) < 2:
                raise UsageError(
                    f"expected at least two {side} suspects to construct from, got {len(models)}: "
                    "build a larger zoo (metav zoo build, profile cpu)."
                )


class Scheme(Protocol):
    """A way to make a fingerprint. Settings are fields of a frozen dataclass; `construct` does the work."""

    def construct(self, ensemble: Ensemble, *, queries: int, seed: int) -> Fingerprint:
        """Make a fingerprint of the ensemble's target with N = `queries` (at least 1); a function of `seed`."""
        ...


def check_queries(queries: int) -> None:
    """Refuse fewer than one query."""
    if queries < 1:
        raise UsageError(f"expected at least 1 query, got {queries}: the paper uses --queries 100.")
