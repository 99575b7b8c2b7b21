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
from metav.scorers.cohort import CohortRank
from metav.spec import Spec

FORMAT = 1
_OWN = ("queries", "reference")
_TABLES = ("steps", "one_hot")  # of the spec; left out where they are empty, as in files from before there were any
_MEND = "check the path, make it again with metav fingerprint, or ask for a whole copy."


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
    reference
        What the target itself answers, (N, *spec.output_shape), by which a suspect's other order of classes is noticed;
        None if it is not known.
    """

    queries: Tensor
    scorer: Scorer
    spec: Spec
    threshold: float = 0.5
    provenance: Mapping[str, Any] = field(default_factory=dict)
    reference: Tensor | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.queries.shape)
        if len(shape) == 0 or shape[0] < 1 or shape[1:] != self.spec.input_shape:
            raise UsageError(
                f"expected queries of shape (N, {', '.join(map(str, self.spec.input_shape))}) with N of at least 1, "
                f"got {shape}: give one query a row."
            )
        if not torch.isfinite(self.queries).all():
            raise UsageError("expected finite queries, got NaN or infinity: leave out models that answer with them.")
        if self.queries.dtype != torch.float32:
            raise UsageError(f"expected float32 queries, got {self.queries.dtype}: convert them with .float().")
        if not self.spec.inside(self.queries):
            raise UsageError(
                f"expected queries in {self.spec.box}, got values in [{self.queries.min():g}, "
                f"{self.queries.max():g}]: map them into the box of the inputs."
            )
        expected = (len(self.queries), *self.spec.output_shape)
        if self.reference is not None and tuple(self.reference.shape) != expected:
            raise UsageError(
                f"expected the target's answers of shape {expected}, got {tuple(self.reference.shape)}: ask it all "
                "queries."
            )
        if not 0 <= self.threshold <= 1:
            raise UsageError(f"expected a threshold in [0, 1], got {self.threshold}: it is compared with a rate.")

    def score(self, outputs: Tensor) -> float:
        """Matching rate in [0, 1] of a suspect's outputs on the queries, shape (N, *spec.output_shape).

        Raises
        ------
        SuspectError
            The outputs have another shape, are not all finite, or are too large to compute with in float32.
        """
        expected = (len(self.queries), *self.spec.output_shape)
        if tuple(outputs.shape) != expected:
            raise SuspectError(
                f"expected outputs of shape {expected}, got {tuple(outputs.shape)}: check that the suspect does the "
                "target's task and answers each query once."
            )
        answers = outputs.to(torch.float32)
        rate = self.scorer.rate(answers) if torch.isfinite(answers).all() else float("nan")
        if not 0 <= rate <= 1:
            raise SuspectError(
                "expected finite outputs of a usual size, got NaN, infinity or numbers beyond float32: the suspect "
                "cannot be judged on these answers."
            )
        return rate

    def p_value(self, outputs: Tensor) -> float | None:
        """P-value in (0, 1] of a false accusation, from outputs as `score` takes them; None where a scheme has none."""
        return self.scorer.p_value(outputs.to(torch.float32)) if isinstance(self.scorer, CohortRank) else None

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
        if meta.get("content") != "fingerprint":
            raise IntegrityError(f"expected a fingerprint in {str(path)!r}, got another file of metav: check the path.")
        if meta.get("format") != FORMAT:
            raise IntegrityError(
                f"expected a fingerprint of format {FORMAT} in {str(path)!r}, got format {meta.get('format')}: use the "
                "metav release that wrote it."
            )
        try:
            spec = Spec(**{name: _tuples(value) for name, value in meta["spec"].items()})
            parts = {name.removeprefix("scorer."): value for name, value in tensors.items() if name not in _OWN}
            scorer = rebuild(meta["scorer"]["kind"], meta["scorer"]["settings"], parts)
            made = cls(
                queries=tensors["queries"],
                scorer=scorer,
                spec=spec,
                threshold=float(meta["threshold"]),
                provenance=dict(meta["provenance"]),
                reference=tensors.get("reference"),
            )
            made.score(torch.zeros(len(made.queries), *spec.output_shape))
        except (TypeError, KeyError, ValueError, AttributeError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise IntegrityError(
                f"expected queries, spec and scorer that fit together in {str(path)!r}, got others ({reason}): {_MEND}"
            ) from error
        return made

    def _tensors(self) -> dict[str, Tensor]:
        parts = {f"scorer.{name}": value for name, value in self.scorer.state_dict().items()}
        known = {} if self.reference is None else {"reference": self.reference}
        return {"queries": self.queries, **known, **parts}

    def _meta(self) -> dict[str, Any]:
        return {
            "content": "fingerprint",
            "format": FORMAT,
            "spec": {name: value for name, value in asdict(self.spec).items() if value or name not in _TABLES},
            "scorer": {"kind": self.scorer.kind, "settings": self.scorer.settings()},
            "threshold": self.threshold,
            "provenance": dict(self.provenance),
        }


def _tuples(value: Any) -> Any:
    """JSON's lists as tuples, which they were."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
