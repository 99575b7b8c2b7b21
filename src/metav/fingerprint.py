"""A fingerprint: queries, a scorer and what is needed to use them, in one safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metav import storage
from metav.errors import IntegrityError, SuspectError, UsageError
from metav.scorers import Scorer, rebuild
from metav.spec import Spec

FORMAT = 1
_MEND = "make it again with metav fingerprint, or ask for a whole copy."


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """Queries and a scorer made for one target: all that verification needs.

    Attributes
    ----------
    queries
        Inputs (N, *spec.input_shape), float32, in the box of `spec`.
    scorer
        Turns a suspect's outputs into a matching rate.
    spec
        The interface of the models it can be asked about.
    threshold
        A suspect with a matching rate above it is called derived from the target; in [0, 1].
    provenance
        JSON-able facts of its making: scheme, options, seed, target, suspects used.
    """

    queries: Tensor
    scorer: Scorer
    spec: Spec
    threshold: float = 0.5
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = tuple(self.queries.shape)
        if len(shape) == 0 or shape[0] < 1 or shape[1:] != self.spec.input_shape:
            raise UsageError(
                f"expected queries of shape (N, {', '.join(map(str, self.spec.input_shape))}) with N of at least 1, "
                f"got {shape}: give one query a row."
            )
        if not 0 <= self.threshold <= 1:
            raise UsageError(f"expected a threshold in [0, 1], got {self.threshold}: it is compared with a rate.")

    def score(self, outputs: Tensor) -> float:
        """Matching rate in [0, 1] of a suspect's outputs on the queries, shape (N, *spec.output_shape).

        Raises
        ------
        SuspectError
            The outputs have another shape or are not all finite.
        """
        expected = (len(self.queries), *self.spec.output_shape)
        if tuple(outputs.shape) != expected:
            raise SuspectError(
                f"expected outputs of shape {expected}, got {tuple(outputs.shape)}: check that the suspect does the "
                "target's task and answers each query once."
            )
        if not torch.isfinite(outputs).all():
            raise SuspectError(
                "expected finite outputs, got NaN or infinity: the suspect cannot be judged on these answers."
            )
        return self.scorer.rate(outputs.to(torch.float32))

    @property
    def digest(self) -> str:
        """SHA-256 of the whole content, hex; equal for equal fingerprints, and stored in the file."""
        return storage.digest(self._tensors(), self._meta())

    def save(self, path: str | Path) -> str:
        """Write the fingerprint to one safetensors file, whole or not at all; return its digest."""
        return storage.save_tensors(Path(path), self._tensors(), self._meta())

    @classmethod
    def load(cls, path: str | Path) -> Fingerprint:
        """Read a fingerprint and check its digest.

        Raises
        ------
        StorageError, IntegrityError
            There is no such file; it is truncated, was edited, or is of a newer format.
        """
        tensors, meta = storage.load_tensors(Path(path), _MEND)
        if meta.get("format") != FORMAT or meta.get("content") != "fingerprint":
            raise IntegrityError(
                f"expected a fingerprint of format {FORMAT} in {str(path)!r}, got {meta.get('content')} of "
                f"format {meta.get('format')}: use the metav release that wrote it."
            )
        shapes = {name: tuple(meta["spec"][name]) for name in ("input_shape", "output_shape")}
        prefix = "scorer."
        parts = {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
        return cls(
            queries=tensors["queries"],
            scorer=rebuild(meta["scorer"]["kind"], meta["scorer"]["settings"], parts),
            spec=Spec(**{**meta["spec"], **shapes}),
            threshold=meta["threshold"],
            provenance=meta["provenance"],
        )

    def _tensors(self) -> dict[str, Tensor]:
        parts = {f"scorer.{name}": value for name, value in self.scorer.state_dict().items()}
        return {"queries": self.queries, **parts}

    def _meta(self) -> dict[str, Any]:
        return {
            "content": "fingerprint",
            "format": FORMAT,
            "spec": asdict(self.spec),
            "scorer": {"kind": self.scorer.kind, "settings": self.scorer.settings()},
            "threshold": self.threshold,
            "provenance": dict(self.provenance),
        }
