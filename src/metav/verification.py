"""A fingerprint meets a suspect: query, score, verdict."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from metav.fingerprint import Fingerprint
from metav.spec import Model


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Outcome of one verification.

    `rate` is the matching rate in [0, 1]; `derived` is True when it is above `threshold`. `queries` counts what the
    suspect was asked, `seconds` is the time for asking and scoring.
    """

    rate: float
    threshold: float
    queries: int
    seconds: float

    @property
    def derived(self) -> bool:
        """Whether the suspect is called derived from the target."""
        return self.rate > self.threshold


def query(model: Model, queries: Tensor) -> Tensor:
    """Answers of a suspect (N, *output_shape) to queries (N, *input_shape), without gradients."""
    with torch.no_grad():
        return torch.as_tensor(model(queries))


def verify(fingerprint: Fingerprint, model: Model) -> Verdict:
    """Ask a suspect the fingerprint's queries, and judge it by its answers (stage 3 of MetaV, section 4.1).

    Raises
    ------
    SuspectError
        The answers have another shape than the target's, or are not finite.
    """
    start = time.perf_counter()
    rate = fingerprint.score(query(model, fingerprint.queries))
    return Verdict(
        rate=rate,
        threshold=fingerprint.threshold,
        queries=len(fingerprint.queries),
        seconds=time.perf_counter() - start,
    )
